"""What of a graph its results need, for their values and for their derivatives."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from nablax._compat import COND, SCAN, WHILE, jaxpr_of
from nablax._errors import ModelTraceError
from nablax.graph.classify import EXTREMES, JAX, Table
from nablax.graph.inline import Atom, Constant, Equation, Flat, Variable, equations, inline
from nablax.graph.once import once_p

BODIES = {SCAN: "jaxpr", WHILE: "body_jaxpr", COND: "branches"}
"""Primitives that evaluate other equations with their derivatives, and the parameter that holds these."""


def prepared(closed: Any, table: Table = JAX, loops: bool = False) -> Flat:
    """The equations of a closed jaxpr as derivatives are taken of them: those that serve a result, calls written out
    and, without `loops`, short loops; what a maximum is taken of is computed once.

    XLA contracts ``a * b + c`` to one rounding or not, as it finds it, wherever it computes it again. The maximum may
    then be equal to none of the entries, and its derivative 0 / 0, or a wrong number: so it is in plain JAX.

    Raises:
        ModelTraceError: values are stored in mutable arrays.
    """
    flat = inline(closed, table, loops=loops)
    _refuse_references(flat.equations)
    flat = replace(flat, equations=needed(flat.equations, flat.outputs))
    derived = carriers(flat, flat.outputs, table)
    fenced = (_fenced(eqn, derived, table) for eqn in flat.equations)
    return replace(flat, equations=tuple(itertools.chain.from_iterable(fenced)))


def _refuse_references(equations: Iterable[Equation]) -> None:
    """What is written into a reference is no result of an equation: derivatives would miss it."""
    for eqn in equations:
        for atom in (*eqn.inputs, *eqn.outputs):
            aval = jax.typeof(atom.value) if isinstance(atom, Constant) else atom.aval
            if hasattr(aval, "inner_aval"):  # of a reference; tokens are no arrays either, and harmless
                raise ModelTraceError(
                    f"the model uses a mutable array (jax.new_ref): {eqn.primitive.name} has an operand or result of "
                    f"type {aval}; derivatives follow values that are passed on, not those that are stored. Return "
                    "the value instead, or carry it through the loop."
                )


def _fenced(eqn: Equation, derived: frozenset[Variable], table: Table) -> Iterable[Equation]:
    if derived.isdisjoint(eqn.outputs):
        return (eqn,)
    return _of_fenced(eqn, derived) if eqn.primitive in EXTREMES else (_fenced_inside(eqn, table),)


def _fenced_inside(eqn: Equation, table: Table) -> Equation:
    """The same equation; of a loop, or a choice of branches, what the maxima in there are taken of is computed once."""

    def body(closed: Any) -> Any:
        if EXTREMES.isdisjoint(inner.primitive for inner in equations(jaxpr_of(closed))):
            return closed
        avals = (var.aval for var in jaxpr_of(closed).invars)
        types = (jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in avals)
        return jax.make_jaxpr(prepared(closed, table, loops=True))(*types)

    name = BODIES.get(eqn.primitive)
    return replace(eqn, bodies={name: jax.tree.map(body, eqn.params[name])}) if name else eqn


def _of_fenced(eqn: Equation, derived: frozenset[Variable]) -> Iterator[Equation]:
    """The same equation, behind others that hand its operands on as they are, computed once."""
    inputs = list(eqn.inputs)
    for place, atom in enumerate(eqn.inputs):
        if isinstance(atom, Variable) and atom in derived:
            inputs[place] = fenced = Variable(atom.aval)
            yield Equation(once_p, (atom,), (fenced,), {}, eqn.context, eqn.calls)
    yield replace(eqn, inputs=tuple(inputs))


def needed(equations: Iterable[Equation], outputs: Iterable[Atom]) -> tuple[Equation, ...]:
    """The equations that the outputs depend on, and those that do more than return a result."""
    wanted, found = set(outputs), []
    for eqn in reversed(tuple(equations)):
        if eqn.effects or not eqn.outputs or not wanted.isdisjoint(eqn.outputs):
            wanted.update(eqn.inputs)
            found.append(eqn)
    return tuple(reversed(found))


def carriers(flat: Flat, outputs: Iterable[Atom], table: Table = JAX) -> frozenset[Variable]:
    """The variables on which `outputs` depend with a derivative."""
    found = set(floating(outputs))
    for eqn in reversed(flat.equations):
        if eqn.primitive not in table.zero and not found.isdisjoint(eqn.outputs):
            found.update(floating(eqn.inputs))
    return frozenset(found)


def floating(atoms: Iterable[Atom]) -> tuple[Variable, ...]:
    """The variables among `atoms` that can have derivatives: real or complex numbers, not whole ones."""
    return tuple(a for a in atoms if isinstance(a, Variable) and jnp.issubdtype(a.aval.dtype, jnp.inexact))
