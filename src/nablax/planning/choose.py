"""From a problem to a plan."""

from __future__ import annotations

from dataclasses import dataclass

from nablax._errors import StrategyError
from nablax.planning.problem import Problem
from nablax.strategies import BUILT_IN, Strategy


@dataclass(frozen=True)
class Plan:
    """What will run, and why.

    Attributes:
        strategy: the method.
        reason: one sentence.
    """

    strategy: Strategy
    reason: str


def choose(problem: Problem, strategy: str = "auto") -> Plan:
    """Select the strategy for `problem`.

    The rule of "auto" is the cheapest of the strategies that apply, by the number of passes through the model:

    ==================== ============== ======================== =======================
    strategy             Jacobian       Hessian                  diagonal, Laplacian
    ==================== ============== ======================== =======================
    forward              C              --                       --
    reverse              2 A            --                       --
    forward_over_forward C              C^2 + 2 C                3 C
    forward_over_reverse 2 A            C + 2 A (1 + C)          C + 2 A (1 + C)
    reverse_over_reverse 2 A            2 A (1 + 2 C)            2 A (1 + 2 C)
    ==================== ============== ======================== =======================

    Raises:
        StrategyError: the strategy asked for cannot serve, or none can.
    """
    reasons = {s.name: problem.why_not(s) for s in BUILT_IN}
    if strategy != "auto":
        chosen = next(s for s in BUILT_IN if s.name == strategy)
        if reason := reasons[strategy]:
            others = ", ".join(name for name, why in reasons.items() if why is None)
            raise StrategyError(
                f"strategy={strategy!r} cannot serve this call: {reason}. "
                + (f'Use strategy="auto" or one of: {others}.' if others else "No other strategy can serve it either.")
            )
        return Plan(chosen, "asked for")
    able = [s for s in BUILT_IN if reasons[s.name] is None]
    if not able:
        raise StrategyError(
            "no strategy can differentiate this model: "
            + "; ".join(f"{name}: {why}" for name, why in reasons.items())
            + ". Replace the custom_vjp by a custom_jvp, or the while_loop by a scan or a fori_loop with constant "
            "bounds."
        )
    best = min(able, key=lambda s: passes(s, problem))
    return Plan(best, f"fewest passes through the model ({passes(best, problem)}) for A={problem.A}, C={problem.C}")


def passes(strategy: Strategy, problem: Problem) -> int:
    """How often the model's work is done, counted in forward passes; see the table of `choose`."""
    if strategy.name in ("adjoint", "forward") and problem.wants.order == 2:
        return 10**9
    A, C = problem.A, problem.C
    full = "hessian" in problem.wants.names or problem.wants.indices
    if problem.wants.order < 2:
        return 2 * A if strategy.reverse_mode else C
    if strategy.name == "forward_over_forward":
        return C * C + 2 * C if full else 3 * C
    if strategy.name == "forward_over_reverse":
        return C + 2 * A * (1 + C)
    return 2 * A * (1 + 2 * C)
