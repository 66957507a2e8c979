"""What a strategy costs on a problem, counted on the graph.

The unit of work is one multiplication and addition inside a matrix product. An entrywise operation streams memory
instead and counts as `ENTRY` of them; a batched small product is less efficient than a large one and counts `BATCHED`
times. The two factors are measured on a CPU; only their order of magnitude matters for the choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.extend.core import primitives

from nablax._compat import jaxpr_of
from nablax.graph.inline import Constant, Equation
from nablax.graph.nodes import Kind, Loop, Node, Program
from nablax.planning.problem import Problem
from nablax.strategies import Strategy

ENTRY = 4.0
BATCHED = 4.0

CACHE_BYTES = 2**21
"""Working set of a chunk on a CPU: about one core's share of the cache. Larger chunks stream through main memory."""

MEMORY_BYTES = 2**31
"""Working set of a chunk on an accelerator."""


@dataclass(frozen=True)
class Bend:
    """A curved node, as far as its cost goes.

    Attributes:
        kind: the form of its second derivative.
        size: numbers in its output, all steps of a loop counted.
        work: one evaluation.
        pairs: second derivatives between its roots that are not zero.
    """

    kind: Kind
    size: float
    work: float
    pairs: int


def work_of_pass(program: Program) -> float:
    """Work of pushing one tangent through everything that depends on x."""
    return sum(_work(eqn) * steps for node, steps in _nodes(program) for eqn in node.equations)


def bends(program: Program) -> list[Bend]:
    """The curved nodes."""
    return [
        Bend(
            node.kind,
            steps * sum(math.prod(o.aval.shape) for o in node.outputs),
            steps * sum(map(_work, node.equations)),
            max(len(node.pairs), 1),
        )
        for node, steps in _nodes(program)
        if node.kind is not Kind.LINEAR
    ]


def work(strategy: Strategy, problem: Problem) -> float:
    """Work of `strategy` for one sample."""
    program = problem.graph.program
    one = work_of_pass(program)
    A, C, order = problem.A, problem.directions, problem.wants.order
    if order < 2:
        return one * (1 + (2 * A if strategy.reverse_mode else C))
    if order > 2:
        return one * (1 + C) ** order * (2 * A if strategy.reverse_mode else 1)
    full = "hessian" in problem.wants.names
    rows, couples = problem.second_rows
    match strategy.name:
        case "forward":
            return one * (1 + C + rows) + sum(_bend_forward(b, rows, couples) for b in bends(program))
        case "adjoint":
            return one * (1 + C + 2 * A) + sum(_bend_adjoint(b, A, C, couples, full) for b in bends(program))
        case "forward_over_forward":
            return one * (1 + (C * C + 2 * C if full else 3 * couples))
        case "forward_over_reverse":
            return one * (1 + C + 2 * A * (1 + 2 * C))
        case _:
            return one * (1 + 2 * A * (1 + 3 * C))


def _bend_forward(bend: Bend, rows: int, couples: int) -> float:
    if bend.kind is Kind.ELEMENTWISE:
        return ENTRY * bend.size * couples * bend.pairs
    return (2 if bend.kind is Kind.BILINEAR else 6) * bend.work * couples


def _bend_adjoint(bend: Bend, A: int, C: int, couples: int, full: bool) -> float:
    if not full:
        local = ENTRY * bend.size * bend.pairs if bend.kind is Kind.ELEMENTWISE else 6 * bend.work
        return couples * (local + A * bend.size)
    assembled = BATCHED * A * C * C * bend.size * bend.pairs
    if bend.kind is Kind.ELEMENTWISE:
        return assembled + ENTRY * A * C * bend.size
    return assembled + A * C * bend.work * (1 if bend.kind is Kind.BILINEAR else 6)


def _nodes(program: Program, steps: int = 1) -> Iterator[tuple[Node, int]]:
    """The nodes at any depth, with the number of steps of the loops around them."""
    for node in program.nodes:
        if isinstance(node, Loop):
            yield from _nodes(node.body, steps * node.equations[0].params["length"])
        else:
            yield node, steps


def _work(eqn: Equation) -> float:
    """Work of one evaluation of an equation."""
    size = sum(math.prod(o.aval.shape) for o in eqn.outputs)
    shapes: list[tuple[int, ...]] = [
        jnp.shape(a.value) if isinstance(a, Constant) else a.aval.shape for a in eqn.inputs
    ]
    if eqn.primitive is primitives.dot_general_p:
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return size * math.prod(shapes[0][k] for k in contracted)
    if eqn.primitive is primitives.conv_general_dilated_p:
        return size * math.prod(shapes[1]) / max(shapes[1][eqn.params["dimension_numbers"].rhs_spec[0]], 1)
    inner = [jaxpr_of(j) for j in jex.jaxprs_in_params(eqn.params)]
    if inner:
        return sum(_inner_work(j) for j in inner)
    return ENTRY * max(size, sum(map(math.prod, shapes)) / 2)


def _inner_work(jaxpr: Any) -> float:
    sizes = (math.prod(o.aval.shape) for eqn in jaxpr.eqns for o in eqn.outvars)
    return ENTRY * sum(sizes)


def chunk_size_for(problem: Problem, strategy: Strategy) -> int | None:
    """How many samples fit the cache (CPU) or a fixed share of the memory (elsewhere); None: all of them.

    The working set of a sample is its widest intermediate array, held twice for every direction that the strategy
    carries at a time.
    """
    budget = CACHE_BYTES if jax.default_backend() == "cpu" else MEMORY_BYTES
    size = max(int(budget // max(working_set(problem, strategy), 1)), 16)
    return None if size >= problem.samples else size


def working_set(problem: Problem, strategy: Strategy) -> float:
    """Bytes that one sample holds at a time, roughly."""
    A, C = problem.A, problem.directions
    rows, couples = problem.second_rows
    held = {
        "forward": C + rows,
        "adjoint": C + A * (C if "hessian" in problem.wants.names else 1),
        "forward_over_forward": C * C if "hessian" in problem.wants.names else 2 * couples,
    }.get(strategy.name, A * (1 + C))
    if problem.wants.order < 2:
        held = A if strategy.reverse_mode else C
    wide = max((_bytes(var.aval) for eqn in problem.graph.jaxpr.eqns for var in eqn.outvars), default=8)
    return 2 * wide * max(held, 1)


def _bytes(aval: Any) -> int:
    return math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 8)
