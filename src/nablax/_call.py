"""One call of a transform: check the options and arguments, find or build the compiled program, run it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nablax._cache import compiled, split_model
from nablax._errors import InputTypeError, OptionError, ZeroSecondDerivativeWarning
from nablax._sample import OneSample, Presentation
from nablax._types import INPUT_AXES, Model, PyTree, kind_of
from nablax.batching.axes import InAxes, find_batch, move_out
from nablax.batching.chunks import map_samples
from nablax.planning import Problem, choose, chunk_size_for
from nablax.strategies import BUILT_IN, Derivatives, Wants


@dataclass(frozen=True)
class Options:
    """The options that all transforms have in common, checked."""

    wrt: int | None
    in_axes: InAxes
    out_axes: Any
    strategy: str
    chunk_size: int | str | None
    has_aux: bool

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> Options:
        """Take the options out of the ``locals()`` of a transform."""
        return cls(**{field.name: arguments[field.name] for field in fields(cls)})

    def __post_init__(self) -> None:
        names = ["auto", *(s.name for s in BUILT_IN)]
        if self.strategy not in names:
            raise OptionError(f"strategy={self.strategy!r} is unknown; use one of {', '.join(names)}.")
        for name in ("wrt", "chunk_size"):
            if isinstance(getattr(self, name), np.integer):
                object.__setattr__(self, name, int(getattr(self, name)))
        size = self.chunk_size
        if size not in (None, "auto") and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise OptionError(
                f'chunk_size={size!r} must be a positive int, "auto", or None for the whole batch at once.'
            )
        if self.wrt is not None and (isinstance(self.wrt, bool) or not isinstance(self.wrt, int)):
            raise OptionError(f"wrt={self.wrt!r} must be the number of one argument, or None.")
        if isinstance(self.in_axes, bool) or not isinstance(self.in_axes, int | tuple | list | None):
            raise OptionError(
                f"in_axes={self.in_axes!r} must be an int, None, or a tuple with one entry for each argument."
            )

    @property
    def key(self) -> Any:
        """The options as a hashable value: trees of axes by structure and leaves."""
        leaves, treedef = jax.tree.flatten((self.in_axes, self.out_axes), is_leaf=lambda a: a is None)
        return self.wrt, treedef, tuple(leaves), self.strategy, self.chunk_size, self.has_aux


@dataclass(frozen=True)
class Only:
    """Present one want by itself."""

    want: str

    def check(self, sample: OneSample) -> None:
        if self.want == "divergence":
            sample.check_square()

    def __call__(self, sample: OneSample, found: Derivatives) -> PyTree:
        return _want(sample, found, self.want)


@dataclass(frozen=True)
class ByName:
    """Present all wants in a dict."""

    def check(self, sample: OneSample) -> None:
        if "divergence" in sample.wants.names:
            sample.check_square()

    def __call__(self, sample: OneSample, found: Derivatives) -> PyTree:
        return {want: _want(sample, found, want) for want in sorted(sample.wants.names)}


def _want(sample: OneSample, found: Derivatives, want: str) -> PyTree:
    """One want of one sample, as the user's trees."""
    if want == "divergence":
        return found.get(want)
    return sample.output_tree(found.get(want), inputs=INPUT_AXES[want])


def transform(
    name: str, model: Model, wants: Wants, present: Presentation, options: Options, weights: Any = None
) -> Callable[..., PyTree]:
    """The function that the user calls. `present` turns the derivatives of one sample into what it returns."""
    if not callable(model) or isinstance(model, type):
        given = f"the class {model.__name__}" if isinstance(model, type) else kind_of(model)
        raise OptionError(
            f"{name} was given {given} as its model; it needs a function of one sample, model(params, x)."
        )

    def build(rebuild: Callable[[list[Any]], Model]) -> Callable[..., PyTree]:
        def run(arrays: list[Array], weights: Array | None, args: tuple[PyTree, ...]) -> PyTree:
            return _derive(rebuild, arrays, wants, present, options, weights, args)

        return jax.jit(
            run, inline=True
        )  # inline: nothing is left of it in the program of a caller that is compiled itself

    key = (name, wants, present, options.key)

    def transformed(*args: PyTree) -> PyTree:
        for number, arg in enumerate(args):
            _check_leaves(arg, f"argument {number}")
        _check_leaves(weights, "weights")
        arrays, _ = split_model(model)
        return compiled(model, key, build)(arrays, weights, args)

    transformed.__name__ = transformed.__qualname__ = f"{name}_of_{getattr(model, '__name__', type(model).__name__)}"
    transformed.__doc__ = f"The {name} of a model for every sample of a batch; takes the model's arguments, batched."
    return transformed


_ARRAY_LIKE = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)


def _check_leaves(tree: PyTree, name: str) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not isinstance(leaf, _ARRAY_LIKE) or (isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "biufcV"):
            raise InputTypeError(
                f"{name}{jax.tree_util.keystr(path)} is {kind_of(leaf)}; every leaf of an argument must be "
                f"an array or a number. "
                "Give the model what is no array beforehand, for example with functools.partial."
            )


def _derive(
    rebuild: Callable[[list[Any]], Model],
    arrays: list[Array],
    wants: Wants,
    present: Presentation,
    options: Options,
    weights: Array | None,
    args: tuple[PyTree, ...],
) -> PyTree:
    """One call, while it is traced: bind the arguments, trace one sample, plan, map the samples, lay out the
    results.
    """
    batch = find_batch(args, options.wrt, options.in_axes)
    sample = OneSample.of(rebuild, arrays, batch, args, wants, options.has_aux)
    present.check(sample)
    weights = _as_weights(weights, sample)
    problem = Problem(sample.graph, wants, batch.samples)
    strategy = choose(problem, options.strategy).strategy
    if wants.order >= 2 and sample.graph.has_only_kinks:
        warnings.warn(
            "second derivatives were asked of a model that is piecewise linear in its input (relu, abs, max, ..): they "
            "are zero everywhere. Use a smooth activation such as tanh, silu or gelu if that is not what you want.",
            ZeroSecondDerivativeWarning,
            stacklevel=2,
        )
    size = chunk_size_for(problem, strategy) if isinstance(options.chunk_size, str) else options.chunk_size
    batched, shared = batch.split(jax.tree.leaves(args))

    def one(leaves: list[Array]) -> tuple[PyTree, PyTree]:
        others, v = sample.arguments(arrays, batch.merge(leaves, shared))
        found = strategy.derive(sample.graph.bind(others), v, wants, weights)
        return present(sample, found), jax.tree.unflatten(sample.aux, found.rest)

    results, aux = map_samples(one, batched, size)
    results = move_out(results, options.out_axes)
    return (results, aux) if options.has_aux else results


def _as_weights(weights: Any, sample: OneSample) -> Array | None:
    """The weights of a Laplacian as None or a scalar, (C,) or (C, C) array."""
    if weights is None:
        return None
    weights, C = jnp.asarray(weights), sample.x.size
    if jnp.iscomplexobj(weights):
        raise OptionError(f"weights has the complex dtype {weights.dtype}; the weights of a Laplacian must be real.")
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {(): (), (C,): (C,), (C, C): (C, C)}
    if len(sample.x.shapes) == 1:
        shape = sample.x.shapes[0]
        shapes = {shape: (C,), (*shape, *shape): (C, C)} | shapes
    if weights.shape not in shapes:
        raise OptionError(
            f"weights has shape {weights.shape}, and one sample of x has {C} entries; give a number, {C} weights of "
            f"shape ({C},), "
            f"or a matrix of shape ({C}, {C})."
        )
    return weights.reshape(shapes[weights.shape])
