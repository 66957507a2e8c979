"""One square of the grid in torch.func, eager and compiled, with the weights and inputs that JAX saw.

In chunks the gradient of the loss is accumulated chunk by chunk, which is what torch users do; no graph outlives its
chunk. `torch.compile` (one full graph, static shapes) is tried on the formulation that is fastest without it: whole
batch and at its best chunk size.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from benchmarks.cells import Cell
from benchmarks.cells import cell as cell_named
from benchmarks.measure import IN_FLIGHT, alternate, relative_error, summary, turn
from benchmarks.ops import torch_ops
from benchmarks.task import Task, event, failure, hand_back, obey

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def to_torch(tree: Any) -> Any:
    """Arrays to tensors; dicts in the order of their keys, as JAX flattens them."""
    if isinstance(tree, dict):
        return {key: to_torch(tree[key]) for key in sorted(tree)}
    if isinstance(tree, list):
        return [to_torch(leaf) for leaf in tree]
    return torch.from_numpy(np.asarray(tree)).to(DEVICE)


def leaves(tree: Any) -> list[np.ndarray]:
    return [leaf.detach().cpu().numpy() for leaf in torch.utils._pytree.tree_leaves(tree)]


def along_each(f, x):
    """Second derivatives along the unit vectors, by jvp of jvp: (C, A)."""
    second = lambda v: jvp(lambda z: jvp(f, (z,), (v,))[1], (x,), (v,))[1]
    return vmap(second)(torch.eye(x.shape[0], dtype=x.dtype, device=x.device))


def formulations(want: str) -> dict[str, Callable]:
    diagonal = lambda H: torch.diagonal(H, dim1=-2, dim2=-1)
    return {
        "jacobian": {"torch jacrev": jacrev, "torch jacfwd": jacfwd},
        "hessian": {"torch hessian": hessian, "torch jacfwd(jacfwd)": lambda f: jacfwd(jacfwd(f))},
        "hessian_diagonal": {
            "torch diag of hessian": lambda f: lambda x: diagonal(hessian(f)(x)),
            "torch nested jvp": lambda f: lambda x: along_each(f, x).movedim(0, -1),
        },
        "laplacian": {
            "torch trace of hessian": lambda f: lambda x: diagonal(hessian(f)(x)).sum(-1),
            "torch nested jvp": lambda f: lambda x: along_each(f, x).sum(0),
        },
    }[want]


def per_chunk(cell: Cell, formulation: Callable, weights: torch.Tensor | None) -> Callable:
    """(params, X) -> the want for every sample of X, or the gradient of the loss summed (not averaged) over X."""
    ops = torch_ops()

    def batch(params, X):
        return vmap(lambda x: formulation(lambda z: cell.model(ops, params, z))(x))(X)

    if weights is None:
        return batch
    return grad(lambda params, X: (weights * batch(params, X) ** 2).sum())


def over_chunks(function: Callable, chunk: int | None, gradient: bool) -> Callable:
    tree_map = torch.utils._pytree.tree_map

    def run(params, X):
        parts = [function(params, x) for x in X.split(chunk or X.shape[0])]
        if not gradient:
            return torch.cat(parts)
        return tree_map(lambda *leaves: sum(leaves) / X.shape[0], *parts)

    return run


def wait(result: Any) -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


TIMING: dict[str, Any] = {"wait": wait, "in_flight": IN_FLIGHT if DEVICE == "cuda" else 0.0}


def enter(
    name: str, run: Callable[[], Any], expected: list[np.ndarray], allowed: float, skip: dict[str, str]
) -> dict[str, Any]:
    """First run of a contender: its values, and how long it took (with the compilation, where there is one)."""
    if name in skip:
        return {"name": name, "family": "torch", "status": "failed", "reason": skip[name]}
    event(name)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() if DEVICE == "cuda" else 0
    try:
        start = time.perf_counter()
        result = run()
        wait(result)
        first = time.perf_counter() - start
        error = relative_error(leaves(result), expected)
    except Exception as failed:  # a peer may fail in any way; it is listed with its reason
        return failure(name, "torch", failed)
    temp = torch.cuda.max_memory_allocated() - held if DEVICE == "cuda" else None
    status = "ok" if error <= allowed else "wrong"
    return {
        "name": name,
        "family": "torch",
        "status": status,
        "error": error,
        "compile_s": first,
        "temp_bytes": temp,
    }


def run(task: Task) -> None:
    """Answer with all contenders; then let them run by turns."""
    cell = cell_named(task.cell).with_samples(task.D)
    params, X = (to_torch(part) for part in cell.data())
    with np.load(task.reference) as file:
        expected = [file[name] for name in file.files if name.startswith("arr_")]
        allowed = float(file["allowed"])
        weights = to_torch(file["weights"]) if task.gradient else None
    results: dict[str, dict[str, Any]] = {}
    runs: dict[str, Callable[[], Any]] = {}
    origin: dict[str, tuple[Callable, int | None]] = {}

    def attempt(name: str, function: Callable, chunk: int | None) -> None:
        candidate = partial(over_chunks(function, chunk, task.gradient), params, X)
        results[name] = enter(name, candidate, expected, allowed, task.skip)
        if results[name]["status"] == "ok":
            runs[name], origin[name] = candidate, (function, chunk)

    for name, formulation in formulations(task.want).items():
        for chunk in task.chunks:
            if chunk is None or chunk < cell.D:
                attempt(name if chunk is None else f"{name} @{chunk}", per_chunk(cell, formulation, weights), chunk)
    scout = alternate(runs, rounds=2, seconds=task.seconds / 3, event=event, **TIMING)
    if scout and task.torch_compile:
        best = min(scout, key=lambda name: statistics.median(scout[name]))
        function, chunk = origin[best]
        base = best.split(" @")[0]
        for size in dict.fromkeys((None, chunk)):
            compiled = torch.compile(function, fullgraph=True, dynamic=False)
            attempt(f"{base} compiled" if size is None else f"{base} compiled @{size}", compiled, size)
    event("waits for its turn")
    with task.alone():
        times = alternate(runs, rounds=task.rounds, seconds=task.seconds, event=event, **TIMING)
    for name, taken in times.items():
        results[name] |= summary(taken)
    hand_back(list(results.values()))
    obey({name: partial(turn, run, **TIMING) for name, run in runs.items()})


def serve(cell: Cell, want: str, name: str, gradient: bool) -> None:
    """Let one contender run by turns with others of other processes; all weights of a loss are 1."""
    base, _, chunk = name.partition(" @")
    eager = base.removesuffix(" compiled")
    params, X = (to_torch(part) for part in cell.data())
    function = per_chunk(cell, formulations(want)[eager], torch.ones(()) if gradient else None)
    run = lambda: over_chunks(function, int(chunk) if chunk else None, gradient)(params, X)
    run()  # as in the grid: memory that a larger program has freed need not come fresh from the system
    if base != eager:
        function = torch.compile(function, fullgraph=True, dynamic=False)
        run()
    hand_back(name)
    obey({name: partial(turn, run, **TIMING)})


if __name__ == "__main__":
    torch.set_num_threads(2)
    if sys.argv[1] == "serve":
        name, samples, want, contender, through = sys.argv[2:]
        serve(cell_named(name).with_samples(int(samples)), want, contender, through == "gradient")
    else:
        run(Task.read(sys.argv[1]))
