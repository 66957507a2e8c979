"""Rows times one array as a primitive of its own: ``y[..., h] = x[..., h] s[h]``, as the scale of a layer norm, or what
depends on a sample times what is the same for all of them.

It differs from a product in one place only, its transpose. The gradient by s is a sum over all leading axes: samples,
directions, positions. JAX sums over one after the other; XLA on a CPU joins that with what the sum is added to, and
then reads column by column, on one core. Here these axes are one, and a long sum is a product with ones.

Scales are put in where the equations of a derivative are merged (see `nablax.graph.merge`).
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
"""Rows from which their sum is a product, as measured on a CPU: fewer are summed where they are computed, in parts."""

_PARTS = 32
"""Up to so many rows XLA does not sum in parts, but on one core: of `_LONG` numbers and more, the sum is a product."""

_LONG = 2**14


def _by_product(rows: int, numbers: int) -> bool:
    """Whether a sum over rows, of so many numbers in all, is a product with ones, or written out where `total_p` does
    that (as fast, for so few). Of an unknown number it is none.
    """
    if not isinstance(rows, int):  # only a name (`jax.export.symbolic_shape`)
        return False
    return rows >= _MANY or (1 < rows <= _PARTS and numbers >= _LONG)


def scaled(x: Array, s: Array) -> Array:
    """``x * s``, entry by entry, of arrays of one shape: x of a sample, s perhaps the same for all samples."""
    same = x.dtype == s.dtype and s.dtype in (jnp.float32, jnp.float64)
    return scaled_p.bind(x, s) if same else x * s


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
    if not _by_product(rows, products.size):
        return in_type_of(s, jnp.sum(products, tuple(range(leading))))
    sums = total_p.bind(once(products.reshape(rows, s.aval.size)), axes=(0,))
    return in_type_of(s, sums.reshape(s.aval.shape))


def _batched(operands: tuple[Array, Array], axes: tuple[Any, Any]) -> tuple[Array, int]:
    """Another vector for each sample is a product like others."""
    (x, s), (x_axis, s_axis) = operands, axes
    if s_axis is not None:
        return jax.vmap(_scaled, axes)(x, s), 0
    place = x_axis if x_axis < x.ndim - s.ndim else 0
    return scaled_p.bind(jnp.moveaxis(x, x_axis, place), s), place


scaled_p = bilinear_primitive("scaled", _scaled, lambda x, s: (x.shape, x.dtype), _by_x, _by_s, _batched)
