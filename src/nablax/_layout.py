"""The border between the user's pytrees and the engine's vectors.

Inside, a model is a function from a vector of C numbers to a vector of A numbers. A `Layout` remembers how such a
vector is made from the arrays of a pytree, and cuts results apart again along any axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nablax._types import PyTree


@dataclass(frozen=True)
class Layout:
    """How the arrays of one pytree lie in one vector, in the order of the leaves, each in row-major order."""

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @classmethod
    def of(cls, tree: PyTree) -> Layout:
        leaves, treedef = jax.tree.flatten(tree)
        return cls(treedef, tuple(tuple(leaf.shape) for leaf in leaves), tuple(leaf.dtype for leaf in leaves))

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        return sum(self.sizes)

    @property
    def dtype(self) -> Any:
        """The dtype of the vector: what the dtypes of the leaves promote to."""
        return jnp.result_type(*self.dtypes)

    def ravel(self, tree: PyTree) -> Array:
        """The leaves of `tree`, end to end: shape (size,)."""
        leaves = [jnp.ravel(leaf).astype(self.dtype) for leaf in jax.tree.leaves(tree)]
        return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves)

    def unravel(self, vector: Array) -> PyTree:
        """The inverse of `ravel`."""
        return jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), self.split(vector, 0), self._tree(self.dtypes))

    def split(self, array: Array, axis: int) -> PyTree:
        """Cut one axis of length `size` into the leaves: each has its own shape where that axis was."""
        before, after = array.shape[:axis], array.shape[axis + 1 :]
        ends = np.cumsum(self.sizes)[:-1].tolist()
        parts = [array] if len(self.shapes) == 1 else jnp.split(array, ends, axis=axis)
        return self._tree(
            [part.reshape(before + shape + after) for part, shape in zip(parts, self.shapes, strict=True)]
        )

    def cast(self, tree: PyTree) -> PyTree:
        """Give every leaf of `tree` (same structure at the top) back its own dtype; a real leaf drops its zero
        imaginary part.
        """

        def one(dtype: Any, subtree: PyTree) -> PyTree:
            real = not jnp.issubdtype(dtype, jnp.complexfloating)
            return jax.tree.map(lambda leaf: (jnp.real(leaf) if real else leaf).astype(dtype), subtree)

        return jax.tree.map(one, self._tree(self.dtypes), tree)

    def _tree(self, leaves: Any) -> PyTree:
        return jax.tree.unflatten(self.treedef, list(leaves))
