"""What an operator of parameter derivatives is made of besides the model: arguments, weights, coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nablax._errors import OptionError
from nablax._layout import Layout
from nablax._parametric import Setting
from nablax._types import PyTree
from nablax.parameters.modes import join_rows


@dataclass(frozen=True)
class Coordinates:
    """The B coordinates of the parameters: their entries, leaf by leaf, or for a complex leaf its real parts and then
    its imaginary parts.

    Attributes:
        layout: the leaves.
        parts: how many coordinates an entry of each leaf has.
    """

    layout: Layout
    parts: tuple[int, ...]

    @classmethod
    def of(cls, params: PyTree, holomorphic: bool) -> Coordinates:
        layout = Layout.of(params)
        split = (jnp.issubdtype(dtype, jnp.complexfloating) and not holomorphic for dtype in layout.dtypes)
        return cls(layout, tuple(1 + two for two in split))

    @property
    def count(self) -> int:
        """B."""
        return sum(size * parts for size, parts in zip(self.layout.sizes, self.parts, strict=True))

    def names(self) -> list[str]:
        """What each coordinate is called: the path of its leaf and its place in it, ``layers/0/w[3,2]``."""
        tree = jax.tree.unflatten(self.layout.treedef, range(len(self.parts)))
        found = []
        for path, k in jax.tree_util.tree_flatten_with_path(tree)[0]:
            shape, parts = self.layout.shapes[k], self.parts[k]
            leaf = jax.tree_util.keystr(path, simple=True, separator="/") or "p"
            entries = [leaf + (f"[{','.join(map(str, index))}]" if index else "") for index in np.ndindex(*shape)]
            found += entries if parts == 1 else [f"{part} {entry}" for part in ("re", "im") for entry in entries]
        return found

    def flat(self, tree: PyTree) -> Array:
        """The coordinates of a tree like the parameters as one vector (B,)."""
        leaves = zip(jax.tree.leaves(tree), self.parts, strict=True)
        halves = ((leaf.real, leaf.imag) if parts == 2 else (leaf,) for leaf, parts in leaves)
        return jnp.concatenate([part.ravel() for half in halves for part in half])

    def unflat(self, vector: Array) -> PyTree:
        """The inverse of `flat`: a tree like the parameters, of their dtypes."""
        sizes = [size for size, parts in zip(self.layout.sizes, self.parts, strict=True) for _ in range(parts)]
        return self.joined(jnp.split(vector, np.cumsum(sizes)[:-1].tolist()))

    def joined(self, blocks: list[Array]) -> PyTree:
        """A vector for each block of coordinates as a tree like the parameters, of their dtypes."""
        block, leaves = iter(blocks), []
        for shape, dtype, parts in zip(self.layout.shapes, self.layout.dtypes, self.parts, strict=True):
            entries = next(block) if parts == 1 else next(block) + 1j * next(block)
            leaves.append(cast(entries.reshape(shape), dtype))
        return jax.tree.unflatten(self.layout.treedef, leaves)

    def stacked(self, blocks: list[Array], lead: tuple[int, ...] = ()) -> PyTree:
        """(.., entries) for each block as a tree like the parameters, complex leaves with an axis of length two."""
        block, leaves = iter(blocks), []
        for shape, parts in zip(self.layout.shapes, self.parts, strict=True):
            cut = [next(block).reshape(*lead, *shape) for _ in range(parts)]
            leaves.append(cut[0] if parts == 1 else jnp.stack(cut, axis=len(lead)))
        return jax.tree.unflatten(self.layout.treedef, leaves)

    def direction(self, v: PyTree) -> PyTree:
        """A direction, given as a tree or as a flat vector, as a tree like the parameters."""
        layout = self.layout
        given, structure = jax.tree.flatten(v)
        if structure == layout.treedef and tuple(map(np.shape, given)) == layout.shapes:
            cut = [cast(jnp.asarray(leaf), dtype) for leaf, dtype in zip(given, layout.dtypes, strict=True)]
            return jax.tree.unflatten(structure, cut)
        if structure == jax.tree.structure(0) and np.shape(v) == (self.count,):
            return self.unflat(jnp.asarray(v))
        shapes = ", ".join(str(np.shape(leaf)) for leaf in given)
        raise OptionError(
            f"O @ v was given {shapes or 'nothing'}; v is a tree like the parameters, {layout.treedef} with the shapes "
            f"{', '.join(map(str, layout.shapes))}, or a flat vector of shape ({self.count},)."
        )


class Operands(eqx.Module):
    """An operator without its model.

    Attributes:
        args: all arguments of the model, for all samples.
        scale: a weight for each row (D, A), or None.
        mean: the weights (D,), of sum 1, of the mean over samples that is taken off, or None.
        setting: how the operator was asked for.
        y: the output of one sample.
    """

    args: tuple[PyTree, ...]
    scale: Array | None
    mean: Array | None
    setting: Setting = eqx.field(static=True)
    y: Layout = eqx.field(static=True)

    @property
    def params(self) -> PyTree:
        return self.args[self.setting.wrt]

    @property
    def coordinates(self) -> Coordinates:
        return Coordinates.of(self.params, self.setting.holomorphic)

    @property
    def samples(self) -> int:
        """D."""
        leaves = zip(jax.tree.leaves(self.args), self.setting.axes, strict=True)
        return next(leaf.shape[axis] for leaf, axis in leaves if axis is not None)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The shape of one output; the outputs of a tree count as one vector."""
        return self.y.shapes[0] if len(self.y.shapes) == 1 else (self.y.size,)

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, *shape of one output, B)."""
        return (self.samples, *self.y_shape, self.coordinates.count)

    @property
    def complex_output(self) -> bool:
        return jnp.issubdtype(self.y.dtype, jnp.complexfloating)

    @property
    def real_dtype(self) -> Any:
        """The dtype of weights and norms."""
        return jnp.finfo(self.dtype).dtype

    @property
    def dtype(self) -> Any:
        """The dtype of the derivatives."""
        return jnp.result_type(self.y.dtype, *(jnp.finfo(dtype).dtype for dtype in self.coordinates.layout.dtypes))

    @property
    def nbytes_dense(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def part(self, samples: slice) -> Operands:
        """Those of a part of the samples."""
        leaves, treedef = jax.tree.flatten(self.args)
        cut = [
            leaf if axis is None else leaf[(slice(None),) * axis + (samples,)]
            for leaf, axis in zip(leaves, self.setting.axes, strict=True)
        ]
        scale = None if self.scale is None else self.scale[samples]
        return Operands(jax.tree.unflatten(treedef, cut), scale, self.mean, self.setting, self.y)

    # ------------------------------------------------------------------------------------------------ rows of outputs

    def centred(self, array: Array) -> Array:
        """An array with the samples on axis 0, minus its mean."""
        return array if self.mean is None else array - jnp.tensordot(self.mean, array, 1)[None]

    def scaled(self, array: Array) -> Array:
        """An array (D, A, ..) or (D, R, ..) with its rows weighted."""
        if self.scale is None:
            return array
        scale = jnp.tile(self.scale, (1, array.shape[1] // self.scale.shape[1]))
        return array * scale.reshape(*scale.shape, *(1,) * (array.ndim - 2))

    def as_rows(self, outputs: Array) -> Array:
        """Numbers like the outputs as rows (D, R): a complex output has two, except in ``mode="holomorphic"``."""
        w = outputs.reshape(self.samples, -1)
        if not self.complex_output or self.setting.holomorphic:
            return w
        return jnp.concatenate([w.real, jnp.imag(w)], axis=1)

    def from_rows(self, rows: Array) -> Array:
        """The inverse of `as_rows`."""
        return self.presented(join_rows(rows, self.y.size, 1))

    def presented(self, array: Array) -> Array:
        """(D, A) in the shape of the outputs."""
        return array.reshape(self.samples, *self.y_shape)

    def row_weights(self, weights: Any) -> Array:
        """Weights that the user gives for samples or rows, (D, A)."""
        D, A = self.samples, self.y.size
        if weights is None:
            return jnp.ones((D, A), self.real_dtype)
        w = jnp.asarray(weights)
        if jnp.iscomplexobj(w):
            raise OptionError(f"the weights have the complex dtype {w.dtype}; weights of rows must be real.")
        if w.shape == (D,):
            return jnp.broadcast_to(w[:, None], (D, A)).astype(self.real_dtype)
        if w.shape == (D, *self.y_shape):
            return w.reshape(D, A).astype(self.real_dtype)
        both = f"({D},)" if self.y_shape == () else f"({D},) or {(D, *self.y_shape)}"
        raise OptionError(f"the weights have shape {w.shape}; give one for each sample or for each row, {both}.")


def cast(value: Array, dtype: Any) -> Array:
    """In the dtype of a parameter; a real one drops a zero imaginary part."""
    real = not jnp.issubdtype(dtype, jnp.complexfloating)
    return (value.real if real else value).astype(dtype)
