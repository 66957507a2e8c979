"""The example that people ask about in forums: X is (C, D), samples last, and f(x) = tanh(M x)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import nablax

A, C, D = 2, 4, 8


def f(M, x):
    """One sample: x (C,) -> (A,)."""
    return jnp.tanh(M @ x)


def show(D_large: int = 4096) -> None:
    """Prints shapes, the error against the formula, and the time against a loop over samples."""
    M = jax.random.normal(jax.random.key(0), (A, C))
    X = jax.random.normal(jax.random.key(1), (C, D))
    options = {"in_axes": (None, -1), "out_axes": -1}
    d = nablax.derivatives(f, "value", "jacobian", "hessian", **options)(M, X)
    print(f"  f(M, x) = tanh(M @ x), A={A} outputs, C={C} inputs, D={D} samples on the last axis: in_axes=(None, -1)")
    print(f"  {'X':10s}{shape(X):16s}(C, D)")
    expected = formulas(M, X)
    for name, axes in {"value": "(A, D)", "jacobian": "(A, C, D)", "hessian": "(A, C, C, D)"}.items():
        error = float(jnp.max(jnp.abs(d[name] - expected[name])))
        print(f"  {name:10s}{shape(d[name]):16s}{axes:14s} differs from the formula by at most {error:.0e}")
    print("  Hessians of all samples, time of one call after the first, median of repeats:")
    print(f"  {'samples':>9s}{'loop over samples':>20s}{'one nablax call':>18s}{'faster':>9s}")
    for samples in (D, D_large):
        loop, call = times(M, jax.random.normal(jax.random.key(2), (C, samples)), options)
        print(f"  {samples:9,d}{1e3 * loop:17.2f} ms{1e3 * call:15.3f} ms{loop / call:8.0f}x")


def shape(array) -> str:
    """A shape as text."""
    return str(tuple(array.shape))


def formulas(M, X) -> dict:
    """By hand: y = tanh(Mx), dy/dx = (1 - y^2) M, d2y/dx2 = -2 y (1 - y^2) M M."""
    y = jnp.tanh(M @ X)
    return {
        "value": y,
        "jacobian": jnp.einsum("ad,ac->acd", 1 - y**2, M),
        "hessian": jnp.einsum("ad,ac,ae->aced", -2 * y * (1 - y**2), M, M),
    }


def times(M, X, options: dict) -> tuple[float, float]:
    """Seconds of a Python loop over samples (its one-sample Hessian is compiled) and of one nablax call."""
    one_sample = jax.jit(jax.hessian(f, argnums=1))
    samples = np.asarray(X).T

    def loop():
        return np.stack([one_sample(M, x) for x in samples], axis=-1)

    def call():
        return nablax.hessian(f, **options)(M, X)

    return median_time(loop), median_time(call)


def median_time(function: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of one call: the median after one call that compiles."""
    jax.block_until_ready(function())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
