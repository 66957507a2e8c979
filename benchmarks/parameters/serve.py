"""A worker: builds and checks its contenders, then times the one that the command names, turn by turn.

The command alternates between workers, so that contenders of different environments take turns with each other. No
framework is imported here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from benchmarks.measure import relative_error, turn
from benchmarks.parameters.memory import peak
from benchmarks.parameters.task import Task
from benchmarks.parameters.wants import compared
from benchmarks.task import event, failure, hand_back, obey

TOLERANCE = 1e-4
YARDSTICK = "yardstick"

Run = Callable[[], Any]


@dataclass(frozen=True)
class Contender:
    """One way to compute a want.

    Attributes:
        name: shown in the tables.
        family: see `Task.families`, or "yardstick", which is timed and not compared.
        build: returns a function that computes and waits, and figures of the compilation.
        leaves: result -> its leaves as arrays, in the layout of the reference.
    """

    name: str
    family: str
    build: Callable[[], tuple[Run, dict[str, Any]]]
    leaves: Callable[[Any], list[np.ndarray]]


def versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def check(task: Task, contender: Contender, expected: Sequence[np.ndarray], allowed: float) -> tuple[dict, Run | None]:
    """The entry of a contender after its first run, and what to time."""
    name, family = contender.name, contender.family
    if name in task.skip:
        return {"name": name, "family": family, "status": "failed", "reason": task.skip[name]}, None
    event(name)
    try:
        run, figures = contender.build()
        start = time.perf_counter()
        result = run()
        figures["first_s"] = time.perf_counter() - start
        if family == YARDSTICK:
            return {"name": name, "family": family, "status": "ok", "error": 0.0, **figures}, run
        error = relative_error(compared(task.want, contender.leaves(result)), expected)
    except Exception as failed:  # a peer may fail in any way; it is listed with its reason
        return failure(name, family, failed), None
    status = "ok" if error <= allowed else "wrong"
    return {
        "name": name,
        "family": family,
        "status": status,
        "error": error,
        **figures,
    }, run if status == "ok" else None


def reference(task: Task) -> tuple[list[np.ndarray], float]:
    """The reference that the JAX worker has left, and the error that is allowed."""
    with np.load(task.reference) as file:
        return [file[f"arr_{i}"] for i in range(int(file["count"]))], float(file["allowed"])


def serve(
    task: Task,
    contenders: Sequence[Contender],
    packages: Sequence[str],
    compare: tuple[list[np.ndarray], float] | None = None,
    after_first: Callable[[dict], float] | None = None,
) -> None:
    """Build, check, report; then obey: each line names a contender and the seconds of its turn.

    Args:
        task: the square.
        contenders: those of this worker.
        packages: whose versions are reported.
        compare: the reference and the error allowed; None: read what the JAX worker has left.
        after_first: called with the entry of the first contender; returns the error allowed from there on.
    """
    if task.only is not None:
        run, _ = next(c for c in contenders if c.name == task.only).build()
        hand_back({"peak_bytes": peak(run)})
        return
    expected, allowed = reference(task) if compare is None else compare
    runs: dict[str, Run] = {}
    entries = []
    for contender in contenders:
        entry, run = check(task, contender, expected, allowed)
        if after_first is not None and not entries:
            allowed = after_first(entry)
        entries.append(entry)
        if run is not None:
            runs[contender.name] = run
    hand_back({"entries": entries, "versions": versions(packages)})
    obey({name: partial(turn, run) for name, run in runs.items()})
