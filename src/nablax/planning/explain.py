"""What will run for a call, why, and what else could: in words and tables."""

from __future__ import annotations

import html
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax.extend.core as jex

from nablax._compat import jaxpr_of
from nablax._json import as_json
from nablax.graph import Graph
from nablax.graph.lines import line_of
from nablax.graph.nodes import Kind, Loop, Node, Program
from nablax.planning.choose import Candidate
from nablax.planning.memory import readable

WIDTH = 110
MOST_ROWS = 24

_UNITS = "predicted: work in multiplications and additions for one sample, relative to the least; bytes of one chunk"


@dataclass(frozen=True)
class Nodes:
    """Nodes of the graph that look the same.

    Attributes:
        kind: "linear", "elementwise", "bilinear", "determinant", "opaque" or "loop": the form of their second
            derivative.
        primitives: what one of them is made of.
        shape: of its output.
        count: how many there are.
        steps: of the scans around them, all multiplied.
    """

    kind: str
    primitives: tuple[str, ...]
    shape: tuple[int, ...]
    count: int
    steps: int


@dataclass(frozen=True)
class Opaque:
    """A primitive of which nothing is known: it is differentiated by its own rules, exact and only less fast.

    Attributes:
        primitive: its name.
        count: how many nodes it makes.
        lines: where the model calls it, ``file:line``, as far as JAX knows.
    """

    primitive: str
    count: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """What will run for a call, and why. Print it; in a notebook it shows itself.

    Attributes:
        outputs: A, for one sample.
        inputs: C, for one sample.
        samples: D.
        wants: what is asked for.
        strategy: the method that will run.
        reason: why, in one sentence.
        chunk_size: how many samples go through the model at once.
        chunks: how many times that is done.
        gradient_strategy: the method that runs instead where the result is differentiated.
        gradient_chunk_size: how many samples go through the model at once there.
        working_set: bytes that the intermediate arrays of one chunk take, as predicted.
        candidates: all strategies, with their cost or the reason that they do not apply.
        nodes: what the planner sees of the model: its nodes, those that look the same taken together.
        opaque: the primitives that nothing is known of.
        blocks: how many blocks of inputs the model treats apart at first (particles, say), so that the sweeps
            need the directions of one there; 1 if it does not.
    """

    outputs: int
    inputs: int
    samples: int
    wants: tuple[str, ...]
    strategy: str
    reason: str
    chunk_size: int
    chunks: int
    gradient_strategy: str
    gradient_chunk_size: int
    working_set: float
    candidates: tuple[Candidate, ...]
    nodes: tuple[Nodes, ...]
    opaque: tuple[Opaque, ...]
    blocks: int = 1

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return as_json(self)

    @property
    def fastest(self) -> Candidate | None:
        """The candidate that took the least time; None where nothing was measured."""
        timed = [c for c in self.candidates if c.seconds is not None]
        return min(timed, key=lambda c: c.seconds or 0.0) if timed else None

    def __repr__(self) -> str:
        parts = ["\n".join(f"{name:<8}  {line}" for name, text in self._facts() for name, line in _wrapped(name, text))]
        for head, rows, notes in self._tables():
            parts.append("\n".join([*_aligned(head, rows), *(f"  {note}" for note in notes)]))
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        facts = "".join(f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in self._facts())
        parts = [f"<table>{facts}</table>"]
        for head, rows, notes in self._tables():
            lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
            names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
            body = "".join(f"<tr>{line}</tr>" for line in [names, *lines])
            parts.append(f"<table>{body}</table>" + "".join(f"<p>{html.escape(note)}</p>" for note in notes))
        return "".join(parts)

    def _facts(self) -> list[tuple[str, str]]:
        """(name, text): the problem and the plan."""
        counts = Counter()
        for group in self.nodes:
            if group.kind not in (Kind.LINEAR.value, Kind.LOOP.value):
                counts[group.kind] += group.count
        curved = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "none"
        sizes = f"{self.outputs} outputs, {self.inputs} inputs, {self.samples} samples; wants {', '.join(self.wants)}"
        if self.blocks > 1:
            curved += f"; {self.blocks} blocks of {self.inputs // self.blocks} inputs, apart at first"
        times = f"{self.chunks} chunk{'s' * (self.chunks != 1)} of {self.chunk_size} samples"
        if (self.gradient_strategy, self.gradient_chunk_size) != (self.strategy, self.chunk_size):
            other = f"{self.gradient_strategy}, " * (self.gradient_strategy != self.strategy)
            times += f" ({other}{self.gradient_chunk_size} where it is differentiated)"
        return [
            ("problem", f"{sizes}; curved nodes: {curved}"),
            ("plan", f"{self.strategy}, {times}, working set about {readable(self.working_set)}"),
            ("why", self.reason),
        ]

    def _tables(self) -> Iterator[tuple[Sequence[str], list[Sequence[str]], list[str]]]:
        """(head, rows, notes) of every table."""
        least = min((c.work for c in self.candidates if c.work), default=1.0)
        head = ("strategy", "work", "working set", "chunk", *(("ms",) if self.fastest else ()), "")
        yield head, [self._row(c, least) for c in self.candidates], [_UNITS]
        rows = [_node_row(group) for group in self.nodes]
        more = [f".. and {len(rows) - MOST_ROWS} more kinds of nodes, see .nodes"] if len(rows) > MOST_ROWS else []
        yield ("nodes", "made of", "output", "count", "scan steps"), rows[:MOST_ROWS], more
        if self.opaque:
            note = "opaque: exact, by the rules of JAX, and only less fast; a table can teach them (option table)"
            yield ("opaque", "count", "called at"), [_opaque_row(group) for group in self.opaque], [note]

    def _row(self, candidate: Candidate, least: float) -> Sequence[str]:
        if candidate.work is None or candidate.working_set is None:
            cells = ("-", "-", "-")
        else:
            cells = (f"{candidate.work / least:.2f} x", readable(candidate.working_set), str(candidate.chunk_size))
        if self.fastest:
            cells += ("-" if candidate.seconds is None else f"{1e3 * candidate.seconds:.3g}",)
        chosen = (candidate.name, candidate.chunk_size) == (self.strategy, self.chunk_size)
        marks = ["chosen"] * chosen + ["fastest"] * (candidate is self.fastest)
        return candidate.name, *cells, candidate.why_not or ", ".join(marks)


def _node_row(group: Nodes) -> Sequence[str]:
    made_of = textwrap.shorten(" ".join(group.primitives), 44, placeholder=" ..")
    return group.kind, made_of, str(list(group.shape)), str(group.count), str(group.steps) if group.steps > 1 else ""


def _opaque_row(group: Opaque) -> Sequence[str]:
    return group.primitive, str(group.count), ", ".join(group.lines)


def _wrapped(name: str, text: str) -> Iterator[tuple[str, str]]:
    """(name, line) for every line of a text; the name stands beside the first one only."""
    for number, line in enumerate(textwrap.wrap(text, WIDTH - 10)):
        yield (name if number == 0 else ""), line


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table; its last column is wrapped to the width of a terminal."""
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head) - 1)]
    indent = sum(widths) + 2 * len(widths)
    for row in (head, *rows):
        cells = "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False))
        yield from (
            (
                line.rstrip()
                for line in textwrap.wrap(row[-1], WIDTH, initial_indent=cells, subsequent_indent=" " * indent)
            )
            if row[-1]
            else [cells.rstrip()]
        )


def grouped(graph: Graph) -> tuple[tuple[Nodes, ...], tuple[Opaque, ...]]:
    """(the nodes of a graph, those that look the same taken together; the primitives that are opaque in it)."""
    looks: Counter[tuple[str, tuple[str, ...], tuple[int, ...], int]] = Counter()
    opaque: Counter[Any] = Counter()
    for node, steps in _nodes(graph.program):
        names = tuple(eqn.primitive.name for eqn in node.equations)
        looks[node.kind.value, names, tuple(node.outputs[0].aval.shape), steps] += 1
        if node.kind is Kind.OPAQUE:
            opaque[node.equations[0].primitive] += 1
    nodes = tuple(Nodes(kind, names, shape, count, steps) for (kind, names, shape, steps), count in looks.items())
    lines = {
        primitive: dict.fromkeys(line for p, line in _calls(graph.jaxpr) if p is primitive) for primitive in opaque
    }
    return nodes, tuple(
        Opaque(primitive.name, count, tuple(filter(None, lines[primitive]))) for primitive, count in opaque.items()
    )


def _nodes(program: Program, steps: int = 1) -> Iterator[tuple[Node, int]]:
    """The nodes at any depth, with the number of steps of the scans around them."""
    for node in program.nodes:
        yield node, steps
        if isinstance(node, Loop):
            yield from _nodes(node.body, steps * node.equations[0].params["length"])


def _calls(jaxpr: Any, line: str = "") -> Iterator[tuple[Any, str]]:
    """(primitive, line of the user's program) of every equation; what a library computes is put down to its caller."""
    for eqn in jaxpr.eqns:
        here = line_of(eqn.source_info.traceback) or line
        yield eqn.primitive, here
        for inner in jex.jaxprs_in_params(eqn.params):
            yield from _calls(jaxpr_of(inner), here)
