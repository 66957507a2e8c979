"""The reference: the plain Jacobian of jax.jacrev in float64, one sample at a time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.parameters.models import loss, model
from benchmarks.parameters.task import Task
from benchmarks.parameters.wants import rows


def reference_values(task: Task, given: dict[str, Any]) -> tuple[list[np.ndarray], float]:
    """The part of the want that is compared, and the norm at which gradients are clipped (0 for other wants)."""
    with jax.enable_x64(True):
        data = jax.tree.map(lambda a: jnp.asarray(a, "float64"), given)
        found, max_norm = jax.jit(lambda data: values(task, data))(data)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(found)], float(max_norm)


def values(task: Task, data: dict[str, Any]) -> tuple[Any, Any]:
    params, X = data["params"], data["X"]
    f, chosen, zero = model(task.model, task.A), X[rows(task.D)], jnp.zeros(())
    flat, unravel = ravel_pytree(params)
    J = lambda x: jax.jacrev(lambda p: f(unravel(p), x))(flat).reshape(task.A, -1)
    of_outputs = lambda array: array.reshape(task.D, *data["w"].shape[1:])

    def summed(one, *xs):
        return jax.lax.scan(lambda total, x: (total + one(*x), None), jnp.zeros_like(flat), xs)[0]

    match task.want:
        case "dense":
            found = jax.lax.map(lambda x: J(x), chosen)
            return found.reshape(len(chosen), *data["w"].shape[1:], -1), zero
        case "tree":
            return jax.lax.map(lambda x: jax.jacrev(f)(params, x), chosen), zero
        case "gram":
            left = jax.lax.map(J, chosen)
            found = jax.lax.map(lambda x: jnp.einsum("rak,bk->rab", left, J(x)), X)
            outputs = data["w"].shape[1:]
            return found.transpose(1, 2, 0, 3).reshape(len(chosen), *outputs, task.D, *outputs), zero
        case "squared_norms":
            return of_outputs(jax.lax.map(lambda x: jnp.sum(J(x) ** 2, -1), X)), zero
        case "fisher_diagonal":
            return unravel(summed(lambda x: jnp.sum(J(x) ** 2, 0), X)), zero
        case "matvec":
            v = ravel_pytree(data["v"])[0]
            return of_outputs(jax.lax.map(lambda x: J(x) @ v, X)), zero
        case "rmatvec":
            return unravel(summed(lambda x, w: w @ J(x), X, data["w"].reshape(task.D, -1))), zero
        case "clipped_mean":
            gradient = lambda x, y: ravel_pytree(jax.grad(loss(task.model, task.A))(params, x, y))[0]
            norms = jax.lax.map(lambda xy: jnp.linalg.norm(gradient(*xy)), (X, data["Y"]))
            max_norm = jnp.median(norms)
            scales = jnp.minimum(1, max_norm / norms)
            return unravel(summed(lambda x, y, s: s * gradient(x, y), X, data["Y"], scales) / task.D), max_norm
    raise ValueError(task.want)
