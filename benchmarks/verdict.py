"""From the measured contenders of a square to its figures, and from all squares to the targets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Entry = dict[str, Any]
AUTO = "nablax:auto"
WANTS = ("jacobian", "hessian", "hessian_diagonal", "laplacian")
WITHIN = 1.10
# What is promised: ratios of every square, of their mean, of Hessians with many outputs and of gradients through
# Hessians, of diagonals and Laplacians against the peers made for them; shares of memory. Compile times have a
# table of their own (`benchmarks.compiling`).
EVERY, MEAN, HESSIAN, SECOND, MEMORY = 0.95, 1.8, 2.5, 1.0, 1 / 3
MANY_OUTPUTS = 10
MADE_FOR_SECOND = ("nested jvp", "folx")


@dataclass(frozen=True)
class Verdict:
    """The figures of one square; None where a contender is missing or failed."""

    square: dict[str, Any]
    best_peer: Entry | None
    auto: Entry | None
    best_own: Entry | None

    @property
    def name(self) -> str:
        return f"{self.square['cell']}, {column(self.square)}"

    @property
    def ratio(self) -> float | None:
        """Time of the best peer / time of nablax:auto."""
        return quotient(self.best_peer, self.auto, "seconds")

    @property
    def memory_share(self) -> float | None:
        """Temporary memory of nablax:auto / that of the peer that is best by time."""
        return quotient(self.auto, self.best_peer, "temp_bytes")

    @property
    def planner(self) -> float | None:
        """Time of nablax:auto / time of the best explicit strategy."""
        return quotient(self.auto, self.best_own, "seconds")

    def against(self, *prefixes: str) -> float | None:
        """As `ratio`, with only the peers whose names begin so."""
        return quotient(fastest(self.square, lambda e: e["name"].startswith(prefixes)), self.auto, "seconds")

    @property
    def missed(self) -> float | None:
        """The highest ratio that is promised of this square and missed, if there is one."""
        want, gradient = self.square["want"], self.square["gradient"]
        figures = [(self.ratio, EVERY)]
        if want == "hessian" and (gradient or self.square["A"] >= MANY_OUTPUTS):
            figures.append((self.ratio, HESSIAN))
        if want in ("hessian_diagonal", "laplacian"):
            figures.append((self.against(*MADE_FOR_SECOND), SECOND))
        return max((bar for figure, bar in figures if figure is not None and figure < bar), default=None)


def column(square: dict[str, Any]) -> str:
    return ("gradient through " if square["gradient"] else "") + square["want"]


def quotient(above: Entry | None, below: Entry | None, key: str) -> float | None:
    if not above or not below or above.get(key) is None or below.get(key) is None:
        return None
    return above[key] / max(below[key], 1e-12)


def timed(entries: list[Entry]) -> list[Entry]:
    """Those with right numbers and a time, the fastest first."""
    return sorted((e for e in entries if e["status"] == "ok" and "seconds" in e), key=lambda e: e["seconds"])


def fastest(square: dict[str, Any], belongs: Callable[[Entry], bool]) -> Entry | None:
    """Of those that took turns with each other at last, if there is one; times of before may be of a calmer hour."""
    able = [e for e in timed(square["contenders"]) if belongs(e)]
    return next((e for e in able if e.get("met")), able[0] if able else None)


def deciders(entries: list[Entry]) -> list[str]:
    """The names that decide a square: the best peer and those close to it, the best explicit strategy, nablax:auto."""
    able = timed(entries)
    peers = [e for e in able if e["family"] != "nablax"]
    strategies = [e for e in able if e["family"] == "nablax" and e["name"] != AUTO]
    close = [e for e in peers if e["seconds"] <= WITHIN * peers[0]["seconds"]]
    return [e["name"] for e in (*close, *strategies[:1], *(e for e in able if e["name"] == AUTO))]


def judge(square: dict[str, Any]) -> Verdict:
    is_own = lambda e: e["family"] == "nablax"
    return Verdict(
        square,
        fastest(square, lambda e: not is_own(e)),
        fastest(square, lambda e: e["name"] == AUTO),
        fastest(square, lambda e: is_own(e) and e["name"] != AUTO),
    )


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


@dataclass(frozen=True)
class Target:
    """One line of the summary."""

    what: str
    bar: str
    found: str
    met: bool | None
    misses: list[str]


def bound(
    what: str,
    verdicts: list[Verdict],
    figure: Callable[[Verdict], float | None],
    *,
    least: float | None = None,
    most: float | None = None,
) -> Target:
    """A target that every one of `verdicts` has to meet; squares without the figure are misses."""
    figures = [(v.name, figure(v)) for v in verdicts]
    good = lambda f: f is not None and (f >= least if least is not None else f <= most)
    misses = [f"{name}: {'none' if f is None else f'{f:.2f}'}" for name, f in figures if not good(f)]
    known = [f for _, f in figures if f is not None]
    worst = f"{min(known) if least is not None else max(known):.2f}" if known else ""
    bar = f"at least {least:g}" if least is not None else f"at most {most:.3g}"
    return Target(what, bar, worst, not misses if figures else None, misses)


def targets(verdicts: list[Verdict]) -> list[Target]:
    """The promises, each with what was found."""
    chosen = lambda *wants, gradient=None: [
        v for v in verdicts if v.square["want"] in wants and gradient in (None, v.square["gradient"])
    ]
    ratios = [v.ratio for v in verdicts if v.ratio is not None]
    mean = geometric_mean(ratios) if ratios else math.nan
    enough = mean >= MEAN if ratios else None
    planned = [(v.name, v.planner) for v in verdicts if v.planner is not None]
    missed = [f"{name}: {p:.2f}" for name, p in planned if p > WITHIN]
    share = 1 - len(missed) / len(planned) if planned else math.nan
    many_outputs = [v for v in chosen("hessian", gradient=False) if v.square["A"] >= MANY_OUTPUTS]
    through = chosen("hessian", gradient=True)
    second = chosen("hessian_diagonal", "laplacian")
    return [
        bound("every square, best peer / nablax", verdicts, lambda v: v.ratio, least=EVERY),
        Target("geometric mean of all squares", f"at least {MEAN}", f"{mean:.3f}", enough, []),
        bound(f"Hessians with A >= {MANY_OUTPUTS}", many_outputs, lambda v: v.ratio, least=HESSIAN),
        bound("gradients through the Hessian", through, lambda v: v.ratio, least=HESSIAN),
        bound("their temporary memory / the best peer's", through, lambda v: v.memory_share, most=MEMORY),
        bound(
            "diagonals and Laplacians / nested jvp and folx",
            second,
            lambda v: v.against(*MADE_FOR_SECOND),
            least=SECOND,
        ),
        Target(
            f"planner within {WITHIN - 1:.0%} of its best candidate",
            "at least 90% of squares",
            f"{share:.0%}",
            share >= 0.9 if planned else None,
            missed,
        ),
    ]
