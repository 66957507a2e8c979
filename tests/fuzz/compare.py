"""Run cases of one program in one compiled function, and say of each whether nablax and the reference agree."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nablax
from fuzz.case import Case

TOLERANCE = 1e-9
LARGEST = 1e6


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        status: ok; mismatch; unnamed (an exception that is no NablaxError, or that one of these was made from); refused
            (a NablaxError); impossible (JAX cannot differentiate it either); redraw (the reference is not finite, or
            huge); unstable (two references differ, or other numbers do not repeat the mismatch).
        detail: for people.
        error: the exception, if there is one.
        off: how far the numbers of a mismatch are apart, where they have the same shapes.
    """

    status: str
    detail: str = ""
    error: Exception | None = None
    off: float = np.inf

    @property
    def failed(self) -> bool:
        return self.status in ("mismatch", "unnamed")


def run(cases: Sequence[Case], second: bool = False) -> list[Outcome]:
    """The outcomes of cases, compiled together; compared with another nested mode if `second`."""
    errors: dict[tuple[int, str], Exception] = {}
    exact = [case.dtype != "float64" for case in cases]
    names = [case.names() for case in cases]
    doubles = [case.names(exact=True) if e else n for case, e, n in zip(cases, exact, names, strict=True)]
    inputs = [(case.arguments(n), case.arguments(d)) for case, n, d in zip(cases, names, doubles, strict=True)]

    def attempt(i: int, what: str, compute: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return compute()
        except Exception as error:
            errors[i, what] = error
            return None

    def everything(inputs: Any) -> Any:
        found, shared, shared_rounded = [], {}, {}
        for i, (case, (given, double)) in enumerate(zip(cases, inputs, strict=True)):
            expected = attempt(i, "expected", lambda: case.expected(doubles[i], double, shared, second))
            rounded = (
                attempt(i, "rounded", lambda: case.expected(names[i], given, shared_rounded)) if exact[i] else None
            )
            here = case.call.under != "eager" and not {(i, "expected"), (i, "rounded")} & errors.keys()
            found.append(
                (expected, rounded, attempt(i, "found", lambda: case.found(names[i], *given)) if here else None)
            )
        return found

    try:
        results = jax.jit(everything)(inputs)
    except Exception as error:
        if len(cases) > 1:  # one of them does not compile; find out which
            return [run([case], second)[0] for case in cases]
        return [_failure_to_compile(cases[0], error, names[0], inputs[0][0])]
    outcomes = []
    for i, (case, (expected, rounded, found)) in enumerate(zip(cases, results, strict=True)):
        if case.call.under == "eager" and not {(i, "expected"), (i, "rounded")} & errors.keys():
            found = attempt(i, "found", lambda: case.found(names[i], *inputs[i][0]))
        # In float64, or in the dtype of the case: there is no Cholesky factorisation in bfloat16.
        no_reference = errors.get((i, "expected")) or errors.get((i, "rounded"))
        outcomes.append(_judge(case, expected, rounded, found, no_reference, errors.get((i, "found"))))
    return outcomes


def _judge(
    case: Case, expected: Any, rounded: Any, found: Any, no_reference: Exception | None, error: Exception | None
) -> Outcome:
    if no_reference is not None:
        return Outcome("impossible", _short(no_reference), no_reference)
    if not all(np.all(np.isfinite(a)) and np.max(np.abs(a), initial=0) < LARGEST for a in jax.tree.leaves(expected)):
        return Outcome("redraw")
    # A named error that wraps another exception hides a fault, as JAX alone has just derived the same model.
    if isinstance(error, nablax.NablaxError) and (
        error.__cause__ is None or isinstance(error.__cause__, nablax.NablaxError)
    ):
        return Outcome("refused", _short(error), error)
    if error is not None:
        return Outcome("unnamed", _short(error), error)
    return difference(case, expected, rounded, found)


def difference(case: Case, expected: Any, rounded: Any, found: Any) -> Outcome:
    """Same structure and shapes, and numbers that differ by rounding only."""
    if jax.tree.structure(found) != jax.tree.structure(expected):
        return Outcome("mismatch", f"structure {jax.tree.structure(found)}, not {jax.tree.structure(expected)}")
    exact = jax.tree.leaves(expected)
    plain = jax.tree.leaves(rounded) if rounded is not None else exact
    scale = max(1.0, *(np.max(np.abs(a), initial=0) for a in exact))
    for (path, a), b, r in zip(jax.tree_util.tree_leaves_with_path(found), exact, plain, strict=True):
        where = jax.tree_util.keystr(path)
        if a.shape != b.shape or a.dtype != r.dtype:
            return Outcome("mismatch", f"{where} has {a.dtype}{list(a.shape)}, not {r.dtype}{list(b.shape)}")
        a, b, r = (np.asarray(array).astype(np.complex128) for array in (a, b, r))
        allowed = TOLERANCE * scale
        if rounded is not None:
            noise = np.max(np.abs(r - b), initial=0)
            allowed = 100 * max(noise, 10 * float(jnp.finfo(case.dtype).eps) * scale)
        error = np.max(np.abs(a - b), initial=0)
        if not error <= allowed:
            return Outcome(
                "mismatch",
                f"{where} is off by {error:.2e}; {allowed:.1e} is allowed, the scale is {scale:.1e}",
                off=float(error),
            )
    return Outcome("ok")


def confirm(case: Case) -> Outcome:
    """A failure, unless it is one of rounding.

    Other numbers repeat it (it is not at a kink), it is larger than what rounding does to the reference (softmax of
    equal scores of a thousand cancels eight digits in the third derivative), and a second reference shows it too.
    """
    outcomes = [run([replace(case, seed=case.seed + 300 * n)])[0] for n in range(4)]
    failed = [n for n, outcome in enumerate(outcomes) if outcome.failed]
    if outcomes[0].status == "unnamed":
        return outcomes[0]
    if 0 not in failed or len(failed) < 2:
        return Outcome("unstable", f"{outcomes[0].detail}; of four draws {len(failed)} fail")
    if outcomes[0].off <= 100 * (noise := rounding(case)):
        return Outcome("unstable", f"{outcomes[0].detail}; rounding puts the reference off by {noise:.1e}")
    if all(case.program.modes) and run([case], second=True)[0].status == "ok":
        return Outcome("unstable", f"{outcomes[0].detail}; two references differ")
    return outcomes[0]


def rounding(case: Case) -> float:
    """How far rounding in the dtype of the case puts the reference off: what float32 does to it, scaled by epsilon.

    Of float32 and less the error is known, and `difference` has allowed for it.
    """
    if case.dtype != "float64":
        return 0.0
    case = replace(case, dtype="float32")
    exact, rounded = (
        jax.jit(lambda given, names=names: case.expected(names, given, {}))(case.arguments(names))
        for names in (case.names(exact=True), case.names())
    )
    off = jax.tree.map(lambda a, b: np.max(np.abs(np.asarray(a) - np.asarray(b)), initial=0), exact, rounded)
    return float(np.max(jax.tree.leaves(off)) * jnp.finfo(jnp.float64).eps / jnp.finfo(jnp.float32).eps)


def _failure_to_compile(case: Case, error: Exception, names: dict[str, Any], given: Any) -> Outcome:
    """Whether JAX fails without nablax too."""
    try:
        jax.jit(lambda given: case.expected(names, given, {}))(given)
    except Exception:
        return Outcome("impossible", _short(error), error)
    return Outcome("unnamed", _short(error), error)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
