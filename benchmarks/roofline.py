"""What the machine allows: ``python -m benchmarks.roofline [--out PATH]`` for every missed square of the last grid.

For nablax and the best peer it counts operations and bytes (XLA's own count of the compiled program, whole batch, and
of what gradients in chunks evaluate again), measures what the machine does at best (a large matrix product, a sum in
cache), and how long the matrix products of nablax take alone, each at its own shape, without anything between them, by
turns with nablax and the peer. What is no product reads and writes its arrays at the rate of the sum, at best. Where
the operations of the two differ by less than the target, or the peer takes less than the target times the products and
the rest together, the target is out of reach of these algorithms, however well they are run. Gradients that take more
than a third of the best peer's memory are run again with that third as their budget. Loops inside a model are counted
once by XLA: there is no roofline for them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.cells import Cell
from benchmarks.cells import cell as cell_named
from benchmarks.grid import RESULTS
from benchmarks.measure import alternate, by_turns, turn
from benchmarks.ops import jax_ops
from benchmarks.peers import batched, formulations, gradient_of_loss
from benchmarks.report import table
from benchmarks.verdict import MEMORY, Verdict, column, fastest, judge, quotient
from benchmarks.versions import commit
from benchmarks.worker_process import Worker
from nablax.graph.dense import dense

HEAD = (
    "square,bar,ratio in the grid,ratio here,nablax ms,its Gop,Gop/s,its GB,GB/s,best peer,its ms,peer Gop / ours,"
    "peer GB / ours,least ms (operations),products alone ms,the rest at the rate of the sum ms,highest ratio"
)
MEMORY_HEAD = (
    "square,best peer,its ms,its MiB,nablax ms,its MiB,memory_budget MiB,chunk,nablax ms with it,its MiB,share of the "
    "peer's,ratio"
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
    """(operations a second of a large matrix product, by the faster library; bytes a second of a sum in place, of an
    array in cache).
    """
    a = jnp.ones((width, width))
    libraries = [jax.jit(Product(LAYER, a.shape, a.shape, by_library)) for by_library in (False, True)]
    array = jnp.ones(2**20)
    # In place: new memory would have to be cleared by the system first.
    add = jax.jit(lambda x: jax.lax.fori_loop(0, 64, lambda _, x: x + 1.0, x))
    product = min(seconds(lambda run=run: run(a, a)) for run in libraries)
    return 2 * width**3 / product, 64 * 2 * array.nbytes / seconds(lambda: add(array))


def counted(batch: Callable, params: Any, X: Any) -> tuple[float, float]:
    """(operations, bytes) of a compiled program, by XLA's count; loops are counted once, so there must be none."""
    cost = jax.jit(batch).lower(params, X).compile().cost_analysis()
    return cost["flops"], cost["bytes accessed"]


def loops(batch: Callable, params: Any, X: Any) -> bool:
    """Whether a program has a loop of its own; those that single operations are lowered to do not count."""
    return any(name in str(jax.make_jaxpr(batch)(params, X)) for name in ("scan[", "while["))


ARRAY = re.compile(r"%([\w.-]+) = f32\[([\d,]*)\]")
PRODUCT = re.compile(r" dot\([^%)]*%([\w.-]+), [^%)]*%([\w.-]+)\), (.*)")
COMPUTATION = re.compile(r"^(?:ENTRY )?%([\w.-]+) \(.*?^\}", re.MULTILINE | re.DOTALL)
LIBRARY = re.compile(r"kind=kCustom, calls=%([\w.-]+)")
LAYER = (((1,), (0,)), ((), ()))


@dataclass(frozen=True)
class Product:
    """A matrix product in float32 of a compiled program.

    Attributes:
        numbers: its dimension numbers.
        x, y: the shapes of both operands.
        by_library: whether XLA left it to another library (YNNPACK) instead of its own (Eigen).
    """

    numbers: Any
    x: tuple[int, ...]
    y: tuple[int, ...]
    by_library: bool

    def __call__(self, x: Array, y: Array) -> Array:
        """By the same library, where nablax has a say in that."""
        if self.numbers == LAYER and len(self.y) == 2 and not self.by_library:
            return dense(x, y, axis=0, precision=None, preferred_element_type=None)
        return jax.lax.dot_general(x, y, self.numbers)

    @property
    def nbytes(self) -> int:
        """What it reads and writes."""
        x, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (self.x, self.y))
        return 4 * (x.size + y.size + jax.eval_shape(self, x, y).size)


def products(batch: Callable, params: Any, X: Any) -> list[Product]:
    """Every matrix product that a compiled program does."""
    text = jax.jit(batch).lower(params, X).compile().as_text()
    numbers = lambda group: tuple(int(n) for n in group.split(",") if n)
    shapes = {name: numbers(shape) for name, shape in ARRAY.findall(text)}
    libraries = set(LIBRARY.findall(text))
    found = []
    for computation in COMPUTATION.finditer(text):
        for x, y, how in PRODUCT.findall(computation[0]):
            axes = {name: numbers(group) for name, group in re.findall(r"([lr]hs_\w+_dims)=\{([\d,]*)\}", how)}
            contracted, mapped = (
                tuple(axes.get(f"{side}_{kind}_dims", ()) for side in ("lhs", "rhs"))
                for kind in ("contracting", "batch")
            )
            found.append(Product((contracted, mapped), shapes[x], shapes[y], computation[1] in libraries))
    assert len(found) == text.count(" dot("), "a matrix product that this does not read"
    return found


def alone(found: list[Product]) -> Callable[[], Any]:
    """The matrix products of a program by themselves, all of them in one program."""
    operands = [(jnp.full(product.x, 0.5), jnp.full(product.y, 0.5)) for product in found]
    multiplied = jax.jit(lambda operands: [product(x, y) for product, (x, y) in zip(found, operands, strict=True)])
    return lambda: jax.block_until_ready(multiplied(operands))


@dataclass(frozen=True)
class Programs:
    """The programs of nablax and of the best peer in a square, on the whole batch, and what they count to.

    A gradient evaluates chunks once more before it goes back through them: the program of the values comes on top.

    Attributes:
        own: those of nablax.
        ours, theirs: (operations, bytes).
        width: how many samples nablax takes at once.
    """

    own: list[Callable]
    ours: tuple[float, float]
    theirs: tuple[float, float] | None
    width: int


def programs_of(verdict: Verdict, cell: Cell, params: Any, X: Any) -> Programs | None:
    """Those of a square; None where there is a loop in a model."""
    square, peer = verdict.square, verdict.best_peer
    assert peer is not None
    width = width_of_chunks(cell, square)
    kinds = [(lambda square: own_program(cell, square, chunk_size=None), width < square["D"])]
    if peer["family"] != "torch":
        kinds.append((lambda square: peer_program(cell, square, peer["name"]), "@" in peer["name"]))
    own, *others = (
        [program(square), *([program({**square, "gradient": False})] if square["gradient"] and chunks else [])]
        for program, chunks in kinds
    )
    if loops(own[0], params, X):
        return None
    others = [programs for programs in others if not loops(programs[0], params, X)]
    ours, *theirs = (
        tuple(sum(counts) for counts in zip(*(counted(p, params, X) for p in programs), strict=True))
        for programs in (own, *others)
    )
    return Programs(own, ours, theirs[0] if theirs else None, width)


@contextlib.contextmanager
def torch_by_turns(square: dict[str, Any], name: str) -> Iterator[Callable[[float], list[float]]]:
    """The turns of one of torch's contenders, in a process of its own."""
    how = square["cell"], str(square["D"]), square["want"], name, "gradient" if square["gradient"] else "values"
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker("torch_worker", ["serve", *how], Path(folder), limit=600.0)
        try:
            worker.answer()
            yield partial(worker.turn, name)
        finally:
            worker.close()


def row(verdict: Verdict, peak: float, bandwidth: float) -> list[str]:
    """The line of a missed square: everything anew, in turns, but for the ratio in the grid."""
    square, peer = verdict.square, verdict.best_peer
    assert peer is not None
    chosen = cell_named(square["cell"]).with_samples(square["D"])
    params, X = jax.tree.map(jnp.asarray, chosen.data())
    name, _, size = peer["name"].partition(" @")
    runs = {"nablax": call(jax.jit(own_program(chosen, square)).lower(params, X).compile(), params, X)}
    found = programs_of(verdict, chosen, params, X)
    if found:
        # In chunks of what nablax takes, so that they meet the same caches.
        runs["products"] = alone([product for p in found.own for product in products(p, params, X[: found.width])])
    with contextlib.ExitStack() as stack:
        if peer["family"] == "torch":
            peer_turn = stack.enter_context(torch_by_turns(square, peer["name"]))
        else:
            theirs = peer_program(chosen, square, name, int(size) if size else None)
            peer_turn = partial(turn, call(jax.jit(theirs).lower(params, X).compile(), params, X))
        turns = {key: partial(turn, run) for key, run in runs.items()} | {"peer": peer_turn}
        taken = by_turns(turns, rounds=20, seconds=3.0, keep=tuple(turns))
    took = {key: statistics.median(times) for key, times in taken.items()}
    own, other = took["nablax"], took["peer"]
    line = [
        f"{square['cell']}: {column(square)}",
        f"{verdict.missed:.2f}",
        f"{verdict.ratio:.2f}",
        f"{other / own:.2f}",
    ]
    times = f"{1e3 * own:.1f}", f"{1e3 * other:.1f}"
    if not found:
        return [*line, times[0], *[""] * 4, peer["name"], times[1], *[""] * 6]
    multiplied = took["products"] * square["D"] / found.width
    ours, theirs = found.ours, found.theirs
    multiplications = (product for p in found.own for product in products(p, params, X))
    moved = (ours[1] - sum(product.nbytes for product in multiplications)) / bandwidth
    rate = lambda count: f"{count / own / 1e9:.0f}"
    line += [times[0], f"{ours[0] / 1e9:.2f}", rate(ours[0]), f"{ours[1] / 1e9:.2f}", rate(ours[1])]
    line += [
        peer["name"],
        times[1],
        *([f"{t / o:.2f}" for t, o in zip(theirs, ours, strict=True)] if theirs else 2 * [""]),
    ]
    line += [f"{1e3 * ours[0] / peak:.1f}", f"{1e3 * multiplied:.1f}", f"{1e3 * moved:.1f}"]
    return [*line, f"{other / (multiplied + moved):.2f}"]


def call(program: Any, params: Any, X: Any) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(program(params, X))


def mean_of_operations(verdicts: list[Verdict]) -> str:
    """How the operations of the best peers compare over all squares, and over those of each want."""
    logs: dict[str, list[float]] = {}
    for verdict in verdicts:
        cell = cell_named(verdict.square["cell"]).with_samples(verdict.square["D"])
        params, X = jax.tree.map(jnp.asarray, cell.data())
        if (found := programs_of(verdict, cell, params, X)) and found.theirs:
            logs.setdefault(column(verdict.square), []).append(math.log(found.theirs[0] / found.ours[0]))
    mean = lambda logs: f"{math.exp(statistics.fmean(logs)):.2f}"
    wants = ", ".join(f"{want} {mean(found)}" for want, found in logs.items())
    every = [log for found in logs.values() for log in found]
    return f"{mean(every)} in the geometric mean of {len(every)} squares where XLA counts both ({wants})"


def width_of_chunks(cell: Cell, square: dict[str, Any], **options: Any) -> int:
    """How many samples nablax takes at once, as it plans itself."""
    import nablax

    params, X = jax.tree.map(jnp.asarray, cell.data())
    plan = nablax.explain(lambda params, x: cell.model(jax_ops(), params, x), square["want"], **options)(params, X)
    size = plan.gradient_chunk_size if square["gradient"] else plan.chunk_size
    return min(size or square["D"], square["D"])


def memory_row(verdict: Verdict) -> list[str] | None:
    """A square run with a third of the memory of the best peer that tells its own (torch does not) as the budget; None
    if it takes no more than that without.
    """
    square = verdict.square
    peer = fastest(square, lambda e: e["family"] != "nablax" and e.get("temp_bytes") is not None)
    share = quotient(verdict.auto, peer, "temp_bytes")
    if not peer or share is None or share <= MEMORY:
        return None
    chosen = cell_named(square["cell"]).with_samples(square["D"])
    params, X = jax.tree.map(jnp.asarray, chosen.data())
    compiled = lambda batch: jax.jit(batch).lower(params, X).compile()
    held = lambda program: program.memory_analysis().temp_size_in_bytes
    name, _, chunk = peer["name"].partition(" @")
    program = compiled(peer_program(chosen, square, name, int(chunk) if chunk else None))
    budget = int(MEMORY * held(program))
    programs = {
        "peer": program,
        "auto": compiled(own_program(chosen, square)),
        "bounded": compiled(own_program(chosen, square, memory_budget=budget)),
    }
    runs = {name: call(program, params, X) for name, program in programs.items()}
    taken = alternate(runs, rounds=10, seconds=1.0, keep=tuple(runs))
    ms = {key: 1e3 * statistics.median(times) for key, times in taken.items()}
    mebibytes = lambda size: f"{size / 2**20:.1f}"
    theirs, ours, bounded = ((f"{ms[key]:.1f}", mebibytes(held(programs[key]))) for key in programs)
    width = width_of_chunks(chosen, square, memory_budget=budget)
    ratios = held(programs["bounded"]) / held(programs["peer"]), ms["peer"] / ms["bounded"]
    how = mebibytes(budget), str(width)
    label = f"{square['cell']}: {column(square)}"
    return [label, peer["name"], *theirs, *ours, *how, *bounded, *(f"{ratio:.2f}" for ratio in ratios)]


def own_program(cell: Cell, square: dict[str, Any], **options: Any) -> Callable:
    import nablax

    model = lambda params, x: cell.model(jax_ops(), params, x)
    return finished(getattr(nablax, square["want"])(model, **options), square)


def peer_program(cell: Cell, square: dict[str, Any], name: str, chunk_size: int | None = None) -> Callable:
    """A peer, on the whole batch or in chunks."""
    model = lambda params, x: cell.model(jax_ops(), params, x)
    _, formulation = formulations(cell, square["want"])[name.split(" @")[0]]
    return finished(batched(formulation, model, chunk_size, square["gradient"]), square)


def finished(batch: Callable, square: dict[str, Any]) -> Callable:
    return gradient_of_loss(batch, 1.0) if square["gradient"] else batch


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description="See the file.")
    parser.add_argument("--out", type=Path, default=RESULTS / "grid", help="the path of the grid, without suffix")
    options = parser.parse_args()
    verdicts = [judge(square) for square in json.loads(options.out.with_suffix(".json").read_text())["squares"]]
    missed = [v for v in verdicts if v.best_peer and v.missed]
    peak, bandwidth = peaks()
    rows = []
    for verdict in missed:
        rows.append(row(verdict, peak, bandwidth))
        print(rows[-1], flush=True)
    through = [v for v in verdicts if v.square["want"] == "hessian" and v.square["gradient"]]
    smaller = [found for v in through if (found := memory_row(v))]
    text = [
        "# Roofline of the missed squares",
        "",
        f"This machine at its best: {peak / 1e9:.0f} Gop/s in a product of 2048 x 2048 matrices,",
        f"{bandwidth / 1e9:.1f} GB/s in a sum in place of arrays of 4 MiB, which stay in cache.",
        "Operations and bytes are XLA's count for the compiled program on the whole batch, and for gradients in chunks",
        "those of the values on top, as chunks are evaluated again to be differentiated.",
        "Products alone: the matrix products of nablax by themselves, by the same libraries, in chunks of the size it",
        "takes, with nothing between them, by turns with nablax and the peer. The rest: what nablax reads and writes",
        "beside products, at the rate of the sum. The highest ratio is that of the peer to both together. Alone, each",
        "product writes its result to memory; where a compiled program does not, it can take less time than its",
        "products alone. XLA counts loops inside a model once: nothing is said of them. torch takes its turns in a",
        "process of its own; its operations are not counted. A sine of nablax counts with all terms of its series,",
        "that of a peer as one operation.",
        f"Commit {commit()}.",
        "",
        *table(HEAD.split(","), rows),
        f"Operations of the best peer / of nablax: {mean_of_operations(verdicts)}.",
        "",
        "Gradients through the Hessian that take more than a third of the memory of the best peer of those that tell",
        "theirs (torch does not), with that third as `memory_budget=`:",
        "",
        *table(MEMORY_HEAD.split(","), smaller),
    ]
    out = options.out.with_name(options.out.name + "-roofline.md")
    out.write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
