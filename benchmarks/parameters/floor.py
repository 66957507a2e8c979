"""How near forming the Jacobian is to writing that much memory at all: ``python -m benchmarks.parameters.floor``.

`dense` and `tree` compute little and write much. Beside nablax and plain JAX stand programs that only fill arrays of
the same shapes: the floor of any program that makes its result anew. All take turns, forth and back, in one process.
Writes NAME.json and NAME.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nablax
from benchmarks.parameters import jax_peers, models
from benchmarks.parameters.jax_tools import compiled
from benchmarks.parameters.task import Task
from benchmarks.versions import ROOT, commit, processor

RESULTS = ROOT / "benchmarks" / "results"


def contenders(want: str, A: int, D: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Name -> compiled program, and the inputs of all."""
    task = Task("mlp", A, D, want, ["nablax", "jax"], chunks=[64], folder="")
    data = jax.tree.map(jnp.asarray, models.inputs("mlp", A, D))
    operator = lambda data: nablax.parameter_jacobian(models.model("mlp", A))(data["params"], data["X"])
    ours = lambda data: getattr(operator(data), want)()
    shapes = jax.eval_shape(ours, data)
    # a number of the inputs, so that nothing is computed beforehand
    filled = lambda data: jax.tree.map(lambda leaf: jnp.full(leaf.shape, data["X"].ravel()[0], leaf.dtype), shapes)
    return {"filling arrays": filled, "nablax": ours} | jax_peers.formulations(task), data


def measured(want: str, A: int, D: int, rounds: int) -> dict[str, Any]:
    """Medians in ms, and what the programs report."""
    functions, data = contenders(want, A, D)
    programs = {name: compiled(function, data) for name, function in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name in programs if turn % 2 else reversed(programs):
            run, _ = programs[name]
            start = time.perf_counter()
            found = run()
            elapsed = time.perf_counter() - start
            del found  # before the next one allocates its result
            if turn:  # the first run of each is a warm-up
                times[name].append(elapsed)
    return {name: {"ms": 1e3 * float(np.median(times[name])), **figures} for name, (_, figures) in programs.items()}


def table(squares: list[dict[str, Any]], about: dict[str, str]) -> str:
    lines = [
        "# Forming the Jacobian beside filling its memory",
        "",
        f"{models.ABOUT['mlp']}; float32, medians of turns in one process. over floor = time / time of filling arrays",
        "of the same shapes, which makes nothing but the result.",
        "",
        *(f"- {name}: {text}" for name, text in about.items()),
        "",
        "| want | A | D | program | ms | over floor | temporary MiB | result MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for square in squares:
        floor = square["found"]["filling arrays"]["ms"]
        for name, row in square["found"].items():
            memory = f"{row['temp_bytes'] / 2**20:.3g} | {row['output_bytes'] / 2**20:.4g}"
            start = f"| {square['want']} | {square['A']} | {square['D']} | {name}"
            lines.append(f"{start} | {row['ms']:.4g} | {row['ms'] / floor:.2f} | {memory} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parameters.floor", description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=lambda text: [int(n) for n in text.split(",")], default=[16, 1024])
    parser.add_argument("--rounds", type=int, default=9, help="turns of each program")
    parser.add_argument("--out", type=Path, default=RESULTS / "parameters-floor", help="path without suffix")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    squares = []
    for want in ("tree", "dense"):
        for A in models.OUTPUTS:
            for D in options.samples:
                squares.append({"want": want, "A": A, "D": D, "found": measured(want, A, D, options.rounds)})
                print(f"{want}, A = {A}, D = {D}: {len(squares[-1]['found'])} programs", flush=True)
    about = {
        "device": processor(),
        "versions": f"jax {jax.__version__}",
        "commit": f"{commit()}; {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "load of the machine before and after": f"{load:.1f}, {os.getloadavg()[0]:.1f}",
    }
    options.out.with_suffix(".json").write_text(json.dumps({"about": about, "squares": squares}, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(table(squares, about))
    print(table(squares, about))


if __name__ == "__main__":
    main()
