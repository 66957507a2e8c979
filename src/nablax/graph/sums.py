"""Sums over the last axes, as a primitive: on a CPU they are products with ones.

XLA on a CPU writes down the products that are to be summed, and sums them in two more operations. Where the sum is a
product with ones, it multiplies and sums as it goes. (Sums of anything else it hands to a library, and that is faster.)
It is put in where the equations of a derivative are merged (see `nablax.graph.merge`).
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from nablax._compat import linear_primitive

Lengths = tuple[int, ...]


def total(x: Array) -> Array:
    """The sum over the last axis."""
    return total_p.bind(x, lengths=x.shape[-1:])


def _sum(x: Array, *, lengths: Lengths) -> Array:
    return jnp.sum(x, axis=tuple(range(-len(lengths), 0)))


def _product_with_ones(x: Array, *, lengths: Lengths) -> Array:
    rows = x.reshape(*x.shape[: x.ndim - len(lengths)], math.prod(lengths))
    return jnp.matmul(rows, jnp.ones(rows.shape[-1:], x.dtype), precision=lax.Precision.HIGHEST)


def _shape(x: Any, *, lengths: Lengths) -> tuple[Lengths, Any]:
    return x.shape[: x.ndim - len(lengths)], x.dtype


def _repeated(cotangent: Array, *, lengths: Lengths) -> Array:
    return lax.broadcast_in_dim(cotangent, (*cotangent.shape, *lengths), tuple(range(cotangent.ndim)))


total_p = linear_primitive("total", _sum, _shape, _repeated, on_cpu=_product_with_ones)
"""The sum over the last axes, which have these `lengths`."""
