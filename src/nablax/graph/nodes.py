"""Group the equations that depend on x into nodes: the places where a graph bends.

A node is a function ``v = phi(u_1 .. u_k)`` of its roots. A whole elementwise chain with a single root (gelu is six
equations) is one node, whose local Hessian is diagonal; a product is a node; whatever is linear is a node without a
second derivative; a loop is a node with a graph of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from nablax._compat import BROADCAST, CUSTOM_JVP, SCAN, loop_arity
from nablax.graph.classify import JAX, KINKS, LINEAR_IN_FIRST, NOT_HOLOMORPHIC, Table
from nablax.graph.determinants import slogdet_p
from nablax.graph.inline import Atom, Constant, Equation, Flat, Variable, inline
from nablax.graph.needed import carriers, floating, prepared
from nablax.graph.once import worth_a_call

Values = Mapping[Variable, Any]


class Kind(Enum):
    """What the local Hessian of a node looks like."""

    LINEAR = "linear"
    """It is zero."""
    ELEMENTWISE = "elementwise"
    """It couples entry i of one root with entry i of another only."""
    BILINEAR = "bilinear"
    """It couples the first root with the second."""
    DETERMINANT = "determinant"
    """It is that of log|det A|, the second result: a product for each direction (see `nablax.graph.determinants`)."""
    OPAQUE = "opaque"
    """Nothing is known; the rules of JAX are used."""
    LOOP = "loop"
    """A scan, whose body is a graph of its own."""


def read(values: Values, atom: Atom) -> Any:
    """The value of a variable or constant."""
    return atom.value if isinstance(atom, Constant) else values[atom]


@dataclass(frozen=True, eq=False)
class Node:
    """``outputs = phi(roots)``, with everything else that phi reads held fixed.

    Attributes:
        kind: the form of its second derivative.
        roots: what it depends on, as far as that depends on x.
        outputs: the results that carry derivatives.
        others: results without derivatives, such as the indices of a sort.
        equations: what to evaluate, in order.
        pairs: for ELEMENTWISE, which pairs (i <= j) of roots have a second derivative that is not zero.
    """

    kind: Kind
    roots: tuple[Variable, ...]
    outputs: tuple[Variable, ...]
    others: tuple[Variable, ...]
    equations: tuple[Equation, ...]
    pairs: tuple[tuple[int, int], ...] = ()

    @property
    def pays_once(self) -> bool:
        """Whether derivatives of an elementwise node are to be computed once, and not again for every direction that
        they are multiplied with (see `nablax.graph.once`): the chain is long, and there are enough entries for a call.
        """
        return worth_a_call(len(self.equations), math.prod(self.outputs[0].aval.shape))

    @cached_property
    def captures(self) -> tuple[Variable, ...]:
        """What phi reads besides its roots."""
        inside = {o for eqn in self.equations for o in eqn.outputs}.union(self.roots)
        read_by = (a for eqn in self.equations for a in eqn.inputs if isinstance(a, Variable) and a not in inside)
        return tuple(dict.fromkeys(read_by))

    def function(self, values: Values) -> Callable[..., tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """phi: values of the roots -> (values of the outputs, values of the others)."""

        def phi(*roots: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            local = dict(zip(self.roots, roots, strict=True))
            for eqn in self.equations:
                arguments = [local[a] if a in local else read(values, a) for a in eqn.inputs]
                local.update(zip(eqn.outputs, eqn(*arguments), strict=True))
            return tuple(local[o] for o in self.outputs), tuple(local[o] for o in self.others)

        return phi


@dataclass(frozen=True, eq=False)
class Loop(Node):
    """A scan. The roots are the operands that depend on x.

    Attributes:
        body: the graph of one step; its inputs and outputs are those of the scan's body.
        constants, carries: how many of the operands are constants of the loop, and carried values; the rest is scanned
        over.
    """

    body: Program = None  # pyright: ignore[reportAssignmentType]
    constants: int = 0
    carries: int = 0


@dataclass(frozen=True, eq=False)
class Program:
    """A graph in steps: plain equations, which carry no derivatives, and nodes, which do.

    Attributes:
        flat: the equations.
        steps: in the order of evaluation.
        varying: the variables that carry derivatives.
    """

    flat: Flat
    steps: tuple[Equation | Node, ...]
    varying: frozenset[Variable]

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(step for step in self.steps if isinstance(step, Node))

    @cached_property
    def straight(self) -> frozenset[Variable]:
        """The variables that depend on the varying inputs by linear maps without kinks: their tangents are constant."""
        found = self.varying.intersection(self.flat.inputs)
        for node in self.nodes:
            bent = node.kind is not Kind.LINEAR or any(eqn.primitive in KINKS for eqn in node.equations)
            if not bent and found.issuperset(node.roots):
                found = found.union(node.outputs)
        return found

    @cached_property
    def repeated(self) -> Mapping[Variable, tuple[int, ...]]:
        """For each variable that repeats what it was broadcast from, the axes along which it does, from behind."""
        return {
            eqn.outputs[0]: axes
            for eqn in self.flat.equations
            if eqn.primitive is BROADCAST and eqn.outputs[0] in self.varying and (axes := _repeated(eqn))
        }


def _repeated(eqn: Equation) -> tuple[int, ...]:
    """The axes along which a broadcast repeats its operand, counted from behind: -1 is the last."""
    given: tuple[int, ...] = eqn.inputs[0].aval.shape  # pyright: ignore[reportAttributeAccessIssue]
    shape, places = eqn.outputs[0].aval.shape, list(eqn.params["broadcast_dimensions"])
    kept = {place for place, size in zip(places, given, strict=True) if size == shape[place]}
    return tuple(k - len(shape) for k, size in enumerate(shape) if k not in kept and size > 0)


def program(
    flat: Flat, varying: Sequence[Variable], table: Table = JAX, derived: Sequence[Atom] | None = None
) -> Program:
    """Group the equations of `flat` into steps, where the inputs `varying` carry derivatives, as far as the outputs
    `derived` have them; by default all.
    """
    derived = flat.outputs if derived is None else derived
    return _Builder(flat, set(varying), table, carriers(flat, derived, table)).build()


class _Builder:
    """The state of one grouping: which variables vary, and the open elementwise chains."""

    def __init__(self, flat: Flat, varying: set[Variable], table: Table, carriers: frozenset[Variable]) -> None:
        self.flat, self.varying, self.table, self.carriers = flat, varying, table, carriers
        # Variable -> (root, equations from the root to it). A chain becomes a node when somebody outside needs its end.
        self.chains: dict[Variable, tuple[Variable, tuple[Equation, ...]]] = {}
        self.placed: set[Variable] = set()
        self.steps: list[Equation | Node] = []

    def build(self) -> Program:
        for eqn in self.flat.equations:
            moving = [a for a in eqn.inputs if isinstance(a, Variable) and a in self.varying]
            carrying = floating(eqn.outputs)
            if not moving or self.carriers.isdisjoint(carrying) or eqn.primitive in self.table.zero:
                self._place(*eqn.inputs)
                self.steps.append(eqn)
                continue
            if self._is_elementwise(eqn, moving):
                self._chain(eqn, moving)
            else:
                self._place(*eqn.inputs)
                self.steps.append(self._node(eqn, moving, carrying))
            self.varying.update(carrying)
        self._place(*self.flat.outputs)
        return Program(self.flat, tuple(self.steps), frozenset(self.varying))

    def _chain(self, eqn: Equation, moving: list[Variable]) -> None:
        """Add an elementwise equation to the chain of its only root, or start a node of several roots."""
        roots = {self.chains[a][0] if a in self.chains else a for a in moving}
        others = [a for a in eqn.inputs if a not in moving]
        self._place(*others)
        if len(roots) == 1:
            before = dict.fromkeys(e for a in moving if a in self.chains for e in self.chains[a][1])
            self.chains[eqn.outputs[0]] = roots.pop(), (*before, eqn)
            return
        self._place(*moving)
        self.steps.append(self._node(eqn, moving, eqn.outputs))

    def _place(self, *atoms: Atom) -> None:
        """Make sure that the values of `atoms` exist: turn the chains that end in them into nodes."""
        for atom in atoms:
            if atom in self.chains and atom not in self.placed:
                root, equations = self.chains[atom]  # pyright: ignore[reportArgumentType]
                self.placed.add(atom)  # pyright: ignore[reportArgumentType]
                self._place(root)
                self.steps.append(self._elementwise((root,), (atom,), equations))  # pyright: ignore[reportArgumentType]

    def _node(self, eqn: Equation, moving: list[Variable], carrying: tuple[Variable, ...]) -> Node:
        """The node of one equation that is no part of a chain."""
        if eqn.primitive is SCAN:
            return self._loop(eqn, carrying)
        others = tuple(o for o in eqn.outputs if o not in carrying)
        roots = tuple(dict.fromkeys(moving))
        parts = (roots, carrying, others, (eqn,))
        if self._is_linear(eqn, moving):
            return Node(Kind.LINEAR, *parts)
        if self._is_elementwise(eqn, moving):
            return self._elementwise(roots, carrying, (eqn,))
        if eqn.primitive in self.table.bilinear and len(roots) == 2:
            return Node(Kind.BILINEAR, *parts)
        if eqn.primitive is slogdet_p:
            return Node(Kind.DETERMINANT, *parts)
        return Node(Kind.OPAQUE, *parts)

    def _is_linear(self, eqn: Equation, moving: list[Variable]) -> bool:
        if eqn.primitive in NOT_HOLOMORPHIC and any(a.aval.dtype.kind == "c" for a in moving):
            return False
        if eqn.primitive in self.table.linear:
            return True
        if eqn.primitive in self.table.bilinear and len(moving) == 1:
            return True
        return eqn.primitive in LINEAR_IN_FIRST and len(moving) == 1 and moving[0] is eqn.inputs[0]

    def _is_elementwise(self, eqn: Equation, moving: list[Variable]) -> bool:
        """Whether entry i of the output depends only on entry i of each operand that carries derivatives."""
        if len(eqn.outputs) != 1 or any(a.aval.shape != eqn.outputs[0].aval.shape for a in moving):
            return False
        if eqn.primitive is CUSTOM_JVP:
            return _rule_is_elementwise(eqn, moving, self.table)
        if eqn.primitive not in self.table.elementwise:
            return False
        complex_in = any(a.aval.dtype.kind == "c" for a in moving)
        if complex_in != (eqn.outputs[0].aval.dtype.kind == "c"):
            return False
        return not (complex_in and eqn.primitive in NOT_HOLOMORPHIC)

    def _elementwise(
        self, roots: tuple[Variable, ...], outputs: tuple[Variable, ...], equations: tuple[Equation, ...]
    ) -> Node:
        """A node with a diagonal local Hessian, or a linear one if that is zero."""
        if len(roots) == 1 and all(self._keeps_flat(eqn) for eqn in equations):
            return Node(Kind.LINEAR, roots, outputs, (), equations)
        node = Node(Kind.ELEMENTWISE, roots, outputs, (), equations)
        known = len(roots) == 1 and not any(eqn.primitive is CUSTOM_JVP for eqn in equations)
        pairs = ((0, 0),) if known else _curved_pairs(node)
        return Node(Kind.ELEMENTWISE if pairs else Kind.LINEAR, roots, outputs, (), equations, pairs)

    def _keeps_flat(self, eqn: Equation) -> bool:
        moving = [a for a in eqn.inputs if isinstance(a, Variable) and (a in self.varying)]
        return self._is_linear(eqn, moving)

    def _loop(self, eqn: Equation, carrying: tuple[Variable, ...]) -> Node:
        """A scan: find which of the carried values come to depend on x, then group its body."""
        body = prepared(eqn.params["jaxpr"], self.table)
        constants, carries = loop_arity(eqn.params)
        moves = [isinstance(a, Variable) and a in self.varying for a in eqn.inputs]
        while True:
            inner = program(body, [b for b, m in zip(body.inputs, moves, strict=True) if m], self.table)
            after = [isinstance(o, Variable) and o in inner.varying for o in body.outputs[:carries]]
            grown = [m or a for m, a in zip(moves[constants : constants + carries], after, strict=True)]
            if grown == moves[constants : constants + carries]:
                break
            moves[constants : constants + carries] = grown
        carrying_out = [*grown, *(isinstance(o, Variable) and o in inner.varying for o in body.outputs[carries:])]
        outputs = tuple(o for o, c in zip(eqn.outputs, carrying_out, strict=True) if c and o in carrying)
        others = tuple(o for o in eqn.outputs if o not in outputs)
        roots = tuple(dict.fromkeys(a for a in eqn.inputs if isinstance(a, Variable) and a in self.varying))
        return Loop(Kind.LOOP, roots, outputs, others, (eqn,), (), inner, constants, carries)


def _rule_is_elementwise(eqn: Equation, moving: list[Variable], table: Table) -> bool:
    """Whether a custom_jvp call and its own rule are made of elementwise primitives only."""

    def push(*roots: Any) -> Any:
        return jax.jvp(lambda *roots: _with_roots(eqn, moving, roots), roots, roots)

    return _is_entrywise(jax.make_jaxpr(push)(*_shapes(moving)), eqn.outputs[0].aval.shape, table)


def _is_entrywise(closed: Any, shape: tuple[int, ...], table: Table) -> bool:
    """Whether a jaxpr computes entry i of its results from entry i of its operands, all of `shape`."""
    return all(
        _is_entrywise(e.params["call_jaxpr"], shape, table)
        if e.primitive is CUSTOM_JVP
        else (e.primitive in table.elementwise or e.primitive in table.zero or not _has_derivative(e))
        and all(o.aval.shape in (shape, ()) for o in e.outputs)
        for e in inline(closed, table).equations
    )


def _has_derivative(eqn: Equation) -> bool:
    """Whether the result is a floating number that may depend on the operands: a comparison or a constant does not
    matter.
    """
    return bool(floating(eqn.outputs) and floating(eqn.inputs))


def _with_roots(eqn: Equation, moving: list[Variable], roots: Sequence[Any]) -> Any:
    """The equation as a function of its moving operands; the others are unknown here and stand as ones."""
    local = dict(zip(moving, roots, strict=True))
    arguments = [
        local[a] if a in local else a.value if isinstance(a, Constant) else jnp.ones(a.aval.shape, a.aval.dtype)
        for a in eqn.inputs
    ]
    return eqn(*arguments)[0]


def _shapes(variables: Sequence[Variable]) -> list[Any]:
    return [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in variables]


def _curved_pairs(node: Node) -> tuple[tuple[int, int], ...]:
    """The pairs of roots whose second derivative is not identically zero, found by tracing it."""
    phi = lambda *roots: node.function(_Ones())(*roots)[0][0]
    count = len(node.roots)
    return tuple(
        (i, j)
        for i in range(count)
        for j in range(i, count)
        if not _is_zero(jax.make_jaxpr(derivative(derivative(phi, i), j))(*_shapes(node.roots)))
    )


def derivative(phi: Callable[..., Any], i: int) -> Callable[..., Any]:
    """Entrywise derivative of an elementwise function by its root i: pushing ones reads the diagonal off."""

    def along(*roots: Any) -> Any:
        one = jnp.ones_like(roots[i])
        return jax.jvp(lambda root: phi(*roots[:i], root, *roots[i + 1 :]), (roots[i],), (one,))[1]

    return along


class _Ones(dict):
    """Values of variables that are not known yet: ones."""

    def __missing__(self, variable: Variable) -> Any:
        return jnp.ones(variable.aval.shape, variable.aval.dtype)


def _is_zero(closed: Any) -> bool:
    """Whether the only output of a jaxpr is a zero that depends on no input."""
    flat = inline(closed)
    zeros: set[Any] = set()

    def zero(atom: Atom) -> bool:
        if isinstance(atom, Constant):
            return not isinstance(atom.value, Tracer) and not np.any(np.asarray(atom.value))
        return atom in zeros

    for eqn in flat.equations:
        # Zero stays zero under every linear primitive, and a product with one zero factor is one.
        if (eqn.primitive in JAX.linear and all(zero(a) for a in eqn.inputs if _carries(a))) or (
            eqn.primitive in JAX.bilinear and any(zero(a) for a in eqn.inputs)
        ):
            zeros.update(eqn.outputs)
    return zero(flat.outputs[0])


def _carries(atom: Atom) -> bool:
    dtype = jnp.result_type(atom.value) if isinstance(atom, Constant) else atom.aval.dtype
    return jnp.issubdtype(dtype, jnp.inexact)
