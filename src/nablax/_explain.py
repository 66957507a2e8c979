"""What a transform would do for given arguments, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax

from nablax._cache import join_model, split_model
from nablax._call import ByName, Call, check_arguments
from nablax._errors import OptionError
from nablax._options import Options, checked_model, checked_wants
from nablax._rehearsal import has_tracers
from nablax._types import Model, PyTree
from nablax.batching.axes import InAxes
from nablax.batching.chunks import chunk_shape
from nablax.graph.classify import Table
from nablax.planning import (
    Candidate,
    Explanation,
    Plan,
    candidate,
    candidates,
    choose_for_gradient,
    grouped,
    timed,
)


def explain(
    model: Model,
    *wants: str,
    measure: bool = False,
    weights: Any = None,
    wrt: int | None = None,
    in_axes: InAxes = None,
    out_axes: Any = 0,
    strategy: str = "auto",
    chunk_size: int | str | None = "auto",
    has_aux: bool = False,
    memory_budget: int | str | None = None,
    table: Table | None = None,
) -> Callable[..., Explanation]:
    """What `nablax.derivatives` would do with the same arguments, and why: the plan, and what else could serve.

    Nothing is computed, so that shapes are enough: X may be a `jax.ShapeDtypeStruct` of the shape (D, C), and so may
    all other arguments.

    Args:
        model: a function of one sample; this and all options are those of `nablax.derivatives`.
        *wants: what to explain: one want explains the transform of that name.
        measure: compile every strategy that applies, and time it on the arguments.
        weights: of the Laplacian, see `nablax.laplacian`.
        wrt: see `nablax.jacobian`.
        in_axes: see `nablax.jacobian`.
        out_axes: see `nablax.jacobian`.
        strategy: see `nablax.jacobian`; "autotune" shows what was measured for its choice.
        chunk_size: see `nablax.jacobian`.
        has_aux: see `nablax.jacobian`.
        memory_budget: see `nablax.jacobian`.
        table: see `nablax.jacobian`.

    Returns:
        A function of ``(params, X, *rest)`` that returns an `Explanation`: print it, or use its fields, such as
        ``strategy``, ``chunk_size``, ``candidates``, ``nodes`` and ``opaque``.

    Raises:
        nablax.NablaxError: see `nablax.errors`, where the derivatives would raise one.

    Cost:
        Tracing the model once. With `measure`, a compilation and at least four calls for each strategy that applies.

    Example:
        >>> import jax, jax.numpy as jnp, nablax
        >>> model = lambda params, x: jnp.cumprod(params @ x)
        >>> shapes = jax.ShapeDtypeStruct((2, 4), jnp.float32), jax.ShapeDtypeStruct((8, 4), jnp.float32)
        >>> found = nablax.explain(model, "hessian")(*shapes)
        >>> found.outputs, found.inputs, found.samples, found.chunk_size
        (2, 4, 8, 8)
        >>> [group.primitive for group in found.opaque]
        ['cumprod']
    """
    checked_model("explain", model)
    named = checked_wants("explain", wants, weights)
    options = Options.of(locals())

    def explained(*args: PyTree) -> Explanation:
        check_arguments(args, weights, also=(jax.ShapeDtypeStruct,))
        arrays, rest = split_model(model)
        seen: list[tuple[Call, Plan]] = []

        def plan(arrays: list[Any], weights: Any, args: tuple[PyTree, ...]) -> None:
            call = Call.of(lambda arrays: join_model(arrays, rest), arrays, named, ByName(), options, args)
            seen.append((call, call.plan(call.inputs(arrays, weights, args))))

        jax.eval_shape(plan, arrays, weights, args)
        ((call, chosen),) = seen
        known = _merged(candidates(call.problem), chosen.measured)
        if measure:
            known = _measured(call, known, arrays, weights, args)
        return _explanation(call, chosen, known)

    return explained


def _merged(predicted: Sequence[Candidate], measured: Sequence[Candidate]) -> list[Candidate]:
    """Every strategy, as it was measured where it was; other chunk sizes of a strategy behind it."""
    found: list[Candidate] = []
    for one in predicted:
        found += [m for m in measured if m.name == one.name] or [one]
    return found


def _measured(
    call: Call, known: Sequence[Candidate], arrays: list[Any], weights: Any, args: tuple[PyTree, ...]
) -> list[Candidate]:
    """The candidates that apply, timed on the arguments themselves."""
    if has_tracers((arrays, weights, args, call.sample.graph.closed.consts)):
        raise OptionError(
            "measure=True needs values to compute with, and an argument is a ShapeDtypeStruct or traced by an "
            "enclosing transformation; call explain with arrays, outside of jax.jit, or leave measure out."
        )
    able = [c for c in known if c.why_not is None]
    times = iter(timed(able, call.compiler(call.inputs(arrays, weights, args))))
    return [next(times) if c.why_not is None else c for c in known]


def _explanation(call: Call, chosen: Plan, known: Sequence[Candidate]) -> Explanation:
    """What was found, with chunks as they will be cut."""
    problem = call.problem

    def cut(one: Candidate) -> Candidate:
        if one.work is None:
            return one
        width = chunk_shape(problem.samples, one.chunk_size)[1]
        held = candidate(problem, one.strategy, width).working_set
        return replace(one, chunk_size=width, working_set=held)

    chunks, width = chunk_shape(problem.samples, chosen.chunk_size)
    differentiated = choose_for_gradient(problem, chosen)
    nodes, opaque = grouped(problem.graph)
    return Explanation(
        outputs=problem.graph.outputs,
        inputs=problem.C,
        samples=problem.samples,
        wants=tuple(sorted(problem.wants.names)),
        strategy=chosen.strategy.name,
        reason=chosen.reason,
        chunk_size=width,
        chunks=chunks,
        gradient_strategy=differentiated.strategy.name,
        gradient_chunk_size=chunk_shape(problem.samples, differentiated.chunk_size)[1],
        blocks=problem.blocks.count if problem.blocks else 1,
        working_set=candidate(problem, chosen.strategy, width).working_set or 0.0,
        candidates=tuple(map(cut, known)),
        nodes=nodes,
        opaque=opaque,
    )
