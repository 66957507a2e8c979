"""Random models: a recipe of up to twelve operations of every class, drawn by hypothesis and replayed as a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

RNG = np.random.default_rng(20)
WEIGHTS = RNG.normal(size=(6, 6))


@jax.custom_jvp
def squashed(x):
    return jnp.sin(x) ** 2


@squashed.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return squashed(x), jnp.sin(2 * x) * t


@jax.custom_jvp
def coupled(x):
    """A custom rule that is elementwise in shape only."""
    return x * jnp.sum(x)


@coupled.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return coupled(x), t * jnp.sum(x) + x * jnp.sum(t)


@jax.jit
def silu(x):  # not what its name says
    return jnp.cos(x) * x


def grid(a):
    """Any array as a vector of two to four entries, for operations that need one."""
    flat = a.ravel()
    return jnp.tanh(jnp.concatenate([flat, flat])[: max(2, min(4, flat.size))])


def step(p, a, b):
    carry, out = jax.lax.scan(lambda h, s: (jnp.tanh(h * s + p), h * h), grid(a), jnp.linspace(0.5, 1, 3) * grid(b)[0])
    return carry + out.sum(0)


def layers(p, a):
    h = grid(a)
    W = jnp.asarray(WEIGHTS[: h.size, : h.size])
    return jax.lax.scan(lambda h, s: (jax.nn.gelu(W @ h * s), None), h, jnp.array([0.3, 0.7]) * p)[0]


UNARY: dict[str, Callable[[Any, Any], Any]] = {
    "tanh": lambda p, a: jnp.tanh(a),
    "sin": lambda p, a: jnp.sin(a * p),
    "bump": lambda p, a: jnp.exp(-(a**2)),
    "softplus": lambda p, a: jax.nn.softplus(a),
    "gelu": lambda p, a: jax.nn.gelu(a),
    "silu": lambda p, a: jax.nn.silu(a),
    "false silu": lambda p, a: silu(a),
    "relu": lambda p, a: jax.nn.relu(a),
    "elu": lambda p, a: jax.nn.elu(a),
    "abs": lambda p, a: jnp.abs(a),
    "root": lambda p, a: jnp.sqrt(1 + a**2),
    "log": lambda p, a: jnp.log1p(a**2),
    "cube": lambda p, a: jnp.tanh(a) ** 3,
    "erf": lambda p, a: jax.scipy.special.erf(a),
    "round": lambda p, a: jnp.round(a) * a,
    "stop": lambda p, a: jax.lax.stop_gradient(a) * a,
    "custom": lambda p, a: squashed(a),
    "coupled": lambda p, a: coupled(jnp.tanh(a)),
    "remat": lambda p, a: jax.checkpoint(lambda a: jnp.cos(a) * a)(a),
    "vmap": lambda p, a: jax.vmap(lambda s: jnp.tanh(s) * s)(a.ravel()),
    "complex": lambda p, a: jnp.abs(jnp.exp(1j * a) + 2 * a) ** 2 / (1 + a**2),
    "angle": lambda p, a: jnp.angle(jnp.exp(1j * jnp.tanh(a)) * (2 + a * 1j)),
    "dense": lambda p, a: jnp.asarray(WEIGHTS[:3, : grid(a).size]) @ grid(a) * p,
    "gram": lambda p, a: jnp.outer(grid(a), grid(a)) @ grid(a),
    "sum": lambda p, a: jnp.sum(a),
    "mean last": lambda p, a: a - jnp.mean(a, axis=-1, keepdims=True) if a.ndim else a,
    "normalise": lambda p, a: (grid(a) - grid(a).mean()) / jnp.sqrt(grid(a).var() + 0.1),
    "max": lambda p, a: jnp.max(a) * grid(a),
    "product": lambda p, a: jnp.prod(grid(a) + 1.5),
    "logsumexp": lambda p, a: jax.nn.logsumexp(a),
    "softmax": lambda p, a: jax.nn.softmax(grid(a)),
    "norm": lambda p, a: jnp.linalg.norm(grid(a) + 2),
    "cumsum": lambda p, a: jnp.cumsum(a),
    "cumprod": lambda p, a: jnp.cumprod(grid(a) + 1),
    "cummax": lambda p, a: jax.lax.cummax(grid(a)) * grid(a),
    "sort": lambda p, a: jnp.sort(grid(a)) * grid(a),
    "flip": lambda p, a: jnp.flip(a.ravel())[::2],
    "gather": lambda p, a: a.ravel()[np.array([0, -1, 0])],
    "pick": lambda p, a: grid(a)[jnp.argmax(grid(a))] * grid(a)[:2],
    "dynamic slice": lambda p, a: jax.lax.dynamic_slice(grid(a), (jnp.argmin(grid(a)) % 2,), (1,)),
    "set": lambda p, a: grid(a).at[0].set(jnp.sum(a) * p),
    "scatter": lambda p, a: jnp.zeros(5, a.dtype).at[np.array([1, 1])].add(grid(a)[:2]),
    "pad": lambda p, a: jnp.pad(grid(a), (1, 2)),
    "matrix": lambda p, a: jnp.reshape(jnp.tile(grid(a), 2), (2, -1)).T,
    "fft": lambda p, a: jnp.real(jnp.fft.fft(grid(a)) ** 2),
    "det": lambda p, a: jnp.linalg.slogdet(jnp.outer(grid(a), grid(a)[::-1]) + 3 * jnp.eye(grid(a).size))[1],
    "solve": lambda p, a: jnp.linalg.solve(jnp.outer(grid(a), grid(a)) + 2 * jnp.eye(grid(a).size), grid(a)),
    "cond": lambda p, a: jax.lax.cond(jnp.sum(a) > 0, jnp.sin, lambda a: a * a, a),
    "loop": lambda p, a: jax.lax.fori_loop(0, 2, lambda k, h: jnp.tanh(h) * p + h * 0.1, a),
    "layers": layers,
}

BINARY: dict[str, Callable[[Any, Any, Any], Any]] = {
    "add": lambda p, a, b: a + p * b,
    "mul": lambda p, a, b: a * b,
    "div": lambda p, a, b: a / (1.5 + b**2),
    "min": lambda p, a, b: jnp.minimum(a, b),
    "where": lambda p, a, b: jnp.where(a > b, jnp.tanh(a) * b, b**2),
    "logaddexp": lambda p, a, b: jnp.logaddexp(a, b),
    "arctan2": lambda p, a, b: jnp.arctan2(a, 1 + b**2),
    "power": lambda p, a, b: jnp.power(1 + jnp.abs(jnp.tanh(a)), jnp.tanh(b)),
    "clip": lambda p, a, b: jnp.clip(a, jnp.tanh(b) - 1, 1.0),
    "scan": step,
}
# Numbers of any two shapes meet by a broadcast over axes of length one or by an outer product.
MEETINGS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "column": lambda a, b: (grid(a)[:, None], grid(b)[None, :]),
    "scalar": lambda a, b: (a, jnp.broadcast_to(jnp.sum(jnp.tanh(b)), a.shape)),
    "kept": lambda a, b: (jnp.tanh(a), jnp.reshape(jnp.mean(b), (1,) * a.ndim)),
}


@dataclass(frozen=True)
class Recipe:
    """Inputs, and (operation, meeting, operand, operand) for each step; operands count back from the newest array."""

    inputs: int
    steps: tuple[tuple[str, str, int, int], ...]

    def __call__(self, p: Any, x: Any) -> Any:
        arrays = [x]
        for name, meeting, first, second in self.steps:
            a, b = arrays[-1 - first % len(arrays)], arrays[-1 - second % len(arrays)]
            new = UNARY[name](p, a) if name in UNARY else BINARY[name](p, *MEETINGS[meeting](a, b))
            # Scaled so that twelve steps stay within the reach of float64.
            arrays.append(new / (1 + 0.1 * np.sqrt(new.size)))
        last = [jnp.sum(array * jnp.cos(jnp.arange(array.size)).reshape(array.shape)) for array in arrays[-3:]]
        return jnp.stack(last[::-1][:2])


recipes = st.builds(
    Recipe,
    st.integers(2, 4),
    st.lists(
        st.tuples(
            st.sampled_from(sorted(UNARY) + sorted(BINARY)),
            st.sampled_from(sorted(MEETINGS)),
            st.integers(0, 3),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=12,
    ).map(tuple),
)
