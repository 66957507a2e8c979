"""What the machine allows: ``python -m benchmarks.roofline [--out PATH]`` for every missed square of the last grid.

For nablax and the best peer it counts operations (XLA's own count of the compiled program, whole batch), measures what
the machine does at best (a large matrix product, a large sum), and how long the matrix products of nablax alone take,
each at its own shape, without anything between them. Where the operations of the two differ by less than the target, or
the peer takes less than the target times those products, the target is out of reach of these algorithms, however well
they are run. Gradients that take more than a third of the best peer's memory are run again in chunks that do not.
"""

from __future__ import annotations

import argparse
import json
import re
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
from benchmarks.measure import alternate
from benchmarks.ops import jax_ops
from benchmarks.peers import batched, formulations, gradient_of_loss
from benchmarks.report import table
from benchmarks.verdict import Verdict, column, judge

HEAD = (
    "square,bar,ratio,nablax ms,its Gop,Gop/s,best peer,its ms,peer Gop / ours,"
    "least ms (operations),products alone ms,highest ratio with these products"
)
MEMORY_HEAD = "square,best peer,its ms,its MiB,nablax ms,its MiB,chunk within a third,its ms,its MiB,ratio"


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
    """(operations a second of a large matrix product, bytes a second of a large sum in place)."""
    a = jnp.ones((width, width))
    product = jax.jit(lambda a: a @ a)
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    held = [jnp.ones(2**25)]  # in place: new memory would have to be cleared by the system first

    def once() -> Any:
        held[0] = add(held[0])
        return held[0]

    return 2 * width**3 / seconds(lambda: product(a)), 2 * held[0].nbytes / seconds(once)


def operations(batch: Callable, params: Any, X: Any) -> float:
    """Operations of a compiled program, by XLA's count; loops are counted once, so there must be none."""
    return jax.jit(batch).lower(params, X).compile().cost_analysis()["flops"]


PRODUCT = re.compile(
    r"dot_general [^:]*?(?:batching_dims = \[([\d, ]*)\] x \[([\d, ]*)\], )?"
    r"contracting_dims = \[([\d, ]*)\] x \[([\d, ]*)\].*: \(tensor<([\dx]+)xf32>, tensor<([\dx]+)xf32>\)"
)


def products(batch: Callable, params: Any, X: Any) -> list[tuple[Any, tuple[int, ...], tuple[int, ...]]]:
    """(dimension numbers, shapes of both operands) of every matrix product in a program."""
    text = jax.jit(batch).lower(params, X).as_text()
    axes = lambda group: tuple(int(n) for n in (group or "").split(",") if n.strip())
    shape = lambda group: tuple(int(n) for n in group.split("x"))
    found = [match.groups() for match in PRODUCT.finditer(text)]
    assert len(found) == text.count("dot_general"), "a matrix product that this does not read"
    return [(((axes(c), axes(d)), (axes(a), axes(b))), shape(x), shape(y)) for a, b, c, d, x, y in found]


def seconds_of_products(batch: Callable, params: Any, X: Any) -> float:
    """How long the matrix products of a program take by themselves, all of them in one program."""
    found = products(batch, params, X)
    operands = [(jnp.full(x, 0.5), jnp.full(y, 0.5)) for _, x, y in found]
    numbers = [number for number, _, _ in found]

    @jax.jit
    def alone(operands: Any) -> Any:
        return [jax.lax.dot_general(x, y, n) for n, (x, y) in zip(numbers, operands, strict=True)]

    return seconds(lambda: alone(operands))


def row(verdict: Verdict, bar: float, peak: float) -> list[str]:
    square, auto, peer = verdict.square, verdict.auto, verdict.best_peer
    assert auto is not None
    assert peer is not None
    chosen = cell_named(square["cell"]).with_samples(square["D"])
    params, X = jax.tree.map(jnp.asarray, chosen.data())
    program = own_program(chosen, square)
    ours, theirs = (operations(p, params, X) for p in (program, peer_program(chosen, square, peer["name"])))
    # In chunks of what nablax takes, so that they meet the same caches; what the backward pass repeats is not counted.
    width = width_of_chunks(chosen, square)
    least = seconds_of_products(program, params, X[:width]) * square["D"] / width
    return [
        f"{square['cell']}: {column(square)}",
        f"{bar:.2f}",
        f"{verdict.ratio:.2f}",
        f"{1e3 * auto['seconds']:.1f}",
        f"{ours / 1e9:.2f}",
        f"{ours / auto['seconds'] / 1e9:.0f}",
        peer["name"],
        f"{1e3 * peer['seconds']:.1f}",
        f"{theirs / ours:.2f}",
        f"{1e3 * ours / peak:.1f}",
        f"{1e3 * least:.1f}",
        f"{peer['seconds'] / least:.2f}",
    ]


def width_of_chunks(cell: Cell, square: dict[str, Any]) -> int:
    """How many samples nablax takes at once, as it plans itself."""
    import nablax

    params, X = jax.tree.map(jnp.asarray, cell.data())
    plan = nablax.explain(lambda params, x: cell.model(jax_ops(), params, x), square["want"])(params, X)
    size = plan.gradient_chunk_size if square["gradient"] else plan.chunk_size
    return min(size or square["D"], square["D"])


def memory_row(verdict: Verdict) -> list[str] | None:
    """A square run in chunks that take a third of the best peer's memory; None if nothing is to be shown."""
    square, auto, peer = verdict.square, verdict.auto, verdict.best_peer
    if not auto or not peer or verdict.memory_share is None or verdict.memory_share <= 1 / 3:
        return None
    chosen = cell_named(square["cell"]).with_samples(square["D"])
    params, X = jax.tree.map(jnp.asarray, chosen.data())
    compiled = lambda batch: jax.jit(batch).lower(params, X).compile()
    size, fits = width_of_chunks(chosen, square), lambda c: c.memory_analysis().temp_size_in_bytes
    while (program := compiled(own_program(chosen, square, size))) and fits(program) > peer["temp_bytes"] / 3:
        if size == 1:
            return None
        size //= 2
    name, _, chunk = peer["name"].partition(" @")
    runs = {
        "chunk": lambda: jax.block_until_ready(program(params, X)),
        "auto": (lambda c: lambda: jax.block_until_ready(c(params, X)))(compiled(own_program(chosen, square, "auto"))),
        "peer": (lambda c: lambda: jax.block_until_ready(c(params, X)))(
            compiled(peer_program(chosen, square, name, int(chunk) if chunk else None))
        ),
    }
    taken = alternate(runs, rounds=7, seconds=0.7, keep=tuple(runs))
    ms = {key: 1e3 * statistics.median(times) for key, times in taken.items()}
    mebibytes = lambda size: f"{size / 2**20:.1f}"
    return [
        f"{square['cell']}: {column(square)}",
        peer["name"],
        f"{ms['peer']:.1f}",
        mebibytes(peer["temp_bytes"]),
        f"{ms['auto']:.1f}",
        mebibytes(auto["temp_bytes"]),
        str(size),
        f"{ms['chunk']:.1f}",
        mebibytes(fits(program)),
        f"{ms['peer'] / ms['chunk']:.2f}",
    ]


def own_program(cell: Cell, square: dict[str, Any], chunk_size: Any = None) -> Callable:
    import nablax

    model = lambda params, x: cell.model(jax_ops(), params, x)
    return finished(getattr(nablax, square["want"])(model, chunk_size=chunk_size), square)


def peer_program(cell: Cell, square: dict[str, Any], name: str, chunk_size: int | None = None) -> Callable:
    """A peer, on the whole batch or in chunks."""
    model = lambda params, x: cell.model(jax_ops(), params, x)
    _, formulation = formulations(cell, square["want"])[name.split(" @")[0]]
    return finished(batched(formulation, model, chunk_size, square["gradient"]), square)


def finished(batch: Callable, square: dict[str, Any]) -> Callable:
    return gradient_of_loss(batch, 1.0) if square["gradient"] else batch


def bar(verdict: Verdict) -> float:
    """What the ratio of a square has to be (see `benchmarks.verdict.targets`)."""
    square = verdict.square
    if square["want"] == "hessian" and (square["gradient"] or square["A"] >= 10):
        return 2.5
    return 1.0 if square["want"] in ("hessian_diagonal", "laplacian") else 0.95


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description="See the file.")
    parser.add_argument("--out", type=Path, default=RESULTS / "grid", help="the path of the grid, without suffix")
    options = parser.parse_args()
    verdicts = [judge(square) for square in json.loads(options.out.with_suffix(".json").read_text())["squares"]]
    missed = [v for v in verdicts if v.ratio is not None and v.ratio < bar(v)]
    peak, bandwidth = peaks()
    rows = []
    for verdict in missed:
        rows.append(row(verdict, bar(verdict), peak))
        print(rows[-1], flush=True)
    through = [v for v in verdicts if v.square["want"] == "hessian" and v.square["gradient"]]
    smaller = [found for v in through if (found := memory_row(v))]
    text = [
        "# Roofline of the missed squares",
        "",
        f"This machine at its best: {peak / 1e9:.0f} Gop/s in a product of 2048 x 2048 matrices,",
        f"{bandwidth / 1e9:.1f} GB/s in a sum of large arrays in place.",
        "Operations are XLA's count for the compiled program on the whole batch. Products alone: the matrix products",
        "of nablax by themselves, in chunks of the size that it takes, with nothing between them and none done twice.",
        "",
        *table(HEAD.split(","), rows),
        "Gradients through the Hessian that take more than a third of the best peer's memory, in chunks that do not:",
        "",
        *table(MEMORY_HEAD.split(","), smaller),
    ]
    out = options.out.with_name(options.out.name + "-roofline.md")
    out.write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
