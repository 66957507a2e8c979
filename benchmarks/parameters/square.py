"""One square: start the workers, let their contenders take turns, then measure the memory of the best."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.measure import DROP
from benchmarks.parameters.models import INPUT, shapes
from benchmarks.parameters.serve import YARDSTICK
from benchmarks.parameters.task import Task
from benchmarks.versions import commit
from benchmarks.worker_process import BrokenError, Worker, start

MODULES = {
    "jax_worker": ("nablax", "jax"),
    "nt_worker": ("nt",),
    "netket_worker": ("netket",),
    "torch_worker": ("torch", "backpack", "opacus"),
}
FAR = 20.0  # times the fastest: the run whose values were compared is the only one
SLOW = 2.0  # seconds; of a kept contender that is slower, three turns are enough
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "NETKET_ENABLE_X64": "0", "PYTHONWARNINGS": "ignore"}
Entry = dict[str, Any]


def modules(task: Task) -> list[str]:
    """The workers that have something to run; the reference comes from the first."""
    can = lambda family: {"nt": task.want == "gram", "netket": task.A == 1}.get(family, True)
    chosen = [m for m, families in MODULES.items() if any(f in task.families and can(f) for f in families)]
    return list(dict.fromkeys(["jax_worker", *chosen]))


def launch(python: str, module: str, task: Task, limit: float) -> tuple[Worker | None, dict[str, Any]]:
    """A worker and its first message; no worker where that breaks."""
    try:
        return start(lambda: worker_of(python, module, task, limit), task.skip)
    except BrokenError as broken:
        entry = {"name": module, "family": "worker", "status": "failed", "reason": str(broken)}
        return None, {"entries": [entry], "versions": {}}


def worker_of(python: str, module: str, task: Task, limit: float) -> Worker:
    file = Path(task.folder) / f"{module}.json"
    task.write(file)
    return Worker(f"parameters.{module}", [str(file)], Path(task.folder), limit, python, QUIET)


def kept(entries: list[Entry]) -> set[str]:
    """Those that never drop out: the plain formulation, and of each family the one whose first run was fastest."""
    right = sorted((e for e in entries if e["status"] == "ok"), key=lambda e: e["first_s"])
    plain = [e["name"] for e in entries if e["family"] == "jax"][:1]
    return {*plain, *{e["family"]: e["name"] for e in reversed(right)}.values()}


def take_turns(
    workers: dict[str, Worker], entries: dict[str, Entry], rounds: int, seconds: float, keep: Iterable[str]
) -> dict[str, list[float]]:
    """As `measure.alternate`, over processes: each round gives every contender a turn, forth and back by turns."""
    times: dict[str, list[float]] = {name: [] for name in workers}
    first = {name: entries[name]["first_s"] for name in workers}
    bound = FAR * min(first.values(), default=0.0)
    active = [name for name in workers if first[name] <= bound or name in keep]
    times |= {name: [first[name]] for name in workers if name not in active}
    for number in range(rounds if active else 0):
        for name in active if number % 2 == 0 else active[::-1]:
            try:
                times[name] += workers[name].turn(name, seconds / rounds)
            except BrokenError as broken:
                entries[name] |= {"status": "failed", "reason": str(broken)}
                del times[name]
        active = [name for name in active if name in times]
        medians = {name: statistics.median(times[name]) for name in active}
        limit = min(medians.values(), default=0.0) * DROP[min(number, len(DROP) - 1)]
        stays = lambda name, number=number, medians=medians: name in keep and (number < 2 or medians[name] < SLOW)
        active = [name for name in active if medians[name] <= limit or stays(name)]
    return times


def measure_memory(options: Namespace, task: Task, entries: list[Entry], homes: dict[str, str]) -> None:
    """Peak memory, in a process of its own, of nablax, of the plain formulation and of the best of each family."""
    timed = sorted((e for e in entries if "seconds" in e), key=lambda e: e["seconds"])
    best = {e["family"]: e for e in reversed(timed) if e["family"] != YARDSTICK}
    first = [e for e in entries if e["family"] == "jax" and "seconds" in e][:1]
    for entry in {e["name"]: e for e in (*first, *best.values())}.values():
        module = homes[entry["name"]]
        alone = replace(task, only=entry["name"], families=[entry["family"]])
        worker = worker_of(options.python[module], module, alone, options.limit)
        try:
            entry |= worker.answer()
        except BrokenError as broken:
            entry["peak_problem"] = str(broken)
        worker.close()


def run_square(
    name: str, A: int, want: str, D: int, options: Namespace, skip: dict[str, str], scan: bool
) -> dict[str, Any]:
    load, began = os.getloadavg()[0], time.monotonic()
    rounds, seconds = (2, 0.02) if options.quick else (options.rounds, options.seconds)
    chunks = [4] if options.quick else options.chunks
    versions: dict[str, dict[str, str]] = {}
    entries: list[Entry] = []
    homes: dict[str, str] = {}
    processes: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as folder:
        compiles = options.torch_compile and not scan
        task = Task(name, A, D, want, ["nablax", *options.peers], chunks, folder, compiles, dict(skip))
        try:
            for module in modules(task):
                python = options.python[module]
                worker, message = launch(python, module, task, options.limit)
                if worker is not None:
                    processes[module] = worker
                homes |= {entry["name"]: module for entry in message["entries"]}
                entries += message["entries"]
                versions[module] = message["versions"]
            by_name = {entry["name"]: entry for entry in entries}
            able = {e["name"]: processes[homes[e["name"]]] for e in entries if e["status"] == "ok"}
            for contender, taken in take_turns(able, by_name, rounds, seconds, kept(entries)).items():
                figures = {"seconds": statistics.median(taken), "fastest": min(taken), "runs": len(taken)}
                by_name[contender] |= figures
        finally:
            for worker in processes.values():
                worker.close()
        if options.memory and not scan:
            measure_memory(options, task, entries, homes)
    B = sum(map(size, shapes(name, A).values()))
    return {
        "model": name, "A": A, "want": want, "D": D, "B": B, "C": size(INPUT[name]), "scan": scan,
        "quick": options.quick, "commit": commit(), "versions": versions, "contenders": entries,
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "took_s": time.monotonic() - began,
        "load": [load, os.getloadavg()[0]],
    }  # fmt: skip


def size(shape: Iterable[int]) -> int:
    found = 1
    for length in shape:
        found *= length
    return found
