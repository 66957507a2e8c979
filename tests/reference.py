"""What the scenarios are compared with: nested differentiation of one sample, in a Python loop, without nablax.

The results of a scenario and the gradients through them are computed once, each by one compiled function of one sample.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scenarios import Draw, Scenario

WANTS = ("value", "jacobian", "hessian", "hessian_diagonal", "laplacian")


def weights_of(scenario: Scenario) -> jax.Array:
    """A matrix W (C, C) for the Laplacian, not symmetric."""
    return Draw(f"weights of {scenario.name}")(scenario.inputs, scenario.inputs)


@functools.cache
def results(scenario: Scenario) -> dict[str, Any]:
    """Every want of every sample, samples first, as NumPy arrays."""
    one = jax.jit(functools.partial(wants_of_one, scenario))
    rows = [one(*scenario.sample(d)) for d in range(scenario.samples)]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *rows)


@functools.cache
def cotangents(scenario: Scenario) -> dict[str, Any]:
    """Random numbers in the shapes of `results`, so large that every want weighs equally in `loss`."""
    drawn = {}
    for name, want in results(scenario).items():
        leaves, treedef = jax.tree.flatten(want)
        scale = 1.0 / max(1e-3, *(np.abs(leaf).max() for leaf in leaves))
        draw = Draw(f"cotangents of {scenario.name} {name}")
        parts = [
            draw(*leaf.shape, scale=scale) + (1j * draw(*leaf.shape, scale=scale) if np.iscomplexobj(leaf) else 0)
            for leaf in leaves
        ]
        drawn[name] = treedef.unflatten(parts)
    return drawn


def loss(wants: dict[str, Any], weights: dict[str, Any]) -> jax.Array:
    """The real part of sum(weights * wants): through every want at once, none of which can hide behind another."""
    products = jax.tree.map(lambda want, weight: jnp.sum((want * weight).real), wants, weights)
    return sum(jax.tree.leaves(products), jnp.zeros(()))


@functools.cache
def gradient(scenario: Scenario, wants: tuple[str, ...]) -> Any:
    """The gradient of the loss through `wants` by the first argument, all leaves of it."""

    def of_one(first: Any, others: tuple[Any, ...], weights: Any) -> Any:
        found = lambda first: {
            name: want for name, want in wants_of_one(scenario, first, *others).items() if name in wants
        }
        return by_first(scenario)(lambda first: loss(found(first), weights))(first)

    compiled = jax.jit(of_one)
    rows = []
    for d in range(scenario.samples):
        first, *others = scenario.sample(d)
        weights = {name: jax.tree.map(lambda leaf, d=d: leaf[d], cotangents(scenario)[name]) for name in wants}
        rows.append(compiled(first, tuple(others), weights))
    join = np.stack if scenario.axes[0] == 0 else sum  # of its own for every sample, or shared by all
    return jax.tree.map(lambda *leaves: np.asarray(join(leaves)), *rows)


def by_first(scenario: Scenario) -> Callable[..., Any]:
    """The gradient of a scalar, in the mode that the model allows."""
    return jax.grad if scenario.reverse_mode else jax.jacfwd


def wants_of_one(scenario: Scenario, *args: Any) -> dict[str, Any]:
    """All wants of one sample."""
    x = args[scenario.wrt]
    if scenario.reference is not None:
        value, jacobian, hessian = scenario.reference(*args)
    else:
        value, jacobian, hessian = nested(scenario, *args)
    outputs, treedef = jax.tree.flatten(value)
    contracted = [
        contractions(jax.tree.leaves(part), x, y.shape, weights_of(scenario))
        for part, y in zip(treedef.flatten_up_to(hessian), outputs, strict=True)
    ]
    return {
        "value": value,
        "jacobian": jacobian,
        "hessian": hessian,
        "hessian_diagonal": treedef.unflatten([diagonal for diagonal, _ in contracted]),
        "laplacian": treedef.unflatten([laplacian for _, laplacian in contracted]),
    }


def nested(scenario: Scenario, *args: Any) -> tuple[Any, Any, Any]:
    """(value, Jacobian, Hessian) by JAX alone; real and imaginary parts of complex outputs are differentiated apart."""
    wrt = scenario.wrt
    inner = jax.jacrev if scenario.reverse_mode else jax.jacfwd
    outer = jax.jacfwd if scenario.forward_mode else jax.jacrev

    def model(x: Any) -> Any:
        return scenario.function(*args[:wrt], x, *args[wrt + 1 :])

    def all_three(f: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
        return f(args[wrt]), inner(f)(args[wrt]), outer(inner(f))(args[wrt])

    outputs, treedef = jax.tree.flatten(jax.eval_shape(model, args[wrt]))
    real = all_three(lambda x: jax.tree.map(jnp.real, model(x)))
    if not any(jnp.iscomplexobj(y) for y in outputs):
        return real
    imaginary = all_three(lambda x: jax.tree.map(jnp.imag, model(x)))

    def join(re: Any, im: Any) -> Any:
        pairs = zip(outputs, treedef.flatten_up_to(re), treedef.flatten_up_to(im), strict=True)
        return treedef.unflatten(
            [jax.tree.map(lambda a, b: a + 1j * b, r, i) if jnp.iscomplexobj(y) else r for y, r, i in pairs]
        )

    return tuple(join(re, im) for re, im in zip(real, imaginary, strict=True))


def contractions(blocks: list[Any], x: Any, shape: tuple[int, ...], weights: jax.Array) -> tuple[Any, jax.Array]:
    """The diagonal (as a tree like x) and the weighted trace of one output's Hessian.

    It is given in blocks, one for each pair of leaves of x.
    """
    leaves, treedef = jax.tree.flatten(x)
    count = len(leaves)
    rows = [
        jnp.concatenate(
            [blocks[i * count + j].reshape(*shape, leaves[i].size, leaves[j].size) for j in range(count)], axis=-1
        )
        for i in range(count)
    ]
    matrix = jnp.concatenate(rows, axis=-2)
    diagonal = jnp.diagonal(matrix, axis1=-2, axis2=-1)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    cut = [
        part.reshape(*shape, *leaf.shape) for part, leaf in zip(jnp.split(diagonal, ends, axis=-1), leaves, strict=True)
    ]
    laplacian = jnp.sum(matrix * weights.reshape((1,) * len(shape) + weights.shape), axis=(-2, -1))
    return treedef.unflatten(cut), laplacian


def assert_close(found: Any, expected: Any, tolerance: float = 1e-10, what: str = "") -> None:
    """Same structure, shapes and dtypes; differences at most `tolerance` times the largest number of the leaf.

    Where all of them vanish, times 1.
    """
    assert jax.tree.structure(found) == jax.tree.structure(expected), what
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        where = what + jax.tree_util.keystr(path)
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, where
        assert a.dtype == b.dtype, where
        assert np.all(np.isfinite(b)), f"{where}: the reference is not finite"
        scale = np.max(np.abs(b), initial=0.0)
        error = np.max(np.abs(a - b), initial=0.0)
        assert error <= tolerance * (scale if scale > 1e-6 else 1.0), (
            f"{where}: off by {error:.2e}, the largest entry is {scale:.2e}"
        )


def same_derivatives(ours: Callable[..., Any], theirs: Callable[..., Any], *args: Any) -> None:
    """The second and third of both functions by every argument, in both modes by turns, by one compiled function."""
    by = range(len(args))

    def derivatives(f: Callable[..., Any]) -> list[Any]:
        forward, backward = (lambda f, mode=mode: mode(f, tuple(by)) for mode in (jax.jacfwd, jax.jacrev))
        return [backward(forward(f)), forward(backward(backward(f)))]

    found, expected = jax.jit(lambda *args: [[d(*args) for d in derivatives(f)] for f in (ours, theirs)])(*args)
    assert_close(found, expected, 1e-12)


def same_gradients_mapped(ours: Callable[..., Any], theirs: Callable[..., Any], args: Any, axes: list[Any]) -> None:
    """Gradients of both functions of two arrays, mapped over each of the pairs of axes, by one compiled function."""
    grow = lambda a, place: a if place is None else jnp.stack([a, 2 * a, a - 1], place)

    def gradient(f: Callable[..., Any], mapped: tuple[int | None, int | None], args: Any) -> Any:
        loss = lambda x, y: jnp.sum(jax.vmap(f, mapped)(x, y) ** 3)
        return jax.grad(loss, (0, 1))(*map(grow, args, mapped))

    both = jax.jit(lambda args: [[gradient(f, mapped, args) for mapped in axes] for f in (ours, theirs)])
    found, expected = both(args)
    assert_close(found, expected, 1e-11, f"mapped over {axes}: ")
