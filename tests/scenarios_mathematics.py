"""Linear algebra, transforms and special functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from scenarios import Draw, Scenario


def _slogdet() -> Scenario:
    """log |det| of a matrix that depends on x, with its sign, whose derivative is zero."""
    draw = Draw("slogdet")
    params = {"base": 3 * jnp.eye(4) + draw(4, 4), "slope": draw(3, 4, 4)}

    def model(p, x):
        sign, logdet = jnp.linalg.slogdet(p["base"] + jnp.einsum("c,cij->ij", x, p["slope"]))
        return jnp.stack([sign, logdet])

    return Scenario("slogdet", model, params, draw(5, 3))


def _slater() -> Scenario:
    """log |det| of 3 orbitals at 3 electrons in the plane."""
    draw = Draw("slater")
    params = {"exponents": draw.positive(3), "centres": draw(3, 2)}
    corners = 2 * jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])

    def model(p, r):
        away = r[:, None, :] - p["centres"][None]
        orbitals = away[:, :, 0] ** jnp.arange(3)[None] * jnp.exp(-p["exponents"][None] * jnp.sum(away**2, -1))
        return jnp.linalg.slogdet(orbitals)[1]

    return Scenario("slater", model, params, corners[None] + draw(5, 3, 2, scale=0.3))


def _solve() -> Scenario:
    """A linear solve, and a triangular one through a Cholesky factor."""
    draw = Draw("solve")
    params = {"M": 4 * jnp.eye(2) + draw(2, 2), "b": draw(2)}

    def model(p, x):
        M = p["M"] + jnp.outer(x[:2], jnp.sin(x[2:]))
        half = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(M @ M.T), p["b"], lower=True)
        return jnp.concatenate([jnp.linalg.solve(M, p["b"]), half[1:]])

    return Scenario("solve", model, params, draw(7, 4))


def _fft() -> Scenario:
    """A power spectrum: complex numbers inside, real ones outside."""
    draw = Draw("fft")

    def model(p, x):
        z = p[:3] * jnp.fft.rfft(x)
        return jnp.concatenate([z.real**2 + z.imag**2, jnp.fft.irfft(z**2, 4)[:1]])

    return Scenario("fft", model, draw(3), draw(7, 5))


def _cumulative() -> Scenario:
    draw = Draw("cumulative")

    def model(p, x):
        return jnp.stack([p @ jnp.cumsum(x**2), p @ jnp.cumprod(x), p @ jax.lax.cumlogsumexp(x)])

    return Scenario("cumulative", model, draw(4), draw(5, 4))


def _einsum() -> Scenario:
    """Trilinear in x, and contracted with two parameter tensors."""
    draw = Draw("einsum")
    params = {"T": draw(2, 3, 3, 3), "U": draw(3, 2)}

    def model(p, x):
        return jnp.einsum("aijk,i,j,k->a", p["T"], x, x, x) + jnp.einsum("ia,i,j,j->a", p["U"], x, x, jnp.cos(x))

    return Scenario("einsum", model, params, draw(5, 3))


def _special_functions() -> Scenario:
    draw = Draw("special_functions")

    def model(p, x):
        z = p @ x
        return jnp.concatenate(
            [jax.scipy.special.erf(z), jax.scipy.special.gammaln(z), jax.scipy.special.digamma(z)[:1]]
        )

    return Scenario("special_functions", model, draw.positive(2, 3), draw.positive(7, 3))


def _softmax() -> Scenario:
    draw = Draw("softmax")

    def model(p, x):
        z = p @ x
        return jax.nn.softmax(z)[:2] * jax.nn.logsumexp(z**2)

    return Scenario("softmax", model, draw(4, 3), draw(5, 3))


def _ratios() -> Scenario:
    """Division, arctan2, log1p, expm1: functions of one and two variables that are easy to forget."""
    draw = Draw("ratios")

    def model(p, x):
        a, b = p @ x
        return jnp.stack([jnp.arctan2(a, 2 + b**2), a / (1 + b**2), jnp.log1p(a**2) * jnp.expm1(b / 2)])

    return Scenario("ratios", model, draw(2, 4), draw(7, 4))


SCENARIOS = [
    _slogdet(),
    _slater(),
    _solve(),
    _fft(),
    _cumulative(),
    _einsum(),
    _special_functions(),
    _softmax(),
    _ratios(),
]
