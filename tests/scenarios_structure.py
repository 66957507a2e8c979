"""Shapes and structures: inputs and outputs of any rank, pytrees, complex numbers, constants, batched parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scenarios import Draw, Scenario


def _matrix_output() -> Scenario:
    draw = Draw("matrix_output")
    return Scenario("matrix_output", lambda p, x: jnp.tanh(jnp.outer(p @ x, x)), draw(2, 3), draw(5, 3))


def _rank_3_input() -> Scenario:
    draw = Draw("rank_3_input")

    def model(p, x):
        return jnp.sin(jnp.einsum("aijk,ijk->a", p, x)) * jnp.sum(x**2)

    return Scenario("rank_3_input", model, draw(4, 2, 3, 1), draw(5, 2, 3, 1))


def _scalar_input() -> Scenario:
    """x is a single number: X is (D,), and there is no C axis at all."""
    draw = Draw("scalar_input")
    return Scenario("scalar_input", lambda p, x: jnp.sin(p * x) * x, draw(3), draw(5))


def _one_element() -> Scenario:
    """A = C = 1 and D = 1, with their axes."""
    draw = Draw("one_element")
    return Scenario("one_element", lambda p, x: jnp.exp(p * x), draw(1), draw(1, 1))


def _pytree_input() -> Scenario:
    draw = Draw("pytree_input")
    X = {"position": draw(5, 2, 3), "time": draw(5), "pair": (draw(5, 1), draw(5, 2))}

    def model(p, x):
        z = p["W"] @ x["position"] * x["time"] + x["pair"][0][None]
        return jnp.tanh(jnp.sum(z, 1)) + x["pair"][1][0] * x["pair"][1][1] ** 2

    return Scenario("pytree_input", model, {"W": draw(4, 2)}, X)


def _pytree_output() -> Scenario:
    """A scalar, a vector and a matrix."""
    draw = Draw("pytree_output")

    def model(p, x):
        z = p @ x
        return {"energy": jnp.sum(z**3), "rest": (jnp.cos(z), jnp.outer(x, x))}

    return Scenario("pytree_output", model, draw(2, 3), draw(5, 3))


def _trees_both_ways() -> Scenario:
    draw = Draw("trees_both_ways")

    def model(p, x):
        a, b = x
        return [jnp.sum(a**2) * b, p * jnp.sin(b[0]) * a[1]]

    return Scenario("trees_both_ways", model, draw(4), (draw(7, 3), draw(7, 2)))


def _unused_leaf() -> Scenario:
    """Part of x, and part of the parameters, is not used at all."""
    draw = Draw("unused_leaf")
    X = {"used": draw(7, 3), "unused": draw(7, 2)}

    def model(p, x):
        return jnp.sin(p["used"] @ x["used"])

    return Scenario("unused_leaf", model, {"used": draw(4, 3), "unused": draw(2)}, X)


def _complex_output() -> Scenario:
    """psi = exp(i k x) times a network."""
    draw = Draw("complex_output")
    params = {"k": draw(3), "W": draw(4, 3), "out": draw(2, 4)}

    def model(p, x):
        return jnp.exp(1j * (p["k"] @ x)) * (p["out"] @ jnp.tanh(p["W"] @ x))

    return Scenario("complex_output", model, params, draw(5, 3))


def _mixed_output() -> Scenario:
    """Real and complex outputs side by side: each keeps its dtype."""
    draw = Draw("mixed_output")

    def model(p, x):
        z = p @ x
        return {"density": jnp.sum(z**2), "psi": jnp.exp(1j * z) * jnp.sum(x)}

    return Scenario("mixed_output", model, draw(2, 3), draw(5, 3))


def _complex_scalar() -> Scenario:
    """log psi of a complex determinant: what a neural wavefunction returns."""
    draw = Draw("complex_scalar")
    params = {"re": 2 * jnp.eye(3) + draw(3, 3), "im": draw(3, 3)}

    def model(p, x):
        sign, logdet = jnp.linalg.slogdet(p["re"] + 1j * p["im"] * jnp.sin(x)[:3, None])
        return jnp.log(sign) + logdet

    return Scenario("complex_scalar", model, params, draw(5, 4))


def _one_argument() -> Scenario:
    draw = Draw("one_argument")
    return Scenario("one_argument", lambda x: jnp.stack([jnp.prod(x), jnp.sum(jnp.sin(x) * x[0])]), None, draw(5, 3))


def _closed_over() -> Scenario:
    """Constants of NumPy and JAX in the closure, of one argument."""
    draw = Draw("closed_over")
    W, bias = np.asarray(draw(2, 4)), draw(2)
    return Scenario("closed_over", lambda x: jnp.tanh(W @ x + bias), None, draw(5, 4))


def _batched_params() -> Scenario:
    """Every sample has its own parameters, and further arguments of both kinds follow x."""
    draw = Draw("batched_params")

    def model(p, x, target, shift):
        return jnp.sin(p @ x) * jnp.sum((x - shift) ** 2) - target

    return Scenario("batched_params", model, draw(5, 2, 3), draw(5, 3), (draw(5, 2), draw(3)), (0, 0, 0))


def _statistics() -> Scenario:
    """Means and variances over the features of one sample do not mix samples."""
    draw = Draw("statistics")

    def model(p, x):
        return p * (x[0] - jnp.mean(x)) / jnp.sqrt(jnp.var(x) + 0.1) + jnp.linalg.norm(x, 4)

    return Scenario("statistics", model, draw(2), draw(7, 4))


def _force() -> Scenario:
    """A model that differentiates inside: the force of a potential."""
    draw = Draw("force")

    def potential(p, x):
        return jnp.sum(jnp.sin(p @ x)) + jnp.prod(x)

    return Scenario("force", lambda p, x: -jax.grad(potential, argnums=1)(p, x)[:2], draw(4, 3), draw(5, 3))


SCENARIOS = [
    _matrix_output(),
    _rank_3_input(),
    _scalar_input(),
    _one_element(),
    _pytree_input(),
    _pytree_output(),
    _trees_both_ways(),
    _unused_leaf(),
    _complex_output(),
    _mixed_output(),
    _complex_scalar(),
    _one_argument(),
    _closed_over(),
    _batched_params(),
    _statistics(),
    _force(),
]
