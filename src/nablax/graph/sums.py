"""Sums over one axis, as a primitive: on a CPU they are products with ones, or written out; and repetitions whose
transposes are such sums.

XLA on a CPU writes down the products that are to be summed, and sums them in two more operations. Where a sum over the
last axis is a product with ones, it multiplies and sums as it goes. (Sums of anything else it hands to a library, and
that is faster.) Where few are summed over another axis, as the squares of two or three tangents are for a Laplacian, it
does so where the sum is written out, term by term.

As of jax 0.11 XLA hands sums of all kinds to that library, and operations around them too, which makes them several
times slower: there sums of anything become one of these, too, and so do those of a gradient over what was repeated.

They are put in where the equations of a derivative are merged (see `nablax.graph.merge`).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from nablax._compat import SUMS_BY_LIBRARY, linear_primitive

FEW = 32 if SUMS_BY_LIBRARY else 4
"""So many terms are written out, as measured on a CPU: with jax 0.10 sums of 8 take as long either way, of 10 longer;
later those of 30 are faster so.
"""

FEW_BACK = 8
"""So many are on the way back: sums of 12 or 16 gain a twentieth there, and take 1.3 times as long to compile."""

LONG = 32
"""Entries of the last axis from which a sum is a product with ones; traces of products of small matrices took longer
so.
"""


def total(x: Array) -> Array:
    """The sum over the last axis."""
    return total_p.bind(x, axes=(x.ndim - 1,))


def pays(shape: tuple[int, ...], axes: tuple[int, ...], of_products: bool, few: int = FEW) -> bool:
    """Whether a sum over these axes is faster as a `total_p`; up to `few` terms are written out."""
    if len(axes) != 1 or not (of_products or SUMS_BY_LIBRARY):
        return False
    (axis,) = axes
    return shape[axis] >= LONG if axis == len(shape) - 1 else 1 < shape[axis] <= few


def repeated(x: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """`x` in a shape with more axes, or longer ones in place of such of length one; its own are `axes` there."""
    repeat = repeated_p.bind if SUMS_BY_LIBRARY else lax.broadcast_in_dim
    return repeat(x, shape=shape, broadcast_dimensions=axes)


def as_broadcast(eqn: Any) -> Any:
    """The jaxpr of a broadcast in place of an equation of `repeated_p`; None if it is another."""
    if eqn.primitive is not repeated_p:
        return None
    return jax.make_jaxpr(lambda x: lax.broadcast_in_dim(x, **eqn.params))(eqn.invars[0].aval)


def _on_cpu(x: Array, *, axes: tuple[int]) -> Array:
    (axis,) = axes
    count = x.shape[axis]
    if axis < x.ndim - 1 and 0 < count <= FEW:
        return functools.reduce(jnp.add, [lax.index_in_dim(x, k, axis, keepdims=False) for k in range(count)])
    return lax.dot_general(x, jnp.ones(count, x.dtype), (((axis,), (0,)), ((), ())), precision=lax.Precision.HIGHEST)


def _spread(cotangent: Array, x: Any, *, axes: tuple[int]) -> Array:
    return repeated(cotangent, x.aval.shape, tuple(k for k in range(x.aval.ndim) if k not in axes))


def _batched(operands: tuple[Array], mapped: tuple[int], *, axes: tuple[int]) -> tuple[Array, int]:
    """The axis of the samples stays where it is: nothing is moved."""
    (x,), (new,), (axis,) = operands, mapped, axes
    axis += new <= axis
    return total_p.bind(x, axes=(axis,)), new - (axis < new)


total_p = linear_primitive(
    "total",
    lambda x, axes: jnp.sum(x, axes),
    lambda x, axes: (tuple(size for k, size in enumerate(x.shape) if k not in axes), x.dtype),
    _spread,
    batched=_batched,
    on_cpu=_on_cpu,
)


def _summed(cotangent: Array, x: Any, *, shape: tuple[int, ...], broadcast_dimensions: tuple[int, ...]) -> Array:
    """Over one axis after the other."""
    own = {axis for axis, size in zip(broadcast_dimensions, x.aval.shape, strict=True) if size == shape[axis]}
    for axis in sorted({*range(len(shape))} - own, reverse=True):
        if pays(cotangent.shape, (axis,), of_products=False, few=FEW_BACK):
            cotangent = total_p.bind(cotangent, axes=(axis,))
        else:
            cotangent = jnp.sum(cotangent, axis)
    return cotangent.reshape(x.aval.shape)


def _repeated_batched(
    operands: tuple[Array], mapped: tuple[int], *, shape: tuple[int, ...], broadcast_dimensions: tuple[int, ...]
) -> tuple[Array, int]:
    x = jnp.moveaxis(operands[0], mapped[0], 0)
    axes = (0, *(axis + 1 for axis in broadcast_dimensions))
    return repeated_p.bind(x, shape=(x.shape[0], *shape), broadcast_dimensions=axes), 0


repeated_p = linear_primitive(
    "repeated",
    lax.broadcast_in_dim,
    lambda x, shape, broadcast_dimensions: (shape, x.dtype),
    _summed,
    batched=_repeated_batched,
)
