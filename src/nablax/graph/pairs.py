"""Products of tangents pair by pair, ``rows[k] = x[c] y[e] + y[c] x[e]`` for pairs (c, e), and matrices of pairs, as
primitives.

They compute what gathers compute, and differ in their transposes only. That of a gather is a scatter, which XLA on a
CPU does entry by entry; here it is a sum over partners, sum_e rows[(c, e)] y[e], or of two entries of a matrix.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nablax._compat import bilinear_primitive, linear_primitive

Numbers = tuple[int, ...]


def picked(array: Array, numbers: Any, axis: int = 0) -> Array:
    """The entries with these numbers along an axis, all of which exist: JAX need not ask, for each, whether it does."""
    return jnp.take(array, np.array(numbers), axis, mode="clip")


def pair_products(x: Array, y: Array, first: Numbers, second: Numbers) -> Array:
    """(k, ...), from the directions x and y (n, ...)."""
    return pair_products_p.bind(x, y, first=first, second=second, axis=0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def pair_squares(x: Array, first: Numbers, second: Numbers) -> Array:
    """``rows[k] = x[c] x[e]``, half of ``pair_products(x, x, ..)``."""
    return picked(x, first) * picked(x, second)


@pair_squares.defjvp
def _squares_along(first: Numbers, second: Numbers, at: tuple[Array], along: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = at, along
    return pair_squares(x, first, second), pair_products(x, tangent, first, second)


def _products(x: Array, y: Array, *, first: Numbers, second: Numbers, axis: int) -> Array:
    return picked(x, first, axis) * picked(y, second, axis) + picked(y, first, axis) * picked(x, second, axis)


def _shape(x: Any, y: Any, *, first: Numbers, axis: int, **_: Any) -> tuple[tuple[int, ...], Any]:
    return (*x.shape[:axis], len(first), *x.shape[axis + 1 :]), jnp.result_type(x.dtype, y.dtype)


def _by_x(cotangent: Array, x: Any, y: Array, *, first: Numbers, second: Numbers, axis: int) -> Array:
    """Sum over the pairs of every direction of x, cotangent[pair] y[partner]; (c, c) is a pair of c twice."""
    rows, partner, there = _table(first, second, x.aval.shape[axis])
    products = picked(cotangent, rows, axis) * picked(y, partner, axis)  # (.., n, most pairs of a direction, ..)
    if not there.all():
        products = jnp.where(there.reshape(*there.shape, *[1] * (y.ndim - axis - 1)), products, 0)
    return jnp.sum(products, axis + 1)


def _by_y(cotangent: Array, x: Array, y: Any, **how: Any) -> Array:
    return _by_x(cotangent, y, x, **how)


def _table(first: Numbers, second: Numbers, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each direction, the pairs that it belongs to and its partners there, filled up to the same number; and which
    of them are no filling.
    """
    found: list[list[tuple[int, int, bool]]] = [[] for _ in range(count)]
    for number, (c, e) in enumerate(zip(first, second, strict=True)):
        found[c].append((number, e, True))
        found[e].append((number, c, True))
    width = max(map(len, found))
    filled = np.array([own + [(0, 0, False)] * (width - len(own)) for own in found])
    return filled[..., 0], filled[..., 1], filled[..., 2].astype(bool)


def _batched(operands: tuple[Array, Array], axes: tuple[Any, Any], *, axis: int, **how: Any) -> tuple[Array, int]:
    size = next(o.shape[a] for o, a in zip(operands, axes, strict=True) if a is not None)
    x, y = (
        jnp.broadcast_to(o, (size, *o.shape)) if a is None else jnp.moveaxis(o, a, 0)
        for o, a in zip(operands, axes, strict=True)
    )
    return pair_products_p.bind(x, y, axis=axis + 1, **how), 0


def symmetric(rows: Array, first: Numbers, second: Numbers) -> Array:
    """The symmetric matrices (.., n, n) of all their pairs c <= e (.., n (n + 1) / 2)."""
    return symmetric_p.bind(rows, first=first, second=second)


def _matrices(rows: Array, *, first: Numbers, second: Numbers) -> Array:
    place = np.zeros((max(second) + 1,) * 2, int)
    place[first, second] = place[second, first] = np.arange(len(first))
    return picked(rows, place, -1)


def _shape_of_matrices(rows: Any, *, second: Numbers, **_: Any) -> tuple[tuple[int, ...], Any]:
    return (*rows.shape[:-1], max(second) + 1, max(second) + 1), rows.dtype


def _entries(matrices: Array, *, first: Numbers, second: Numbers) -> Array:
    """What both entries of a pair receive; those of the diagonal are one."""
    c, e, count = np.array(first), np.array(second), matrices.shape[-1]
    flat = matrices.reshape(*matrices.shape[:-2], count**2)
    return picked(flat, c * count + e, -1) + jnp.where(c == e, 0, picked(flat, e * count + c, -1))


symmetric_p = linear_primitive("symmetric", _matrices, _shape_of_matrices, _entries)
pair_products_p = bilinear_primitive("pair_products", _products, _shape, _by_x, _by_y, _batched)
