"""One square of the grid in JAX: compile every contender, check its values, time them against each other."""

from __future__ import annotations

import gc
import sys
import time
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.cells import cell as cell_named
from benchmarks.measure import IN_FLIGHT, alternate, relative_error, summary, turn
from benchmarks.ops import jax_ops
from benchmarks.peers import Batch, Contender, batched, contenders, formulations, gradient_of_loss
from benchmarks.task import Task, event, failure, hand_back, obey
from benchmarks.verdict import AUTO

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


def run(task: Task) -> None:
    """Answer with all contenders; then let them run by turns."""
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
    timing = {"wait": jax.block_until_ready, "in_flight": 0.0 if jax.default_backend() == "cpu" else IN_FLIGHT}
    event("waits for its turn")
    with task.alone():
        times = alternate(runs, rounds=task.rounds, seconds=task.seconds, keep=(AUTO,), event=event, **timing)
    for name, taken in times.items():
        results[name] |= summary(taken)
    hand_back(list(results.values()))
    obey({name: partial(turn, run, **timing) for name, run in runs.items()})


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_default_matmul_precision", "highest")  # no TF32 on a GPU: torch's default neither
    run(Task.read(sys.argv[1]))
