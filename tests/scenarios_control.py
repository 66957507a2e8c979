"""Control flow, indexing, and functions with derivative rules of their own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from scenarios import Draw, Scenario


def _cond() -> Scenario:
    draw = Draw("cond")
    params = {"left": draw(2, 3), "right": draw(2, 3)}

    def model(p, x):
        return lax.cond(x[0] > 0, lambda x: jnp.tanh(p["left"] @ x), lambda x: (p["right"] @ x) ** 3, x)

    return Scenario("cond", model, params, draw(7, 3))


def _switch() -> Scenario:
    """Three branches; the branch is an integer of the sample's own, an argument that is batched too."""
    draw = Draw("switch")
    branches = [lambda z: jnp.sin(z), lambda z: z**3, lambda z: jnp.ones_like(z)]

    def model(p, x, which):
        return lax.switch(which, branches, p @ x)

    return Scenario("switch", model, draw(2, 3), draw(5, 3), (jnp.array([0, 1, 2, 1, 0]),), (None, 0, 0))


def _fori_loop() -> Scenario:
    """Constant bounds: JAX makes a scan of it, so it can be reversed."""
    draw = Draw("fori_loop")

    def model(p, x):
        return lax.fori_loop(0, 3, lambda i, z: jnp.tanh(p @ z) + 0.1 * (i + 1.0) * z, x)[:2]

    return Scenario("fori_loop", model, draw(4, 4, scale=0.5), draw(5, 4))


def _while_loop() -> Scenario:
    """The number of steps depends on the sample: JAX cannot reverse it."""
    draw = Draw("while_loop")

    def model(p, x):
        z = lax.while_loop(lambda z: jnp.sum(z**2) > 0.5, lambda z: 0.7 * jnp.sin(p @ z), x)
        return jnp.exp(z[:2])

    orthogonal = jnp.linalg.qr(draw(3, 3))[0]
    return Scenario("while_loop", model, orthogonal, 2 * draw(5, 3), reverse_mode=False)


def _gather() -> Scenario:
    """Indices that are arguments, and one that depends on x."""
    draw = Draw("gather")

    def model(table, x, index):
        row = table[index]
        largest = jnp.argmax(x)
        return jnp.stack(
            [jnp.sum(row * x[index] ** 2), x[largest] ** 3, lax.dynamic_index_in_dim(x, index[0], 0, False) * x[0]]
        )

    return Scenario("gather", model, draw(4), draw(5, 4), (draw.integers(4, 5, 6),), (None, 0, 0))


def _scatter() -> Scenario:
    """Writing into and adding to an array, at repeated places."""
    draw = Draw("scatter")
    places = jnp.array([1, 0, 1])

    def model(p, x):
        z = jnp.zeros(2).at[places].add(jnp.sin(p * x))
        return (jnp.ones(4).at[1:3].set(z) ** 2 * jnp.sum(x)).at[3].multiply(x[2])

    return Scenario("scatter", model, draw(3), draw(5, 3))


def _sort() -> Scenario:
    draw = Draw("sort")

    def model(p, x):
        return p @ jnp.sort(x) ** 3 + lax.top_k(x, 2)[0] ** 2

    return Scenario("sort", model, draw(2, 4), draw(5, 4))


def _piecewise() -> Scenario:
    """max, min, abs, clip and where around something curved."""
    draw = Draw("piecewise")

    def model(p, x):
        z = p @ x
        curved = jnp.where(z > 0, z**2, jnp.sin(z)) * jnp.abs(z)
        return jnp.stack(
            [jnp.max(curved), jnp.min(z**3), jnp.sum(jnp.maximum(x, x**2)), jnp.sum(jnp.clip(z, -1, 1) ** 2)]
        )

    return Scenario("piecewise", model, draw(5, 3), draw(7, 3))


@jax.custom_jvp
def _log1pexp(x):
    return jnp.log1p(jnp.exp(x))


_log1pexp.defjvp(lambda primals, tangents: (_log1pexp(*primals), tangents[0] / (1 + jnp.exp(-primals[0]))))


def _custom_jvp() -> Scenario:
    """The usual example, and a rule that is not the derivative: it is the rule that has to be followed."""
    draw = Draw("custom_jvp")

    @jax.custom_jvp
    def rounded(z):
        return jnp.round(z)

    # A straight-through estimator: the derivative of z + z^3.
    rounded.defjvp(lambda primals, tangents: (rounded(*primals), (1 + 3 * primals[0] ** 2) * tangents[0]))

    def model(p, x):
        return jnp.stack([jnp.sum(_log1pexp(p @ x)), jnp.sum(rounded(p @ x))])

    return Scenario("custom_jvp", model, draw(4, 3), draw(5, 3))


@jax.custom_vjp
def _softplus(x, scale):
    return jnp.logaddexp(scale * x, 0.0) / scale


def _softplus_backward(kept, g):
    x, scale = kept
    slope = jax.nn.sigmoid(scale * x)
    return g * slope, g * (x * slope / scale - jnp.logaddexp(scale * x, 0.0) / scale**2)


# The forward rule calls the function itself, which is why forward over reverse cannot serve in general.
_softplus.defvjp(lambda x, scale: (_softplus(x, scale), (x, scale)), _softplus_backward)


def _custom_vjp() -> Scenario:
    draw = Draw("custom_vjp")
    params = {"W": draw(4, 3), "scale": draw.positive(4), "out": draw(2, 4)}

    def model(p, x):
        return p["out"] @ _softplus(jnp.sin(p["W"] @ x), p["scale"])

    return Scenario("custom_vjp", model, params, draw(5, 3), forward_mode=False)


SCENARIOS = [
    _cond(),
    _switch(),
    _fori_loop(),
    _while_loop(),
    _gather(),
    _scatter(),
    _sort(),
    _piecewise(),
    _custom_jvp(),
    _custom_vjp(),
]
