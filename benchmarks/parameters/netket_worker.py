"""NetKet, for one output: the Jacobian of nk.jax.jacobian, dense or as a tree, and the kernel of its minSR driver."""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["NETKET_ENABLE_X64"] = "0"

import jax
import jax.numpy as jnp
import netket as nk
from netket.jax._ntk import empirical_ntk_by_jacobian

from benchmarks.parameters import models
from benchmarks.parameters.jax_tools import Formulation, contender, on_device
from benchmarks.parameters.serve import serve
from benchmarks.parameters.task import Task


def formulations(task: Task) -> dict[str, Formulation]:
    """NetKet's samples are matrices: (D, entries of a sample)."""
    f = models.model(task.model, task.A)
    one = lambda params, x: f(params, x.reshape(models.INPUT[task.model]))
    apply = lambda variables, X: jax.vmap(lambda x: one(variables["params"], x))(X)
    flat = lambda data: data["X"].reshape(task.D, -1)
    chunks = [None, *(c for c in task.chunks if c < task.D)]

    def jacobian(data: dict[str, Any], dense: bool, chunk: int | None) -> Any:
        return nk.jax.jacobian(apply, data["params"], flat(data), mode="real", dense=dense, chunk_size=chunk)

    def by_jacobian(data):
        J = jacobian(data, True, None)
        return J @ J.T

    def of_driver(chunk):
        """What `srt_onthefly` computes: strips of the kernel, the Jacobians formed leaf by leaf."""
        kernel = empirical_ntk_by_jacobian(lambda p, X: apply({"params": p}, X), trace_axes=(), vmap_axes=0)

        def run(data):
            X = flat(data)
            if chunk is None:
                return kernel(X, None, data["params"])
            strips = jax.lax.map(lambda Z: kernel(X, Z, data["params"]), X.reshape(-1, chunk, X.shape[-1]))
            return jnp.moveaxis(strips, 0, 1).reshape(task.D, task.D)

        return run

    def squares(axis, dense, chunk):
        return lambda data: jax.tree.map(lambda J: jnp.sum(J**2, axis), jacobian(data, dense, chunk))

    named = lambda base, chunk: base if chunk is None else f"{base} @{chunk}"
    match task.want:
        case "gram":
            kernels = {named("netket kernel of minSR", c): of_driver(c) for c in chunks}
            return {"netket jacobian, dense": by_jacobian} | kernels
        case "squared_norms":
            return {named("netket jacobian, dense", c): squares(1, True, c) for c in chunks}
        case "fisher_diagonal":
            return {named("netket jacobian, tree", c): squares(0, False, c) for c in chunks}
        case "dense" | "tree" as want:
            run = lambda chunk: lambda data: jacobian(data, want == "dense", chunk)
            return {named(f"netket jacobian, {want}", c): run(c) for c in chunks}
    return {}


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_default_matmul_precision", "highest")
    task = Task.read(sys.argv[1])
    data = on_device(task)
    found = [contender(name, "netket", run, data) for name, run in formulations(task).items()]
    serve(task, found, ("netket", "jax"))
