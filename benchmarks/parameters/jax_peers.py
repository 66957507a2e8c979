"""Plain JAX: the Jacobian formed by vmap(jacrev) and contracted, and formulations that do not form it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from benchmarks.parameters import models
from benchmarks.parameters.jax_tools import Formulation, in_chunks, summed_over_chunks
from benchmarks.parameters.task import Task


def formulations(task: Task) -> dict[str, Formulation]:
    """Name -> a function of the inputs; the first forms the whole Jacobian, or is the plain pass."""
    f, y = models.model(task.model, task.A), () if task.A == 1 else (task.A,)
    chunks = [None, *(c for c in task.chunks if c < task.D)]
    jacobians = lambda params, X: jax.vmap(jax.jacrev(f), (None, 0))(params, X)
    made = {
        "gram": gram,
        "squared_norms": squared_norms,
        "dense": dense,
        "tree": tree,
        "fisher_diagonal": fisher_diagonal,
        "clipped_mean": clipped_mean,
        "matvec": products,
        "rmatvec": products,
    }[task.want]
    return made(task, f, jacobians, chunks, y)


def named(base: str, chunk: int | None) -> str:
    return base if chunk is None else f"{base} @{chunk}"


def rows_of(tree: Any, y: tuple[int, ...]) -> list[jax.Array]:
    """The leaves as (D A, entries of the leaf)."""
    return [leaf.reshape(leaf.shape[0] * (y[0] if y else 1), -1) for leaf in jax.tree.leaves(tree)]


def concatenated(tree: Any, y: tuple[int, ...]) -> jax.Array:
    """(D, A, B) from the leaves of a Jacobian."""
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([leaf.reshape(*leaf.shape[: 1 + len(y)], -1) for leaf in leaves], axis=-1)


def gram(task, f, jacobians, chunks, y) -> dict[str, Formulation]:
    full = (task.D, *y, task.D, *y)

    def by_leaf(data):
        return sum(J @ J.T for J in rows_of(jacobians(data["params"], data["X"]), y)).reshape(full)

    def by_array(data):
        J = concatenated(jacobians(data["params"], data["X"]), y).reshape(task.D * task.A, -1)
        return jnp.einsum("ik,jk->ij", J, J).reshape(full)

    def by_blocks(chunk):
        """Blocks of both sides, so that two chunks of Jacobians are alive at once."""

        def run(data):
            J = lambda X: rows_of(jacobians(data["params"], X), y)

            def strip(X):
                left = J(X)
                block = lambda Z: sum(b @ a.T for a, b in zip(left, J(Z), strict=True))
                return in_chunks(block, chunk, data["X"]).T

            return in_chunks(strip, chunk, data["X"]).reshape(full)

        return run

    def by_columns(chunk):
        """A vjp for the unit vector of each row, and a jvp of all samples along it (NTK-vector products)."""

        def run(data):
            params, X = data["params"], data["X"]

            def column(sample_and_unit):
                x, unit = sample_and_unit
                (v,) = jax.vjp(lambda p: f(p, x), params)[1](unit.reshape(y))
                return jax.jvp(lambda p: jax.vmap(lambda z: f(p, z))(X), (params,), (v,))[1]

            samples = jnp.repeat(X, task.A, axis=0)
            units = jnp.tile(jnp.eye(task.A), (task.D, 1))
            return in_chunks(jax.vmap(column), chunk, (samples, units)).reshape(full)

        return run

    found = {"jax jacrev, leaf by leaf": by_leaf, "jax jacrev, one array": by_array}
    found |= {f"jax jacrev, blocks @{c}": by_blocks(c) for c in chunks[1:]}
    return found | {f"jax vjp and jvp, columns @{c}": by_columns(c) for c in chunks[1:]}


def squared_norms(task, f, jacobians, chunks, y) -> dict[str, Formulation]:
    def run(chunk):
        def norms(data, X):
            leaves = jax.tree.leaves(jacobians(data["params"], X))
            return sum(jnp.sum(J**2, axis=range(1 + len(y), J.ndim)) for J in leaves)

        return lambda data: in_chunks(lambda X: norms(data, X), chunk, data["X"])

    return {named("jax jacrev, leaf by leaf", c): run(c) for c in chunks}


def dense(task, f, jacobians, chunks, y) -> dict[str, Formulation]:
    def joined(chunk):
        return lambda data: in_chunks(lambda X: concatenated(jacobians(data["params"], X), y), chunk, data["X"])

    def of_vector(data):
        flat, unravel = ravel_pytree(data["params"])
        return jax.vmap(lambda x: jax.jacrev(lambda p: f(unravel(p), x))(flat))(data["X"])

    found = {named("jax jacrev, concatenated", c): joined(c) for c in chunks}
    return found | {"jax jacrev by a flat vector": of_vector}


def tree(task, f, jacobians, chunks, y) -> dict[str, Formulation]:
    def run(chunk):
        return lambda data: in_chunks(lambda X: jacobians(data["params"], X), chunk, data["X"])

    return {named("jax jacrev", c): run(c) for c in chunks}


def fisher_diagonal(task, f, jacobians, chunks, y) -> dict[str, Formulation]:
    def run(chunk):
        def squares(data, X):
            return jax.tree.map(lambda J: jnp.sum(J**2, axis=range(1 + len(y))), jacobians(data["params"], X))

        return lambda data: summed_over_chunks(lambda X: squares(data, X), chunk, data["X"])

    return {named("jax jacrev, leaf by leaf", c): run(c) for c in chunks}


def clipped_mean(task, f, jacobians, chunks, y) -> dict[str, Formulation]:
    loss = models.loss(task.model, task.A)
    gradients = jax.vmap(jax.grad(loss), (None, 0, 0))

    def norms(found):
        return jnp.sqrt(sum(jnp.sum(g**2, axis=range(1, g.ndim)) for g in jax.tree.leaves(found)))

    def of_gradients(chunk):
        def run(data):
            def part(given):
                found = gradients(data["params"], *given)
                scale = jnp.minimum(1, data["max_norm"] / norms(found)) / task.D
                return jax.tree.map(lambda g: jnp.tensordot(scale, g, 1), found)

            return summed_over_chunks(part, chunk, (data["X"], data["Y"]))

        return run

    def in_two_passes(chunk):
        """The gradients for their norms only; then one gradient of the weighted loss."""

        def run(data):
            params, given = data["params"], (data["X"], data["Y"])
            found = in_chunks(lambda part: norms(gradients(params, *part)), chunk, given)
            scale = jnp.minimum(1, data["max_norm"] / found)
            return jax.grad(lambda p: jnp.mean(scale * jax.vmap(lambda x, y: loss(p, x, y))(*given)))(params)

        return run

    found = {named("jax grad, clipped", c): of_gradients(c) for c in chunks}
    return found | {named("jax grad for norms, weighted gradient", c): in_two_passes(c) for c in chunks}


def mean_gradient(task: Task) -> Formulation:
    """The yardstick of clipped_mean: the ordinary gradient of the mean loss."""
    loss = models.loss(task.model, task.A)
    mean = lambda params, data: jnp.mean(jax.vmap(lambda x, y: loss(params, x, y))(data["X"], data["Y"]))
    return lambda data: jax.grad(mean)(data["params"], data)


def products(task, f, jacobians, chunks, y) -> dict[str, Formulation]:
    outputs = lambda data: lambda params: jax.vmap(lambda x: f(params, x))(data["X"])
    if task.want == "matvec":
        return {"jax jvp": lambda data: jax.jvp(outputs(data), (data["params"],), (data["v"],))[1]}
    return {"jax vjp": lambda data: jax.vjp(outputs(data), data["params"])[1](data["w"])[0]}
