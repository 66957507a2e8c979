"""One square of the grid in JAX: compile every contender, check its values, time them against each other."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.cells import cell as cell_named
from benchmarks.measure import IN_FLIGHT, alternate, relative_error
from benchmarks.ops import jax_ops
from benchmarks.peers import Batch, Contender, batched, contenders, formulations, gradient_of_loss
from benchmarks.task import Task, event, failure, hand_back

TOLERANCE = 1e-4


def leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def reference_values(task: Task, params: Any, X: Any) -> tuple[list[np.ndarray], np.ndarray]:
    """The plain formulation in float64, in chunks; and the weights of the loss."""
    cell, ops = cell_named(task.cell), jax_ops()
    _, formulation = next(iter(formulations(cell, task.want).values()))
    model = lambda params, x: cell.model(ops, params, x)
    with jax.enable_x64(True):
        params, X = jax.tree.map(lambda a: jax.numpy.asarray(a, "float64"), (params, X))
        one = jax.eval_shape(lambda x: formulation(lambda z: model(params, z))(x), X[0])
        weights = np.random.default_rng(7).uniform(0.5, 1.5, one.shape).astype(np.float32)
        batch = batched(formulation, model, min(32, task.D), rematerialise=True)
        if task.gradient:
            batch = gradient_of_loss(batch, weights.astype(np.float64))
        return leaves(jax.jit(batch)(params, X)), weights


def build(contender: Contender, args: tuple) -> tuple[Batch, dict[str, float]]:
    """Trace, lower and compile with empty caches, each timed."""
    jax.clear_caches()
    gc.collect()  # what others left behind is not collected in this one's time
    start = time.perf_counter()
    traced = jax.jit(contender.build()).trace(*args)
    middle = time.perf_counter()
    compiled = traced.lower().compile()
    end = time.perf_counter()
    memory = compiled.memory_analysis()
    return compiled, {
        "trace_s": middle - start,
        "compile_s": end - middle,
        "temp_bytes": memory.temp_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
    }


def head_to_head(times: dict[str, list[float]], family: dict[str, str]) -> list[str]:
    """The names that decide the square: the best peer, the best explicit strategy, nablax:auto."""
    median = {name: statistics.median(t) for name, t in times.items() if t}
    peers = [n for n in median if family[n] != "nablax"]
    ours = [n for n in median if family[n] == "nablax" and n != "nablax:auto"]
    best = [min(group, key=median.__getitem__) for group in (peers, ours) if group]
    return best + ["nablax:auto"] * ("nablax:auto" in median)


def run(task: Task) -> list[dict[str, Any]]:
    cell = cell_named(task.cell).with_samples(task.D)
    params, X = jax.tree.map(jax.numpy.asarray, cell.data())
    event("reference")
    expected, weights = reference_values(task, params, X)
    entered = contenders(cell, task.want, task.families, task.chunks, weights if task.gradient else None)
    plain = entered[0].name
    results: dict[str, dict[str, Any]] = {}
    runs: dict[str, Any] = {}
    allowed = TOLERANCE
    for c in entered:
        if c.name in task.skip:
            results[c.name] = {"name": c.name, "family": c.family, "status": "failed", "reason": task.skip[c.name]}
            continue
        event(c.name)
        try:
            compiled, figures = build(c, (params, X))
            error = relative_error(leaves(compiled(params, X)), expected)
        except Exception as failed:  # a peer may fail in any way; it is listed with its reason
            results[c.name] = failure(c.name, c.family, failed)
            continue
        if c.name == plain:
            allowed += 10 * error  # float32 itself is worth that much in this cell
        status = "ok" if error <= allowed else "wrong"
        results[c.name] = {"name": c.name, "family": c.family, "status": status, "error": error, **figures}
        if status == "ok":
            runs[c.name] = partial(compiled, params, X)
    np.savez(task.reference, *expected, weights=weights, allowed=allowed)  # for the torch worker
    timing = {
        "rounds": task.rounds,
        "seconds": task.seconds,
        "event": event,
        "wait": jax.block_until_ready,
        "in_flight": 0.0 if jax.default_backend() == "cpu" else IN_FLIGHT,
    }
    with task.alone():
        times = alternate(runs, keep=("nablax:auto",), **timing)
        last = head_to_head(times, {c.name: c.family for c in entered})
        again = {name: runs[name] for name in last}
        for name, more in alternate(again, keep=last, **timing).items():
            times[name] += more
    for name, taken in times.items():
        results[name] |= {"seconds": statistics.median(taken), "fastest": min(taken), "runs": len(taken)}
    return list(results.values())


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_default_matmul_precision", "highest")  # no TF32 on a GPU: torch's default neither
    hand_back(run(Task.read(sys.argv[1])))
