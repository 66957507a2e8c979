"""neural-tangents: its empirical kernel in all implementations. Runs in an environment with a JAX of 2023."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import neural_tangents as nt

from benchmarks.parameters import models
from benchmarks.parameters.jax_tools import Formulation, contender, on_device
from benchmarks.parameters.serve import serve
from benchmarks.parameters.task import Task


def formulations(task: Task) -> dict[str, Formulation]:
    f = models.model(task.model, task.A)
    batch = lambda params, X: jax.vmap(lambda x: f(params, x))(X)
    kinds = nt.NtkImplementation

    def kernel(implementation: Any, chunk: int | None = None) -> Formulation:
        compute = nt.empirical_ntk_fn(batch, trace_axes=(), vmap_axes=0, implementation=implementation)

        def run(data):
            X, params = data["X"], data["params"]
            if chunk is None:
                return compute(X, None, params)
            strips = jax.lax.map(lambda Z: compute(Z, X, params), X.reshape(-1, chunk, *X.shape[1:]))
            return strips.reshape(task.D, *strips.shape[2:])

        return run

    chunks = [c for c in task.chunks if c < task.D]
    found = {"nt structured derivatives": kernel(kinds.STRUCTURED_DERIVATIVES)}
    found |= {f"nt structured derivatives @{c}": kernel(kinds.STRUCTURED_DERIVATIVES, c) for c in chunks}
    found |= {f"nt vector products @{c}": kernel(kinds.NTK_VECTOR_PRODUCTS, c) for c in chunks[:1]}
    return found | {"nt Jacobian contraction": kernel(kinds.JACOBIAN_CONTRACTION)}


def fix(result: Any) -> Any:
    """(D, D, A, A) to (D, A, D, A)."""
    return result if result.ndim == 2 else jnp.moveaxis(result, 2, 1)


if __name__ == "__main__":
    jax.config.update("jax_default_matmul_precision", "highest")
    task = Task.read(sys.argv[1])
    data = on_device(task)
    found = [contender(name, "nt", run, data, fix) for name, run in formulations(task).items()]
    serve(task, found, ("neural-tangents", "jax"))
