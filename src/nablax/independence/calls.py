"""Rules for operations that contain programs: loops, branches, custom derivatives, linear solves.

A rule takes `follow`, which goes through a program that is inside an equation, besides what other rules take, and
returns what is known of each result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import jax
import numpy as np

from nablax._compat import CUSTOM_JVP, CUSTOM_VJP, SCAN, WHILE, loop_arity
from nablax.graph.inline import Atom, Equation, Variable
from nablax.independence.primitives import table
from nablax.independence.twins import Twin, Twins, dtype_of, shape_of
from nablax.independence.values import SHARED, Current, Mixed, Samples, Shared, Value, join, plain

Values = list[Value]


class Follow(Protocol):
    """Goes through a program; `orders` says how many derivatives of custom rules are to be followed, too."""

    orders: int

    def __call__(self, program: Twins, values: Sequence[Value]) -> Values: ...

    def derived(self) -> Follow:
        """For a program that is a derivative."""
        ...


def scan(follow: Follow, eqn: Twin, *operands: Value) -> Values:
    """A loop of a fixed number of steps, or over the samples."""
    if "length" in eqn.changed:
        return _over_samples(follow, eqn, operands)
    body = eqn.inner((eqn.params["jaxpr"], eqn.second_params["jaxpr"]))
    consts, carries = loop_arity(eqn.params)
    shared, carry, slices = _cut(operands, consts, carries)
    slices = [value.at(value.axis - 1) if isinstance(value, Samples) else value for value in slices]
    carry, rows = _fixpoint(eqn, lambda carry: follow(body, [*shared, *carry, *slices]), carry)
    return [*carry, *(row.at(row.axis + 1) if isinstance(row, Samples) else row for row in rows)]


def _cut(operands: Sequence[Value], consts: int, carries: int) -> tuple[Values, Values, Values]:
    values = [plain(value) for value in operands]
    return values[:consts], values[consts : consts + carries], values[consts + carries :]


def _fixpoint(eqn: Twin, step: Callable[[Values], Values], carry: Values) -> tuple[Values, Values]:
    """(what is known of the carry in every step, the other results of a step)."""
    differ = eqn.mixes("carries something that belongs to samples in different ways from step to step")
    while True:
        results = step(carry)
        joined = [join(a, b, differ) for a, b in zip(carry, results, strict=False)]
        if joined == carry:
            return carry, [plain(value) for value in results[len(carry) :]]
        carry = joined


def _over_samples(follow: Follow, eqn: Twin, operands: Sequence[Value]) -> Values:
    """Each step sees one sample. What is carried goes from sample to sample, unless it never changes."""
    body = eqn.inner((eqn.params["jaxpr"], eqn.second_params["jaxpr"]))
    consts, carries = loop_arity(eqn.params)
    shared, carry, slices = _cut(operands, consts, carries)
    layouts = {value.layout for value in slices if isinstance(value, Samples) and value.axis == 0} or {(1, 1)}
    if len(layouts) > 1:
        return [eqn.unproven("loops over samples that are ordered in different ways")] * len(eqn.outputs)
    current = Current(id(eqn.first))
    handed_on = eqn.unproven("is a loop over the samples that hands on a value from one to the next")
    constant = [a is b for (a, _), b in zip(body.outputs, body.inputs[consts : consts + carries], strict=False)]
    inside = [value if same else handed_on for value, same in zip(carry, constant, strict=True)]
    one = [_of_one(value, current) for value in slices]
    results = [plain(value) for value in follow(body, [*shared, *inside, *one])]
    rows = [_stacked(eqn, row, current, layouts) for row in results[carries:]]
    return [*inside, *rows]


def _of_one(value: Value, current: Current) -> Value:
    """A slice for one step, of an array with a slice for each."""
    return current if isinstance(value, Samples) and value.axis == 0 else value


def _stacked(eqn: Twin, row: Value, current: Current, layouts: set[tuple[int, int]]) -> Value:
    """The results of all steps."""
    if isinstance(row, Mixed):
        return row
    if row == current or isinstance(row, Shared):
        return Samples(0, *next(iter(layouts)))
    return eqn.mixes("is a loop over the samples in which each sees all of them")


def while_(follow: Follow, eqn: Twin, *operands: Value) -> Values:
    """A loop until a condition: one for all that is shared, or one for each sample, as `jax.vmap` makes it."""
    values = [plain(value) for value in operands]
    tests, consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    of_test, of_body, start = values[:tests], values[tests : tests + consts], values[tests + consts :]
    test = eqn.inner((eqn.params["cond_jaxpr"], eqn.second_params["cond_jaxpr"]))
    body = eqn.inner((eqn.params["body_jaxpr"], eqn.second_params["body_jaxpr"]))

    def step(carry: Values) -> Values:
        (go_on,) = (plain(value) for value in follow(test, [*of_test, *carry]))
        return [_stopped(eqn, value, go_on) for value in follow(body, [*of_body, *carry])]

    carry, _ = _fixpoint(eqn, step, [_stopped(eqn, value, SHARED) for value in start])
    return carry


def _stopped(eqn: Twin, value: Value, go_on: Value) -> Value:
    """A value in a loop that runs while `go_on`; a condition with a sample axis stops each sample by itself."""
    value = plain(value)
    if isinstance(value, Mixed) or isinstance(go_on, Shared):
        return value
    if isinstance(go_on, Mixed):
        return go_on
    differ = eqn.mixes("runs as often as another value than this sample says")
    if isinstance(go_on, Samples):
        return value if value == go_on else differ
    return join(value, go_on, differ)


def cond(follow: Follow, eqn: Twin, index: Value, *operands: Value) -> Values:
    """One of several branches."""
    if len(eqn.params["branches"]) != len(eqn.second_params["branches"]):
        return [eqn.unproven("has as many branches as the number of samples says")] * len(eqn.outputs)
    branches = zip(eqn.params["branches"], eqn.second_params["branches"], strict=True)
    differ = eqn.mixes("has branches whose results belong to samples in different ways")
    found: Values = []
    for number, pair in enumerate(branches):
        results = [plain(value) for value in follow(eqn.inner(pair), operands)]
        found = [join(a, b, differ) for a, b in zip(found, results, strict=True)] if number else results
    index = plain(index)
    if isinstance(index, Shared):
        return found
    if isinstance(index, Mixed):
        return [index] * len(found)
    by_one = eqn.mixes("takes a branch for all samples by a value that is not shared by them")
    return [join(value, index, by_one) for value in found]


def custom_jvp(follow: Follow, eqn: Twin, *operands: Value) -> Values:
    """A function with a rule for its tangents: both must keep samples apart, and so must derivatives of the rule."""
    found = follow(eqn.inner((eqn.params["call_jaxpr"], eqn.second_params["call_jaxpr"])), operands)
    return _with_rule(follow, eqn, operands, found, _tangents)


def custom_vjp(follow: Follow, eqn: Twin, *operands: Value) -> Values:
    """A function with a rule for its cotangents. Those of shared operands are sums over samples, as they should be."""
    found = follow(eqn.inner((eqn.params["call_jaxpr"], eqn.second_params["call_jaxpr"])), operands)
    return _with_rule(follow, eqn, operands, found, _cotangents)


def _with_rule(follow: Follow, eqn: Twin, operands: Sequence[Value], found: Values, derive: Any) -> Values:
    """What is known of the results, given the rule for derivatives too."""
    found, operands = [plain(value) for value in found], [plain(value) for value in operands]
    if follow.orders == 0 or not any(isinstance(value, Samples) for value in (*found, *operands)):
        return found
    for got, want in zip(*derive(follow.derived(), eqn, operands, found), strict=True):
        got = plain(got)
        if not isinstance(want, Mixed) and got != want and not isinstance(got, Shared):
            text = "has a rule for its derivative that gives samples another place than they had"
            return [got if isinstance(got, Mixed) else eqn.unproven(text)] * len(found)
    return found


def _tangents(follow: Follow, eqn: Twin, operands: Values, found: Values) -> tuple[Values, Values]:
    """What is known of (results, tangents) of ``jax.jvp``, and what it should be."""
    moving, free = _moving(eqn.first.inputs), _moving(eqn.first.outputs)

    def derived(one: Equation) -> Any:
        def jvp(primals: list[Any], tangents: list[Any]) -> Any:
            function = _of_moving(one, primals, moving, free)
            return jax.jvp(function, [primals[k] for k in moving], tangents)

        types = _types(one.inputs)
        return jax.make_jaxpr(jvp)(types, [types[k] for k in moving])

    wanted = [found[k] for k in free]
    return _followed(follow, eqn, derived, [*operands, *(operands[k] for k in moving)]), [*wanted, *wanted]


def _cotangents(follow: Follow, eqn: Twin, operands: Values, found: Values) -> tuple[Values, Values]:
    """What is known of (results, cotangents) of ``jax.vjp``, and what it should be."""
    moving, free = _moving(eqn.first.inputs), _moving(eqn.first.outputs)

    def derived(one: Equation) -> Any:
        def vjp(primals: list[Any], cotangents: list[Any]) -> Any:
            results, pull = jax.vjp(_of_moving(one, primals, moving, free), *[primals[k] for k in moving])
            return results, pull(cotangents)

        return jax.make_jaxpr(vjp)(_types(one.inputs), _types([one.outputs[k] for k in free]))

    # What is shared is used by all samples: its cotangent is a sum over them, and nobody's own.
    summed = eqn.mixes("has a rule for its derivative that hands a sample a sum over all of them")
    given = [value if isinstance(value, Samples) else summed for value in (found[k] for k in free)]
    wanted = [operands[k] if isinstance(operands[k], Samples) else summed for k in moving]
    return _followed(follow, eqn, derived, [*operands, *given]), [*(found[k] for k in free), *wanted]


def _followed(follow: Follow, eqn: Twin, derived: Callable[[Equation], Any], values: Values) -> Values:
    assert eqn.second is not None
    return follow(eqn.inner((derived(eqn.first), derived(eqn.second))), values)


def _moving(atoms: Sequence[Atom]) -> list[int]:
    """Which of the operands or results have derivatives."""
    return [k for k, atom in enumerate(atoms) if jax.dtypes.issubdtype(dtype_of(atom), np.inexact)]


def _of_moving(one: Equation, primals: list[Any], moving: list[int], free: list[int]) -> Callable[..., list[Any]]:
    """The equation as a function of the operands that have derivatives."""

    def function(*given: Any) -> list[Any]:
        values = list(primals)
        for k, value in zip(moving, given, strict=True):
            values[k] = value
        results = one(*values)
        return [results[k] for k in free]

    return function


def _types(atoms: Sequence[Atom]) -> list[jax.ShapeDtypeStruct]:
    return [
        jax.ShapeDtypeStruct(shape_of(a), dtype_of(a), weak_type=isinstance(a, Variable) and a.aval.weak_type)
        for a in atoms
    ]


def linear_solve(follow: Follow, eqn: Twin, *operands: Value) -> Values:
    """A solution of A x = b by a program of its own; its derivative goes through A x."""
    values, lengths = [plain(value) for value in operands], eqn.params["const_lengths"]
    ends = np.cumsum([0, *lengths])
    given, b = [values[i:j] for i, j in pairwise(ends)], values[ends[-1] :]
    programs, second = eqn.params["jaxprs"], eqn.second_params["jaxprs"]
    solution = None
    for name in ("solve", "matvec", "vecmat", "transpose_solve"):
        pair = getattr(programs, name), getattr(second, name)
        if None in pair:
            continue
        consts = given[list(lengths._fields).index(name)]
        found = [plain(value) for value in follow(eqn.inner(pair), [*consts, *(solution or b)])]
        solution = solution or found
        if found != solution:
            text = "solves for samples in another place than they had"
            return [next((v for v in found if isinstance(v, Mixed)), eqn.unproven(text))] * len(solution)
    return solution or []


# Parameters that decide what the operation does, or which operand is what.
FIXED = frozenset(
    {"reverse", "num_consts", "num_carry", "ft_in", "cond_nconsts", "body_nconsts", "const_lengths", "symbolic_zeros"}
)

RULES: dict[Any, Callable[..., Values]] = {
    SCAN: scan,
    WHILE: while_,
    CUSTOM_JVP: custom_jvp,
    CUSTOM_VJP: custom_vjp,
    **table({"cond": cond, "linear_solve": linear_solve}),
}
