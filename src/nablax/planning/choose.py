"""From a problem to a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nablax._errors import MemoryBudgetError, StrategyError
from nablax.planning.cost import work, working_set
from nablax.planning.memory import chunk_size_for, chunk_size_of_gradient, over_budget
from nablax.planning.problem import Problem
from nablax.strategies import BUILT_IN, Strategy


@dataclass(frozen=True)
class Candidate:
    """One way to serve a problem, with what is known of its cost.

    Attributes:
        name: the strategy.
        work: multiplications and additions for one sample, as predicted; None if it does not apply.
        working_set: bytes that the intermediate arrays of one chunk take, as predicted; None if it does not apply.
        chunk_size: samples that go through the model at once; None for all of them.
        why_not: why it does not apply; None if it does.
        seconds: how long one call took, if it was measured.
    """

    name: str
    work: float | None = None
    working_set: float | None = None
    chunk_size: int | None = None
    why_not: str | None = None
    seconds: float | None = None

    @property
    def strategy(self) -> Strategy:
        """The method itself."""
        return strategy_named(self.name)


@dataclass(frozen=True)
class Plan:
    """What will run, and why.

    Attributes:
        strategy: the method.
        chunk_size: samples that go through the model at once; None for all of them.
        reason: one sentence.
        measured: the candidates that were timed for this choice.
        able: the candidates that it was chosen from by what they are predicted to cost; none where that was not so.
    """

    strategy: Strategy
    chunk_size: int | None
    reason: str
    measured: tuple[Candidate, ...] = ()
    able: tuple[Candidate, ...] = ()

    @property
    def method(self) -> tuple[str, int | None]:
        """Strategy and chunk size."""
        return self.strategy.name, self.chunk_size


EQUAL = 1.02
"""Up to so many times the least work counts as equal: predictions are not as good as that."""


def strategy_named(name: str) -> Strategy:
    """The strategy that users call by this name."""
    return next(strategy for strategy in BUILT_IN if strategy.name == name)


def candidate(problem: Problem, strategy: Strategy, chunk_size: int | None) -> Candidate:
    """`strategy` with a chunk size, its cost predicted."""
    width = min(chunk_size or problem.samples, problem.samples)
    bytes_held = width * working_set(problem, strategy)
    why_not = over_budget(problem, strategy, chunk_size)
    return Candidate(strategy.name, work(strategy, problem), bytes_held, chunk_size, why_not)


def candidates(problem: Problem) -> tuple[Candidate, ...]:
    """Every strategy with its chunk size, or with the reason that it does not apply."""
    return tuple(
        Candidate(strategy.name, why_not=why_not)
        if (why_not := problem.why_not(strategy))
        else candidate(problem, strategy, chunk_size_for(problem, strategy))
        for strategy in BUILT_IN
    )


def choose(problem: Problem, strategy: str = "auto") -> Plan:
    """Select the strategy for `problem`.

    The rule of "auto" is the least work, counted on the graph (`nablax.planning.cost`), among the strategies that
    apply and fit the budget of memory; of equal ones, the one that holds least for a sample. In passes of one tangent
    through the model, n curved numbers in the graph and
    K = C (C + 1) / 2:

    ==================== ======== ================= ==================== ====================
    strategy             Jacobian Hessian           diagonal             Laplacian
    ==================== ======== ================= ==================== ====================
    forward              C        C + K             2 C                  C + 1
    reverse              A        --                --                   --
    adjoint              --       C + A, A C^2 n    C + A, A C n         C + A, A C n
    forward_over_forward C        C^2 + 2 C         3 C                  3 C
    forward_over_reverse A        C + A (1 + C)     C + A (1 + C)        C + A (1 + C)
    reverse_over_reverse A        A (1 + 2 C)       A (1 + 2 C)          A (1 + 2 C)
    ==================== ======== ================= ==================== ====================

    Raises:
        StrategyError: the strategy asked for cannot serve, or none can.
        MemoryBudgetError: it could, but not within the budget.
    """
    if strategy != "auto":
        chosen = strategy_named(strategy)
        size = chunk_size_for(problem, chosen)
        if why_not := problem.why_not(chosen):
            raise StrategyError(f"strategy={strategy!r} cannot serve this call: {why_not}. {_others(problem)}")
        if why_not := over_budget(problem, chosen, size):
            raise MemoryBudgetError(
                f"strategy={strategy!r} does not fit: {why_not}. {_room(problem)}. {_others(problem)}"
            )
        return Plan(chosen, size, "asked for")
    found = candidates(problem)
    able = tuple(c for c in found if c.why_not is None)
    if not able:
        _refuse_all(problem, found)
    least = min(c.work or 0.0 for c in able)
    best = min((c for c in able if (c.work or 0.0) <= EQUAL * least), key=lambda c: working_set(problem, c.strategy))
    found_least = "least work" if best.work == least else "about the least work, and least to hold,"
    reason = f"{found_least} for A={problem.A}, C={problem.C}: {best.work:.3g} operations for each sample"
    return Plan(best.strategy, best.chunk_size, reason, able=able)


def choose_for_gradient(problem: Problem, plan: Plan) -> Plan:
    """What runs in place of `plan` where its result is differentiated: in chunks with room for all that is kept then,
    and, of the candidates that there were, by the one that is differentiated with least work.

    A single sample is often one inside of a model, whose graph should show what is done to it: one strategy for both.
    """
    strategy, chunk_size = plan.strategy, plan.chunk_size
    if plan.able and problem.samples > 1:
        best = min(plan.able, key=lambda c: work(c.strategy, problem, differentiated=True))
        strategy, chunk_size = best.strategy, best.chunk_size
    return Plan(strategy, chunk_size_of_gradient(problem, strategy, chunk_size), "it is differentiated")


def _others(problem: Problem) -> str:
    """What to use instead of a strategy that cannot serve."""
    able = ", ".join(c.name for c in candidates(problem) if c.why_not is None)
    return f'Use strategy="auto" or one of: {able}.' if able else "No other strategy can serve it either."


def _room(problem: Problem) -> str:
    """How to make a chunk fit its budget."""
    return "Raise the budget" if isinstance(problem.chunk_size, str) else "Raise the budget or lower chunk_size"


def _refuse_all(problem: Problem, found: Sequence[Candidate]) -> None:
    """Raise where no strategy can serve."""
    reasons = "; ".join(f"{c.name}: {c.why_not}" for c in found)
    if any(problem.why_not(c.strategy) is None for c in found):
        raise MemoryBudgetError(
            f"no strategy fits the memory budget: {reasons}. {_room(problem)}, or ask for less: hessian_diagonal or "
            "laplacian instead of the hessian."
        )
    raise StrategyError(
        f"no strategy can differentiate this model: {reasons}. Replace the custom_vjp by a custom_jvp, or the "
        "while_loop by a scan or a fori_loop with constant bounds."
    )
