"""Models that are written for a whole batch, as models of one sample: `per_sample`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import Array

from nablax._call import check_arguments
from nablax._errors import AxesError, CoupledSamplesError, ModelTraceError, NablaxError, first_line
from nablax._options import Options, checked_model
from nablax._sample import one_sample_shape
from nablax._spot_check import spot_check
from nablax._types import Model, PyTree
from nablax.batching.axes import InAxes, leaf_axes, whole_batches
from nablax.independence import SHARED, MismatchError, Mixed, Proof, Reason, Samples, Shared, Twins, Value

# Sizes of the batches that are compared, the first that are no sizes in the arguments: two that are hardly ever sizes
# of something else, a large one, even where they are odd, and one for models to which a batch of one is special.
_PRIMES = (19, 23, 29, 31, 37, 41, 43, 47, 53, 59)
_LARGE = (1022, 1082, 1102, 1114)
_FEW = (2, 3, 5, 6, 7)

# A Hessian and a gradient through it: the order to which custom rules are followed for the first two sizes.
_ORDERS = 3


def per_sample(
    batch_model: Model, *, in_axes: InAxes = None, out_axes: Any = 0, assume_independent: bool = False
) -> Callable[..., PyTree]:
    """A model that is written for a whole batch, as a model of one sample, which every transform takes.

    The traced model is followed primitive by primitive: that each output depends on its own sample alone, and that all
    samples are treated alike, is proved, not assumed. docs/per_sample.md has the rules.

    Args:
        batch_model: ``batch_model(params, X, *rest) -> Y``, with D samples in X and Y; arrays or pytrees of them. It
            must be pure and traceable by JAX for any D. A callable pytree (an equinox module) works too.
        in_axes: which axis of each argument of the batch model holds the samples, as in `nablax.jacobian`.
        out_axes: which axis of each output holds them: an int or None, or a tree of those that is a prefix of the
            output. None marks an output that all samples share.
        assume_independent: leave out the proof, where it cannot be had. Whether samples depend on each other is tried
            out on numbers then, random ones where arguments are not known yet.

    Returns:
        The function of one sample: it takes the arguments without their sample axes, and returns the outputs without
        theirs: (params, (C,)) -> (A,) for a batch model (params, (D, C)) -> (D, A).

    Raises:
        nablax.NablaxError: see `nablax.errors`; when the function is called or traced, `CoupledSamplesError` where
            samples mix, or may do so as far as the proof can tell. It names the operation, the axis and the line.

    Cost:
        The model is traced four times whenever the function is traced. What runs is the model for D = 1. (Rarely, its
        equations are others for D = 1; then it runs for a few copies of the sample.) By itself the function is not
        compiled.

    Example:
        >>> import jax, jax.numpy as jnp, nablax
        >>> batch_model = lambda params, X: jax.nn.softmax(X @ params, axis=-1)
        >>> nablax.hessian(nablax.per_sample(batch_model))(jnp.ones((4, 2)), jnp.zeros((8, 4))).shape
        (8, 2, 4, 4)
        >>> coupled = lambda params, X: X @ params - jnp.mean(X @ params, axis=0)
        >>> nablax.hessian(nablax.per_sample(coupled))(jnp.ones((4, 2)), jnp.zeros((8, 4)))
        Traceback (most recent call last):
        ...
        nablax._errors.CoupledSamplesError: the samples are coupled: reduce_sum reduces axis 0 of float32[D, 2], ...
    """
    checked_model("per_sample", batch_model, "a whole batch")
    options = Options(None, in_axes, out_axes, "auto", "auto", has_aux=False)
    one_sample = _OneSample(options, assume_independent)
    if jax.tree.structure(batch_model) != jax.tree.structure(0):
        # Its arrays stay visible, so that a module with new weights is not compiled again.
        return jax.tree_util.Partial(one_sample, batch_model)
    function = functools.partial(one_sample, batch_model)
    return functools.update_wrapper(function, batch_model) if hasattr(batch_model, "__name__") else function


@dataclass(frozen=True, eq=False)
class _OneSample:
    """Calls a batch-wise model for one sample."""

    options: Options
    assume_independent: bool

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _OneSample) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> Any:
        return self.options.key, self.assume_independent

    def __call__(self, model: Model, *args: PyTree) -> PyTree:
        check_arguments(args, None)
        traces = _Traces(model, args, self.options)
        samples = self._checked(traces)
        program, treedef, axes = traces(samples)
        batch = [
            leaf if axis is None else jnp.repeat(jnp.expand_dims(leaf, axis), samples, axis)
            for leaf, axis in zip(traces.leaves, traces.axes, strict=True)
        ]
        outputs = jex.jaxpr_as_fun(program)(*batch)
        first = lambda y, axis: y if axis is None else jax.lax.index_in_dim(y, 0, axis, keepdims=False)
        return jax.tree.unflatten(treedef, map(first, outputs, axes))

    def _checked(self, traces: _Traces) -> int:
        """For how many samples the model is to run, once it is known that they are independent."""
        if self.assume_independent:
            difference = spot_check(traces(1)[0], traces(3)[0], traces.leaves, traces.axes, traces(3)[2])
            if difference is None:
                return 1
            raise CoupledSamplesError(
                f"assume_independent=True was given, but on random numbers {difference}. {_REMEDY}"
            )
        first, second = traces.sizes
        reason = traces.reason((first, second)) or traces.reason((first, traces.large))
        if reason is None:
            if traces.alone(first):
                return 1
            reason = traces.reason((first, traces.few))
        if reason is None:
            return traces.few
        raise CoupledSamplesError(_message(reason))


class _Traces:
    """The batch-wise model, traced for batches of several sizes."""

    def __init__(self, model: Model, args: tuple[PyTree, ...], options: Options) -> None:
        self.model, self.out_axes = model, options.out_axes
        _, self.leaves, self.axes = leaf_axes(args, options.in_axes, of_one=True)
        self.treedef = jax.tree.structure(args)
        self.types = [one_sample_shape(leaf) for leaf in self.leaves]
        used = {size for struct in self.types for size in struct.shape}
        self.sizes = tuple(size for size in _PRIMES if size not in used)[:2]
        self.large, self.few = (next(size for size in sizes if size not in used) for sizes in (_LARGE, _FEW))
        self._known: dict[int, tuple[Any, Any, list[int | None]]] = {}

    def __call__(self, samples: int) -> tuple[Any, Any, list[int | None]]:
        """(jaxpr, structure of the outputs, their sample axes) for this many samples."""
        if samples not in self._known:
            self._known[samples] = self._traced(samples)
        return self._known[samples]

    def _traced(self, samples: int) -> tuple[Any, Any, list[int | None]]:
        seen: dict[str, Any] = {}

        def flat(*leaves: Array) -> list[Array]:
            output = self.model(*jax.tree.unflatten(self.treedef, leaves))
            outputs, seen["treedef"] = jax.tree.flatten(output)
            seen["axes"] = _output_axes(self.out_axes, output)
            return outputs

        types = [_batched(struct, axis, samples) for struct, axis in zip(self.types, self.axes, strict=True)]
        try:
            with whole_batches():
                closed = jax.make_jaxpr(flat)(*types)
        except NablaxError:
            raise
        except Exception as error:
            raise ModelTraceError(
                f"the model of per_sample raised {type(error).__name__} while it was traced for a batch of {samples} "
                f"samples ({first_line(error)}). Its arguments were "
                f"{', '.join(f'{struct.dtype}{list(struct.shape)}' for struct in types)}. It must accept a batch of "
                "any size; name the axis that holds the samples of each argument with in_axes."
            ) from error
        return closed, seen["treedef"], _normalised(closed, seen["axes"], samples)

    def reason(self, sizes: tuple[int, int]) -> Reason | None:
        """Why the samples of the outputs are not independent; None: they are."""
        (first, treedef, axes), (second, *others) = self(sizes[0]), self(sizes[1])
        if [treedef, axes] != others:
            return Reason("the model", "returns another structure for another number of samples", "", proven=False)
        try:
            twins = Twins.traced((first, second), sizes)
            proof = Proof(_ORDERS if sizes == self.sizes else 1)
            values = proof(twins, [SHARED if axis is None else Samples(axis) for axis in self.axes])
        except MismatchError as error:
            return error.reason
        for number, (value, axis) in enumerate(zip(values, axes, strict=True)):
            _check_output(number, value, axis)
            if isinstance(value, Mixed):
                return value.reason
        return None

    def alone(self, size: int) -> bool:
        """Whether the model does the same for one sample alone as for `size` samples."""
        try:
            return self.reason((size, 1)) is None
        except (AxesError, ModelTraceError):  # an axis of length one may be lost on the way
            return False


def _batched(struct: jax.ShapeDtypeStruct, axis: int | None, samples: int) -> jax.ShapeDtypeStruct:
    if axis is None:
        return struct
    shape = (*struct.shape[:axis], samples, *struct.shape[axis:])
    return jax.ShapeDtypeStruct(shape, struct.dtype, weak_type=struct.weak_type)


def _output_axes(out_axes: Any, output: PyTree) -> list[Any]:
    """The entry of out_axes for each leaf of the output."""
    axes: list[Any] = []
    spread = lambda axis, subtree: axes.extend([axis] * len(jax.tree.leaves(subtree)))
    try:
        jax.tree.map(spread, out_axes, output, is_leaf=lambda axis: axis is None)
    except ValueError as error:
        raise AxesError(
            f"out_axes={out_axes!r} does not fit the structure of the output of the model, "
            f"{jax.tree.structure(output)}; give an int, None, or a tree of them that is a prefix of the output."
        ) from error
    return axes


def _normalised(closed: Any, axes: Sequence[Any], samples: int) -> list[int | None]:
    """The sample axes of the outputs, not negative."""
    found = []
    for number, (aval, axis) in enumerate(zip(closed.out_avals, axes, strict=True)):
        rank = len(aval.shape)
        if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int) or not -rank <= axis < rank):
            raise AxesError(
                f"out_axes asks for axis {axis!r} of output {number} of the model, which has shape {aval.shape} for "
                f"{samples} samples; give the axis that holds them, an int from {-rank} to {rank - 1}, or None for "
                "an output that all samples share."
            )
        found.append(None if axis is None else axis % rank)
    return found


def _check_output(number: int, value: Value, axis: int | None) -> None:
    """Raise where an output that keeps samples apart has them in another place than out_axes says."""
    expected = Shared() if axis is None else Samples(axis)
    if isinstance(value, Mixed) or value == expected:
        return
    holds = "has no sample axis, or one that depends on their number otherwise"
    if isinstance(value, Samples):
        merged = "" if value.layout == (1, 1) else ", together with other entries"
        holds = f"holds the samples on axis {value.axis}{merged}"
    raise AxesError(
        f"out_axes says {axis} for output {number} of the model, which {holds}. Give the axis of the samples with "
        "out_axes, None for an output that all samples share; samples need an axis of their own."
    )


_REMEDY = (
    "An output may depend on its own sample only: compute statistics of the batch beforehand and pass them as an "
    "argument (BatchNorm: inference mode), and give every sample a random key of its own."
)


def _message(reason: Reason) -> str:
    at = f", at {reason.line}" if reason.line else ""
    if reason.proven:
        return f"the samples are coupled: {reason.operation} {reason.text}{at}. {_REMEDY}"
    return (
        f"nablax cannot prove that samples are independent: {reason.operation} {reason.text}{at}. {_REMEDY} If you "
        "know that samples are independent, say so with assume_independent=True; it is then tried out on numbers."
    )
