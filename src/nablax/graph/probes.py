"""Run a graph with probes in it: add a nudge to the output of every curved node, and report what it read.

For a program and values of its inputs, the probed function is ``F(v, nudges) -> (outputs, readings, captures)``:

- ``dF / dnudge_n`` is the adjoint of node n (reverse mode),
- ``dreading_n / dv`` are the tangents of its roots (forward mode),
- the reading and the capture of a node are all that its function reads: it can be derived by itself.

Nodes inside a scan have one nudge, one reading and one capture for each step, on a leading axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from nablax.graph.inline import Equation, Variable
from nablax.graph.nodes import Kind, Loop, Node, Program, Values, read
from nablax.graph.slopes import by_slope, has_slope


@dataclass(frozen=True, eq=False)
class Probe:
    """A curved node and where it stands.

    Attributes:
        node: the node.
        lengths: the lengths of the scans around it, which are the leading axes of its readings.
        straight: whether it is elementwise and its tangents are the same for every x: products of them need one sample.
        repeated: for each root, the axes along which it repeats itself, counted from behind.
    """

    node: Node
    lengths: tuple[int, ...] = ()
    straight: bool = False
    repeated: tuple[tuple[int, ...], ...] = ()

    def zero_nudge(self) -> tuple[Any, ...]:
        """A nudge of zero for every output of the node."""
        return tuple(jnp.zeros((*self.lengths, *o.aval.shape), o.aval.dtype) for o in self.node.outputs)


def probes(program: Program, lengths: tuple[int, ...] = ()) -> list[Probe]:
    """The curved nodes of a program, in the order in which `run` takes nudges and gives readings."""
    found = []
    for node in program.nodes:
        if isinstance(node, Loop):
            found += probes(node.body, (*lengths, node.equations[0].params["length"]))
        elif node.kind is not Kind.LINEAR:
            straight = node.kind is Kind.ELEMENTWISE and not lengths and program.straight.issuperset(node.roots)
            repeated = tuple(program.repeated.get(root, ()) for root in node.roots)
            found.append(Probe(node, lengths, straight, repeated))
    return found


def run(
    program: Program, inputs: Sequence[Any], nudges: Sequence[Any] | None = None
) -> tuple[list[Any], list[Any], list[Any]]:
    """(outputs, readings, captures) of a program for values of its inputs and nudges; without nudges it has no probes.

    A nudge is a tuple with an array for each output of its node, a reading one with an array for each root, a capture
    one with a value for each of its `captures`.
    """
    values: dict[Variable, Any] = dict(zip(program.flat.inputs, inputs, strict=True))
    readings, captures = [], []
    taken = 0
    for step in program.steps:
        if isinstance(step, Equation):
            values.update(zip(step.outputs, step(*(read(values, a) for a in step.inputs)), strict=True))
            continue
        roots = tuple(values[root] for root in step.roots)
        if isinstance(step, Loop):
            count = len(probes(step.body))
            inner = None if nudges is None else list(nudges[taken : taken + count])
            outputs, inner_readings, inner_captures = _run_loop(step, values, inner)
            values.update(zip(step.equations[0].outputs, outputs, strict=True))
            readings += inner_readings
            captures += inner_captures
            taken += count
            continue
        if has_slope(step):
            # Tangents and adjoints of probes are independent of each other; with calls among them fewer operations run
            # side by side, which costs more than it saves.
            outputs, others = (by_slope(step, values, apart=nudges is None)(*roots),), ()
        else:
            outputs, others = step.function(values)(*roots)
        if step.kind is not Kind.LINEAR and nudges is not None:
            outputs = tuple(o + n for o, n in zip(outputs, nudges[taken], strict=True))
            readings.append(roots)
            captures.append(tuple(values[a] for a in step.captures))
            taken += 1
        values.update(zip(step.outputs + step.others, outputs + others, strict=True))
    return [read(values, o) for o in program.flat.outputs], readings, captures


def _run_loop(loop: Loop, values: Values, nudges: list[Any] | None) -> tuple[list[Any], list[Any], list[Any]]:
    """The scan with a nudge for every step as one more scanned-over input, and readings as scanned-over outputs."""
    eqn = loop.equations[0]
    operands = [read(values, a) for a in eqn.inputs]
    constants = operands[: loop.constants]
    carry, scanned = operands[loop.constants : loop.constants + loop.carries], operands[loop.constants + loop.carries :]

    def step(carry: list[Any], here: tuple[list[Any], Any]) -> tuple[list[Any], Any]:
        outputs, readings, captures = run(loop.body, [*constants, *carry, *here[0]], here[1])
        return outputs[: loop.carries], (outputs[loop.carries :], readings, captures)

    carry, (stacked, readings, captures) = jax.lax.scan(
        step, carry, (scanned, nudges), **{k: eqn.params[k] for k in ("length", "reverse", "unroll")}
    )
    return [*carry, *stacked], readings, captures
