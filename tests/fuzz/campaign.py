"""Many random programs, a few calls of each, and what became of them."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import jax

from fuzz.case import Case
from fuzz.compare import Outcome, confirm, run
from fuzz.options import draw_call
from fuzz.programs import draw_program
from fuzz.script import script
from fuzz.shrink import shrink

CALLS = 4


@dataclass
class Campaign:
    """What was drawn so far.

    Attributes:
        rng: of the draws.
        programs: number of programs.
        statuses, kinds, strategies, unders, dtypes, refusals, impossible: counts of calls.
        failures: (outcome, smallest case) of confirmed mismatches and unnamed exceptions.
        unstable: details of mismatches that were not confirmed.
    """

    rng: random.Random
    programs: int = 0
    longest: int = 6
    statuses: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    strategies: Counter[str] = field(default_factory=Counter)
    unders: Counter[str] = field(default_factory=Counter)
    dtypes: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    impossible: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[Outcome, Case]] = field(default_factory=list)
    unstable: list[tuple[str, Case]] = field(default_factory=list)

    def draw(self) -> list[Case]:
        """A program, and some calls of it with the same arguments."""
        rng = self.rng
        program = draw_program(rng, 2 * self.longest if rng.random() < 0.1 else self.longest)
        first = draw_call(rng, program)
        calls = [first]
        for _ in range(CALLS - 1):
            # A gradient through the reference is dear: one at most.
            call = draw_call(rng, program)
            under = "jit" if call.under == "grad" else call.under
            calls.append(replace(call, batched=first.batched and not call.parametric, under=under))
        samples, seed = rng.choice([1, 2, 3, 4, 5, 7]), rng.randrange(300)
        dtype = rng.choices(["float64", "float32", "bfloat16"], [16, 3, 1])[0]
        return [Case(program, call, samples, seed, dtype) for call in calls]

    def one_program(self) -> None:
        """Draw a program and its calls, run them, and take note."""
        cases = self.draw()
        self.programs += 1
        for case, outcome in zip(cases, run(cases), strict=True):
            self.count(case, confirm(case) if outcome.failed else outcome)
        if self.programs % 50 == 0:
            jax.clear_caches()

    def count(self, case: Case, outcome: Outcome) -> None:
        """Take note of one outcome; make it smaller if it is a failure."""
        self.statuses[outcome.status] += 1
        if outcome.status == "impossible":
            self.impossible[outcome.detail[:110]] += 1
        if outcome.status in ("impossible", "redraw"):
            return
        self.kinds[case.call.kind] += 1
        self.strategies["(parameters)" if case.call.parametric else case.call.strategy] += 1
        self.unders[case.call.under] += 1
        self.dtypes[case.dtype] += 1
        if outcome.status == "refused":
            self.refusals[outcome.detail[:110]] += 1
        if outcome.status == "unstable":
            self.unstable.append((outcome.detail, case))
        if outcome.failed:
            kind = type(outcome.error)
            alike = lambda smaller: (
                run([smaller])[0].status == outcome.status
                and (outcome.error is None or isinstance(run([smaller])[0].error, kind))
            )
            print(f"\n# {outcome.status}: {outcome.detail}\n# {case}", flush=True)
            smallest = shrink(case, alike)
            self.failures.append((outcome, smallest))
            print(f"\n# {outcome.status}: {outcome.detail}\n{script(smallest)}", flush=True)

    @property
    def compared(self) -> int:
        """Calls that were compared, or refused by name."""
        return self.statuses.total() - self.statuses["impossible"] - self.statuses["redraw"]

    def progress(self, seconds: float) -> str:
        rate = 60 * self.compared / seconds
        return f"{seconds / 60:5.1f} min  {self.compared} cases, {rate:.0f} a minute; {dict(self.statuses)}"

    def summary(self, seconds: float) -> str:
        """All counts, for people."""
        rate = lambda seconds: 60 * self.compared / seconds
        listed = lambda counts: ", ".join(f"{name} {count}" for name, count in counts.most_common())
        return "\n".join(
            [
                f"{self.compared} cases of {self.programs} programs in {seconds / 60:.1f} minutes",
                f"  a minute: {rate(seconds):.0f}; a minute of processor time: {rate(time.process_time()):.0f}",
                f"  mismatches: {self.statuses['mismatch']}, unnamed exceptions: {self.statuses['unnamed']}",
                f"  all draws: {listed(self.statuses)}",
                f"  by want: {listed(self.kinds)}",
                f"  by strategy: {listed(self.strategies)}",
                f"  under: {listed(self.unders)}; {listed(self.dtypes)}",
                *(f"  refused {count} times: {detail}" for detail, count in self.refusals.most_common()),
                *(f"  not for JAX, {count} times: {detail}" for detail, count in self.impossible.most_common()),
                *(f"  unstable: {detail} (seed {case.seed}, {case.dtype})" for detail, case in self.unstable),
            ]
        )
