"""From a problem to a plan."""

from __future__ import annotations

from dataclasses import dataclass

from nablax._errors import StrategyError
from nablax.planning.cost import work
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

    The rule of "auto" is the least work, counted on the graph (`nablax.planning.cost`), among the strategies that
    apply. In passes of one tangent through the model, n curved numbers in the graph and K = C (C + 1) / 2:

    ==================== ======== ================= ==================== ====================
    strategy             Jacobian Hessian           diagonal             Laplacian
    ==================== ======== ================= ==================== ====================
    forward              C        C + K             2 C                  C + 1
    reverse              2 A      --                --                   --
    adjoint              --       C + 2 A, A C^2 n  C + 2 A, A C n       C + 2 A, A C n
    forward_over_forward C        C^2 + 2 C         3 C                  3 C
    forward_over_reverse 2 A      C + 2 A (1 + 2 C) C + 2 A (1 + 2 C)    C + 2 A (1 + 2 C)
    reverse_over_reverse 2 A      2 A (1 + 3 C)     2 A (1 + 3 C)        2 A (1 + 3 C)
    ==================== ======== ================= ==================== ====================

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
    best = min(able, key=lambda s: work(s, problem))
    return Plan(
        best, f"least work for A={problem.A}, C={problem.C}: {work(best, problem):.3g} operations for each sample"
    )
