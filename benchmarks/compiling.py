"""Compile times: ``python -m benchmarks.compiling [--cells a,b] [--rounds N] [--out PATH]``.

For each cell of the grid every want of nablax, and the gradient of a loss through it, is traced and compiled beside
jit(vmap(jax.hessian)) of the same model, and the gradient of the loss through that; Jacobians beside jacrev too. All
take turns, forth and back, from empty caches: a program compiled twice differs by up to a third on a shared machine.
Writes NAME.json and NAME.md; cells that are not asked for are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.cells import CELLS, Cell, cell
from benchmarks.grid import RESULTS
from benchmarks.peers import Contender, contenders
from benchmarks.report import number, table
from benchmarks.verdict import AUTO, WANTS
from benchmarks.versions import commit, environment
from benchmarks.worker import build

BAR = 1.3
KEYS = ("compile_s", "trace_s")
PLAIN = ("jax.hessian", "jacrev")


def entered(chosen: Cell, gradient: bool) -> dict[str, Contender]:
    """What nablax does by wants, and the plain formulations by their names."""
    inner = () if chosen.scalar else (chosen.A,)
    shapes = {"jacobian": 1, "hessian": 2, "hessian_diagonal": 1, "laplacian": 0}
    found: dict[str, Contender] = {}
    for want in WANTS:
        weights = np.ones((*inner, *[chosen.C] * shapes[want]), np.float32) if gradient else None
        everybody = {c.name: c for c in contenders(chosen, want, ["nablax", "jax"], [None], weights)}
        found[want] = everybody[AUTO]
        found |= {name: everybody[name] for name in PLAIN if name in everybody}
    return found


def measure(name: str, gradient: bool, rounds: int) -> dict[str, Any]:
    """The seconds that each took to compile and to trace, turn by turn."""
    chosen = cell(name)
    args = jax.tree.map(jax.numpy.asarray, chosen.data())
    programs = entered(chosen, gradient)
    build(programs["jacobian"], args)  # the first of all also starts the compiler
    taken: dict[str, dict[str, list[float]]] = {each: {key: [] for key in KEYS} for each in programs}
    for turn in range(rounds):
        for each in list(programs)[:: 1 if turn % 2 == 0 else -1]:
            figures = build(programs[each], args)[1]
            for key in KEYS:
                taken[each][key].append(figures[key])
    return {"cell": name, "gradient": gradient, "rounds": rounds, "taken": taken}


def ratio(entry: dict[str, Any], want: str, plain: str, *keys: str) -> float:
    """The median of the ratios of the turns."""
    totals = lambda name: map(sum, zip(*(entry["taken"][name][key] for key in keys), strict=True))
    return statistics.median(ours / theirs for ours, theirs in zip(totals(want), totals(plain), strict=True))


def report(document: dict[str, Any]) -> str:
    entries, where = document["cells"], document["environment"]
    rows, high = [], []
    middle = lambda seconds: f"{1e3 * statistics.median(seconds):.0f}"
    for entry in entries:
        for want in WANTS:
            against = ratio(entry, want, "jax.hessian", "compile_s")
            label = ("gradient through " if entry["gradient"] else "") + want
            if against > BAR:
                high.append(f"{entry['cell']}, {label}: {against:.2f}")
            rows.append(
                [
                    entry["cell"],
                    label,
                    *(middle(entry["taken"][name][key]) for name in (want, "jax.hessian") for key in KEYS),
                    number(against),
                    number(ratio(entry, want, "jax.hessian", *KEYS)),
                    number(ratio(entry, want, "jacrev", "compile_s")) if want == "jacobian" else "",
                ]
            )
    head = "cell,want,compile ms,trace ms,its compile ms,its trace ms,compile ratio,with tracing,against jacrev"
    every = lambda key: ", ".join(sorted({entry[key] for entry in entries}))
    ends = lambda key: " to ".join(map(str, sorted({choose(entry[key] for entry in entries) for choose in (min, max)})))
    said = f"**missed**: {'; '.join(high)}" if high else "met"
    text = [
        "# Compile times",
        "",
        "ratio = compile time of nablax / that of jit(vmap(jax.hessian)) of the same model, of gradients / that of the",
        f"gradient of the same loss through it. Medians of {ends('rounds')} turns, of ratios too, from empty caches.",
        "",
        f"- device: {', '.join(where['devices'])}; {where['processor']}",
        f"- versions: {', '.join(f'{name} {version}' for name, version in where['versions'].items())}",
        f"- commit: {every('commit')}; {every('date')}",
        f"- load of the machine, one-minute average before each cell: {ends('load')}",
        "",
        f"At most {BAR} in every square: {said}.",
        "",
        *table(head.split(","), rows),
    ]
    return "\n".join(text).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiling", description=__doc__.splitlines()[0])
    names = [c.name for c in CELLS]
    parser.add_argument("--cells", type=lambda text: text.split(","), default=names, help="some of the ten")
    parser.add_argument("--rounds", type=int, default=5, help="compilations of each")
    parser.add_argument("--out", type=Path, default=RESULTS / "compiling", help="path without suffix")
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_default_matmul_precision", "highest")  # as in the grid
    file = options.out.with_suffix(".json")
    document = json.loads(file.read_text()) if file.exists() else {"cells": []}
    document["environment"] = environment()
    for name in options.cells:
        when = {"commit": commit(), "date": f"{datetime.now(UTC):%Y-%m-%d}", "load": round(os.getloadavg()[0], 1)}
        found = [measure(name, gradient, options.rounds) | when for gradient in (False, True)]
        kept = [entry for entry in document["cells"] if entry["cell"] != name]
        document["cells"] = sorted(kept + found, key=lambda entry: names.index(entry["cell"]))
        file.write_text(json.dumps(document, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(report(document))
        print(name, flush=True)


if __name__ == "__main__":
    main()
