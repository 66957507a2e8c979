"""What the workers with JAX share: inputs on the device, compiled contenders, leaves of results."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parameters import models
from benchmarks.parameters.serve import Contender, Run
from benchmarks.parameters.task import Task

Formulation = Callable[[dict[str, Any]], Any]


def leaves(tree: Any) -> list[np.ndarray]:
    return jax.tree_util.tree_leaves(tree)


def on_device(task: Task) -> dict[str, Any]:
    """The inputs, with the norm at which gradients are clipped."""
    given = models.inputs(task.model, task.A, task.D)
    if task.reference.exists():
        with np.load(task.reference) as file:
            given["max_norm"] = np.float32(file["max_norm"])
    return jax.tree_util.tree_map(jnp.asarray, given)


def compiled(function: Formulation, data: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """Trace, lower and compile, timed."""
    start = time.perf_counter()
    program = jax.jit(function).lower(data).compile()
    took = time.perf_counter() - start
    memory = program.memory_analysis()
    figures = {"compile_s": took}
    if memory is not None and memory.output_size_in_bytes:  # the JAX of neural-tangents reports zeros on a CPU
        figures["temp_bytes"] = memory.temp_size_in_bytes
        figures["output_bytes"] = memory.output_size_in_bytes
    return (lambda: jax.block_until_ready(program(data))), figures


def contender(
    name: str,
    family: str,
    function: Formulation,
    data: dict[str, Any],
    fix: Callable[[Any], Any] = lambda r: r,
) -> Contender:
    """`fix` brings a result to the layout of the reference, for the comparison only."""
    return Contender(name, family, lambda: compiled(function, data), lambda result: leaves(fix(result)))


def in_chunks(function: Callable, chunk: int | None, arrays: Any) -> Any:
    """``function`` of batches, over chunks of the samples; None: all at once. Results are joined on axis 0."""
    if chunk is None:
        return function(arrays)
    parts = jax.tree_util.tree_map(lambda a: a.reshape(-1, chunk, *a.shape[1:]), arrays)
    joined = jax.lax.map(function, parts)
    return jax.tree_util.tree_map(lambda a: a.reshape(-1, *a.shape[2:]), joined)


def summed_over_chunks(function: Callable, chunk: int | None, arrays: Any) -> Any:
    """The sum over chunks of ``function`` of each."""
    if chunk is None:
        return function(arrays)
    tree_map = jax.tree_util.tree_map
    parts = tree_map(lambda a: a.reshape(-1, chunk, *a.shape[1:]), arrays)
    zero = tree_map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(function, tree_map(lambda a: a[0], parts)))
    return jax.lax.scan(lambda total, part: (tree_map(jnp.add, total, function(part)), None), zero, parts)[0]
