"""Compare one function with nested AD, and say how it is served."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nablax
from conformance.arguments import DOMAINS, GUESSES, D, evaluate, samples

# Outcomes in the order of the page; what the tests must never find is last.
SWEEP = "sweep"
OPAQUE = "sweep, opaque primitives"
NESTED = "nested AD"
ONCE = "JAX differentiates it once"
NEVER = "JAX cannot differentiate it"
FLAT = "derivative zero"
INTEGER = "no real output"
EXCLUDED = "not applicable"
AMBIGUOUS = "Hessian of JAX not symmetric"
WRONG = "wrong"
RAISES = "raises"

TOLERANCE = 1e-9
SINGLE = 1e-5
"""Functions that compute in float32 inside have Hessians that are symmetric to this only."""
SWEEPS = ("forward", "adjoint")
# Without the Hessian, its diagonal and trace are computed in another way.
CALLS = (("jacobian", "hessian"), ("value", "hessian_diagonal", "laplacian"))

Model = Callable[[jax.Array], jax.Array]


@dataclass(frozen=True)
class Finding:
    """What was found of one call.

    Attributes:
        call: the text of the call, or why there is none.
        outcome: one of the outcomes above.
        detail: opaque primitives, the strategy that serves, or the error.
        error: the largest difference to nested AD relative to the largest entry, over all strategies and wants.
    """

    call: str
    outcome: str
    detail: str = ""
    error: float | None = None


def judge(f: Callable[..., Any], calls: str | tuple[str, ...]) -> list[Finding]:
    """One finding for each call; no call means that a guess is tried."""
    if isinstance(calls, str) and calls.startswith("<"):
        return [Finding(calls.strip("<>"), EXCLUDED)]
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore")
        if not calls:
            calls = guess(f)
        return [_judge(f, call) for call in ([calls] if isinstance(calls, str) else calls)]


def guess(f: Callable[..., Any]) -> str:
    """The first call that works, its values finite if one domain makes them so."""
    for call in GUESSES:
        found = []
        for domain in DOMAINS:
            tried = call.replace("(v", f"({domain}")
            try:
                values = [leaf for x in samples() for leaf in leaves(evaluate(tried, f, x))]
            except Exception:
                break
            if all(np.all(np.isfinite(leaf)) for leaf in values):
                return tried
            found.append(tried)
        if found:
            return found[0]
    raise LookupError("no guess works; a table has to say how this function is called")


def leaves(output: Any) -> list[Any]:
    """The real and complex arrays of an output of any kind."""
    found = [leaf for leaf in jax.tree.leaves(output) if isinstance(leaf, jax.Array | np.ndarray | float | complex)]
    return [leaf for leaf in found if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]


def _judge(f: Callable[..., Any], call: str) -> Finding:
    outputs = lambda x: leaves(evaluate(call, f, x))
    if not jax.eval_shape(outputs, samples()[0]):
        return Finding(call, INTEGER)
    return judge_model(lambda x: jnp.concatenate([jnp.ravel(leaf) for leaf in outputs(x)]), call)


def judge_model(model: Model, call: str = "") -> Finding:
    """The finding for a model of one sample, which returns a vector."""
    X = samples()
    expected, why = reference(model, X)
    if "hessian" not in expected:
        return _without_reference(model, X, call, expected, why)
    found, errors, served = ours(model, X)
    unnamed = {way: error for way, error in errors.items() if not isinstance(error, nablax.NablaxError)}
    if unnamed or not found:
        way, error = next(iter({**unnamed, **errors}.items()))
        return Finding(call, RAISES, f"{way}: {_short(error)}")
    worst, note = _worst(found, expected), ""
    if worst[0] == np.inf:
        # The two modes of JAX differ in where a NaN ends that a `where` is to stop.
        forward = _each(_both(model, jax.jacfwd, jax.jacfwd), X)
        if _worst(found, forward)[0] < np.inf:
            expected, note = forward, "NaN by jax.jacrev"
            worst = _worst(found, expected)
    noise = difference(np.swapaxes(expected["hessian"], -1, -2), expected["hessian"])
    if not worst[0] <= max(TOLERANCE, 10 * noise):
        return Finding(call, WRONG, worst[1], worst[0])
    if noise > SINGLE:
        return Finding(call, AMBIGUOUS, f"by {noise:.0e}", worst[0])
    if not any(np.any(expected[want]) for want in ("jacobian", "hessian")):
        return Finding(call, FLAT, "", worst[0])
    outcome, detail = served
    return Finding(call, outcome, ", ".join(filter(None, [detail, note])), worst[0])


def _worst(found: dict[tuple[str, str], np.ndarray], expected: dict[str, np.ndarray]) -> tuple[float, str]:
    """(the largest difference, the strategy and want that it is in)."""
    return max((difference(array, expected[want]), f"{way} {want}") for (way, want), array in found.items())


def reference(model: Model, X: jax.Array) -> tuple[dict[str, np.ndarray], Exception | None]:
    """Nested AD of one sample after the other: all wants, or only the Jacobian where JAX cannot go on."""
    why = None
    for inner, outer in ((jax.jacrev, jax.jacfwd), (jax.jacfwd, jax.jacfwd), (jax.jacrev, jax.jacrev)):
        try:
            return _each(_both(model, inner, outer), X), None
        except Exception as error:
            why = error
    for inner in (jax.jacfwd, jax.jacrev):
        try:
            return _each(_both(model, inner, None), X), why
        except Exception as error:
            first = error
    return {}, first


def _both(model: Model, inner: Any, outer: Any) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """x -> all wants by JAX alone; real and imaginary parts apart."""

    def of_part(part: Any, x: jax.Array) -> dict[str, jax.Array]:
        g = lambda x: part(model(x))
        found = {"value": g(x), "jacobian": inner(g)(x)}
        if outer is not None:
            H = outer(inner(g))(x)
            diagonal = jnp.diagonal(H, axis1=1, axis2=2)
            found |= {"hessian": H, "hessian_diagonal": diagonal, "laplacian": diagonal.sum(1)}
        return found

    def both(x: jax.Array) -> dict[str, jax.Array]:
        if not jnp.issubdtype(jax.eval_shape(model, x).dtype, jnp.complexfloating):
            return of_part(lambda y: y, x)
        return jax.tree.map(lambda a, b: a + 1j * b, of_part(jnp.real, x), of_part(jnp.imag, x))

    return both


def _each(both: Callable[..., Any], X: jax.Array) -> dict[str, np.ndarray]:
    one = jax.jit(both)
    return jax.tree.map(lambda *rows: np.stack(rows), *(one(x) for x in X))


def ours(model: Model, X: jax.Array) -> tuple[dict[tuple[str, str], np.ndarray], dict[str, Exception], tuple[str, str]]:
    """((strategy, want) -> result, strategy -> error, (outcome, detail)), by the sweeps and by what "auto" chooses."""
    found, errors = {}, {}
    try:
        plans = [nablax.explain(model, *wants)(X) for wants in CALLS]
    except Exception as error:
        return {}, {"auto": error}, (RAISES, "")
    strategies = dict.fromkeys([*SWEEPS, *(plan.strategy for plan in plans)])

    def everything(X: jax.Array) -> dict[tuple[str, str], jax.Array]:
        found = {}
        for strategy in strategies:
            try:
                for wants in CALLS:
                    results = nablax.derivatives(model, *wants, strategy=strategy)(X)
                    found |= {(strategy, want): array for want, array in results.items()}
            except Exception as error:
                errors[strategy] = error
        return found

    try:
        found = jax.tree.map(np.asarray, jax.jit(everything)(X))
    except Exception as error:
        errors["compiler"] = error
    return found, {way: e for way, e in errors.items() if not _cannot_serve(e)}, _served(plans[0])


def _cannot_serve(error: Exception) -> bool:
    """A sweep that was asked for by name says that the model has no forward or no reverse mode."""
    return isinstance(error, nablax.errors.StrategyError) and "cannot serve this call" in str(error)


def _served(plan: Any) -> tuple[str, str]:
    """(outcome, detail) of the Hessian, as nablax explains it."""
    able = [c.name for c in plan.candidates if c.why_not is None]
    if not set(SWEEPS) & set(able):
        return NESTED, plan.strategy
    opaque = ", ".join(sorted(group.primitive for group in plan.opaque))
    return (OPAQUE, opaque) if opaque else (SWEEP, "")


def _without_reference(
    model: Model, X: jax.Array, call: str, expected: dict[str, np.ndarray], why: Exception | None
) -> Finding:
    """JAX does not differentiate it twice: neither may nablax, and it must say so by an error."""
    outcome = ONCE if expected else NEVER
    for want in ("hessian", "laplacian"):
        try:
            result = np.asarray(getattr(nablax, want)(model)(X))
        except nablax.NablaxError as error:
            said = error
        except Exception as error:
            said = error
        else:
            return Finding(call, WRONG, f"{want} is a number of size {np.abs(result).max():.1e} where JAX has none")
    error = None
    if expected:
        found = np.asarray(nablax.jacobian(model)(X))
        error = difference(found, expected["jacobian"])
        if not error <= TOLERANCE:
            return Finding(call, WRONG, "jacobian", error)
    named = isinstance(said, nablax.NablaxError)
    return Finding(call, outcome, f"{type(said).__name__ if named else 'unnamed'}; JAX: {_short(why)}", error)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative to the largest entry; infinite where they are not finite at the same places, or differ in shape."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return np.inf
    finite = np.isfinite(expected)
    if not np.array_equal(np.isnan(found), np.isnan(expected)) or not np.array_equal(finite, np.isfinite(found)):
        return np.inf
    scale = np.max(np.abs(expected[finite]), initial=0.0)
    return float(np.max(np.abs(found[finite] - expected[finite]), initial=0.0) / (scale if scale > 1e-6 else 1.0))


def _short(error: Exception | None) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:110]}"


assert D != 2  # C: a batch axis must not be taken for another
