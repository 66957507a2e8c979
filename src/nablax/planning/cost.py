"""What a strategy costs on a problem, counted on the graph.

The unit of work is one multiplication and addition inside a matrix product. An entrywise operation streams memory
instead and counts as `ENTRY` of them; a batched small product is less efficient than a large one and counts `BATCHED`
times. The factors are fitted to the times of all strategies in the benchmark grid on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax.extend.core as jex
import jax.numpy as jnp
from jax.extend.core import primitives

from nablax._compat import SET_ASIDE, jaxpr_of
from nablax.graph.dense import dense_p
from nablax.graph.determinants import slogdet_p
from nablax.graph.inline import Constant, Equation, Variable
from nablax.graph.nodes import Kind, Loop, Node, Program
from nablax.graph.probes import Probe, probes
from nablax.planning.problem import Problem
from nablax.strategies import Strategy
from nablax.strategies.curvature import pairs_pay

ENTRY = 12.0
BATCHED = 3.0

PULLED_BACK = 2.0
PROBED = 2.5
"""What a pass through a loop costs that keeps values of every step, or tangents and readings of every step too; the
unit is a pass that keeps nothing."""


@dataclass(frozen=True)
class Bend:
    """A curved node, as far as its cost goes.

    Attributes:
        kind: the form of its second derivative.
        size: numbers in its output, all steps of a loop counted.
        push: work of one tangent through it.
        roots: how many arrays it reads.
        pairs: second derivatives between its roots that are not zero.
        straight: whether products of its tangents are the same for all samples.
    """

    kind: Kind
    size: float
    push: float
    roots: int
    pairs: int
    straight: bool


def work_of_pass(program: Program, in_loops: float = 1.0) -> float:
    """Work of pushing one tangent through everything that depends on x, or of pulling one cotangent back, where what is
    inside loops counts `in_loops` times.
    """
    return sum(_push(node) * steps * (1.0 if steps == 1 else in_loops) for node, steps in _nodes(program))


def _bend(probe: Probe) -> Bend:
    node, steps = probe.node, math.prod(probe.lengths)
    pairs = max(len(node.pairs), 1)
    return Bend(node.kind, steps * _size(node), steps * _push(node), len(node.roots), pairs, probe.straight)


_IN_LOOPS = {"forward": 1.0, "forward_over_forward": 1.0, "adjoint": PROBED}


def work(strategy: Strategy, problem: Problem, differentiated: bool = False) -> float:
    """Work of `strategy` for one sample; if `differentiated`, what a gradient through it is a multiple of."""
    program = problem.graph.program
    once = sum(_work(eqn) * steps for node, steps in _nodes(program) for eqn in node.equations)
    in_loops = max(_IN_LOOPS.get(strategy.name, PULLED_BACK), PULLED_BACK if differentiated else 1.0)
    push = work_of_pass(program, in_loops)
    A, C, order = problem.A, problem.directions, problem.wants.order
    if order < 2:
        return once + push * (A if strategy.reverse_mode else C)
    if order > 2:
        return once + push * (1 + C) ** order * (A if strategy.reverse_mode else 1)
    full = "hessian" in problem.wants.names
    _, couples = problem.second_rows(C)
    curved = probes(program)
    match strategy.name:
        case "forward":
            passes = ((_forward(problem, node, differentiated), steps) for node, steps in _nodes(program))
            return once + sum(each * steps * (1.0 if steps == 1 else in_loops) for each, steps in passes)
        case "adjoint":
            saved = ((C - directions_in(problem, node)) * _push(node) for node in program.nodes)
            return once + push * (C + A) - sum(saved) + sum(_bend_adjoint(problem, probe, full) for probe in curved)
        case "forward_over_forward":
            second = C * C if full else couples
            return once + push * (2 * C + second) + second * sum(_bend_forward(_bend(probe), 1) for probe in curved)
        case "forward_over_reverse":
            return once + push * (C + A + A * C) + 2 * A * C * sum(_bend_forward(_bend(probe), 1) for probe in curved)
        case _:
            return once + push * (A + 2 * A * C) + 3 * A * C * sum(_bend_forward(_bend(probe), 1) for probe in curved)


def _forward(problem: Problem, node: Node, differentiated: bool) -> float:
    """Work of the forward sweep in one node."""
    directions = directions_in(problem, node)
    rows, couples = problem.second_rows(directions)
    push = _push(node) * (directions + rows)
    if node.kind is Kind.LINEAR:
        return push
    terms = 1.5 if differentiated else 1.0  # a product of three entries has three derivatives
    return push + terms * _bend_forward(_bend(Probe(node)), couples)


def directions_in(problem: Problem, node: Node) -> int:
    """How many directions the two sweeps carry through a node."""
    blocks = problem.blocks
    return blocks.width if blocks and blocks.holds(node) else problem.directions


_BY_PRODUCTS = (Kind.BILINEAR, Kind.DETERMINANT)
"""Kinds whose second derivative takes no more than a product; that of an opaque node takes several passes."""


def _bend_forward(bend: Bend, couples: int) -> float:
    if bend.kind is Kind.ELEMENTWISE:
        return ENTRY * bend.size * couples * bend.pairs
    return (2 if bend.kind in _BY_PRODUCTS else 6) * bend.push * couples


def _bend_adjoint(problem: Problem, probe: Probe, full: bool) -> float:
    bend, A, C = _bend(probe), problem.A, directions_in(problem, probe.node)
    rows, couples = problem.second_rows(C)
    entrywise = bend.kind is Kind.ELEMENTWISE
    if bend.straight and rows >= couples:
        return A * rows * bend.size * bend.pairs
    kept = ENTRY * C * bend.roots * bend.size  # tangents of its roots, until its adjoints are known
    if not full:
        streams = 2.0 if rows < couples else 1.5  # a trace is summed up for every output
        local = streams * ENTRY * bend.size if entrywise else 6 * bend.push
        return kept + couples * bend.pairs * (local + streams * ENTRY * A * bend.size)
    local = ENTRY * bend.size if entrywise else bend.push * (1 if bend.kind in _BY_PRODUCTS else 6)
    if pairs_pay(bend.kind, A, C):
        return kept + C * (C + 1) // 2 * bend.pairs * (local + BATCHED * A * bend.size)
    return kept + A * C * bend.pairs * (local + BATCHED * C * bend.size)


def _push(node: Node) -> float:
    """Work of one tangent through a node: an elementwise chain is one product with its slope, however long it is."""
    if node.kind is Kind.ELEMENTWISE:
        return ENTRY * _size(node) * len(node.roots)
    return sum(map(_work, node.equations))


def _size(node: Node) -> float:
    return sum(math.prod(o.aval.shape) for o in node.outputs)


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
    if eqn.primitive is dense_p:
        return size * shapes[1][eqn.params["axis"]]
    if eqn.primitive is primitives.dot_general_p:
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return size * math.prod(shapes[0][k] for k in contracted)
    if eqn.primitive is slogdet_p:
        return math.prod(shapes[0]) * shapes[0][-1]
    if eqn.primitive is primitives.conv_general_dilated_p:
        return size * math.prod(shapes[1]) / max(shapes[1][eqn.params["dimension_numbers"].rhs_spec[0]], 1)
    inner = [jaxpr_of(j) for j in jex.jaxprs_in_params(eqn.params)]
    if inner:
        return sum(_inner_work(j) for j in inner)
    return ENTRY * max(size, sum(map(math.prod, shapes)) / 2)


def _inner_work(jaxpr: Any) -> float:
    sizes = (math.prod(o.aval.shape) for eqn in jaxpr.eqns for o in eqn.outvars)
    return ENTRY * sum(sizes)


def working_set(problem: Problem, strategy: Strategy) -> float:
    """Bytes that one sample holds at a time, roughly: its widest array that depends on x, twice for every direction
    that the strategy carries there.
    """
    if strategy.name == "adjoint":
        return _adjoint_set(problem)
    nodes = problem.graph.program.nodes
    held = [_carried(problem, strategy, node) * _bytes(o) for node in nodes for o in node.outputs]
    return 2 * max([*held, *_widened(problem, strategy)], default=8)


def _adjoint_set(problem: Problem) -> float:
    """The same for the adjoint sweep: the tangents of all curved nodes, which it keeps until their adjoints come, and
    for the widest array one pass, forward or back, and what is contracted there. Tangents that are the same for all
    samples, and repetitions that are taken once, do not count.
    """
    A, C = problem.A, problem.directions
    rows, _ = problem.second_rows(C)
    local = min(A * C, 2 * rows) if "hessian" in problem.wants.names else max(A, rows)
    widest = max((_bytes(o) for node, _ in _nodes(problem.graph.program) for o in node.outputs), default=8)
    kept: dict[Variable, int] = {}  # bytes of all tangents
    for probe in probes(problem.graph.program):
        once = probe.node.kind is Kind.ELEMENTWISE and not problem.graph.discards
        for root, repeated in zip(probe.node.roots, probe.repeated, strict=True):
            if not probe.straight and not (once and repeated):
                size = directions_in(problem, probe.node) * math.prod(probe.lengths) * _bytes(root)
                kept[root] = max(size, kept.get(root, 0))
    return sum(kept.values()) + (max(A, C) + local) * widest


def kept_set(problem: Problem, strategy: Strategy) -> float:
    """Bytes that a gradient through one sample takes, roughly: what is kept until it comes by, and what the widest node
    needs beside that on its way back.

    Kept are the results of products and of what is curved, once for each pass of the strategy that comes by there.
    Other linear maps become part of what reads them, but not inside loops, which keep what they need of each step.
    """
    kept, beside = float(sum(_widened(problem, strategy))), 0.0
    for node, steps in _nodes(problem.graph.program):
        if steps > 1 or node.kind is not Kind.LINEAR or any(eqn.primitive in _PRODUCTS for eqn in node.equations):
            times, times_beside = _kept(problem, strategy, node)
            size = sum(map(_bytes, node.outputs))
            kept, beside = kept + steps * times * size, max(beside, times_beside * size)
    return SET_ASIDE * (kept + beside)


_PRODUCTS = {dense_p, primitives.dot_general_p, primitives.conv_general_dilated_p}


def _kept(problem: Problem, strategy: Strategy, node: Node) -> tuple[float, float]:
    """(how often a gradient keeps a result of a node, how often it needs one beside that while it comes by): the value,
    tangents, cotangents, and products of them. Tangents and products that are the same for all samples do not count.

    The factors are fitted to what XLA sets aside for the gradients of the benchmark grid, with jax 0.10.
    """
    A, full, straight = problem.A, "hessian" in problem.wants.names, problem.graph.program.straight
    narrow = directions_in(problem, node)
    rows, couples = problem.second_rows(narrow)
    if straight.issuperset(node.outputs):
        narrow = rows = 0
    if problem.wants.order < 2:
        return 1 + (A if strategy.reverse_mode else narrow), 0
    if strategy.name not in ("forward", "adjoint"):
        return _carried(problem, strategy, node), 0
    forward = strategy.name == "forward"
    moved = 1 + narrow + (rows if forward else A)
    if node.kind is Kind.LINEAR or straight.issuperset(node.roots):
        return moved, 0
    pairs = max(len(node.pairs), 1)
    if forward:  # of pairs, products are kept; squares of tangents are computed again
        return moved + (0.8 * rows * pairs if full else 0), narrow + (rows if full else 0)
    by_pairs = not full or pairs_pay(node.kind, A, narrow)
    products = couples if by_pairs else A * narrow
    if A == 1:  # those of equal tangents go into a weighted sum at once
        pairs -= sum(i == j for i, j in node.pairs)
    if not full:
        return moved + products * pairs, 2 * narrow
    # On the way back, pairs are looked up once more, by direction.
    return moved + products * pairs, 3 * narrow + (2 if by_pairs and A > 1 else 1) * products


def held_anyway(problem: Problem) -> float:
    """Bytes that a gradient takes beside its chunks, roughly: the results of all samples, and twice what the other
    arguments of the model take: their gradient so far, and that of a chunk.
    """
    return problem.results + 2 * sum(map(_bytes, problem.graph.flat.inputs[:-1]))


def _widened(problem: Problem, strategy: Strategy) -> list[int]:
    """Bytes of tangents and rows of what falls into blocks and is read where they meet, widened to all directions."""
    blocks, program = problem.blocks, problem.graph.program
    if strategy.name not in ("forward", "adjoint") or blocks is None:
        return []
    meet = (root for node in program.nodes if not blocks.holds(node) for root in node.roots)
    rows = problem.directions
    if strategy.name == "forward":
        rows += problem.second_rows(problem.directions)[0]
    return [rows * _bytes(v) for v in {*meet, *program.flat.outputs} if isinstance(v, Variable) and v in blocks.inner]


def _carried(problem: Problem, strategy: Strategy, node: Node) -> int:
    """In how many directions a strategy other than the adjoint sweep carries a result of a node along at a time."""
    A, C = problem.A, problem.directions
    if problem.wants.order < 2:
        return max(A if strategy.reverse_mode else C, 1)
    match strategy.name:
        case "forward":
            narrow = directions_in(problem, node)
            return narrow + problem.second_rows(narrow)[0]
        case "forward_over_forward":
            return C * C if "hessian" in problem.wants.names else 2 * problem.second_rows(C)[1]
        case _:
            return A * (1 + C)


def _bytes(variable: Variable) -> int:
    return math.prod(variable.aval.shape) * variable.aval.dtype.itemsize
