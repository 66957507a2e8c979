"""Products of tangents pair by pair, ``rows[k] = x[c] y[e] + y[c] x[e]`` for pairs (c, e), and matrices of pairs, as
primitives.

They compute what gathers compute, and differ in their transposes. That of a gather is a scatter, which XLA on a CPU
does entry by entry; here it is a sum over partners, sum_e rows[(c, e)] y[e], or of two entries of a matrix. Few of them
are written out, direction by direction: XLA would write all products down to sum them in another operation.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nablax._compat import bilinear_primitive, linear_primitive
from nablax.graph.sums import repeated

Numbers = tuple[int, ...]

WRITTEN = 10
"""So many pairs go back written out, and not looked up in a table: 36 take as long either way, and 1.3 times as long to
compile.
"""


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


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def weighted_squares(x: Array, weight: Array, first: Numbers, second: Numbers) -> Array:
    """``rows[k] = weight x[c] x[e]``, for a weight of each entry (...).

    What follows a change of either factor is one product of pairs, and goes back as one: no row has to be kept for
    the weight, and none to be looked up again.
    """
    rows = pair_squares(x, first, second)
    return repeated(weight, rows.shape, tuple(range(1, rows.ndim))) * rows


@weighted_squares.defjvp
def _weighted_along(first: Numbers, second: Numbers, at: Any, along: Any) -> tuple[Array, Array]:
    (x, weight), (tangent, more) = at, along
    axes = tuple(range(1, x.ndim))
    half = repeated(weight, x.shape, axes) * tangent + repeated(more, x.shape, axes) * x / 2
    return weighted_squares(x, weight, first, second), pair_products(x, half, first, second)


def _products(x: Array, y: Array, *, first: Numbers, second: Numbers, axis: int) -> Array:
    return picked(x, first, axis) * picked(y, second, axis) + picked(y, first, axis) * picked(x, second, axis)


def _shape(x: Any, y: Any, *, first: Numbers, axis: int, **_: Any) -> tuple[tuple[int, ...], Any]:
    return (*x.shape[:axis], len(first), *x.shape[axis + 1 :]), jnp.result_type(x.dtype, y.dtype)


def _by_x(cotangent: Array, x: Any, y: Array, *, first: Numbers, second: Numbers, axis: int) -> Array:
    """Sum over the pairs of every direction of x, cotangent[pair] y[partner]; (c, c) is a pair of c twice."""
    partners = _partners(first, second, x.aval.shape[axis])
    if len(first) <= WRITTEN:
        given, theirs = _directions(cotangent, axis), _directions(y, axis)
        zero = jnp.zeros_like(given[0] * theirs[0])
        products = [[given[k] * theirs[e] for k, e in own] for own in partners]
        return jnp.stack([functools.reduce(jnp.add, own) if own else zero for own in products], axis)
    rows, partner, there = _table(partners)
    products = picked(cotangent, rows, axis) * picked(y, partner, axis)  # (.., n, most pairs of a direction, ..)
    if not there.all():
        products = jnp.where(there.reshape(*there.shape, *[1] * (y.ndim - axis - 1)), products, 0)
    return jnp.sum(products, axis + 1)


def _by_y(cotangent: Array, x: Array, y: Any, **how: Any) -> Array:
    return _by_x(cotangent, y, x, **how)


def _directions(array: Array, axis: int) -> list[Array]:
    """What an array has along an axis, one by one."""
    return [jax.lax.index_in_dim(array, k, axis, keepdims=False) for k in range(array.shape[axis])]


def _partners(first: Numbers, second: Numbers, count: int) -> list[list[tuple[int, int]]]:
    """For each direction, the numbers of its pairs and its partners there; it is its own partner twice in (c, c)."""
    found: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for number, (c, e) in enumerate(zip(first, second, strict=True)):
        found[c].append((number, e))
        found[e].append((number, c))
    return found


def _table(partners: list[list[tuple[int, int]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers of the pairs and the partners of each direction, filled up to as many; and which are no filling."""
    width = max(map(len, partners))
    filled = np.array([[(*pair, 1) for pair in own] + [(0, 0, 0)] * (width - len(own)) for own in partners])
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


def _entries(matrices: Array, _: Any, *, first: Numbers, second: Numbers) -> Array:
    """What both entries of a pair receive; those of the diagonal are one."""
    c, e, count = np.array(first), np.array(second), matrices.shape[-1]
    flat = matrices.reshape(*matrices.shape[:-2], count**2)
    return picked(flat, c * count + e, -1) + jnp.where(c == e, 0, picked(flat, e * count + c, -1))


symmetric_p = linear_primitive("symmetric", _matrices, _shape_of_matrices, _entries)
pair_products_p = bilinear_primitive("pair_products", _products, _shape, _by_x, _by_y, _batched)
