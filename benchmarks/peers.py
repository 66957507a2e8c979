"""The plain formulations in JAX, and nablax, as functions of a whole batch.

A formulation turns ``f: x (C,) -> y`` into the want for one sample. It runs on the whole batch by `jax.vmap`, and in
chunks by `jax.lax.map`, whose chunks are rematerialised when a gradient goes through them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.cells import Cell
from benchmarks.ops import jax_ops

FIRST_ORDER = ("auto", "forward", "reverse")
SECOND_ORDER = ("auto", "forward", "adjoint", "forward_over_reverse", "forward_over_forward", "reverse_over_reverse")

Batch = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Contender:
    """One way to compute a want.

    Attributes:
        name: formulation and chunk size, "nablax:adjoint" or "nested jvp @64".
        family: "nablax", "jax", "jet", "folx" or "torch".
        build: returns the function of (params, X), new at each call, so that nothing is found in a cache.
    """

    name: str
    family: str
    build: Callable[[], Batch]


# Second derivatives along directions.


def along(f, x, v):
    """The second derivative of f at x along v, by jvp of jvp."""
    slope = lambda z: jax.jvp(f, (z,), (v,))[1]
    return jax.jvp(slope, (x,), (v,))[1]


def along_by_jet(f, x, v):
    """The same by Taylor mode."""
    from jax.experimental.jet import jet

    return jet(f, (x,), ((v, jnp.zeros_like(v)),))[1][1]


def directions(second):
    """Both diagonal and Laplacian from second derivatives along the unit vectors, all at once."""
    each = lambda f, x: jax.vmap(lambda v: second(f, x, v))(jnp.eye(x.size, dtype=x.dtype))
    diagonal = lambda f: lambda x: jnp.moveaxis(each(f, x), 0, -1)
    laplacian = lambda f: lambda x: jnp.sum(each(f, x), axis=0)
    return diagonal, laplacian


def jet_hessian(f):
    """The Hessian from Taylor mode along e_i + e_j: 2 H_ij = D2[e_i + e_j] - D2[e_i] - D2[e_j]."""

    def hessian(x):
        C = x.size
        i, j = jnp.triu_indices(C, 1)
        eye = jnp.eye(C, dtype=x.dtype)
        V = jnp.concatenate([eye, eye[i] + eye[j]])
        second = jnp.moveaxis(jax.vmap(lambda v: along_by_jet(f, x, v))(V), 0, -1)
        diagonal, pairs = second[..., :C], second[..., C:]
        off = (pairs - diagonal[..., i] - diagonal[..., j]) / 2
        H = jnp.zeros((*diagonal.shape, C), x.dtype).at[..., jnp.arange(C), jnp.arange(C)].set(diagonal)
        return H.at[..., i, j].set(off).at[..., j, i].set(off)

    return hessian


def products_of_gradient(f):
    """Diagonal of the Hessian of a scalar f from Hessian-vector products, as neural wavefunction codes write it."""

    def diagonal(x):
        _, product = jax.linearize(jax.grad(lambda z: jnp.sum(f(z))), x)
        eye = jnp.eye(x.size, dtype=x.dtype)
        return jax.vmap(lambda v: product(v) @ v)(eye)

    return diagonal


def folx_laplacian(sparsity: int):
    def transform(f):
        import folx

        return lambda x: folx.forward_laplacian(f, sparsity_threshold=sparsity)(x).laplacian

    return transform


def formulations(cell: Cell, want: str) -> dict[str, tuple[str, Callable]]:
    """Name -> (family, formulation). The first is the reference of values and of compile time."""
    table: dict[str, tuple[str, Callable]]
    if want == "jacobian":
        return {"jacrev": ("jax", jax.jacrev), "jacfwd": ("jax", jax.jacfwd)}
    if want == "hessian":
        return {
            "jax.hessian": ("jax", jax.hessian),
            "jacfwd(jacfwd)": ("jax", lambda f: jax.jacfwd(jax.jacfwd(f))),
            "jacrev(jacfwd)": ("jax", lambda f: jax.jacrev(jax.jacfwd(f))),
            "jet pairs": ("jet", jet_hessian),
        }
    diagonal, laplacian = directions(along)
    jet_diagonal, jet_laplacian = directions(along_by_jet)
    if want == "hessian_diagonal":
        table = {
            "diag of jax.hessian": ("jax", lambda f: lambda x: jnp.diagonal(jax.hessian(f)(x), axis1=-2, axis2=-1)),
            "nested jvp": ("jax", diagonal),
            "jet": ("jet", jet_diagonal),
        }
        products = products_of_gradient
    else:
        table = {
            "trace of jax.hessian": ("jax", lambda f: lambda x: jnp.trace(jax.hessian(f)(x), axis1=-2, axis2=-1)),
            "nested jvp": ("jax", laplacian),
            "jet": ("jet", jet_laplacian),
            "folx": ("folx", folx_laplacian(0)),
            "folx sparse": ("folx", folx_laplacian(6)),
        }
        products = lambda f: lambda x: jnp.sum(products_of_gradient(f)(x))
    if cell.scalar:
        table["jvp of grad"] = ("jax", products)
    return table


# From one sample to the batch, and to the gradient of a loss.


def batched(formulation: Callable, model: Callable, chunk: int | None, rematerialise: bool) -> Batch:
    def one(params, x):
        return formulation(lambda z: model(params, z))(x)

    if chunk is None:
        return lambda params, X: jax.vmap(lambda x: one(params, x))(X)
    body = jax.checkpoint(one) if rematerialise else one
    return lambda params, X: jax.lax.map(lambda x: body(params, x), X, batch_size=chunk)


def gradient_of_loss(batch: Batch, weights: Any) -> Batch:
    """The gradient by all parameters of mean over samples of sum(weights * want^2)."""

    def loss(params, X):
        return jnp.mean(jnp.sum((weights * batch(params, X) ** 2).reshape(X.shape[0], -1), axis=1))

    return jax.grad(loss)


def contenders(
    cell: Cell, want: str, families: list[str], chunks: list[int | None], weights: Any = None
) -> list[Contender]:
    """All contenders for one square of the grid; with `weights`, for the gradient of the loss through the want."""
    ops = jax_ops()
    fresh_model = lambda: lambda params, x: cell.model(ops, params, x)
    finish = (lambda batch: batch) if weights is None else (lambda batch: gradient_of_loss(batch, weights))

    def peer(formulation, chunk):
        return lambda: finish(batched(formulation, fresh_model(), chunk, weights is not None))

    def ours(strategy):
        def build():
            import nablax

            return finish(getattr(nablax, want)(fresh_model(), strategy=strategy))

        return build

    sizes = [chunk for chunk in chunks if chunk is None or chunk < cell.D]
    found = []
    for name, (family, formulation) in formulations(cell, want).items():
        # The reference always runs: the tolerance and the compile times of the others are relative to it.
        for chunk in sizes if family in families else [None] * (not found):
            full_name = name if chunk is None else f"{name} @{chunk}"
            found.append(Contender(full_name, family, peer(formulation, chunk)))
    if "nablax" in families:
        strategies = FIRST_ORDER if want == "jacobian" else SECOND_ORDER
        found += [Contender(f"nablax:{strategy}", "nablax", ours(strategy)) for strategy in strategies]
    return found
