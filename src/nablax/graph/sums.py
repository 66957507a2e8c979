"""Sums over the last axis, as a primitive: on a CPU they are products with ones.

XLA on a CPU writes down the products that are to be summed, and sums them in two more operations. Where the sum is a
product with ones, it multiplies and sums as it goes. (Sums of anything else it hands to a library, and that is faster.)
It is put in where the equations of a derivative are merged (see `nablax.graph.merge`).
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from nablax._compat import linear_primitive


def total(x: Array) -> Array:
    """The sum over the last axis."""
    return total_p.bind(x, length=x.shape[-1])


def _product_with_ones(x: Array, *, length: int) -> Array:
    return jnp.matmul(x, jnp.ones(length, x.dtype), precision=lax.Precision.HIGHEST)


def _repeated(cotangent: Array, *, length: int) -> Array:
    return lax.broadcast_in_dim(cotangent, (*cotangent.shape, length), tuple(range(cotangent.ndim)))


total_p = linear_primitive(
    "total",
    lambda x, length: jnp.sum(x, -1),
    lambda x, length: (x.shape[:-1], x.dtype),
    _repeated,
    on_cpu=_product_with_ones,
)
