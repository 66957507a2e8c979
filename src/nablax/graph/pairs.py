"""Products of tangents pair by pair, ``rows[k] = x[first[k]] * y[second[k]]``, and matrices of pairs, as primitives.

They compute what gathers compute, and differ in their transposes only. That of a gather is a scatter, which XLA on a
CPU does entry by entry; here it is a sum over partners, sum_e rows[(c, e)] y[e], or of two entries of a matrix.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from nablax._compat import bilinear_primitive, linear_primitive

Numbers = tuple[int, ...]


def pair_products(x: Array, y: Array, first: Numbers, second: Numbers) -> Array:
    """(k, ...), from the directions x and y (n, ...)."""
    return pair_products_p.bind(x, y, first=first, second=second, axis=0)


def _products(x: Array, y: Array, *, first: Numbers, second: Numbers, axis: int) -> Array:
    return jnp.take(x, np.array(first), axis) * jnp.take(y, np.array(second), axis)


def _shape(x: Any, y: Any, *, first: Numbers, axis: int, **_: Any) -> tuple[tuple[int, ...], Any]:
    return (*x.shape[:axis], len(first), *x.shape[axis + 1 :]), jnp.result_type(x.dtype, y.dtype)


def _by_x(cotangent: Array, x: Any, y: Array, *, first: Numbers, second: Numbers, axis: int) -> Array:
    """Sum over e of cotangent[(c, e)] y[e], for every direction c of x."""
    rows, partner = _table(first, second, x.aval.shape[axis])
    spread = lambda array, numbers: jnp.take(array, numbers, axis)  # (.., n, most pairs of a direction, ..)
    ones = np.ones(cotangent.ndim - axis - 1, int)
    there = (rows >= 0).reshape(*rows.shape, *ones)
    return jnp.sum(jnp.where(there, spread(cotangent, rows) * spread(y, partner), 0), axis + 1)


def _by_y(cotangent: Array, x: Array, y: Any, *, first: Numbers, second: Numbers, axis: int) -> Array:
    return _by_x(cotangent, y, x, first=second, second=first, axis=axis)


def _table(first: Numbers, second: Numbers, count: int) -> tuple[np.ndarray, np.ndarray]:
    """For each direction, the pairs that it is the first of and its partners there, padded with -1 and 0."""
    rows = [[k for k, c in enumerate(first) if c == direction] for direction in range(count)]
    width = max(map(len, rows))
    padded = np.array([row + [-1] * (width - len(row)) for row in rows])
    return padded, np.where(padded >= 0, np.array(second)[padded], 0)


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
    return jnp.take(rows, place, -1)


def _shape_of_matrices(rows: Any, *, second: Numbers, **_: Any) -> tuple[tuple[int, ...], Any]:
    return (*rows.shape[:-1], max(second) + 1, max(second) + 1), rows.dtype


def _entries(matrices: Array, *, first: Numbers, second: Numbers) -> Array:
    """What both entries of a pair receive; those of the diagonal are one."""
    c, e = np.array(first), np.array(second)
    return matrices[..., c, e] + jnp.where(c == e, 0, matrices[..., e, c])


symmetric_p = linear_primitive("symmetric", _matrices, _shape_of_matrices, _entries)
pair_products_p = bilinear_primitive("pair_products", _products, _shape, _by_x, _by_y, _batched)
