"""Derivatives to disk: ``python -m benchmarks.streaming [--parts throughput,memory,samples] [--quick]``.

throughput: 4 GB of Hessians through `nablax.store.run`, beside the same units only computed, by the same threads, and
the same bytes only written to files of the same size and put on the disk (fsync). What overlaps perfectly takes the
longer of the two.
memory: the peak of a process that does the same under several budgets of memory.
samples: time of a sample of a small model against the number of samples, with its picture.
Writes streaming.json, streaming.md and streaming.png.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.report import table
from benchmarks.versions import ROOT, commit, environment
from nablax import store
from nablax.store.job import Job
from nablax.store.pipeline import stream
from nablax.store.records import sync
from nablax.store.samples import Samples

RESULTS = ROOT / "benchmarks" / "results"
CELLS = {"wide": (32, 128, 2, 8, 131072), "pinn": (10, 64, 3, 10, 1048576)}
"""Inputs, hidden units, hidden layers, outputs, samples of 4 GB of Hessians."""

SMALL = (4, 64, 2, 2)
BUDGETS = ("450MiB", "600MiB", "2GiB", None)


def network(params: Any, x: Any) -> Any:
    """A multilayer perceptron."""
    for W, b in params[:-1]:
        x = jnp.tanh(x @ W + b)
    return x @ params[-1][0]


def drawn(C: int, H: int, L: int, A: int) -> list[list[np.ndarray]]:
    """Parameters."""
    rng = np.random.default_rng(0)
    sizes = [C, *[H] * L, A]
    shapes = itertools.pairwise(sizes)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    return [[draw(m, n) / np.float32(m) ** 0.5, draw(n)] for m, n in shapes]


@contextmanager
def folder() -> Iterator[Path]:
    """A place on the disk of the repository."""
    (ROOT / ".cache").mkdir(exist_ok=True)
    found = Path(tempfile.mkdtemp(dir=ROOT / ".cache"))
    try:
        yield found
    finally:
        shutil.rmtree(found)


def seconds(run: Callable[[], Any]) -> float:
    """Wall time."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def processor_times() -> np.ndarray:
    """What the processor has spent its time on since the system was started; the eighth: other machines of its host."""
    return np.array(Path("/proc/stat").read_text().split()[1:9], dtype=float)


# -------------------------------------------------------------------------------------------------------- throughput


def throughput(name: str, rounds: int, share: float) -> dict[str, Any]:
    """Seconds of computing alone, writing alone and a whole run, by turns."""
    *sizes, D = CELLS[name]
    D = int(D * share)
    X = np.random.default_rng(1).normal(size=(D, sizes[0])).astype(np.float32)
    params = drawn(*sizes)
    options = {"strategy": "auto", "table": None}
    job = Job(network, (params,), ("hessian",), Samples(X), options, "auto")
    programs = job.programs(job.layout(None, 1, None))
    units = list(job.units(programs.layout))

    def compute() -> None:
        for _ in stream(units, programs.read, programs, lambda _, found: None):
            pass

    one = np.asarray(programs(units[0], programs.read(units[0]))["hessian"]).tobytes()

    def write(path: Path) -> None:
        for unit in units:
            file = path / str(unit.number)
            file.write_bytes(one)
            sync(file)

    found: dict[str, list[float]] = {"compute": [], "write": [], "run": [], "taken": []}
    for _ in range(rounds):
        before = processor_times()
        found["compute"].append(seconds(compute))
        with folder() as path:
            found["write"].append(seconds(lambda: write(path)))
        with folder() as path:
            report = store.run(network, ["hessian"], X, path / "d.zarr", params=params, devices=1, progress=False)
        found["run"].append(report.seconds - report.compile_seconds)
        spent = processor_times() - before
        found["taken"].append(spent[7] / spent.sum())
    gigabytes = job.bytes / 1e9
    median = {key: statistics.median(values) for key, values in found.items()}
    return {
        "cell": name,
        "samples": D,
        "units": len(units),
        "GB": gigabytes,
        "seconds": found,
        "rate": {key: gigabytes / value for key, value in median.items()},
        "share": max(median["compute"], median["write"]) / median["run"],
        "shares of rounds": [
            max(c, w) / r for c, w, r in zip(found["compute"], found["write"], found["run"], strict=True)
        ],
    }


# ------------------------------------------------------------------------------------------------------------ memory


def under_budget(budget: str | None, share: float) -> dict[str, Any]:
    """Peak memory of the command line under a budget."""
    *sizes, D = CELLS["wide"]
    X = np.random.default_rng(1).normal(size=(int(D * share), sizes[0])).astype(np.float32)
    with folder() as path:
        np.save(path / "X.npy", X)
        store.save_parameters(path / "p.npz", drawn(*sizes))
        line = [sys.executable, "-m", "nablax.cli", "derive", "benchmarks.streaming:network", "--params"]
        line += [str(path / "p.npz"), "--inputs", str(path / "X.npy"), "--of", "hessian", "--out", str(path / "d.zarr")]
        line += ["--quiet", *([] if budget is None else ["--memory", budget])]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        unit = json.loads((path / "d.zarr" / "zarr.json").read_text())["attributes"]["unit_size"]
    words = done.split()
    peak = float(words[words.index("memory") + 1])
    return {"budget": budget or "none", "peak MiB": peak, "unit": unit, "said": done.splitlines()[-2]}


# ----------------------------------------------------------------------------------------------------------- samples


def per_sample(D: int) -> dict[str, Any]:
    """Microseconds a sample of the Jacobian and the Hessian of a small model."""
    X = np.random.default_rng(1).standard_normal((D, SMALL[0]), dtype=np.float32)
    found = []
    for _ in range(3):
        with folder() as path:
            report = store.run(
                network, ["jacobian", "hessian"], X, path / "d.zarr", params=drawn(*SMALL), devices=1, progress=False
            )
        found.append(report)
    best = sorted(found, key=lambda report: report.microseconds)[1]
    return {"samples": D, "microseconds": best.microseconds, "seconds": best.seconds, "peak MiB": best.peak_mebibytes}


def draw(document: dict[str, Any], out: Path) -> None:
    """Microseconds a sample against samples."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    rows = document["samples"]
    axes.plot([r["samples"] for r in rows], [r["microseconds"] for r in rows], "o-", label="read, derive, write")
    axes.plot(
        [r["samples"] for r in rows], [1e6 * r["seconds"] / r["samples"] for r in rows], "s--", label="and compile"
    )
    axes.set(xscale="log", yscale="log", xlabel="samples D", ylabel="microseconds a sample", ylim=(0.5, None))
    axes.set_title("Jacobian and Hessian of a small model (C 4, A 2, H 64) to disk", fontsize=10)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(out.with_suffix(".png"), dpi=150)


# ----------------------------------------------------------------------------------------------------------- the page


def page(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# Derivatives to disk", "", *(f"- {key}: {value}" for key, value in document["about"].items()), ""]
    if rows := document.get("throughput"):
        lines += ["## Throughput", "", "Medians; share: time of the slower of computing and writing / time of the run."]
        lines += ["The share of every round is in parentheses. Taken: of the time of the processor, by other machines."]
        lines += ["Computing takes both cores, so that what writing takes of them cannot be hidden.", ""]
        head = ["cell", "GB", "units", "compute GB/s", "write GB/s", "run GB/s", "share", "taken"]
        cells = [
            [
                row["cell"],
                f"{row['GB']:.2f}",
                str(row["units"]),
                *(f"{row['rate'][key]:.3f}" for key in ("compute", "write", "run")),
                f"**{row['share']:.2f}** ({', '.join(f'{s:.2f}' for s in row['shares of rounds'])})",
                f"{statistics.median(row['seconds']['taken']):.0%}",
            ]
            for row in rows
        ]
        lines += [*table(head, cells), ""]
    if rows := document.get("memory"):
        lines += ["## Peak memory under a budget", "", "4 GB of Hessians (cell wide) through the command line.", ""]
        cells = [[row["budget"], f"{row['peak MiB']:.0f}", str(row["unit"])] for row in rows]
        lines += [*table(["budget", "peak MiB", "samples in a unit"], cells), ""]
    if rows := document.get("samples"):
        lines += [
            "## Cost of a sample",
            "",
            "Jacobian and Hessian of a small model (C 4, A 2, H 64, L 2), one device.",
            "",
        ]
        cells = [
            [f"{row['samples']:,}", f"{row['microseconds']:.2f}", f"{row['seconds']:.1f}", f"{row['peak MiB']:.0f}"]
            for row in rows
        ]
        lines += [*table(["samples", "microseconds a sample", "seconds in all", "peak MiB of the process"], cells), ""]
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__.splitlines()[0])  # pyright: ignore
    parser.add_argument("--parts", default="throughput,memory,samples", type=lambda text: text.split(","))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the samples")
    parser.add_argument("--out", type=Path, default=RESULTS / "streaming", help="path without suffix")
    options = parser.parse_args()
    share, load = (0.01 if options.quick else 1.0), os.getloadavg()[0]
    file = options.out.with_suffix(".json")
    document: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    counts = [int(10**k * (share if k > 5 else 1)) for k in (4, 5, 6, 7)]
    measure = {
        "throughput": lambda: [throughput(name, options.rounds, share) for name in CELLS],
        "memory": lambda: [under_budget(budget, share) for budget in BUDGETS],
        "samples": lambda: [per_sample(D) for D in counts],
    }
    for part in options.parts:
        document[part] = measure[part]()
        document["about"] = {
            "measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}",
            "versions": ", ".join(f"{key} {value}" for key, value in environment().items() if isinstance(value, str)),
            "device": jax.local_devices()[0].device_kind,
            "load of the machine before and after": f"{load:.1f}, {os.getloadavg()[0]:.1f}",
        }
        # After each part: what was measured is not lost when a later one fails.
        file.write_text(json.dumps(document, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(page(document))
    if "samples" in options.parts:
        draw(document, options.out)
    print(page(document))


if __name__ == "__main__":
    main()
