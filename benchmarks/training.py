"""A step of training a physics-informed network: ``python -m benchmarks.training [--cells a,b] [--quick]``.

The loss is the mean squared residual of a differential equation at all collocation points; a step is its value and its
gradient by the parameters, compiled, float32. Equations, networks and numbers of points are those of Raissi, Perdikaris
and Karniadakis (2019, J. Comput. Phys. 378). nablax asks for partial derivatives by name, each peer is written by hand;
all of them are compared with the plain formulation in float64 first, take turns, and run on the whole batch and in
rematerialised chunks. Operations and bytes are XLA's count for programs on the whole batch. Writes training.json and
training.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nablax
from benchmarks.measure import alternate, relative_error
from benchmarks.report import table
from benchmarks.roofline import peaks, seconds
from benchmarks.versions import ROOT, commit, environment

RESULTS = ROOT / "benchmarks" / "results"
TOLERANCE = 1e-4
PLAIN = "jax.hessian"

One = Callable[[Any, Any], Any]  # (params, point) -> the derivatives of one sample, by name
Step = Callable[[Any, Any], Any]  # (params, X) -> (loss, gradient by the parameters)


# The two problems. A network of one point (t, x); the residual as a function of derivatives by name.


@dataclass(frozen=True)
class Cell:
    """One problem of the paper.

    Attributes:
        name: of the equation.
        about: the network in words.
        sizes: of all layers, from the two coordinates to the outputs.
        D: collocation points.
        lower: the smallest (t, x).
        upper: the largest (t, x).
        of: the derivatives that the residual needs.
        residual: from them by name, each (..., A) or (...,), to the residual.
    """

    name: str
    about: str
    sizes: tuple[int, ...]
    D: int
    lower: tuple[float, float]
    upper: tuple[float, float]
    of: str
    residual: Callable[[dict[str, Any]], Any]

    def network(self, params: Any, x: Any) -> Any:
        for W, b in params[:-1]:
            x = jnp.tanh(x @ W + b)
        W, b = params[-1]
        y = x @ W + b
        return y[0] if self.sizes[-1] == 1 else y

    def data(self, samples: int) -> tuple[Any, Any]:
        rng = np.random.default_rng(3)
        pairs = zip(self.sizes, self.sizes[1:], strict=False)
        params = [(rng.normal(size=(a, b)) / np.sqrt(a), 0.1 * rng.normal(size=b)) for a, b in pairs]
        X = rng.uniform(self.lower, self.upper, (samples, 2))
        return jax.tree.map(lambda a: jnp.asarray(a, "float32"), (params, X))


def burgers(d: dict[str, Any]) -> Any:
    return d["u_t"] + d["u"] * d["u_x"] - 0.01 / np.pi * d["u_xx"]


def schroedinger(d: dict[str, Any]) -> Any:
    """Of i h_t + h_xx / 2 + |h|^2 h = 0, for real pairs h = (u, v) on the last axis."""
    turned = jnp.stack([-d["u_t"][..., 1], d["u_t"][..., 0]], axis=-1)
    return turned + 0.5 * d["u_xx"] + jnp.sum(d["u"] ** 2, axis=-1, keepdims=True) * d["u"]


CELLS = (
    Cell(
        "burgers",
        "9 layers, 20 neurons in each hidden one, tanh",
        (2, *[20] * 8, 1),
        10_000,
        (0.0, -1.0),
        (1.0, 1.0),
        "u u_t u_x u_xx",
        burgers,
    ),
    Cell(
        "schroedinger",
        "5 layers, 100 neurons in each hidden one, tanh, two outputs",
        (2, *[100] * 4, 2),
        20_000,
        (0.0, -5.0),
        (np.pi / 2, 5.0),
        "u u_t u_xx",
        schroedinger,
    ),
)


# The peers: all derivatives of one sample, by hand. What a residual does not use, XLA removes.


def plain(f: Callable, x: Any) -> dict[str, Any]:
    """The Hessian and the Jacobian as they are asked for in JAX."""
    J, H = jax.jacrev(f)(x), jax.hessian(f)(x)
    return {"u": f(x), "u_t": J[..., 0], "u_x": J[..., 1], "u_xx": H[..., 1, 1]}


def nested_jvp(f: Callable, x: Any) -> dict[str, Any]:
    """Only the directions that are needed: along x twice, with u and u_x from the same pass, and along t."""
    along_t, along_x = jnp.eye(2, dtype=x.dtype)
    (u, u_x), (_, u_xx) = jax.jvp(lambda z: jax.jvp(f, (z,), (along_x,)), (x,), (along_x,))
    return {"u": u, "u_t": jax.jvp(f, (x,), (along_t,))[1], "u_x": u_x, "u_xx": u_xx}


def jvp_of_linearize(f: Callable, x: Any) -> dict[str, Any]:
    """The same, with u_t from the linear map that u_x comes from."""
    along_t, along_x = jnp.eye(2, dtype=x.dtype)
    u, slope = jax.linearize(f, x)
    u_xx = jax.jvp(lambda z: jax.jvp(f, (z,), (along_x,))[1], (x,), (along_x,))[1]
    return {"u": u, "u_t": slope(along_t), "u_x": slope(along_x), "u_xx": u_xx}


def jvp_of_reverse(f: Callable, x: Any) -> dict[str, Any]:
    """Forward over reverse along x: u_t and u_x are the Jacobian, u_xx is a row of the Hessian."""
    along_x = jnp.array([0.0, 1.0], x.dtype)
    J, H = jax.jvp(jax.jacrev(f), (x,), (along_x,))
    return {"u": f(x), "u_t": J[..., 0], "u_x": J[..., 1], "u_xx": H[..., 1]}


def taylor(f: Callable, x: Any) -> dict[str, Any]:
    """Taylor mode along x: u, u_x and u_xx in one pass; and along t."""
    from jax.experimental.jet import jet

    along_t, along_x = jnp.eye(2, dtype=x.dtype)
    u, (u_x, u_xx) = jet(f, (x,), ((along_x, jnp.zeros_like(x)),))
    return {"u": u, "u_t": jax.jvp(f, (x,), (along_t,))[1], "u_x": u_x, "u_xx": u_xx}


def forward_laplacian(f: Callable, x: Any) -> dict[str, Any]:
    """By folx. Its Laplacian is a sum over coordinates: with x as the only one it is u_xx; u_t is along t."""
    import folx

    found = folx.forward_laplacian(lambda space: f(jnp.stack([x[0], space])))(x[1])
    along_t = jnp.array([1.0, 0.0], x.dtype)
    u_x = found.jacobian.dense_array[0].reshape(found.x.shape)
    return {"u": found.x, "u_t": jax.jvp(f, (x,), (along_t,))[1], "u_x": u_x, "u_xx": found.laplacian}


PEERS = {
    PLAIN: plain,
    "nested jvp": nested_jvp,
    "nested jvp, linearize": jvp_of_linearize,
    "jvp of jacrev": jvp_of_reverse,
    "jet": taylor,
    "folx": forward_laplacian,
}


# From derivatives to a step.


def squared(residual: Any) -> Any:
    """|residual|^2 of each sample, real or complex."""
    found = residual.real**2 + residual.imag**2 if jnp.iscomplexobj(residual) else residual**2
    return found.reshape(found.shape[0], -1).sum(axis=1) if found.ndim > 1 else found


def peer_step(cell: Cell, formulation: Callable, chunk: int | None) -> Step:
    def one(params, x):
        return jnp.sum(cell.residual(formulation(lambda z: cell.network(params, z), x)) ** 2)

    def loss(params, X):
        if chunk is None:
            return jnp.mean(jax.vmap(one, (None, 0))(params, X))
        body = jax.checkpoint(lambda x: one(params, x), prevent_cse=False)
        return jnp.mean(jax.lax.map(body, X, batch_size=chunk))

    return jax.value_and_grad(loss)


def own_step(cell: Cell, complex_output: bool = False, **options: Any) -> Step:
    """By nablax. With a complex output, h = u + i v and its derivatives are complex, as in examples/schroedinger.py."""

    def one_number(params, x):
        u, v = cell.network(params, x)
        return u + 1j * v

    def modulus(d):
        return 1j * d["u_t"] + 0.5 * d["u_xx"] + (d["u"].real ** 2 + d["u"].imag ** 2) * d["u"]

    model, residual = (one_number, modulus) if complex_output else (cell.network, cell.residual)
    derivatives = nablax.partials(model, coordinates="t x", of=cell.of, **options)
    return jax.value_and_grad(lambda params, X: jnp.mean(squared(residual(derivatives(params, X)))))


def contenders(cell: Cell, chunks: list[int]) -> dict[str, Callable[[], Step]]:
    """Name -> a function that builds the step. The first is the reference."""
    peers = {name: peer for name, peer in PEERS.items() if name != "folx" or find_spec("folx")}
    found: dict[str, Callable[[], Step]] = {}
    for name, peer in peers.items():
        for chunk in (None, *chunks):
            label = name if chunk is None else f"{name} @{chunk}"
            found[label] = lambda peer=peer, chunk=chunk: peer_step(cell, peer, chunk)
    found["nablax"] = lambda: own_step(cell)
    found["nablax, whole batch"] = lambda: own_step(cell, chunk_size=None)
    if cell.sizes[-1] == 2:
        found["nablax, complex output"] = lambda: own_step(cell, complex_output=True)
    return found


# Measure.


def expected(cell: Cell, params: Any, X: Any) -> list[np.ndarray]:
    """Loss and gradient by the plain formulation in float64."""
    with jax.enable_x64(True):
        args = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), "float64"), (params, X))
        return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.jit(peer_step(cell, plain, 100))(*args))]


def rates(cell: Cell, samples: int) -> dict[str, float]:
    """What this machine does in a second, at best: operations of a product as in the network, and tanh."""
    width = cell.sizes[1]
    a, W = jnp.ones((samples, width)), jnp.ones((width, width))
    product, tanh = jax.jit(lambda a: a @ W), jax.jit(jnp.tanh)
    return {
        "product": 2 * samples * width**2 / seconds(lambda: product(a)),
        "tanh": a.size / seconds(lambda: tanh(a)),
    }


def build(make: Callable[[], Step], params: Any, X: Any) -> tuple[Callable, dict[str, Any]]:
    start = time.perf_counter()
    program = jax.jit(make()).lower(params, X).compile()
    took = time.perf_counter() - start
    memory, cost = program.memory_analysis(), program.cost_analysis()
    figures = {"compile_s": took, "temp_bytes": memory.temp_size_in_bytes}
    counts = {"flops": cost["flops"], "bytes": cost["bytes accessed"], "tanh": cost["transcendentals"]}
    return program, figures | counts


def measure(cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    samples = 200 if options.quick else cell.D
    params, X = cell.data(samples)
    right, load = expected(cell, params, X), os.getloadavg()[0]
    results: dict[str, dict[str, Any]] = {}
    runs: dict[str, Callable[[], Any]] = {}
    for name, make in contenders(cell, [50] if options.quick else options.chunks).items():
        print(f"{cell.name}: {name}", flush=True)
        try:
            program, figures = build(make, params, X)
            error = relative_error([np.asarray(leaf) for leaf in jax.tree.leaves(program(params, X))], right)
        except Exception as failed:  # a peer may fail in any way; it is listed with its reason
            results[name] = {"name": name, "status": "failed", "reason": f"{type(failed).__name__}: {failed}"[:300]}
            continue
        results[name] = {"name": name, "status": "ok" if error <= TOLERANCE else "wrong", "error": error, **figures}
        if results[name]["status"] == "ok":
            runs[name] = lambda program=program: jax.block_until_ready(program(params, X))
    # Loops are counted once: operations and bytes are those of programs without chunks.
    for name, entry in results.items():
        if "@" in name or name in ("nablax", "nablax, complex output"):
            for key in ("flops", "bytes", "tanh"):
                entry.pop(key, None)
    for name, taken in timed(runs, options).items():
        results[name] |= {"seconds": statistics.median(taken), "fastest": min(taken), "runs": len(taken)}
    return {
        "cell": cell.name,
        "about": cell.about,
        "D": samples,
        "parameters": int(sum(leaf.size for leaf in jax.tree.leaves(params))),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": commit(),
        "quick": options.quick,
        "load": [load, os.getloadavg()[0]],
        "rates": rates(cell, samples),
        "contenders": list(results.values()),
    }


def timed(runs: dict[str, Callable[[], Any]], options: argparse.Namespace) -> dict[str, list[float]]:
    """All against each other; then the best chunk of every formulation and nablax once more."""
    rounds, seconds = (2, 0.1) if options.quick else (options.rounds, options.seconds)
    own = [name for name in runs if name.startswith("nablax")]
    times = alternate(runs, rounds=rounds, seconds=seconds, keep=own)
    median = {name: statistics.median(taken) for name, taken in times.items()}
    groups: dict[str, list[str]] = {}
    for name in median:
        groups.setdefault(name.split(" @")[0], []).append(name)
    last = {min(group, key=median.__getitem__) for group in groups.values()}
    again = {name: run for name, run in runs.items() if name in last}
    for name, more in alternate(again, rounds=rounds, seconds=seconds, keep=last).items():
        times[name] += more
    return times


# Report.


def row(entry: dict[str, Any], own: float) -> list[str]:
    optional = lambda key, scale, digits: f"{entry[key] / scale:.{digits}f}" if key in entry else ""
    return [
        entry["name"],
        f"{1e3 * entry['seconds']:.1f}",
        f"{1e3 * entry['fastest']:.1f}",
        f"{entry['seconds'] / own:.2f}",
        optional("temp_bytes", 2**20, 1),
        optional("flops", 1e9, 2),
        optional("bytes", 1e9, 2),
        f"{entry['error']:.1e}",
        f"{entry['compile_s']:.1f}",
        str(entry["runs"]),
    ]


HEAD = "step,median ms,fastest ms,ratio,temporary MiB,Gop,GB,error,compile s,runs"


def section(square: dict[str, Any]) -> list[str]:
    ran = sorted((e for e in square["contenders"] if "seconds" in e), key=lambda e: e["seconds"])
    own = next(e for e in ran if e["name"] == "nablax")["seconds"]
    best = next(e for e in ran if not e["name"].startswith("nablax"))
    plain_best = next(e for e in ran if e["name"].split(" @")[0] == PLAIN)
    text = [
        f"## {square['cell']}",
        "",
        f"{square['about']}, {square['parameters']} parameters, {square['D']} points.",
        "",
        f"- {square['date']}, commit {square['commit']} (+: with changes on top)",
        f"- load of the machine before and after: {square['load'][0]:.1f}, {square['load'][1]:.1f}",
        f"- best peer / nablax: **{best['seconds'] / own:.2f}** ({best['name']})",
        f"- {PLAIN} / nablax: **{plain_best['seconds'] / own:.2f}** ({plain_best['name']})",
        "",
        *table(HEAD.split(","), [row(entry, own) for entry in ran]),
    ]
    for entry in square["contenders"]:
        if "seconds" not in entry:
            reason = entry.get("reason") or f"wrong numbers, relative error {entry['error']:.1e}"
            text.append(f"- {entry['name']}: {reason.replace('|', '/')}")
    return [*text, ""]


def roofline(document: dict[str, Any]) -> list[str]:
    """What every whole-batch program has to do, and how long that takes at the rates of this machine."""
    text = [
        "## Roofline",
        "",
        "Counted by XLA for the whole batch, bytes in a cache included. least ms = Gop at the rate of a product of the",
        "network's own shape, plus all tanh at the rate of tanh, both measured in this run: what is left is mostly",
        "traffic between the operations.",
        f"A product of 2048 x 2048 matrices reaches {document['peak'] / 1e9:.0f} Gop/s,",
        f"a sum of large arrays {document['bandwidth'] / 1e9:.1f} GB/s.",
        "",
    ]
    for square in document["squares"]:
        rate = square["rates"]
        text += [
            f"{square['cell']}: {rate['product'] / 1e9:.0f} Gop/s, {rate['tanh'] / 1e6:.0f} million tanh a second."
        ]
        rows = [
            [
                entry["name"],
                f"{entry['flops'] / 1e9:.2f}",
                f"{entry['bytes'] / 1e9:.2f}",
                f"{entry['tanh'] / 1e6:.2f}",
                f"{1e3 * (entry['flops'] / rate['product'] + entry['tanh'] / rate['tanh']):.0f}",
                f"{1e3 * entry['seconds']:.0f}",
                f"{entry['flops'] / entry['seconds'] / 1e9:.0f}",
                f"{entry['bytes'] / entry['seconds'] / 1e9:.1f}",
            ]
            for entry in square["contenders"]
            if "flops" in entry and "seconds" in entry
        ]
        head = ["step", "Gop", "GB", "million tanh", "least ms", "median ms", "Gop/s", "GB/s"]
        text += ["", *table(head, rows), ""]
    return text


def write(document: dict[str, Any], out: Path) -> str:
    where = document["environment"]
    out.with_suffix(".json").write_text(json.dumps(document, indent=1))
    quick = any(square["quick"] for square in document["squares"])
    versions = [f"{name} {version}" for name, version in where["versions"].items() if name != "torch"]
    text = [
        "# A step of training physics-informed networks",
        "",
        "Value and gradient by the parameters of the mean squared residual, compiled, float32. Medians of turns in one",
        "process, order alternated. ratio = time / time of nablax with its defaults: above 1 nablax is faster.",
        "@n: chunks of n points, rematerialised. Errors are relative to the plain formulation in float64.",
        "Gop and GB are counted by XLA, for programs without a loop only.",
        "",
        *["**Quick run: the numbers mean nothing.**", ""] * quick,
        f"- device: {', '.join(where['devices'])}; {where['processor']}",
        f"- versions: {', '.join(versions)}",
        *["- folx is not installed, and left out"] * (not find_spec("folx")),
        "",
    ]
    for square in document["squares"]:
        text += section(square)
    text += roofline(document)
    out.with_suffix(".md").write_text("\n".join(text).rstrip() + "\n")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=lambda text: text.split(","), default=[cell.name for cell in CELLS])
    parser.add_argument("--chunks", type=lambda text: [int(n) for n in text.split(",")], default=[100, 250, 1000])
    parser.add_argument("--rounds", type=int, default=5, help="turns for each contender")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each contender, over all its turns")
    parser.add_argument("--quick", action="store_true", help="few points, two rounds: does everything run?")
    parser.add_argument("--out", type=Path, default=RESULTS / "training", help="path without suffix")
    options = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")  # no TF32 on a GPU
    where = environment()
    squares = [measure(cell, options) for cell in CELLS if cell.name in options.cells]
    peak, bandwidth = peaks()
    document = {"environment": where, "squares": squares, "peak": peak, "bandwidth": bandwidth}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    print(write(document, options.out))


if __name__ == "__main__":
    main()
