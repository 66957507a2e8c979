"""Trace the model of one sample once, into a list of equations that everything else reads.

The strategies evaluate this graph instead of calling the user's Python function again, so the model is traced exactly
once per compilation, and the planner sees what they will run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.extend.core as jex
from jax import Array

from nablax._compat import SELECT, jaxpr_of
from nablax.graph.blocks import Blocks, blocks, parted
from nablax.graph.classify import JAX, KINKS, Table
from nablax.graph.inline import Flat, equations
from nablax.graph.needed import prepared
from nablax.graph.nodes import Loop, Program, program
from nablax.graph.probes import probes, run


@dataclass(frozen=True, eq=False)
class Graph:
    """A one-sample function ``(*others, v) -> (y, *rest)`` as a jaxpr.

    Attributes:
        closed: the jaxpr; its last input is the vector v (C,), its first output the vector y (A,).
        table: what is known of the primitives in it.
    """

    closed: Any
    table: Table = JAX

    @property
    def jaxpr(self) -> Any:
        """The equations."""
        return jaxpr_of(self.closed)

    @property
    def inputs(self) -> int:
        """C."""
        return self.jaxpr.invars[-1].aval.shape[0]

    @property
    def outputs(self) -> int:
        """A."""
        return self.jaxpr.outvars[0].aval.shape[0]

    @property
    def complex_output(self) -> bool:
        """Whether y is complex."""
        return self.jaxpr.outvars[0].aval.dtype.kind == "c"

    def bind(self, others: Sequence[Array]) -> Bound:
        """The function v -> (y, rest) for given values of the other arguments."""
        return Bound(self, list(others))

    @cached_property
    def has_only_kinks(self) -> bool:
        """Whether the graph is piecewise linear without being linear: no curvature between its kinks."""
        return not probes(self.program) and bool(self.carrying_primitives & KINKS)

    @cached_property
    def discards(self) -> bool:
        """Whether the graph chooses between values (``where``), so that what is not chosen may be NaN or infinite."""
        return SELECT in self.carrying_primitives

    @cached_property
    def flat(self) -> Flat:
        """The equations that serve a result, calls and short loops written out."""
        return prepared(self.closed, self.table)

    @cached_property
    def program(self) -> Program:
        """The equations grouped into nodes, for derivatives of y by v."""
        return program(self.flat, self.flat.inputs[-1:], self.table, self.flat.outputs[:1])

    @cached_property
    def blocks(self) -> Blocks | None:
        """Which values depend on their own block of v alone, if any curved one does."""
        return blocks(self.program)

    @cached_property
    def parts(self) -> tuple[Program, Program] | None:
        """Where values fall into blocks: up to where these meet, and from there on. None if it cannot be cut there."""
        return None if self.blocks is None else parted(self.program, self.blocks)

    @cached_property
    def carrying_primitives(self) -> frozenset[Any]:
        """The primitives, at any depth, that derivatives of y by v go through."""
        return frozenset(_carrying(self.program))

    @cached_property
    def varying_primitives(self) -> frozenset[Any]:
        """The primitives, at any depth, of the equations that depend on v."""
        return frozenset(eqn.primitive for eqn in varying(self.jaxpr, {self.jaxpr.invars[-1]}))


@dataclass(frozen=True, eq=False)
class Bound:
    """A graph with values for all its inputs but v: a function ``v -> (y, rest)``."""

    graph: Graph
    others: list[Array]

    def __call__(self, v: Array) -> tuple[Array, list[Array]]:
        y, *rest = self.graph.flat(*self.others, v)
        return y, rest

    def by_slopes(self, v: Array) -> tuple[Array, list[Array]]:
        """The same, long elementwise chains derived as a whole (see `nablax.graph.slopes`)."""
        (y, *rest), _, _ = run(self.graph.program, [*self.others, v])
        return y, rest

    def probed(self, v: Array, nudges: list[Any]) -> tuple[Array, list[Any], list[Any], list[Array]]:
        """(y, readings, captures, rest), see `nablax.graph.probes`."""
        (y, *rest), readings, captures = run(self.graph.program, [*self.others, v], nudges)
        return y, readings, captures, rest


def trace(
    function: Callable[..., Any], others: Sequence[jax.ShapeDtypeStruct], v: jax.ShapeDtypeStruct, table: Table = JAX
) -> Graph:
    """Trace ``function(*others, v) -> [y, *rest]`` for the given shapes."""
    return Graph(jax.make_jaxpr(function)(*others, v), table)


def _carrying(program: Program) -> Iterator[Any]:
    for node in program.nodes:
        if isinstance(node, Loop):
            yield from _carrying(node.body)
            continue
        for eqn in node.equations:
            yield eqn.primitive
            for inner in jex.jaxprs_in_params(eqn.params):
                yield from (eqn.primitive for eqn in equations(jaxpr_of(inner)))


def varying(jaxpr: Any, variables: set[Any]) -> Iterator[Any]:
    """The equations that depend on `variables`, and every equation inside them."""
    moving = set(variables)
    for eqn in jaxpr.eqns:
        if any(isinstance(var, jex.Var) and var in moving for var in eqn.invars):
            moving.update(eqn.outvars)
            yield eqn
            for inner in jex.jaxprs_in_params(eqn.params):
                yield from equations(jaxpr_of(inner))
