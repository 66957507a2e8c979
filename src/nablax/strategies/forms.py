"""Which second derivatives are wanted, as pairs of directions.

A sweep holds n tangents J of a node's roots, one for each direction, and a node has a symmetric second derivative B[.,
.]. A form says which B[J_c, J_e] are
computed: some pairs of directions, or their weighted sum. The full Hessian is the pairs c <= e, its diagonal the pairs
c = c.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nablax.graph.blocks import Blocks
from nablax.graph.determinants import curvature_factors
from nablax.graph.inline import Variable
from nablax.graph.pairs import pair_products, pair_squares, picked, symmetric, weighted_squares
from nablax.strategies.base import unit_vectors


class Form(ABC):
    """Some second derivatives, each a row."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many numbers for each output."""

    @abstractmethod
    def partners(self, tangents: Array) -> tuple[Array, Array]:
        """(left, right), each (k, ...): the directions (n, ...) to pair with each other."""

    def reduce(self, rows: Array) -> Array:
        """From B[left, right] (k, ...) to the rows of this form."""
        return rows

    def within(self, width: int) -> Form | None:
        """The same for the `width` directions of one block of inputs, where no other block has a part in it; None if
        this form has no such part.
        """
        return None

    def seeds(self, tangents: Array) -> Array:
        """What the form `within` needs of x itself: the tangents (width, C) of all blocks at once, and perhaps more."""
        return tangents

    def widened(self, rows: Array, count: int, inner: int) -> Array:
        """The rows of this form for all directions, from those that the form `within` gave for a value in blocks: of
        `count` blocks, with `inner` entries behind the number of the block (see `nablax.graph.blocks`).
        """
        return rows

    def of_blocks(self, rows: Array) -> Array:
        """The same for numbers: from those of every block (count, k, A), of matrices (count, A, n, n)."""
        return jnp.sum(rows, 0)

    def products(self, first: Array, second: Array, weight: Array | None = None) -> Array:
        """Rows for the entrywise product of the tangents of two roots (rows, ...), times a weight (...) if there is
        one.
        """
        left, right = self.partners(first)[0], self.partners(second)[1]
        products = left * right
        if first is not second:
            products += self.partners(second)[0] * self.partners(first)[1]
        rows = self.reduce(products)
        return rows if weight is None else weight[None] * rows

    def log_determinant(self, A: Array, tangents: Array) -> Array:
        """Rows (rows, ..) of d2 log|det A| for tangents (n, .., N, N) of matrices A."""
        return -jnp.sum(self.products(*curvature_factors(A, tangents)), (-2, -1)) / 2

    def apply(self, B: Callable[..., Any], tangents: tuple[Array, ...]) -> Any:
        """Rows of B[left, right], where B takes two tuples of tangents, one array for each root."""
        pairs = [self.partners(t) for t in tangents]
        results = jax.vmap(B)(tuple(left for left, _ in pairs), tuple(right for _, right in pairs))
        return jax.tree.map(self.reduce, results)


@dataclass(frozen=True)
class Pairs(Form):
    """Chosen pairs of directions.

    Attributes:
        first, second: the numbers of the directions of each pair.
        count: n, the number of directions.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    count: int

    @classmethod
    def triangle(cls, count: int) -> Pairs:
        """All pairs c <= e."""
        first, second = np.triu_indices(count)
        return cls(tuple(first.tolist()), tuple(second.tolist()), count)

    @classmethod
    def diagonal(cls, count: int) -> Pairs:
        """All pairs c = c."""
        return cls(tuple(range(count)), tuple(range(count)), count)

    @property
    def rows(self) -> int:
        return len(self.first)

    @property
    def is_triangle(self) -> bool:
        return self == Pairs.triangle(self.count)

    def partners(self, tangents: Array) -> tuple[Array, Array]:
        if self.is_diagonal:
            return tangents, tangents
        return picked(tangents, self.first), picked(tangents, self.second)

    @property
    def is_diagonal(self) -> bool:
        return self == Pairs.diagonal(self.count)

    def within(self, width: int) -> Form | None:
        if self.is_diagonal:
            return Pairs.diagonal(width)
        return Pairs.triangle(width) if self.is_triangle else None

    def widened(self, rows: Array, count: int, inner: int) -> Array:
        shape, width = rows.shape[1:], self.count // count
        rows = rows.reshape(len(rows), -1, count, inner)
        first, second = np.array(self.first), np.array(self.second)
        if self.is_diagonal:
            spread = jnp.broadcast_to(rows, (count, *rows.shape)).reshape(self.rows, *rows.shape[1:])
        else:
            place = np.zeros((width, width), int)
            place[np.triu_indices(width)] = np.arange(len(rows))
            lower, upper = np.sort([first % width, second % width], axis=0)
            spread = picked(rows, place[lower, upper])
        block = np.where(first // width == second // width, first // width, -1)
        own = block[:, None] == np.arange(count)
        return jnp.where(own[:, None, :, None], spread, 0).reshape(self.rows, *shape)

    def of_blocks(self, rows: Array) -> Array:
        if self.is_diagonal:
            return rows.reshape(self.rows, -1)
        if rows.ndim == 3:
            rows = jax.vmap(Pairs.triangle(self.count // len(rows)).matrix)(rows)
        count, A, *_ = rows.shape
        spread = jnp.moveaxis(rows, 0, 1)[:, :, :, None]
        own = np.eye(count, dtype=bool)[:, None, :, None]
        return jnp.where(own, spread, 0).reshape(A, self.count, self.count)

    def products(self, first: Array, second: Array, weight: Array | None = None) -> Array:
        if self.first == self.second:
            return super().products(first, second, weight)
        if first is not second:
            return pair_products(first, second if weight is None else weight[None] * second, self.first, self.second)
        if weight is None:
            return pair_squares(first, self.first, self.second)
        return weighted_squares(first, weight, self.first, self.second)

    def matrix(self, rows: Array) -> Array:
        """The symmetric matrices (A, n, n) of the rows (n (n + 1) / 2, A) of a triangle."""
        return symmetric(jnp.moveaxis(rows, 0, -1), self.first, self.second)


@dataclass(frozen=True, eq=False)
class Trace(Form):
    """sum_{c,e} W[c,e] B[J_c, J_e], one row.

    Attributes:
        weights: W, as None, a number, (n,) or (n, n).
    """

    weights: Array | None

    @property
    def rows(self) -> int:
        return 1

    def within(self, width: int) -> Form | None:
        if self.weights is None or self.weights.ndim == 0:
            return self
        return Halves(width) if self.weights.ndim == 1 and 2 * width < len(self.weights) else None

    def seeds(self, tangents: Array) -> Array:
        if self.weights is None or self.weights.ndim == 0:
            return tangents
        return jnp.concatenate([tangents, tangents * self.weights.astype(tangents.dtype)[None]])

    def partners(self, tangents: Array) -> tuple[Array, Array]:
        if self.weights is None:
            return tangents, tangents
        weights = self.weights.astype(tangents.real.dtype)
        if weights.ndim == 2:
            symmetric = (weights + weights.T) / 2
            return tangents, jnp.tensordot(symmetric, tangents, axes=1, precision=jax.lax.Precision.HIGHEST)
        return tangents, tangents * jnp.reshape(
            jnp.broadcast_to(weights, tangents.shape[:1]), (-1, *[1] * (tangents.ndim - 1))
        )

    def reduce(self, rows: Array) -> Array:
        return rows.sum(axis=0, keepdims=True)


@dataclass(frozen=True)
class Halves(Form):
    """sum_c B[J_c, K_c], one row, of twice as many tangents as directions: first the J_c, then the K_c = W_c J_c.

    A weight of each input by itself differs from block to block, so that directions of all blocks at once cannot be
    weighted where they are paired; they are weighted where they start.
    """

    count: int

    @property
    def rows(self) -> int:
        return 1

    def partners(self, tangents: Array) -> tuple[Array, Array]:
        return tangents[: self.count], tangents[self.count :]

    def reduce(self, rows: Array) -> Array:
        return rows.sum(axis=0, keepdims=True)


def narrow_directions(blocks: Blocks, forms: Iterable[Form], dtype: Any) -> Array:
    """The directions of one block, of all blocks at once: (width, C), or more where a form asks for it."""
    tangents = jnp.tile(unit_vectors(blocks.width, dtype), (1, blocks.count))
    for form in forms:
        tangents = form.seeds(tangents)
    return tangents


def widened_tangents(tangents: Array, blocks: Blocks, variable: Variable) -> Array:
    """(C, *shape): the tangents of a variable in blocks along all directions."""
    every = Pairs.diagonal(blocks.count * blocks.width)
    return every.widened(tangents[: blocks.width], blocks.count, blocks.inner[variable])
