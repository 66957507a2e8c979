"""One sample of a call: the user's function of pytrees as a graph from a vector to a vector, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nablax._compat import wrong_sums
from nablax._errors import BackendError, InputTypeError, ModelTraceError, NablaxError, OutputTypeError, first_line
from nablax._layout import Layout
from nablax._types import Model, PyTree, kind_of
from nablax.batching.axes import Batch
from nablax.graph import Graph, trace
from nablax.graph.classify import Table
from nablax.strategies import Derivatives, Wants


class Presentation(Protocol):
    """Turns the derivatives of one sample into what the user gets for it. Hashable, as part of a cache key."""

    def check(self, sample: OneSample) -> None:
        """Raise where this sample cannot be presented."""
        ...

    def __call__(self, sample: OneSample, found: Derivatives) -> PyTree: ...


@dataclass(frozen=True, eq=False)
class OneSample:
    """The model of one sample, traced.

    Attributes:
        graph: ``(*others, v) -> (y, *aux)``; the others are the arrays of the model and the leaves of all arguments but
            x.
        x: how v is made of the differentiated argument.
        y: how the model's output is made of the vector y.
        aux: the structure of the auxiliary output.
        wants: what is asked for.
        place: which of the leaves of all arguments belong to x.
    """

    graph: Graph
    x: Layout
    y: Layout
    aux: Any
    wants: Wants
    place: slice

    @classmethod
    def of(
        cls,
        rebuild: Callable[[list[Any]], Model],
        arrays: Sequence[Array],
        batch: Batch,
        args: tuple[PyTree, ...],
        wants: Wants,
        has_aux: bool,
        table: Table,
    ) -> OneSample:
        """Trace the model for the shapes of one sample of `args`."""
        leaves, treedef = jax.tree.flatten(args)
        shapes = [one_sample_shape(leaf, axis) for leaf, axis in zip(leaves, batch.axes, strict=True)]
        start = len(jax.tree.leaves(args[: batch.wrt]))
        place = slice(start, start + len(jax.tree.leaves(args[batch.wrt])))
        of_sample = jax.tree.unflatten(treedef, shapes)
        x = _input_layout(of_sample[batch.wrt], batch.wrt)
        seen: dict[str, Any] = {}

        def flat(*inputs: Array) -> list[Array]:
            given, (*others, v) = inputs[: len(arrays)], inputs[len(arrays) :]
            others[place.start : place.start] = jax.tree.leaves(x.unravel(v))
            output = call_model(rebuild(list(given)), jax.tree.unflatten(treedef, others), of_sample)
            y, aux = split_aux(output, has_aux)
            y = checked_output(y)
            seen["y"], (rest, seen["aux"]) = Layout.of(y), jax.tree.flatten(aux)
            return [seen["y"].ravel(y), *rest]

        others = [*map(one_sample_shape, arrays), *shapes[: place.start], *shapes[place.stop :]]
        graph = trace(flat, others, jax.ShapeDtypeStruct((x.size,), x.dtype), table)
        return cls(graph, x, seen["y"], seen["aux"], wants, place)

    def arguments(self, arrays: Sequence[Array], leaves: Sequence[Array]) -> tuple[list[Array], Array]:
        """(others, v) of the graph, for the leaves of the arguments of one sample."""
        x = jax.tree.unflatten(self.x.treedef, leaves[self.place])
        return [*arrays, *leaves[: self.place.start], *leaves[self.place.stop :]], self.x.ravel(x)

    def size_of_result(self, present: Presentation) -> int:
        """Bytes of what `present` makes of the derivatives of one sample."""
        A, C = self.graph.outputs, self.graph.inputs
        shapes = {"jacobian": (A, C), "hessian": (A, C, C), "diagonal": (A, C), "laplacian": (A,)}

        def result() -> PyTree:
            dtype = jnp.result_type(*self.y.dtypes)
            arrays = {name: jnp.zeros(shape, dtype) for name, shape in shapes.items()}
            y = jnp.zeros(A, dtype)
            return present(self, Derivatives(y, **arrays, partials=dict.fromkeys(self.wants.indices, y)))

        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(result)))

    def output_tree(self, array: Array, inputs: int) -> PyTree:
        """An array (A, C, ..) with `inputs` axes C as a tree like y of trees like x, as `jax.jacobian` nests them."""
        leaves = jax.tree.leaves(self.y.split(array, 0))
        trees = [self._input_trees(leaf, len(shape), inputs) for leaf, shape in zip(leaves, self.y.shapes, strict=True)]
        return self.y.cast(jax.tree.unflatten(self.y.treedef, trees))

    def _input_trees(self, array: Array, axis: int, inputs: int) -> PyTree:
        """Cut `inputs` axes C of `array`, from `axis` on, into nested trees like x."""
        if inputs == 0:
            return array
        leaves = jax.tree.leaves(self.x.split(array, axis))
        trees = [
            self._input_trees(leaf, axis + len(shape), inputs - 1)
            for leaf, shape in zip(leaves, self.x.shapes, strict=True)
        ]
        return jax.tree.unflatten(self.x.treedef, trees)

    def check_square(self) -> None:
        """Raise unless y and x have the same shapes: the divergence needs a vector field."""
        if self.y.shapes != self.x.shapes:
            raise OutputTypeError(
                f"divergence needs a model whose output has the shape of x; for one sample x has "
                f"{_list(self.x.shapes)} and the output "
                f"has {_list(self.y.shapes)}. For the sum of second derivatives use nablax.laplacian."
            )


def one_sample_shape(leaf: Any, axis: int | None = None) -> jax.ShapeDtypeStruct:
    aval = jax.typeof(leaf)
    shape = aval.shape if axis is None else aval.shape[:axis] + aval.shape[axis + 1 :]
    return jax.ShapeDtypeStruct(shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))


def _input_layout(x: PyTree, wrt: int) -> Layout:
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            kind = "complex" if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else "not floating point"
            raise InputTypeError(
                f"argument {wrt}{jax.tree_util.keystr(path)} is to be differentiated and has dtype {leaf.dtype}, "
                f"which is {kind}; "
                + (
                    "derivatives are with respect to real numbers: give the real and imaginary parts as two real "
                    "arrays."
                    if kind == "complex"
                    else "convert it first, for example X.astype(jnp.float32), or choose another argument with wrt."
                )
            )
    layout = Layout.of(x)
    if layout.size == 0:
        raise InputTypeError(
            f"argument {wrt} is to be differentiated, but one sample of it has no entries (shapes "
            f"{_list(layout.shapes)}); "
            "check in_axes and wrt."
        )
    return layout


def check_backend() -> None:
    """Raise where the installed JAX is known to compute wrong numbers."""
    if reason := wrong_sums():
        raise BackendError(reason)


def call_model(model: Model, args: tuple[PyTree, ...], shapes: tuple[PyTree, ...]) -> PyTree:
    try:
        return model(*args)
    except NablaxError:
        raise
    except Exception as error:
        listed = "; ".join(f"argument {number}: {_describe(shape)}" for number, shape in enumerate(shapes))
        raise ModelTraceError(
            f"the model raised {type(error).__name__} while it was traced for ONE sample ({first_line(error)}). It was "
            f"called with {listed}. "
            "A model is written for one sample, without a batch axis; if these shapes are not what it expects, name "
            "the axis that holds the samples "
            "of each argument with in_axes (None: shared by all samples)."
        ) from error


def split_aux(output: PyTree, has_aux: bool) -> tuple[PyTree, PyTree]:
    if not has_aux:
        return output, ()
    if not isinstance(output, tuple) or len(output) != 2:
        raise OutputTypeError(
            f"has_aux=True needs a model that returns a pair (y, aux); it returned {kind_of(output)}."
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(output[1]):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
            raise OutputTypeError(
                f"the aux{jax.tree_util.keystr(path)} of the model is {kind_of(leaf)}; every leaf of aux must be "
                "an array or a number, because it is returned for every sample."
            )
    return output


def checked_output(y: PyTree) -> PyTree:
    leaves = jax.tree_util.tree_leaves_with_path(y)
    if not leaves:
        raise OutputTypeError(
            f"the model returned {y!r}, which holds no array; it must return the value to differentiate."
        )
    for path, leaf in leaves:
        name = f"the output{jax.tree_util.keystr(path)} of the model"
        if not isinstance(leaf, jax.Array | float | complex) and not hasattr(leaf, "dtype"):
            raise OutputTypeError(f"{name} is {kind_of(leaf)}; every leaf of the output must be an array.")
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise OutputTypeError(
                f"{name} has dtype {jnp.result_type(leaf)}, which has no derivative; return real or complex "
                f"numbers, and return "
                "anything else as aux with has_aux=True."
            )
    y = jax.tree.map(jnp.asarray, y)
    if Layout.of(y).size == 0:
        raise OutputTypeError(
            "the model returned arrays without entries for one sample; it must return the value to differentiate."
        )
    return y


def _describe(tree: PyTree) -> str:
    """Shapes and dtypes of the leaves of one argument, the first few."""
    leaves = [
        f"{jax.tree_util.keystr(path) + ' ' if path else ''}{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    return ", ".join(leaves[:6]) + (f" and {len(leaves) - 6} more" if len(leaves) > 6 else "")


def _list(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))
