"""Whether samples depend on each other, tried out on numbers where it cannot be proved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from nablax._rehearsal import made_up


def spot_check(
    one: Any, three: Any, leaves: Sequence[Any], axes: Sequence[int | None], out_axes: Sequence[int | None]
) -> str | None:
    """What goes wrong, as part of a sentence, or None.

    Args:
        one, three: the jaxprs of the model for one and for three samples.
        leaves: the arguments of one sample.
        axes, out_axes: the sample axes of arguments and outputs; None for what is shared.
    """
    # Whatever transformation is under way around this call, the numbers are computed here and now.
    with jax.ensure_compile_time_eval():
        shared = [made_up(leaf) if isinstance(leaf, Tracer) else leaf for leaf in leaves]
        batch, other = (
            [leaf if axis is None else _drawn(leaf, axis, seed) for leaf, axis in zip(shared, axes, strict=True)]
            for seed in (0, 1)
        )
        model, alone = _function(three), _function(one)
        results = model(batch)
        for sample in range(3):
            changed = [_row_from(sample, *both) for both in zip(batch, other, axes, strict=True)]
            for number, (y, new, axis) in enumerate(zip(results, model(changed), out_axes, strict=True)):
                if not _equal(_without(sample, y, axis), _without(sample, new, axis)):
                    return f"output {number} of other samples changed when sample {sample} did"
            single = alone([_only(sample, leaf, axis) for leaf, axis in zip(batch, axes, strict=True)])
            for number, (y, y_one, axis) in enumerate(zip(results, single, out_axes, strict=True)):
                if not _equal(_only(sample, y, axis), y_one):
                    return f"output {number} of sample {sample} is not what the model returns for that sample alone"
    return None


def _drawn(leaf: Any, axis: int, seed: int) -> Any:
    """Three random samples like this one."""
    aval = jax.typeof(leaf)
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        key = jax.random.key(seed, impl=str(jax.random.key_impl(leaf)))
        return jnp.moveaxis(jax.random.split(key, (3, *aval.shape)), 0, axis)
    return made_up(jnp.zeros((*aval.shape[:axis], 3, *aval.shape[axis:]), aval.dtype), seed)


def _function(closed: Any) -> Any:
    consts = [made_up(value) if isinstance(value, Tracer) else value for value in closed.consts]
    function = jex.jaxpr_as_fun(closed.replace(consts=consts))
    return lambda values: function(*values)


def _row_from(sample: int, array: Any, other: Any, axis: int | None) -> Any:
    """`array` with one sample of `other`."""
    if axis is None:
        return array
    place = (slice(None),) * axis + (sample,)
    return array.at[place].set(other[place])


def _only(sample: int, array: Any, axis: int | None) -> Any:
    return array if axis is None else jax.lax.slice_in_dim(array, sample, sample + 1, axis=axis)


def _without(sample: int, array: Any, axis: int | None) -> Any:
    return array if axis is None else np.delete(np.asarray(array), sample, axis)


def _equal(a: Any, b: Any) -> bool:
    """Equal to rounding: batches of other sizes may be summed in another order."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind not in "fc":
        return bool(np.array_equal(a, b))
    scale = np.nanmax(np.abs(a), initial=0.0, where=np.isfinite(a))
    return bool(np.allclose(a, b, rtol=0.0, atol=np.sqrt(np.finfo(a.dtype).eps) * scale, equal_nan=True))
