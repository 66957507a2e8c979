"""A gradient through the Hessian written by hand: ``python -m benchmarks.by_hand [--out PATH]``.

What somebody would write who had only this model, a tanh network, and only this loss, mean of sum(w H^2): tangents and
adjoints of every layer, one contraction a layer, and all of it backwards, with no layer evaluated twice. It shows what
is left to gain in the squares pinn and small of the grid. Measured as it is, and with glibc told to keep large blocks
of memory: what is written by hand holds the whole batch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.cells import cell as cell_named
from benchmarks.grid import RESULTS
from benchmarks.measure import alternate, relative_error
from benchmarks.peers import contenders

CELLS = ("pinn", "small")
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "2000000000"}
CONTENDERS = ("nablax:auto", "jax.hessian", "jax.hessian @256", "jax.hessian @1024")


def times(rows: Array, W: Array) -> Array:
    """(k, D, H) by (H, G), as one product."""
    return (rows.reshape(-1, rows.shape[-1]) @ W).reshape(*rows.shape[:-1], W.shape[1])


def by_weights(rows: Array, cotangents: Array) -> Array:
    """The gradient by W of `times`."""
    return rows.reshape(-1, rows.shape[-1]).T @ cotangents.reshape(-1, cotangents.shape[-1])


def gradient(params: Any, X: Array, weights: Array) -> Any:
    """The gradient by the parameters of mean_d sum_ace weights[a,c,e] H[d,a,c,e]^2."""
    *hidden, last = params
    (D, C), (width, A), L = X.shape, last["W"].shape, len(hidden)

    # Forward: t = tanh(a), and the tangents of a (C, D, H).
    t, da, h, dh = [], [], X, X
    for l, layer in enumerate(hidden):
        t.append(jnp.tanh(h @ layer["W"] + layer["b"]))
        da.append(times(dh, layer["W"]) if l else jnp.broadcast_to(layer["W"][:, None], (C, D, width)))
        h, dh = t[-1], (1 - t[-1] ** 2) * da[-1]
    # Back: the adjoints of t (A, D, H).
    lam = [jnp.broadcast_to(last["W"].T[:, None], (A, D, width))] * L
    for l in range(L - 1, 0, -1):
        lam[l - 1] = times(lam[l] * (1 - t[l] ** 2), hidden[l]["W"].T)
    slope = [1 - tl**2 for tl in t]
    bend = [-2 * tl * s for tl, s in zip(t, slope, strict=True)]

    # H[a,c,e] = sum over layers and entries of lam bend da[c] da[e].
    rows: list[list[Any]] = [[None] * C for _ in range(C)]
    for c in range(C):
        for e in range(c, C):
            parts = (jnp.einsum("adh,dh->da", lam[l] * bend[l], da[l][c] * da[l][e]) for l in range(L))
            rows[c][e] = rows[e][c] = sum(parts)
    H = jnp.stack([jnp.stack(row, -1) for row in rows], -1)
    cotangent = 2 * weights * H / D
    cotangent = cotangent + jnp.swapaxes(cotangent, -1, -2)

    # Through the contractions: cotangents of lam bend (A, D, H) and of da (C, D, H).
    of_bent, of_da = [], []
    for l in range(L):
        pulled = [[sum(cotangent[:, a, c, e, None] * da[l][e] for e in range(C)) for c in range(C)] for a in range(A)]
        of_bent.append(jnp.stack([sum(p * d for p, d in zip(row, da[l], strict=True)) / 2 for row in pulled]))
        bent = lam[l] * bend[l]
        of_da.append(jnp.stack([sum(bent[a] * pulled[a][c] for a in range(A)) for c in range(C)]))

    found = [{"W": jnp.zeros(()), "b": jnp.zeros(())} for _ in hidden]
    # Through the adjoints, forward.
    of_t, of_lam = [], jnp.zeros(())
    for l in range(L):
        of_t.append(jnp.sum(of_bent[l] * lam[l], 0) * (4 * t[l] ** 2 - 2 * slope[l]))
        into = of_bent[l] * bend[l]
        if l:
            found[l]["W"] = by_weights(of_lam, lam[l] * slope[l])
            through = times(of_lam, hidden[l]["W"])
            of_t[l] -= jnp.sum(through * lam[l], 0) * 2 * t[l]
            into += through * slope[l]
        of_lam = into
    # Through the tangents and values, back.
    of_h, of_dh = jnp.zeros(()), jnp.zeros((C, 1, 1))
    for l in range(L - 1, -1, -1):
        whole = of_da[l] + slope[l] * of_dh
        of_a = (of_t[l] + of_h - 2 * t[l] * jnp.sum(of_dh * da[l], 0)) * slope[l]
        found[l]["b"] = jnp.sum(of_a, 0)
        if l == 0:
            found[0]["W"] = X.T @ of_a + jnp.sum(whole, 1)
            break
        found[l]["W"] += t[l - 1].T @ of_a + by_weights(slope[l - 1] * da[l - 1], whole)
        of_h, *rest = times(jnp.concatenate([of_a[None], whole]), hidden[l]["W"].T)
        of_dh = jnp.stack(rest)
    return [*found, {"W": jnp.sum(of_lam, 1).T, "b": jnp.zeros_like(last["b"])}]


def measure(name: str) -> dict[str, Any]:
    """Milliseconds, MiB and relative error of each contender for one cell."""
    cell = cell_named(name)
    params, X = jax.tree.map(jnp.asarray, cell.data())
    weights = np.random.default_rng(7).uniform(0.5, 1.5, (cell.A, cell.C, cell.C)).astype(np.float32)
    entered = contenders(cell, "hessian", ["nablax", "jax"], [None, 256, 1024], weights)
    functions = {c.name: c.build() for c in entered if c.name in CONTENDERS}
    functions["by hand"] = partial(gradient, weights=jnp.asarray(weights))
    programs = {key: jax.jit(f).lower(params, X).compile() for key, f in functions.items()}
    values = {key: [np.asarray(leaf) for leaf in jax.tree.leaves(f(params, X))] for key, f in programs.items()}
    runs = {key: partial(f, params, X) for key, f in programs.items()}
    taken = alternate(runs, rounds=15, seconds=1.0, keep=tuple(runs), wait=jax.block_until_ready)
    return {
        key: {
            "ms": 1e3 * statistics.median(taken[key]),
            "MiB": f.memory_analysis().temp_size_in_bytes / 2**20,
            "error": relative_error(values[key], values["jax.hessian"]),
        }
        for key, f in programs.items()
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """One row for each cell and setting of glibc."""
    lines = [
        "# Gradient through the Hessian, written by hand",
        "",
        "Time of the best form of `jax.hessian` (whole batch, chunks of 256 and 1024) / time of nablax, and of a",
        "program for this model and loss alone. Order alternated; glibc returns large blocks of memory, or keeps them.",
        "",
        "| cell | large blocks | jax ms | nablax ms | by hand ms | jax / nablax | jax / by hand | MiB, by hand |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, each in found.items():
        name, blocks = key.split(", ")
        jax_ms = min(figures["ms"] for peer, figures in each.items() if peer.startswith("jax"))
        ours, hand = each["nablax:auto"], each["by hand"]
        lines.append(
            f"| {name} | {blocks} | {jax_ms:.1f} | {ours['ms']:.1f} | {hand['ms']:.1f} | {jax_ms / ours['ms']:.2f} "
            f"| {jax_ms / hand['ms']:.2f} | {ours['MiB']:.1f}, {hand['MiB']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "by-hand.md")
    parser.add_argument("--measure", help="one cell, here and now, as JSON")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    found = {}
    for name in CELLS:
        for blocks, setting in (("returned", {}), ("kept", KEEP_MEMORY)):
            command = [sys.executable, "-m", "benchmarks.by_hand", "--measure", name]
            done = subprocess.run(command, env=os.environ | setting, check=True, capture_output=True, text=True)
            found[f"{name}, {blocks}"] = json.loads(done.stdout)
            worst = max(figures["error"] for figures in found[f"{name}, {blocks}"].values())
            if worst > 1e-4:
                raise SystemExit(f"{name}: a contender is off by {worst:.1e}")
    options.out.write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
