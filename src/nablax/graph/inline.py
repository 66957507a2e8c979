"""A jaxpr as a flat list of equations: functions under jit and checkpoint are written out where they are called, and
short loops step by step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from nablax._compat import BROADCAST, DOT_GENERAL, SCAN, expansion, jaxpr_of, loop_arity
from nablax.graph.classify import INLINED, JAX, Table
from nablax.graph.dense import as_dense, dense_p
from nablax.graph.determinants import by_products
from nablax.graph.products import as_dot_general
from nablax.graph.scaled import as_mul
from nablax.graph.sine import SINES, apart
from nablax.graph.sums import as_broadcast


class Variable:
    """A value of the graph. Its identity is its name: the same function inlined twice has two sets of variables."""

    __slots__ = ("aval",)

    def __init__(self, aval: Any) -> None:
        self.aval = aval


@dataclass(frozen=True, eq=False)
class Constant:
    """A value known when the graph is built: a literal, or an array that the function captured."""

    value: Any


Atom = Variable | Constant


@dataclass(frozen=True, eq=False)
class Equation:
    """``outputs = primitive(*inputs)``.

    Attributes:
        calls: tracebacks of the equation and of the calls around it, innermost first, for `nablax.graph.lines`.
        effects: what it does besides, such as printing a line.
        bodies: parameters with other jaxprs of the same functions, which are evaluated in place of those in `params`.
    """

    primitive: Any
    inputs: tuple[Atom, ...]
    outputs: tuple[Variable, ...]
    params: dict[str, Any]
    context: Any
    calls: tuple[Any, ...] = ()
    effects: Collection[Any] = ()
    bodies: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *values: Any) -> list[Any]:
        with self.context.manager:
            results = self.primitive.bind(*values, **self.primitive.get_bind_params({**self.params, **self.bodies}))
        return list(results) if self.primitive.multiple_results else [results]


@dataclass(frozen=True, eq=False)
class Flat:
    """Equations in the order of their evaluation."""

    inputs: tuple[Variable, ...]
    outputs: tuple[Atom, ...]
    equations: tuple[Equation, ...]

    def __call__(self, *values: Any) -> list[Any]:
        """The outputs for values of the inputs."""
        known: dict[Variable, Any] = dict(zip(self.inputs, values, strict=True))
        read = lambda atom: atom.value if isinstance(atom, Constant) else known[atom]
        for eqn in self.equations:
            known.update(zip(eqn.outputs, eqn(*map(read, eqn.inputs)), strict=True))
        return [read(atom) for atom in self.outputs]


SHORT = 128
"""Equations of a loop, steps times those of its body, up to which it may be written out. As a loop it compiles in 0.8
to 1.1 of the time, and takes up to 2.5 times as long to run: its operations are small, and every step is moved into
arrays of all steps and back."""


def inline(
    closed: Any, table: Table = JAX, calls: tuple[Any, ...] = (), loops: bool = True, scaled: bool = False
) -> Flat:
    """The equations of a closed jaxpr, calls written out, and the broadcasts of what is elementwise in `table`.

    `calls` are the tracebacks of the equation that the jaxpr was found in, and of the calls around it. Without `loops`,
    short ones are written out; with `scaled`, what `nablax.graph.scaled` multiplied and `nablax.graph.sums` repeated
    stays as it is.
    """
    jaxpr = jaxpr_of(closed)
    inputs = tuple(Variable(var.aval) for var in jaxpr.invars)
    equations: list[Equation] = []
    outputs = _inline(jaxpr, getattr(closed, "consts", ()), inputs, equations, table, calls, loops, scaled)
    return Flat(inputs, tuple(outputs), tuple(equations))


def _inline(
    jaxpr: Any,
    consts: Sequence[Any],
    inputs: Sequence[Atom],
    equations: list[Equation],
    table: Table,
    calls: tuple[Any, ...] = (),
    loops: bool = True,
    scaled: bool = False,
) -> list[Atom]:
    known: dict[Any, Atom] = dict(zip(jaxpr.invars, inputs, strict=True))
    known |= {var: Constant(value) for var, value in zip(jaxpr.constvars, consts, strict=True)}

    def read(atom: Any) -> Atom:
        return Constant(atom.val) if isinstance(atom, jex.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        arguments = [read(atom) for atom in eqn.invars]
        here = (eqn.source_info.traceback, *calls)
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr")) if eqn.primitive in INLINED else expansion(eqn)
        inner = inner or by_products(eqn) or apart(eqn) or as_dot_general(eqn)
        inner = inner or (None if scaled else as_mul(eqn) or as_broadcast(eqn))
        if inner is not None:
            how = equations, table, here, loops, scaled
            results = _inline(jaxpr_of(inner), getattr(inner, "consts", ()), arguments, *how)
        elif eqn.primitive is SCAN and not loops and _is_short(eqn):
            results = _written_out(eqn, arguments, equations, table, here)
        else:
            results = [Variable(var.aval) for var in eqn.outvars]
            if eqn.primitive in table.elementwise:
                arguments = [_broadcast(a, results[0].aval.shape, eqn.ctx, equations) for a in arguments]
            equations.append(_equation(eqn, arguments, results, here))
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _is_short(eqn: Any) -> bool:
    body = sum(1 for _ in equations(jaxpr_of(eqn.params["jaxpr"])))
    return 0 < eqn.params["length"] * body <= SHORT and not eqn.effects


def _written_out(
    eqn: Any, arguments: Sequence[Atom], equations: list[Equation], table: Table, calls: tuple[Any, ...]
) -> list[Atom]:
    """The results of a scan, its steps one after the other."""

    def write(closed: Any, *given: Atom) -> list[Atom]:
        return _inline(jaxpr_of(closed), getattr(closed, "consts", ()), given, equations, table, calls, loops=False)

    def apply(function: Callable[..., Any], *given: Atom) -> Atom:
        avals = (jax.typeof(atom.value) if isinstance(atom, Constant) else atom.aval for atom in given)
        return write(jax.make_jaxpr(function)(*avals), *given)[0]

    constants, carries = loop_arity(eqn.params)
    fixed, carry, scanned = arguments[:constants], arguments[constants:][:carries], arguments[constants + carries :]
    steps, rows = range(eqn.params["length"]), {}
    for step in reversed(steps) if eqn.params["reverse"] else steps:
        row = functools.partial(jax.lax.index_in_dim, index=step, keepdims=False)
        results = write(eqn.params["jaxpr"], *fixed, *carry, *(apply(row, whole) for whole in scanned))
        carry, rows[step] = results[:carries], results[carries:]
    every = zip(*(rows[step] for step in steps), strict=True)
    return [*carry, *(apply(lambda *rows: jnp.stack(rows), *results) for results in every)]


def _equation(eqn: Any, arguments: Sequence[Atom], results: Sequence[Variable], calls: tuple[Any, ...]) -> Equation:
    """The equation itself; a product with a matrix as a dense layer, and a sine as one of our own."""
    primitive, params = eqn.primitive, eqn.params
    if primitive is DOT_GENERAL and (found := as_dense(tuple(var.aval for var in eqn.invars), params)):
        (x, W), params = found
        primitive, arguments = dense_p, (arguments[x], arguments[W])
    elif primitive in SINES and results[0].aval.dtype.kind == "f" and params.get("accuracy") is None:
        primitive, params = SINES[primitive], {}
    return Equation(primitive, tuple(arguments), tuple(results), params, eqn.ctx, calls, eqn.effects)


def _broadcast(atom: Atom, shape: tuple[int, ...], context: Any, equations: list[Equation]) -> Atom:
    """An operand of an entrywise primitive in the shape of its result.

    JAX lets axes of length one stand for any length there. Written out, the broadcast is a linear equation of its own,
    and what is left is elementwise in the strict sense.
    """
    if isinstance(atom, Constant) or len(atom.aval.shape) != len(shape) or atom.aval.shape == shape:
        return atom
    how = {"shape": shape, "broadcast_dimensions": tuple(range(len(shape))), "sharding": None}
    equations.append(Equation(BROADCAST, (atom,), (Variable(atom.aval.update(shape=shape)),), how, context))
    return equations[-1].outputs[0]


def equations(jaxpr: Any) -> Iterator[Any]:
    """The equations of a jaxpr, and those in its calls, loops and branches."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jex.jaxprs_in_params(eqn.params):
            yield from equations(jaxpr_of(inner))
