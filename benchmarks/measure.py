"""Timing with the order of the contenders alternated, and comparison of values. No framework is imported here."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

# After round k, contenders slower than this many times the fastest are not run again.
DROP = (8.0, 4.0, 2.0)
# Seconds of work that a GPU has before it at once: waiting for every single call would time the way there and back.
IN_FLIGHT = 0.01


def alternate(
    runs: dict[str, Callable[[], object]],
    *,
    rounds: int,
    seconds: float,
    keep: Iterable[str] = (),
    event: Callable[[str], None] = lambda name: None,
    wait: Callable[[object], object] = lambda result: result,
    in_flight: float = 0.0,
) -> dict[str, list[float]]:
    """Seconds of each run of contenders in this process that take turns, see `by_turns`.

    Args:
        runs: name -> a function that computes, or begins to.
        rounds, seconds, keep: see `by_turns`.
        event: called with the name before each turn.
        wait, in_flight: see `turn`.
    """

    def begin(name: str, seconds: float) -> list[float]:
        event(name)
        return turn(runs[name], seconds, wait, in_flight)

    return by_turns({name: partial(begin, name) for name in runs}, rounds=rounds, seconds=seconds, keep=keep)


def by_turns(
    turns: dict[str, Callable[[float], list[float]]], *, rounds: int, seconds: float, keep: Iterable[str] = ()
) -> dict[str, list[float]]:
    """Seconds of each run: in each round every contender gets a turn, forth and back by turns.

    Args:
        turns: name -> a function that runs a contender for so many seconds, wherever, and returns those of each run.
        rounds: turns for each contender.
        seconds: time for each contender over all rounds.
        keep: names that are never dropped.
    """
    times: dict[str, list[float]] = {name: [] for name in turns}
    active = list(turns)
    for number in range(rounds if turns else 0):
        for name in active if number % 2 == 0 else reversed(active):
            times[name] += turns[name](seconds / rounds)
        medians = {name: statistics.median(times[name]) for name in active}
        limit = min(medians.values()) * DROP[min(number, len(DROP) - 1)]
        active = [name for name in active if medians[name] <= limit or name in keep]
    return times


def turn(
    run: Callable[[], object],
    seconds: float,
    wait: Callable[[object], object] = lambda result: result,
    in_flight: float = 0.0,
) -> list[float]:
    """Seconds of each run of one contender; of several runs, the first only warms the caches and does not count.

    Args:
        run: computes, or begins to.
        seconds: how long it goes on, at least for one run.
        wait: waits for a result.
        in_flight: seconds of calls that are begun before the last of them is waited for; 0 waits for each.
    """
    taken: list[float] = []
    spent, calls = 0.0, 1
    while not taken or spent < seconds:
        start = time.perf_counter()
        for _ in range(calls):
            result = run()
        wait(result)
        elapsed = time.perf_counter() - start
        taken.append(elapsed / calls)
        spent += elapsed
        calls = max(1, round(in_flight / taken[-1]))
    return taken[1:] or taken


def summary(taken: list[float]) -> dict[str, Any]:
    """The figures of a contender's runs, as they stand in a table."""
    return {"seconds": statistics.median(taken), "fastest": min(taken), "runs": len(taken)}


def relative_error(found: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """The largest error of any leaf, relative to the largest number in that leaf (or 1e-3 of that in all leaves)."""
    scale = max(float(np.max(np.abs(leaf))) for leaf in reference)
    worst = 0.0
    for a, b in zip(found, reference, strict=True):
        if a.shape != b.shape:
            raise ValueError(f"the result has shape {a.shape}, the reference {b.shape}")
        error = float(np.max(np.abs(a - b))) / max(float(np.max(np.abs(b))), 1e-3 * scale, 1e-30)
        worst = max(worst, error if math.isfinite(error) else math.inf)
    return worst
