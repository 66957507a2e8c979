"""The layers that the tests of folx (github.com/microsoft/folx, folder test) put through its forward Laplacian.

Written anew for the arrays of `arguments`. Left out: what is about its own data structures (indices of sparse
Jacobians, its interpreter, hand-written Hessians) and its Pallas kernels.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_jvp
def doubled(x: Any) -> Any:
    """sin, with a rule that says twice its derivative: a rule is obeyed, not second-guessed."""
    return jnp.sin(x)


@doubled.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return doubled(*primals), 2 * jnp.cos(primals[0]) * tangents[0]


@jax.custom_jvp
def sine_and_cosine(x: Any) -> Any:
    return jnp.sin(x), jnp.cos(x)


@sine_and_cosine.defjvp
def _(primals: Any, tangents: Any) -> Any:
    (x,), (t,) = primals, tangents
    return sine_and_cosine(x), (jnp.cos(x) * t, -jnp.sin(x) * t)


@jax.custom_jvp
def sum_and_difference(x: Any, y: Any) -> Any:
    return x + y, x - y


@sum_and_difference.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return sum_and_difference(*primals), sum_and_difference(*tangents)


def attention(q: Any, k: Any, v: Any) -> Any:
    return jax.nn.softmax(q @ k.T, axis=-1) @ v


def segments(r: Any) -> Any:
    return jnp.zeros(2).at[jnp.array([0, 1, 0])].add(jnp.sqrt(jnp.sum(r**2, axis=1)))


def wave(x: Any) -> Any:
    return jnp.sin(x * x.sum())


# name -> (function, call); the names are those of the tests, put into words.
LAYERS = {
    "jacfwd inside": (wave, "jax.jacfwd(f)(v)"),
    "jacrev inside": (wave, "jax.jacrev(f)(v)"),
    "hessian inside": (wave, "jax.hessian(f)(v[:2])"),
    "parts of a complex function": (jnp.tanh, "(f(c).real, f(c).imag)"),
    "complex perceptron": (jnp.tanh, "f(c[:3] @ ca) @ ca"),
    "modulus of a complex layer": (jnp.abs, "f(jnp.tanh(c[:3] @ ca))"),
    "perceptron": (jnp.tanh, "f(f(v[:3] @ a + w[:3]) @ d)"),
    "attention": (attention, "f(n @ m, a, d).sum()"),
    "rule of its own": (doubled, "f(m)"),
    "sum": (jnp.sum, "(f(v), f(c), f(T, axis=1))"),
    "log of the modulus": (jnp.log, "(f(jnp.abs(v)), f(jnp.abs(c)))"),
    "root of the modulus": (jnp.sqrt, "(f(jnp.abs(v)), f(jnp.abs(c)))"),
    "binary operations": (jnp.multiply, "(v + c, c - v, f(v, c), v / c, c / p)"),
    "matrix product, real and complex": (jnp.matmul, "(f(n, m), f(ca, n), f(a, ca), f(ca, ch))"),
    "matrix product with itself": (jnp.matmul, "f(jnp.exp(f(n, n.T)), n)"),
    "products with axes of length one": (jnp.einsum, "(f('nk,mk->nm', n, n[:1]), f('k,mk->m', m[0], a[:1]))"),
    "batched products": (jnp.einsum, "f('ijh,jh->ih', n[:, None] * n[None], jnp.cos(n))"),
    "preferred element type": (jax.lax.dot_general, "f(m, n, (((1,), (0,)), ((), ())), preferred_element_type=float)"),
    "bilinear form": (jnp.einsum, "(v[:3] @ a, f('i,j,ijk->k', v[:2], w[:3], T))"),
    "slogdet": (jnp.linalg.slogdet, "(f(jnp.tanh(a)), f(jnp.tanh(ca)))"),
    "slogdet of rows that depend on parts of x": (jnp.linalg.slogdet, "f(2 * np.eye(3) + jnp.tanh(n) @ m)[1]"),
    "det": (jnp.linalg.det, "(f(a), f(ca))"),
    "solve, every side varying": (jnp.linalg.solve, "(f(a, v[:3]), f(a, n), f(np.diag([1.0, 2.0, 3.0]), n))"),
    "solve, batched": (jnp.linalg.solve, "f(jnp.stack([a, h]), jnp.stack([d, l]))"),
    "inverse": (jnp.linalg.inv, "f(a)"),
    "dtypes": (jax.lax.convert_element_type, "(f(v, complex), f(v, int) * v)"),
    "several outputs": (sine_and_cosine, "f(m)"),
    "several inputs and outputs": (sum_and_difference, "f(jnp.sin(m), jnp.cos(m))"),
    "split": (jnp.split, "f(v, 2)"),
    "pad": (jnp.pad, "f(m, ((1, 0), (0, 2)))"),
    "pad with a varying value, and negative": (jax.lax.pad, "(f(v, s, [(2, 1, 1)]), f(v, s, [(-1, -2, 0)]))"),
    "sum of cotangents": (jnp.sin, "jax.grad(lambda t: f(t).sum() + (t**2).sum())(v) * v"),
    "scatter set": (jnp.sin, "f(v).at[jnp.array([0, 2])].set(2 * w[:2])"),
    "scatter set, constant and scalar": (jnp.sin, "(f(v).at[jnp.array([0, 2])].set(1.5), f(v).at[3].set(v[0] * v[1]))"),
    "scatter out of bounds": (jnp.sin, "f(v).at[jnp.array([1, 100])].add(3 * w[:2])"),
    "scatter add, twice to one place": (jnp.sin, "f(v).at[jnp.array([1, 1, 3])].add(w[:3] ** 2)"),
    "segment sum of distances": (segments, "f(n)"),
    "scatter add of windows": (jnp.sin, "f(n).at[jnp.array([0, 2])].add(jnp.cos(a[:2, :2]))"),
    "scatter add, many indices": (jnp.sin, "f(a).at[jnp.array([0, 2, 0]), jnp.array([1, 2, 1])].add(v[:3])"),
    "scatter min and max": (jnp.sin, "(f(v).at[jnp.array([0, 2])].min(2 * w[:2]), f(v).at[jnp.array([1])].max(-0.1))"),
    "scatter into and from dense": (
        jnp.cumsum,
        "(f(v).at[jnp.array([0, 2])].set(w[:2]), v.at[jnp.array([1])].add(f(w)[2:3]))",
    ),
    "dynamic update slice": (jax.lax.dynamic_update_slice, "(f(jnp.sin(v), 2 * w[:2], (1,)), f(v, np.ones(3), (1,)))"),
    "scatter under jit": (jax.jit(segments), "f(n).sum()"),
    "integer_pow of one": (jax.lax.integer_pow, "f(v[:3] @ a, 1)"),
    "vmap, one argument": (jax.vmap(lambda t: jnp.sin(t).sum()), "f(m)"),
    "vmap, two arguments": (jax.vmap(lambda s, t: jnp.vdot(jnp.sin(s), jnp.cos(t)), (None, 0)), "f(v[:3], m)"),
    "vmap inside vmap": (
        jax.vmap(jax.vmap(lambda s, t: jnp.vdot(jnp.sin(s), jnp.cos(t)), (None, 0)), (0, None)),
        "f(m, n.T)",
    ),
}
