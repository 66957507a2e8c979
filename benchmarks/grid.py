"""The benchmark grid, one command: ``python -m benchmarks.grid [--cells a,b] [--wants ...] [--peers ...] [--quick]``.

Each square (a cell and a want) runs in a process of its own, torch in another; then the best of both take turns with
each other. A contender that hangs or brings its process down is listed as such, and the process is begun again without
it. Writes NAME.json, NAME.md and NAME.png.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cells import CELLS, cell
from benchmarks.measure import by_turns, summary
from benchmarks.report import write_report
from benchmarks.task import Task
from benchmarks.verdict import WANTS, Entry, column, deciders
from benchmarks.versions import ROOT, commit, environment
from benchmarks.worker_process import BrokenError, Worker, start

RESULTS = ROOT / "benchmarks" / "results"


def launch(module: str, task: Task, limit: float) -> tuple[Worker | None, list[Entry]]:
    """A worker of a square, and what its contenders did in their first turns; no worker where it broke."""
    file, folder = Path(task.folder) / f"{module}.json", Path(task.folder)

    def begin() -> Worker:
        task.write(file)
        return Worker(module, [str(file)], folder, limit)

    try:
        return start(begin, task.skip)
    except BrokenError as broken:
        reason = f"{broken.busy}: {broken}"
        return None, [{"name": module, "family": "worker", "status": "failed", "reason": reason}]


def meet(entries: list[Entry], homes: dict[str, Worker], rounds: int, seconds: float) -> None:
    """Let those that decide a square take turns once more, JAX and torch with each other: these figures count."""
    by_name = {entry["name"]: entry for entry in entries}
    names = deciders(entries)
    turns = {name: partial(homes[name].turn, name) for name in names}
    try:
        times = by_turns(turns, rounds=rounds, seconds=seconds, keep=names)
    except BrokenError as broken:
        print(f"    {broken.busy}: {broken}", flush=True)
        by_name[broken.busy] |= {"status": "failed", "reason": str(broken)}
        return
    for name, taken in times.items():
        by_name[name] |= {"met": True, **summary(taken)}


def run_square(name: str, want: str, gradient: bool, options: argparse.Namespace) -> dict[str, Any]:
    chosen = cell(name)
    D = min(options.quick_samples, chosen.D) if options.quick else chosen.D * options.scale
    load = os.getloadavg()[0]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        families = ["nablax", *options.peers] if options.nablax else options.peers
        chunks = [None, 8] if options.quick else [None, *options.chunks]
        rounds, seconds = (2, 0.02) if options.quick else (options.rounds, options.seconds)
        task = Task(
            name, want, gradient, D, families, chunks, rounds, seconds, folder, options.torch_compile, options.turn
        )
        homes: dict[str, Worker] = {}
        found: list[Entry] = []
        for module in ("worker", "torch_worker"):
            if module == "torch_worker" and not ("torch" in families and task.reference.exists()):
                continue
            task.skip = dict.fromkeys(options.skip, "left out (--skip)")
            worker, entries = launch(module, task, options.limit)
            if worker is not None:
                stack.callback(worker.close)
                homes |= {entry["name"]: worker for entry in entries}
            found += entries
        with task.alone():
            meet(found, homes, 2 * rounds, 2 * seconds)
    about = {"A": chosen.A, "C": chosen.C, "D": D, "about": chosen.about}
    when = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "commit": commit(), "took_s": time.monotonic() - started}
    return {
        "cell": name,
        "want": want,
        "gradient": gradient,
        **about,
        **when,
        "quick": options.quick,
        "load": [load, os.getloadavg()[0]],
        "contenders": found,
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    names = lambda text: text.split(",")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grid", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=names, default=[c.name for c in CELLS], help="some of the ten, with commas")
    parser.add_argument("--wants", type=names, default=list(WANTS), help=f"some of {','.join(WANTS)}")
    parser.add_argument("--through", choices=["both", "values", "gradient"], default="both")
    parser.add_argument("--peers", type=names, default=["jax", "folx", "jet", "torch"])
    parser.add_argument("--no-nablax", dest="nablax", action="store_false", help="peers only")
    parser.add_argument(
        "--no-torch-compile", dest="torch_compile", action="store_false", help="torch runs eagerly only"
    )
    parser.add_argument("--chunks", type=lambda text: [int(n) for n in text.split(",")], default=[32, 64, 256])
    parser.add_argument("--rounds", type=int, default=7, help="turns for each contender")
    parser.add_argument("--seconds", type=float, default=0.35, help="time for each contender, over all its turns")
    parser.add_argument("--skip", type=names, default=[], help="contenders to leave out, with commas")
    parser.add_argument("--limit", type=float, default=120.0, help="wall-clock seconds for one step of a contender")
    parser.add_argument("--scale", type=int, default=1, help="multiplies the samples (16 on a GPU)")
    parser.add_argument("--jobs", type=int, default=1, help="squares at once, on a GPU: timed one by one")
    parser.add_argument("--quick", action="store_true", help="few samples, two rounds: does everything run?")
    parser.add_argument("--quick-samples", type=int, default=16)
    parser.add_argument("--out", type=Path, default=RESULTS / "grid", help="path without suffix")
    parser.add_argument("--update", action="store_true", help="keep the other squares that OUT.json already holds")
    parser.add_argument("--report", action="store_true", help="run nothing: table and picture of OUT.json anew")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    file = options.out.with_suffix(".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    keep = (options.update or options.report) and file.exists()
    document = json.loads(file.read_text()) if keep else {"squares": []}
    if not options.report:
        document["environment"] = environment()
        todo = [
            (name, want, gradient)
            for name in options.cells
            for want in options.wants
            for gradient in (False, True)
            if options.through == "both" or gradient == (options.through == "gradient")
        ]
        with tempfile.NamedTemporaryFile() as turn, ThreadPoolExecutor(options.jobs) as pool:
            options.turn = turn.name if options.jobs > 1 else None
            running = [pool.submit(run_square, *job, options) for job in todo]
            for number, done in enumerate(as_completed(running), 1):
                square = done.result()
                print(
                    f"[{number}/{len(todo)}] {square['cell']}, {column(square)}: {square['took_s']:.0f} s", flush=True
                )
                same = lambda old, new=square: all(old[key] == new[key] for key in ("cell", "want", "gradient"))
                document["squares"] = [old for old in document["squares"] if not same(old)] + [square]
                partial = file.with_suffix(".partial")  # a run that is cut short is not lost
                partial.write_text(json.dumps(document, indent=1))
                partial.replace(file)
    print(write_report(document, options.out))


if __name__ == "__main__":
    main()
