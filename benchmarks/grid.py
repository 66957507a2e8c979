"""The benchmark grid, one command: ``python -m benchmarks.grid [--cells a,b] [--wants ...] [--peers ...] [--quick]``.

Each square (a cell and a want) runs in a process of its own, torch in another right after it; a contender that hangs
or brings the process down is listed as such, and the square is run again without it. Writes NAME.json, NAME.md and
NAME.png.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cells import CELLS, cell
from benchmarks.report import write_report
from benchmarks.task import Task
from benchmarks.verdict import WANTS, column
from benchmarks.versions import commit, environment

# A Python error that reaches the top is a bug of the worker, not of the contender that was busy.
BROKEN = "the worker broke off"
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def run_worker(module: str, task: Task, limit: float) -> list[dict[str, Any]]:
    """Run one worker; start it again without a contender that takes longer than `limit` seconds or crashes it."""
    while True:
        results, busy, problem = watch(module, task, limit)
        if results is not None:
            return results
        print(f"    {busy}: {problem}", flush=True)
        if busy in (None, "reference") or busy in task.skip or problem.startswith(BROKEN):
            return [{"name": module, "family": "worker", "status": "failed", "reason": f"{busy}: {problem}"}]
        task.skip[busy] = problem


def watch(module: str, task: Task, limit: float) -> tuple[list[dict[str, Any]] | None, str | None, str]:
    """(results or None, the contender that was busy last, what happened)."""
    file = Path(task.folder) / "task.json"
    task.write(file)
    log = open(Path(task.folder) / "log.txt", "w+")  # noqa: SIM115 - closed below, on every path
    command = [sys.executable, "-m", f"benchmarks.{module}", str(file)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True) as process, log:
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=lambda: [*map(lines.put, process.stdout), lines.put(None)], daemon=True).start()
        busy, results = None, None
        while True:
            try:
                line = lines.get(timeout=limit)
            except queue.Empty:
                process.kill()
                return None, busy, f"longer than the limit of {limit:g} s"
            if line is None:
                break
            if line.startswith("@"):
                busy = line[1:].strip()
            elif line.startswith("="):
                results = json.loads(line[1:])
        process.wait()
        log.seek(0)
        last = (log.read().strip().splitlines() or ["no message"])[-1]
        how = f"killed by signal {-process.returncode}" if process.returncode < 0 else BROKEN
        return results, busy, f"{how}: {last[:300]}"


def run_square(name: str, want: str, gradient: bool, options: argparse.Namespace) -> dict[str, Any]:
    chosen = cell(name)
    D = min(options.quick_samples, chosen.D) if options.quick else chosen.D * options.scale
    load = os.getloadavg()[0]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        families = ["nablax", *options.peers] if options.nablax else options.peers
        chunks = [None, 8] if options.quick else [None, *options.chunks]
        rounds, seconds = (2, 0.02) if options.quick else (options.rounds, options.seconds)
        task = Task(
            name, want, gradient, D, families, chunks, rounds, seconds, folder, options.torch_compile, options.turn
        )
        left_out = dict.fromkeys(options.skip, "left out (--skip)")
        task.skip = dict(left_out)
        found = run_worker("worker", task, options.limit)
        if "torch" in families and task.reference.exists():
            task.skip = dict(left_out)
            found += run_worker("torch_worker", task, options.limit)
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
