"""One call of a transform: check the options and arguments, find or build the compiled program, run it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nablax._cache import compiled, split_model
from nablax._errors import (
    InputTypeError,
    NablaxError,
    OptionError,
    StrategyError,
    ZeroSecondDerivativeWarning,
    first_line,
)
from nablax._options import Options, checked_model, default_table
from nablax._rehearsal import has_tracers, made_up, untraced
from nablax._sample import OneSample, Presentation, check_backend
from nablax._types import INPUT_AXES, Model, PyTree, kind_of
from nablax.batching.axes import Batch, find_batch, move_out
from nablax.batching.chunks import map_samples, other_if_differentiated
from nablax.batching.shards import Placement, find_shards, placements
from nablax.graph.merge import traced
from nablax.planning import Build, Candidate, Plan, Problem, check_result, choose, choose_for_gradient, tune
from nablax.strategies import Derivatives, Strategy, Wants, refused_by_jax


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
    checked_model(name, model)

    def build(placed: tuple[Placement, ...], rebuild: Callable[[list[Any]], Model]) -> Callable[..., PyTree]:
        def run(arrays: list[Array], weights: Array | None, args: tuple[PyTree, ...]) -> PyTree:
            derive = functools.partial(_derive, rebuild, wants, present, options)
            if (shards := find_shards(placed, args, options.wrt, options.in_axes)) is not None:
                derive = shards.map(derive)
            results, aux = derive(arrays, weights, args)
            results = move_out(results, options.out_axes)
            return (results, aux) if options.has_aux else results

        # inline: nothing is left of it in the program of a caller that is compiled itself
        return jax.jit(run, inline=True)

    key = (name, wants, present, options.key)

    def transformed(*args: PyTree) -> PyTree:
        check_arguments(args, weights)
        arrays, _ = split_model(model)
        placed = placements(args)
        return compiled(model, (*key, placed), functools.partial(build, placed))(arrays, weights, args)

    transformed.__name__ = transformed.__qualname__ = f"{name}_of_{getattr(model, '__name__', type(model).__name__)}"
    transformed.__doc__ = f"The {name} of a model for every sample of a batch; takes the model's arguments, batched."
    return transformed


_ARRAY_LIKE = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)


def check_arguments(args: tuple[PyTree, ...], weights: Any, also: tuple[type, ...] = ()) -> None:
    """Raise where a leaf is neither an array nor a number, nor of one of the types `also`."""
    names = [*(f"argument {number}" for number in range(len(args))), "weights"]
    for name, tree in zip(names, (*args, weights), strict=True):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            of_objects = isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "biufcV"
            if of_objects or not isinstance(leaf, (*_ARRAY_LIKE, *also)):
                raise InputTypeError(
                    f"{name}{jax.tree_util.keystr(path)} is {kind_of(leaf)}; every leaf of an argument must be "
                    "an array or a number. Give the model what is no array beforehand, for example with "
                    "functools.partial."
                )


Inputs = tuple[list[Any], Any, list[Any]]
"""The values of one call: the arrays of the model, the weights, the leaves of all arguments."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call, its arguments bound to axes and its model traced: it can be planned, and then run.

    Attributes:
        sample: the traced model.
        batch: where the samples are.
        present: what is made of the derivatives of one sample.
        options: the options.
        problem: the facts that a plan is chosen from.
        programs: the derivatives of one sample by strategy and types, traced once: values and gradients share them.
    """

    sample: OneSample
    batch: Batch
    present: Presentation
    options: Options
    problem: Problem
    programs: dict[Hashable, Callable[..., Derivatives]] = field(default_factory=dict, init=False)

    @classmethod
    def of(
        cls,
        rebuild: Callable[[list[Any]], Model],
        arrays: list[Array],
        wants: Wants,
        present: Presentation,
        options: Options,
        args: tuple[PyTree, ...],
    ) -> Call:
        """Trace the model for one sample of `args`."""
        check_backend()
        batch = find_batch(args, options.wrt, options.in_axes)
        table = default_table if options.table is None else options.table
        sample = OneSample.of(rebuild, arrays, batch, args, wants, options.has_aux, table)
        present.check(sample)
        bounded = options.budget is not None or options.strategy == "autotune"
        samples, chunk_size = batch.planned(options.chunk_size, bounded)
        results = 0 if options.budget is None else samples * sample.size_of_result(present)
        problem = Problem(sample.graph, wants, samples, chunk_size, options.budget, results)
        check_result(problem)
        return cls(sample, batch, present, options, problem)

    def inputs(self, arrays: list[Array], weights: Any, args: tuple[PyTree, ...]) -> Inputs:
        """The values to run with."""
        return arrays, _as_weights(weights, self.sample), jax.tree.leaves(args)

    def plan(self, inputs: Inputs) -> Plan:
        """The strategy and chunk size; only the types of `inputs` matter."""
        if self.options.strategy != "autotune":
            return choose(self.problem, self.options.strategy)
        details = self.options.out_axes, self.batch.axes, jax.tree.map(jax.typeof, inputs)
        # Whatever transformation is under way around this call, the measured programs run here and now.
        with jax.ensure_compile_time_eval():
            return tune(self.problem, details, self.rehearsal(inputs))

    def rehearsal(self, inputs: Inputs) -> Build:
        """How to run a candidate on made-up values."""

        @functools.cache
        def stage() -> Build:
            sample = replace(self.sample, graph=untraced(self.sample.graph))
            return replace(self, sample=sample).compiler(made_up(inputs))

        return lambda candidate: stage()(candidate)

    def compiler(self, inputs: Inputs) -> Build:
        """How to run a candidate on `inputs`."""

        def build(candidate: Candidate) -> Callable[[], Any]:
            program = jax.jit(functools.partial(self.run, candidate.strategy, candidate.chunk_size))
            return lambda: program(inputs)

        return build

    def run(
        self, strategy: Strategy, chunk_size: int | None, inputs: Inputs, again: bool = True
    ) -> tuple[PyTree, PyTree]:
        """(results, aux) for all samples, which are on axis 0; chunks are computed `again` in the backward pass."""
        sample, (arrays, weights, leaves) = self.sample, inputs
        batched, shared = self.batch.split(leaves)

        def one(leaves: list[Array]) -> tuple[PyTree, PyTree]:
            others, v = sample.arguments(arrays, self.batch.merge(leaves, shared))
            found = self.derived(strategy, others, v, weights)
            return self.present(sample, found), jax.tree.unflatten(sample.aux, found.rest)

        return map_samples(one, batched, chunk_size, again)

    def derived(self, strategy: Strategy, others: list[Array], v: Array, weights: Array | None) -> Derivatives:
        """The derivatives of one sample; what JAX has no rule for is an error with a name."""
        sample, args = self.sample, (others, v, weights)
        key = strategy.name, *map(jax.typeof, jax.tree.leaves(args))
        derive = lambda others, v, weights: strategy.derive(sample.graph.bind(others), v, sample.wants, weights)
        try:
            if key not in self.programs:
                self.programs[key] = traced(derive, *args)
            return self.programs[key](*args)
        except NablaxError:
            raise
        except Exception as error:
            if not refused_by_jax(sample.graph.bind(others), v, strategy, sample.wants.order):
                raise
            raise StrategyError(
                f"strategy {strategy.name!r} ran into a function that JAX cannot differentiate this often: "
                f"{type(error).__name__}: {first_line(error)} Derivatives of order {sample.wants.order} were asked "
                "for. Give the function a rule with jax.custom_jvp, keep its arguments independent of x, or ask for a "
                "lower order."
            ) from error


def _derive(
    rebuild: Callable[[list[Any]], Model],
    wants: Wants,
    present: Presentation,
    options: Options,
    arrays: list[Array],
    weights: Array | None,
    args: tuple[PyTree, ...],
) -> tuple[PyTree, PyTree]:
    """(results, aux) of one call, while it is traced: bind the arguments, trace one sample, plan, map the samples."""
    call = Call.of(rebuild, arrays, wants, present, options, args)
    inputs = call.inputs(arrays, weights, args)
    plan = call.plan(inputs)
    if wants.order >= 2 and call.sample.graph.has_only_kinks:
        warnings.warn(
            "second derivatives were asked of a model that is piecewise linear in its input (relu, abs, max, ..): they "
            "are zero everywhere. Use a smooth activation such as tanh, silu or gelu if that is not what you want.",
            ZeroSecondDerivativeWarning,
            stacklevel=2,
        )
    other = choose_for_gradient(call.problem, plan)
    run = lambda plan, **how: functools.partial(call.run, plan.strategy, plan.chunk_size, **how)
    if has_tracers(call.sample.graph.closed.consts) or other.method == plan.method:
        return run(other)(inputs)
    return other_if_differentiated(run(plan, again=False), run(other), inputs)


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
