"""Plain JAX and nablax; also the reference that all workers compare with."""

from __future__ import annotations

import sys
from typing import Any

import jax
import numpy as np

from benchmarks.parameters import jax_peers, models
from benchmarks.parameters.jax_tools import Formulation, contender, on_device
from benchmarks.parameters.reference import reference_values
from benchmarks.parameters.serve import TOLERANCE, YARDSTICK, Contender, reference, serve
from benchmarks.parameters.task import Task
from benchmarks.task import event


def own(task: Task) -> Formulation:
    """What nablax computes, with its defaults."""
    import nablax

    operator = nablax.parameter_jacobian(models.model(task.model, task.A))
    O = lambda data: operator(data["params"], data["X"])
    gradients = nablax.per_sample_gradients(models.loss(task.model, task.A))
    return {
        "gram": lambda data: O(data).gram(),
        "squared_norms": lambda data: O(data).squared_norms(),
        "dense": lambda data: O(data).dense(),
        "tree": lambda data: O(data).tree(),
        "fisher_diagonal": lambda data: O(data).fisher_diagonal(),
        "clipped_mean": lambda data: gradients(data["params"], data["X"], data["Y"]).clipped_mean(data["max_norm"]),
        "matvec": lambda data: O(data) @ data["v"],
        "rmatvec": lambda data: O(data).T @ data["w"],
    }[task.want]


def contenders(task: Task, data: dict[str, Any]) -> list[Contender]:
    """The plain formulation first: it decides what float32 is worth."""
    found = []
    if "jax" in task.families:
        found += [contender(name, "jax", run, data) for name, run in jax_peers.formulations(task).items()]
    if "nablax" in task.families:
        found.append(contender("nablax", "nablax", own(task), data))
    if task.want == "clipped_mean":
        found.append(contender("jax mean gradient, nothing clipped", YARDSTICK, jax_peers.mean_gradient(task), data))
    return found


def main(task: Task) -> None:
    if task.only is None:
        event("reference")
        expected, max_norm = reference_values(task, models.inputs(task.model, task.A, task.D))
        leave(task, expected, max_norm, TOLERANCE)
        # float32 itself is worth ten times the error of the plain formulation
        plain = lambda entry: TOLERANCE + 10 * entry.get("error", 0.0) * (entry["family"] == "jax")
        compare = expected, 1e-3
    else:
        expected, max_norm, compare, plain = [], 0.0, reference(task), None

    def after_first(entry: dict[str, Any]) -> float:
        allowed = plain(entry)
        leave(task, expected, max_norm, allowed)
        return allowed

    data = on_device(task)
    serve(task, contenders(task, data), ("jax", "jaxlib", "numpy"), compare, after_first)


def leave(task: Task, expected: list[np.ndarray], max_norm: float, allowed: float) -> None:
    np.savez(task.reference, *expected, count=len(expected), max_norm=max_norm, allowed=allowed)


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_default_matmul_precision", "highest")
    main(Task.read(sys.argv[1]))
