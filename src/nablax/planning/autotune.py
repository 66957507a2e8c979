"""Measure instead of predict: time every candidate once, and remember the result.

What was measured is kept for the life of the process, and in files where the environment variable
``NABLAX_AUTOTUNE_CACHE`` names a folder: one small JSON file for each problem, named by a digest of everything that the
speed depends on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from nablax._compat import WHILE
from nablax._errors import first_line
from nablax._version import __version__
from nablax.planning.choose import Candidate, Plan, candidate, candidates, choose
from nablax.planning.memory import MEMORY_BYTES
from nablax.planning.problem import Problem

FOLDER = "NABLAX_AUTOTUNE_CACHE"

Build = Callable[[Candidate], Callable[[], Any]]
"""From a candidate to a function that runs it once, compiled."""

_MEASURED: dict[str, tuple[Candidate, ...]] = {}

FEWEST_ROUNDS, MOST_ROUNDS = 3, 15
SECONDS = 0.5
"""Rounds go on for about that long."""

HOPELESS = 4.0
"""A candidate that took this many times as long as the best one in the first round is not timed again."""


def tune(problem: Problem, details: Any, build: Build) -> Plan:
    """The fastest plan: measured by ``build``, or remembered.

    Args:
        problem: what to plan for.
        details: whatever else the speed depends on, with a ``repr`` that is the same in every process.
        build: see `Build`; it is not called where the answer is known.
    """
    able = [c for c in candidates(problem) if c.why_not is None]
    reason = _why_not(problem, able)
    if reason:
        plan = choose(problem)
        return replace(plan, reason=f"not measured, {reason}; {plan.reason}")
    key = digest(problem, details)
    if key not in _MEASURED:
        known = _load(key, problem)
        _MEASURED[key] = known or _measure_all(problem, able, build)
        if not known:
            _save(key, _MEASURED[key])
    return _plan(problem, _MEASURED[key])


def _why_not(problem: Problem, able: Sequence[Candidate]) -> str:
    """Why measuring makes no sense, or an empty text."""
    if len(able) < 2:
        return "as there is no choice"
    if WHILE in problem.primitives:
        return "as the model contains a while_loop, which may not end for made-up arguments"
    return ""


def _plan(problem: Problem, measured: tuple[Candidate, ...]) -> Plan:
    """The plan of the fastest candidate."""
    known = sorted((c for c in measured if c.seconds is not None), key=lambda c: c.seconds or 0.0)
    if not known:
        plan = choose(problem)
        return replace(plan, reason=f"not measured, as every candidate failed; {plan.reason}", measured=measured)
    best = known[0]
    rest = [c for c in known if c.name != best.name]
    reason = f"fastest of {len(known)} measured: {milliseconds(best)}" + (
        f"; next {rest[0].name}, {milliseconds(rest[0])}" if rest else ""
    )
    return Plan(best.strategy, best.chunk_size, reason, measured)


def milliseconds(measured: Candidate) -> str:
    """How long a candidate took."""
    return f"{1e3 * (measured.seconds or 0.0):.3g} ms"


def _measure_all(problem: Problem, able: Sequence[Candidate], build: Build) -> tuple[Candidate, ...]:
    """Time the candidates, then other chunk sizes of the fastest one where the size is ours to choose."""
    measured = timed(able, build)
    known = [c for c in measured if c.seconds is not None]
    if not known or not isinstance(problem.chunk_size, str):
        return tuple(measured)
    best = min(known, key=lambda c: c.seconds or 0.0)
    return tuple(measured + timed(_other_sizes(problem, best), build))


def _other_sizes(problem: Problem, best: Candidate) -> list[Candidate]:
    """The same strategy with all samples at once and with chunks a quarter the size, where that is possible."""
    quarter = (best.chunk_size or problem.samples) // 4
    sizes = [None] * (best.chunk_size is not None) + [quarter] * (quarter >= 1)
    found = [candidate(problem, best.strategy, size) for size in sizes]
    # Without a budget, nothing says what fits; a process that runs out of memory may be killed.
    return [c for c in found if c.why_not is None and (problem.budget or (c.working_set or 0) <= MEMORY_BYTES)]


def timed(able: Sequence[Candidate], build: Build) -> list[Candidate]:
    """The candidates with the median time of a call of each; one that fails gets the reason instead.

    The calls alternate, so that whatever else the machine does falls on all of them.
    """
    runs: dict[int, Callable[[], Any]] = {}
    found = list(able)
    for k, one in enumerate(able):
        try:
            runs[k] = build(one)
            jax.block_until_ready(runs[k]())
        except Exception as error:  # out of memory, a primitive without the rule that is needed, ..
            runs.pop(k, None)
            found[k] = replace(one, why_not=f"it failed: {first_line(error)}")
    times: dict[int, list[float]] = {k: [] for k in runs}
    start = time.perf_counter()
    for turn in range(MOST_ROUNDS):
        if turn >= FEWEST_ROUNDS and time.perf_counter() - start > SECONDS:
            break
        hopeless = HOPELESS * min((t[0] for t in times.values() if t), default=float("inf"))
        for k, run in runs.items():
            if not times[k] or times[k][0] <= hopeless:
                before = time.perf_counter()
                jax.block_until_ready(run())
                times[k].append(time.perf_counter() - before)
    return [replace(c, seconds=statistics.median(times[k])) if k in times else c for k, c in enumerate(found)]


def digest(problem: Problem, details: Any) -> str:
    """A name for everything that the speed depends on, the same in every process."""
    table = problem.graph.table
    known = [sorted(primitive.name for primitive in kind) for kind in vars(table).values()]
    # The addresses of Python functions in the printed graph differ from process to process.
    graph = re.sub(r" at 0x[0-9a-f]+", "", str(problem.graph.closed))
    wants = sorted(problem.wants.names), problem.wants.indices
    asked = problem.samples, problem.chunk_size, problem.budget
    device = jax.devices()[0]
    machine = device.platform, device.device_kind, jax.device_count(), jax.__version__, __version__
    return hashlib.sha256(repr((graph, wants, asked, known, machine, details)).encode()).hexdigest()


def _path(key: str) -> Path | None:
    return Path(os.environ[FOLDER]) / f"{key}.json" if os.environ.get(FOLDER) else None


def _load(key: str, problem: Problem) -> tuple[Candidate, ...] | None:
    """What a file remembers; None where there is none, or it does not say what is needed."""
    path = _path(key)
    if path is None:
        return None
    able = {c.name: c for c in candidates(problem) if c.why_not is None}
    try:
        rows = [(row["strategy"], row["chunk_size"], row["seconds"]) for row in json.loads(path.read_text())]
        sound = all((size is None or (isinstance(size, int) and size > 0)) and 0 < t < math.inf for _, size, t in rows)
        found = [replace(candidate(problem, able[name].strategy, size), seconds=t) for name, size, t in rows if sound]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return tuple(found) or None


def _save(key: str, measured: Sequence[Candidate]) -> None:
    """Write a file beside its place, then move it there: a reader never sees half of one."""
    path = _path(key)
    rows = [
        {"strategy": c.name, "chunk_size": c.chunk_size, "seconds": c.seconds}
        for c in measured
        if c.seconds is not None
    ]
    if path is None or not rows:
        return
    draft = path.with_suffix(f".{os.getpid()}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(rows))
        draft.replace(path)
    except OSError as error:
        warnings.warn(f"{FOLDER}={str(path.parent)!r} cannot be written to: {error}", RuntimeWarning, stacklevel=2)
