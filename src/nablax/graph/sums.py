"""Sums of products over one axis, as a primitive: on a CPU they are products with ones, or written out.

XLA on a CPU writes down the products that are to be summed, and sums them in two more operations. Where a sum over the
last axis is a product with ones, it multiplies and sums as it goes. (Sums of anything else it hands to a library, and
that is faster.) Where few are summed over another axis, as the squares of two or three tangents are for a Laplacian, it
does so where the sum is written out, term by term. They are put in where the equations of a derivative are merged (see
`nablax.graph.merge`).
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from nablax._compat import linear_primitive

FEW = 4
"""So many terms are written out, as measured on a CPU: sums of 8 take as long either way, of 10 longer."""

LONG = 32
"""Entries of the last axis from which a sum is a product with ones; traces of products of small matrices took longer
so.
"""


def total(x: Array) -> Array:
    """The sum over the last axis."""
    return total_p.bind(x, axes=(x.ndim - 1,))


def pays(shape: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    """Whether a sum of products over these axes is faster as a `total_p`."""
    if len(axes) != 1:
        return False
    (axis,) = axes
    return shape[axis] >= LONG if axis == len(shape) - 1 else 1 < shape[axis] <= FEW


def _on_cpu(x: Array, *, axes: tuple[int]) -> Array:
    (axis,) = axes
    count = x.shape[axis]
    if axis < x.ndim - 1 and 0 < count <= FEW:
        return functools.reduce(jnp.add, [lax.index_in_dim(x, k, axis, keepdims=False) for k in range(count)])
    return lax.dot_general(x, jnp.ones(count, x.dtype), (((axis,), (0,)), ((), ())), precision=lax.Precision.HIGHEST)


def _repeated(cotangent: Array, x: Any, *, axes: tuple[int]) -> Array:
    others = [k for k in range(x.aval.ndim) if k not in axes]
    return lax.broadcast_in_dim(cotangent, x.aval.shape, others)


def _batched(operands: tuple[Array], mapped: tuple[int], *, axes: tuple[int]) -> tuple[Array, int]:
    """The axis of the samples stays where it is: nothing is moved."""
    (x,), (new,), (axis,) = operands, mapped, axes
    axis += new <= axis
    return total_p.bind(x, axes=(axis,)), new - (axis < new)


total_p = linear_primitive(
    "total",
    lambda x, axes: jnp.sum(x, axes),
    lambda x, axes: (tuple(size for k, size in enumerate(x.shape) if k not in axes), x.dtype),
    _repeated,
    batched=_batched,
    on_cpu=_on_cpu,
)
