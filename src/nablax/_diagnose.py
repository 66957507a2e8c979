"""Where a model is not smooth at given samples, and which operation makes the first number that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax import Array

from nablax._compat import jaxpr_of
from nablax.graph.lines import line_of

# Calls whose insides are looked at; loops and branches are one operation each.
_CALLS = frozenset("jit pjit closed_call core_call checkpoint remat remat2 custom_jvp_call custom_vjp_call".split())  # noqa: SIM905

Visit = Callable[[Any, str, Sequence[Any], Sequence[bool], Sequence[Any]], None]
"""Called with an equation, its line, its operands, whether these depend on x, and its results."""


@dataclass(frozen=True)
class Kink:
    """A sample at which an operation of the model has no derivative, or jumps.

    Attributes:
        sample: index in the batch.
        operation: and what about it, such as "abs at 0".
        line: ``file:line`` in the model.
    """

    sample: int
    operation: str
    line: str

    def __str__(self) -> str:
        return f"sample {self.sample} lies on a kink: {self.operation}{self.line and f', at {self.line}'}"


@dataclass(frozen=True)
class Origin:
    """The first operation that makes a number that is not finite out of numbers that are.

    Attributes:
        sample: index in the batch.
        order: 0 if it happens in the value of the model, 1 in its first derivatives, 2 in its second.
        operation: its name.
        operands: what it was given, in words.
        line: ``file:line`` in the model.
    """

    sample: int
    order: int
    operation: str
    operands: str
    line: str

    def __str__(self) -> str:
        what = ("value", "first derivatives", "second derivatives")[self.order]
        where = self.line and f", at {self.line}"
        return f"sample {self.sample}: the {what} are not finite from {self.operation} of {self.operands}{where}"


def kinks(f: Callable[..., Array], v: Array, rest: Any, numbers: Sequence[int]) -> tuple[Kink, ...]:
    """All kinks that samples lie on, exactly.

    Args:
        f: ``f(v, rest)``, the model of one sample as a function of its flat input.
        v: (n, C), the inputs of n samples.
        rest: whatever else belongs to a sample, n of it on axis 0.
        numbers: the indices of the samples in their batch.
    """
    closed = _trace(f, v, rest)
    named: list[tuple[str, str]] = []

    def flags(v: Array, rest: Any) -> list[Array]:
        named.clear()
        found: list[Array] = []

        def visit(eqn: Any, line: str, operands: Sequence[Any], varying: Sequence[bool], _: Sequence[Any]) -> None:
            rule = _KINKS.get(eqn.primitive.name)
            if rule is not None and any(varying):
                named.append((f"{eqn.primitive.name} {rule[0]}", line))
                found.append(jnp.any(rule[1](eqn.params, *operands)))

        leaves = [v, *jax.tree.leaves(rest)]
        _walk(closed, leaves, [True] + [False] * (len(leaves) - 1), visit)
        return found

    hit = [np.asarray(each) for each in jax.jit(jax.vmap(flags))(v, rest)]
    return tuple(
        Kink(number, operation, line)
        for index, number in enumerate(numbers)
        for each, (operation, line) in zip(hit, named, strict=True)
        if each[index]
    )


def origin(f: Callable[..., Array], v: Array, rest: Any, number: int, order: int) -> Origin | None:
    """What makes the first number that is not finite in the derivatives of `order` of one sample; None: nothing does.

    A branch that is not taken (`jnp.where`) may make such numbers too, which nothing depends on; if it does, and comes
    first, it is named.
    """
    plain = jex.jaxpr_as_fun(jax.make_jaxpr(f)(v, rest))
    leaves = jax.tree.leaves(rest)
    derivative: Callable[..., Any] = lambda v, *leaves: plain(v, *leaves)[0]
    for _ in range(order):
        derivative = jax.jacfwd(derivative)
    closed = jax.make_jaxpr(derivative)(v, *leaves)
    first: list[Origin] = []

    def visit(eqn: Any, line: str, operands: Sequence[Any], _: Sequence[bool], results: Sequence[Any]) -> None:
        if not first and not all(map(_finite, results)) and all(map(_finite, operands)):
            given = " and ".join(_in_words(each) for each in operands)
            first.append(Origin(number, order, eqn.primitive.name, given, line))

    _walk(closed, [v, *leaves], [True] * (1 + len(leaves)), visit)
    return first[0] if first else None


def _trace(f: Callable[..., Array], v: Array, rest: Any) -> Any:
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (v, rest))
    return jax.make_jaxpr(f)(*one)


def _walk(
    closed: Any, values: Sequence[Any], varying: Sequence[bool], visit: Visit, line: str = ""
) -> tuple[list[Any], list[bool]]:
    """Evaluate a program equation by equation; (results, whether they depend on what varies)."""
    jaxpr = jaxpr_of(closed)
    known = dict(zip(jaxpr.invars, zip(values, varying, strict=True), strict=True))
    known |= {var: (value, False) for var, value in zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=True)}
    read = lambda atom: (atom.val, False) if isinstance(atom, jex.Literal) else known[atom]
    for eqn in jaxpr.eqns:
        operands, moves = zip(*map(read, eqn.invars), strict=True) if eqn.invars else ((), ())
        here = line_of(eqn.source_info.traceback) or line
        inner = next(iter(jex.jaxprs_in_params(eqn.params)), None) if eqn.primitive.name in _CALLS else None
        if inner is not None and len(jaxpr_of(inner).invars) == len(operands):
            whole = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr", inner))
            results, moved = _walk(whole, operands, moves, visit, here)
        else:
            found = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
            results = list(found) if eqn.primitive.multiple_results else [found]
            moved = [any(moves)] * len(results)
            visit(eqn, here, operands, moves, results)
        known |= dict(zip(eqn.outvars, zip(results, moved, strict=True), strict=True))
    pairs = [read(atom) for atom in jaxpr.outvars]
    return [value for value, _ in pairs], [moves for _, moves in pairs]


def _at_zero(_: Any, x: Any, *__: Any) -> Any:
    return x == 0


def _tie(_: Any, x: Any, y: Any) -> Any:
    return (x == y) if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else jnp.zeros((), bool)


def _ties_along(params: Any, x: Any) -> Any:
    axes, extreme = params["axes"], jnp.max
    best = extreme(x, axis=axes, keepdims=True)
    return jnp.sum(x == best, axis=axes) > 1


def _lowest_ties(params: Any, x: Any) -> Any:
    return _ties_along(params, -x)


def _sorted_ties(params: Any, x: Any, *_: Any) -> Any:
    return jnp.diff(jnp.sort(x, axis=params["dimension"]), axis=params["dimension"]) == 0


def _at_bound(_: Any, low: Any, x: Any, high: Any) -> Any:
    return (x == low) | (x == high)


def _of_integer(_: Any, x: Any) -> Any:
    return x == jnp.round(x)


# Name of a primitive -> (what about it, where its operands are such).
_KINKS: dict[str, tuple[str, Callable[..., Any]]] = {
    **dict.fromkeys(("abs", "sign", "sqrt", "rsqrt", "cbrt", "log", "pow"), ("at 0", _at_zero)),
    **dict.fromkeys(("max", "min", "gt", "lt", "ge", "le", "rem"), ("of two equal numbers", _tie)),
    **dict.fromkeys(("floor", "ceil"), ("of an integer", _of_integer)),
    "atan2": ("of 0 and 0", lambda _, y, x: (x == 0) & (y == 0)),
    "reduce_max": ("with a tie", _ties_along),
    "reduce_min": ("with a tie", _lowest_ties),
    "argmax": ("with a tie", _ties_along),
    "argmin": ("with a tie", _lowest_ties),
    "sort": ("with a tie", _sorted_ties),
    "clamp": ("at a bound", _at_bound),
}


def _finite(value: Any) -> bool:
    kind = jnp.result_type(value)
    return not jnp.issubdtype(kind, jnp.inexact) or bool(jnp.all(jnp.isfinite(value)))


def _in_words(value: Any) -> str:
    value = np.asarray(value)
    if value.ndim == 0:
        return f"{value:.4g}" if value.dtype.kind in "fc" else str(value)
    if value.dtype.kind not in "fiu":
        return f"{value.dtype}{list(value.shape)}"
    return f"{value.dtype}{list(value.shape)} from {value.min():.4g} to {value.max():.4g}"
