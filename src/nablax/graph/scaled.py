"""Rows times one vector as a primitive of its own: ``y[..., h] = x[..., h] s[h]``, as the scale of a layer norm.

It differs from a product in one place only, its transpose. The gradient by s is a sum over all leading axes: samples,
directions, positions. JAX sums over one after the other; XLA on a CPU joins that with what the sum is added to, and
then reads column by column, on one core. Here these axes are one, and the sum of many rows is a product with ones.

It is put in where the equations of a derivative are merged (see `nablax.graph.merge`).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from nablax._compat import bilinear_primitive
from nablax.graph.once import once
from nablax.graph.products import in_type_of
from nablax.graph.sums import total_p

_MANY = 1024
"""Rows from which their sum is a product, as measured on a CPU: fewer are summed where they are computed."""


def as_mul(eqn: Any) -> Any:
    """The jaxpr of a product entry by entry in place of an equation of `scaled_p`; None if it is another."""
    if eqn.primitive is not scaled_p:
        return None
    return jax.make_jaxpr(_scaled)(*(var.aval for var in eqn.invars))


def _scaled(x: Array, s: Array) -> Array:
    return x * lax.broadcast_in_dim(s, x.shape, range(x.ndim - s.ndim, x.ndim))


def _by_x(cotangent: Array, x: Any, s: Array) -> Array:
    return in_type_of(x, scaled_p.bind(cotangent, s))


def _by_s(cotangent: Array, x: Array, s: Any) -> Array:
    products, leading = cotangent * x, x.ndim - s.aval.ndim
    rows = math.prod(x.shape[:leading])
    if rows < _MANY:
        return in_type_of(s, jnp.sum(products, tuple(range(leading))))
    return in_type_of(s, total_p.bind(once(products.reshape(rows, *s.aval.shape)), axes=(0,)))


def _batched(operands: tuple[Array, Array], axes: tuple[Any, Any]) -> tuple[Array, int]:
    """Another vector for each sample is a product like others."""
    (x, s), (x_axis, s_axis) = operands, axes
    if s_axis is not None:
        return jax.vmap(_scaled, axes)(x, s), 0
    place = x_axis if x_axis < x.ndim - s.ndim else 0
    return scaled_p.bind(jnp.moveaxis(x, x_axis, place), s), place


scaled_p = bilinear_primitive("scaled", _scaled, lambda x, s: (x.shape, x.dtype), _by_x, _by_s, _batched)
