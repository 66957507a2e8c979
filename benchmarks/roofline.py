"""What the machine allows: ``python -m benchmarks.roofline [--out PATH]`` for every missed square of the last grid.

For nablax and the best peer it counts operations and bytes (XLA's own count of the compiled program, whole batch) and
measures what the machine does at best (a large matrix product, a large sum). Where the operations of the two differ by
less than the target, the target is out of reach of these algorithms, however well they are run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.cells import Cell
from benchmarks.cells import cell as cell_named
from benchmarks.grid import RESULTS
from benchmarks.ops import jax_ops
from benchmarks.peers import batched, formulations, gradient_of_loss
from benchmarks.report import table
from benchmarks.verdict import Verdict, column, judge

HEAD = (
    "square,ratio,nablax ms,its Gop,Gop/s,bytes GB,GB/s,best peer,its Gop,peer Gop / ours,"
    "least ms (operations),least ms (bytes)"
)


def seconds(run: Callable[[], Any], rounds: int = 9) -> float:
    """The median time of a call, after one that warms up."""
    jax.block_until_ready(run())
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peaks(width: int = 2048) -> tuple[float, float]:
    """(operations a second of a large matrix product, bytes a second of a large sum of two arrays)."""
    a = jnp.ones((width, width))
    product = jax.jit(lambda a: a @ a)
    big = jnp.ones(2**25)
    add = jax.jit(lambda x: x + 1.0)
    return 2 * width**3 / seconds(lambda: product(a)), 2 * big.nbytes / seconds(lambda: add(big))


def counted(batch: Callable, params: Any, X: Any) -> tuple[float, float]:
    """(operations, bytes) of a compiled program, by XLA's count; loops are counted once, so there must be none."""
    cost = jax.jit(batch).lower(params, X).compile().cost_analysis()
    return cost["flops"], cost["bytes accessed"]


def row(verdict: Verdict, peak: float, bandwidth: float) -> list[str]:
    square = verdict.square
    chosen = cell_named(square["cell"]).with_samples(square["D"])
    params, X = jax.tree.map(jnp.asarray, chosen.data())
    assert verdict.auto is not None
    assert verdict.best_peer is not None
    ours = counted(own_program(chosen, square), params, X)
    theirs = counted(peer_program(chosen, square, verdict.best_peer["name"]), params, X)
    taken = verdict.auto["seconds"]
    return [
        f"{square['cell']}: {column(square)}",
        f"{verdict.ratio:.2f}",
        f"{1e3 * taken:.1f}",
        f"{ours[0] / 1e9:.2f}",
        f"{ours[0] / taken / 1e9:.0f}",
        f"{ours[1] / 1e9:.2f}",
        f"{ours[1] / taken / 1e9:.1f}",
        verdict.best_peer["name"],
        f"{theirs[0] / 1e9:.2f}",
        f"{theirs[0] / ours[0]:.2f}",
        f"{1e3 * ours[0] / peak:.1f}",
        f"{1e3 * ours[1] / bandwidth:.1f}",
    ]


def own_program(cell: Cell, square: dict[str, Any]) -> Callable:
    import nablax

    model = lambda params, x: cell.model(jax_ops(), params, x)
    return finished(getattr(nablax, square["want"])(model, chunk_size=None), square)


def peer_program(cell: Cell, square: dict[str, Any], name: str) -> Callable:
    """The best peer on the whole batch."""
    model = lambda params, x: cell.model(jax_ops(), params, x)
    _, formulation = formulations(cell, square["want"])[name.split(" @")[0]]
    return finished(batched(formulation, model, None, False), square)


def finished(batch: Callable, square: dict[str, Any]) -> Callable:
    return gradient_of_loss(batch, 1.0) if square["gradient"] else batch


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description="See the file.")
    parser.add_argument("--out", type=Path, default=RESULTS / "grid", help="the path of the grid, without suffix")
    parser.add_argument("--below", type=float, default=0.95, help="squares with a smaller ratio")
    parser.add_argument("--through", type=float, default=2.5, help="the same for gradients through the Hessian")
    options = parser.parse_args()
    verdicts = [judge(square) for square in json.loads(options.out.with_suffix(".json").read_text())["squares"]]
    bar = lambda v: options.through if v.square["want"] == "hessian" and v.square["gradient"] else options.below
    missed = [v for v in verdicts if v.ratio is not None and v.ratio < bar(v)]
    peak, bandwidth = peaks()
    rows = [row(v, peak, bandwidth) for v in missed]
    text = [
        "# Roofline of the missed squares",
        "",
        f"This machine at its best: {peak / 1e9:.0f} Gop/s in a product of 2048 x 2048 matrices,",
        f"{bandwidth / 1e9:.1f} GB/s in a sum of large arrays.",
        "Operations and bytes are XLA's count for the compiled program on the whole batch.",
        "",
        *table([str(name) for name in HEAD.split(",")], rows),
    ]
    out = options.out.with_name(options.out.name + "-roofline.md")
    out.write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
