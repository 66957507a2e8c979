"""A model as a function of its parameters: traced for one sample, split at its seams, run over the batch in chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nablax._cache import compiled, split_model
from nablax._compat import CUSTOM_VJP, WHILE
from nablax._errors import InputTypeError, StrategyError
from nablax._layout import Layout
from nablax._sample import call_model, check_backend, checked_output, one_sample_shape, split_aux
from nablax._types import Model, PyTree
from nablax.batching.axes import Batch
from nablax.batching.chunks import map_samples, sum_over_chunks
from nablax.graph.classify import Table
from nablax.graph.needed import prepared
from nablax.graph.trace import varying
from nablax.parameters.factors import Block, derive
from nablax.parameters.modes import breaks_holomorphy, coordinates, rows_of
from nablax.parameters.split import Mark, Split, Spread, split
from nablax.parameters.views import View
from nablax.planning import samples_that_fit

PASS_BYTES = 2**26
"""Working set of a chunk on a CPU. Passes backward are products of matrices, which gain more from a large chunk than
from the cache."""


@dataclass(frozen=True)
class Setting:
    """How an operator was asked for; what its compiled programs depend on besides the model and the arrays.

    Attributes:
        wrt: the number of the argument that holds the parameters.
        axes: for every leaf of the arguments, the axis that holds the samples, or None.
        chunk_size: how many samples go through the model at once.
        budget: bytes that the user allows, or None.
        has_aux: whether the model returns (y, aux).
        table: what is known of primitives.
        mode: "real", "complex", "holomorphic" or "auto".
    """

    wrt: int
    axes: tuple[int | None, ...]
    chunk_size: int | str | None
    budget: int | None
    has_aux: bool
    table: Table
    mode: str

    @property
    def holomorphic(self) -> bool:
        return self.mode == "holomorphic"


@dataclass(frozen=True, eq=False)
class Parametric:
    """The model of one sample as a graph of parameter leaves.

    Attributes:
        closed: ``(*arrays of the model, *leaves of all arguments) -> (y, *aux)``, y a vector (A,).
        y: how the model's output is made of y.
        aux: the structure of the auxiliary output.
        batch: where the samples are.
        setting: how it was asked for.
        leaves: which of the inputs of the graph are the parameters.
        names: what the parameters are called.
        arrays: how many inputs are arrays of the model itself.
    """

    closed: Any
    y: Layout
    aux: Any
    batch: Batch
    setting: Setting
    leaves: range
    names: tuple[str, ...]
    arrays: int

    @classmethod
    def of(
        cls,
        rebuild: Callable[[list[Any]], Model],
        arrays: Sequence[Any],
        args: tuple[PyTree, ...],
        setting: Setting,
    ) -> Parametric:
        """Trace the model for the shapes of one sample of `args`."""
        check_backend()
        given, treedef = jax.tree.flatten(args)
        sizes = [leaf.shape[axis] for leaf, axis in zip(given, setting.axes, strict=True) if axis is not None]
        batch = Batch(setting.axes, sizes[0], setting.wrt)
        shapes = [one_sample_shape(leaf, axis) for leaf, axis in zip(given, setting.axes, strict=True)]
        of_sample = jax.tree.unflatten(treedef, shapes)
        seen: dict[str, Any] = {}

        def flat(*inputs: Array) -> list[Array]:
            model = rebuild(list(inputs[: len(arrays)]))
            output = call_model(model, jax.tree.unflatten(treedef, inputs[len(arrays) :]), of_sample)
            y, aux = split_aux(output, setting.has_aux)
            y = checked_output(y)
            seen["y"], (rest, seen["aux"]) = Layout.of(y), jax.tree.flatten(aux)
            return [seen["y"].ravel(y), *rest]

        closed = jax.make_jaxpr(flat)(*map(one_sample_shape, arrays), *shapes)
        start = len(arrays) + len(jax.tree.leaves(args[: setting.wrt]))
        named = jax.tree_util.tree_leaves_with_path(args[setting.wrt])
        names = tuple(jax.tree_util.keystr(path) or "params" for path, _ in named)
        leaves = range(start, start + len(named))
        return cls(closed, seen["y"], seen["aux"], batch, setting, leaves, names, len(arrays))

    def table(self, first_line: str) -> str:
        """How every parameter is handled."""
        shapes = [str(self.closed.in_avals[number].shape) for number in self.leaves]
        treatment = self.split.treatment()
        handled = [treatment[leaf] for leaf in range(len(self.leaves))]
        wide, long = max(map(len, self.names)), max(map(len, shapes))
        lines = zip(self.names, shapes, handled, strict=True)
        return "\n".join([first_line, *(f"  {name:{wide}}  {shape:{long}}  {how}" for name, shape, how in lines)])

    @property
    def A(self) -> int:
        """Entries of y."""
        return self.y.size

    @property
    def R(self) -> int:
        """Rows of the derivative: two for each entry of a complex y, unless the derivative is complex itself."""
        return self.A * (2 if jnp.issubdtype(self.y.dtype, jnp.complexfloating) and not self.setting.holomorphic else 1)

    @cached_property
    def split(self) -> Split:
        """The graph with its seams."""
        flat = prepared(self.closed, self.setting.table, loops=True)
        place = {number: leaf for leaf, number in enumerate(self.leaves)}
        marks = []
        for number, variable in enumerate(flat.inputs):
            leaf = place.get(number)
            if leaf is not None:
                view = View(leaf, variable.aval.shape)
                marks.append(Mark(False, frozenset({leaf}), view, Spread(view)))
            else:
                argument = number - self.arrays
                marks.append(Mark(argument >= 0 and self.setting.axes[argument] is not None))
        return split(flat, marks, self.setting.table)

    @cached_property
    def varying(self) -> frozenset[Any]:
        """The primitives, at any depth, of the equations that depend on the parameters."""
        jaxpr = getattr(self.closed, "jaxpr", self.closed)
        return frozenset(eqn.primitive for eqn in varying(jaxpr, {jaxpr.invars[leaf] for leaf in self.leaves}))

    @property
    def shares_biases(self) -> bool:
        """Whether every leaf is one block, so that a bias can be part of that of its layer."""
        dtypes = [self.closed.in_avals[number].dtype for number in self.leaves]
        return self.setting.holomorphic or not any(jnp.issubdtype(d, jnp.complexfloating) for d in dtypes)

    @property
    def has_forward_mode(self) -> bool:
        """Whether tangents can be pushed through the model."""
        return CUSTOM_VJP not in self.varying

    def check_reverse_mode(self) -> None:
        """Raise where cotangents cannot be pulled back."""
        if WHILE in self.varying:
            raise StrategyError(
                "the parameters of the model go through a while_loop (or a fori_loop with bounds that are not known "
                "when it is traced), which JAX cannot reverse; of their derivative only O @ v can be had. Use "
                "jax.lax.scan, or a fori_loop with bounds that are Python ints."
            )

    def suspect(self) -> str | None:
        """The first operation that may keep the model from being holomorphic in its parameters."""
        return breaks_holomorphy(self.closed, self.leaves, self.setting.table)

    # ------------------------------------------------------------------------------------------------- over the batch

    def values(self, arrays: Sequence[Any], args: tuple[PyTree, ...], params: PyTree) -> Array:
        """Y of all samples, (D, A), as a function of the parameters."""
        flat = self.split.piece.flat
        args = (*args[: self.setting.wrt], params, *args[self.setting.wrt + 1 :])
        return self._map(lambda inputs: flat(*inputs)[0], arrays, args, self._bytes_of_pass(0))

    def aux_values(self, arrays: Sequence[Any], args: tuple[PyTree, ...]) -> PyTree:
        """The auxiliary outputs of all samples."""
        flat = self.split.piece.flat
        return jax.tree.unflatten(
            self.aux, self._map(lambda inputs: flat(*inputs)[1:], arrays, args, self._bytes_of_pass(0))
        )

    def per_sample(
        self,
        arrays: Sequence[Any],
        args: tuple[PyTree, ...],
        then: Callable[[tuple[Block, ...]], PyTree],
        entries: int = 0,
    ) -> PyTree:
        """``then(blocks of a sample)`` for all samples; it makes about `entries` numbers for each."""
        each = self._bytes_of_pass(self.R) + entries * self._itemsize
        return self._map(lambda inputs: then(self.blocks(inputs)), arrays, args, each)

    def summed(
        self,
        arrays: Sequence[Any],
        args: tuple[PyTree, ...],
        also: Sequence[Array],
        then: Callable[..., PyTree],
        entries: int = 0,
    ) -> PyTree:
        """Sum over chunks of ``then(blocks of the chunk, *also of the chunk)``; `also` have the samples on axis 0."""
        batched, shared = self.batch.split(jax.tree.leaves(args))
        each = self._bytes_of_pass(self.R) + entries * self._itemsize
        one = lambda batched: self.blocks([*arrays, *self.batch.merge(batched, shared)])

        def chunk(given: list[Array]) -> PyTree:
            return then(jax.vmap(one)(given[: len(batched)]), *given[len(batched) :])

        return sum_over_chunks(chunk, [*batched, *also], self._chunk_size(each))

    @cached_property
    def block_shapes(self) -> tuple[Block, ...]:
        """The blocks of a batch of one sample, without values."""
        batched = lambda *inputs: jax.tree.map(lambda x: x[None], self.blocks(inputs))
        return jax.eval_shape(batched, *self.closed.in_avals)

    def blocks(self, inputs: Sequence[Any]) -> tuple[Block, ...]:
        """The derivative of one sample, block by block in the order of the coordinates."""
        self.check_reverse_mode()
        holomorphic = self.setting.holomorphic
        found, _ = derive(self.split, inputs, self.leaves, lambda y: rows_of(y, holomorphic), share=self.shares_biases)
        return tuple(
            block
            for leaf, number in enumerate(self.leaves)
            for block in coordinates(found[leaf], inputs[number], holomorphic)
        )

    def _map(
        self, one: Callable[[list[Any]], PyTree], arrays: Sequence[Any], args: tuple[PyTree, ...], each: float
    ) -> PyTree:
        batched, shared = self.batch.split(jax.tree.leaves(args))
        run = lambda batched: one([*arrays, *self.batch.merge(batched, shared)])
        return map_samples(run, batched, self._chunk_size(each))

    def _chunk_size(self, each: float) -> int | None:
        budget = self.setting.budget
        samples, chunk_size = self.batch.planned(self.setting.chunk_size, budget is not None)
        return samples_that_fit(each, samples, budget, PASS_BYTES) if isinstance(chunk_size, str) else chunk_size

    @property
    def _itemsize(self) -> int:
        return self.y.dtype.itemsize

    def _bytes_of_pass(self, rows: int) -> float:
        """What one sample leaves behind in a pass through the model, with `rows` backward passes."""
        equations = self.split.piece.flat.equations
        entries = sum(math.prod(o.aval.shape) * o.aval.dtype.itemsize for eqn in equations for o in eqn.outputs)
        return entries * (1 + rows)


def output_layout(model: Model, args: tuple[PyTree, ...], setting: Setting) -> Layout:
    """How the output of one sample is made of a vector; traced once for a model and shapes."""

    def build(rebuild: Callable[[list[Any]], Model]) -> Any:
        def output(arrays: list[Any], args: tuple[PyTree, ...]) -> PyTree:
            y = Parametric.of(rebuild, arrays, args, setting).y
            return y.unravel(jnp.zeros(y.size, y.dtype))

        return jax.jit(output)

    arrays, _ = split_model(model)
    return Layout.of(compiled(model, ("parameter_output", setting), build).eval_shape(arrays, args))


def checked_parameters(params: PyTree, number: int) -> None:
    """Raise where a parameter cannot be differentiated."""
    named = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in named:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise InputTypeError(
                f"argument {number}{jax.tree_util.keystr(path)} is a parameter to differentiate by and has dtype "
                f"{leaf.dtype}; convert it to floating point, or keep it out of the parameters (another argument of "
                "the model, or functools.partial)."
            )
    if sum(leaf.size for _, leaf in named) == 0:
        raise InputTypeError(f"argument {number} holds no parameters to differentiate by; choose another with wrt.")
