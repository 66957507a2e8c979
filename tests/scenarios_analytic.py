"""Models whose derivatives are known on paper."""

from __future__ import annotations

import jax.numpy as jnp
from scenarios import Draw, Scenario


def _quadratic_form() -> Scenario:
    """y = x^T Q x with a Q that is not symmetric: H = Q + Q^T."""
    draw = Draw("quadratic_form")

    def reference(Q, x):
        return x @ Q @ x, (Q + Q.T) @ x, Q + Q.T

    return Scenario("quadratic_form", lambda Q, x: x @ Q @ x, draw(4, 4), draw(7, 4), reference=reference)


def _cubic_polynomial() -> Scenario:
    """y_a = sum_c k_ac x_c^3 + m_a x_0 x_1 x_2."""
    draw = Draw("cubic_polynomial")
    params = {"k": draw(2, 3), "m": draw(2)}

    def model(p, x):
        return p["k"] @ x**3 + p["m"] * jnp.prod(x)

    def reference(p, x):
        others = jnp.array([[0.0, x[2], x[1]], [x[2], 0.0, x[0]], [x[1], x[0], 0.0]])
        first = jnp.array([x[1] * x[2], x[0] * x[2], x[0] * x[1]])
        jacobian = 3 * p["k"] * (x**2)[None] + p["m"][:, None] * first[None]
        hessian = 6 * p["k"][:, :, None] * jnp.diag(x)[None] + p["m"][:, None, None] * others[None]
        return model(p, x), jacobian, hessian

    return Scenario("cubic_polynomial", model, params, draw(5, 3), reference=reference)


def _harmonic() -> Scenario:
    """y = exp(k x_0) (cos(k x_1), sin(k x_1)): the Laplacian is zero everywhere."""
    draw = Draw("harmonic")

    def waves(k, x):
        return jnp.exp(k * x[0]), jnp.cos(k * x[1]), jnp.sin(k * x[1])

    def model(k, x):
        e, c, s = waves(k, x)
        return jnp.stack([e * c, e * s, c / e])

    def reference(k, x):
        e, c, s = waves(k, x)
        jacobian = k * jnp.array([[e * c, -e * s], [e * s, e * c], [-c / e, -s / e]])
        real, imag, third = (
            [[e * c, -e * s], [-e * s, -e * c]],
            [[e * s, e * c], [e * c, -e * s]],
            [[c / e, s / e], [s / e, -c / e]],
        )
        return model(k, x), jacobian, k**2 * jnp.array([real, imag, third])

    return Scenario("harmonic", model, jnp.asarray(0.7), draw(5, 2), reference=reference)


def _gaussian_log_density() -> Scenario:
    """log N(x; mu, P^-1) up to a constant: J = -P (x - mu), H = -P."""
    draw = Draw("gaussian_log_density")
    params = {"mu": draw(4), "root": draw(4, 4)}

    def parts(p, x):
        precision = p["root"] @ p["root"].T + jnp.eye(4)
        return precision, x - p["mu"]

    def model(p, x):
        precision, r = parts(p, x)
        return 0.5 * jnp.linalg.slogdet(precision)[1] - 0.5 * r @ precision @ r

    def reference(p, x):
        precision, r = parts(p, x)
        return model(p, x), -precision @ r, -precision

    return Scenario("gaussian_log_density", model, params, draw(7, 4), reference=reference)


def _linear() -> Scenario:
    """y = M x + b: the Hessian is zero, and so are the gradients of everything made of it."""
    draw = Draw("linear")
    params = {"M": draw(2, 3), "b": draw(2)}

    def model(p, x):
        return p["M"] @ x + p["b"]

    return Scenario(
        "linear", model, params, draw(5, 3), reference=lambda p, x: (model(p, x), p["M"], jnp.zeros((2, 3, 3)))
    )


def _constant_component() -> Scenario:
    """One output does not depend on x, one on nothing at all, one on a single input."""
    draw = Draw("constant_component")

    def model(p, x):
        return jnp.stack([p[0] ** 2, jnp.asarray(3.0), p[1] * x[1] ** 2])

    def reference(p, x):
        jacobian = jnp.zeros((3, 2)).at[2, 1].set(2 * p[1] * x[1])
        return model(p, x), jacobian, jnp.zeros((3, 2, 2)).at[2, 1, 1].set(2 * p[1])

    return Scenario("constant_component", model, draw(2), draw(5, 2), reference=reference)


def _powers() -> Scenario:
    """Integer, negative and fractional powers of positive numbers: y_a = sum_c k_c x_c^n_a."""
    draw = Draw("powers")
    exponents = (3, -2, 2.5, 0.5)

    def model(k, x):
        return jnp.stack([jnp.sum(k * x**n) for n in exponents])

    def reference(k, x):
        jacobian = jnp.stack([n * k * x ** (n - 1) for n in exponents])
        return model(k, x), jacobian, jnp.stack([jnp.diag(n * (n - 1) * k * x ** (n - 2)) for n in exponents])

    return Scenario("powers", model, draw(3), draw.positive(5, 3), reference=reference)


def _norm() -> Scenario:
    """y = s |x - c|: H = s (1 - n n^T) / r."""
    draw = Draw("norm")
    params = {"s": draw(), "c": draw(3)}

    def model(p, x):
        return p["s"] * jnp.sqrt(jnp.sum((x - p["c"]) ** 2))

    def reference(p, x):
        r = jnp.linalg.norm(x - p["c"])
        n = (x - p["c"]) / r
        return p["s"] * r, p["s"] * n, p["s"] * (jnp.eye(3) - jnp.outer(n, n)) / r

    return Scenario("norm", model, params, draw(5, 3), reference=reference)


def _logsumexp() -> Scenario:
    """y = logsumexp(x / t): H = (diag(p) - p p^T) / t^2."""
    draw = Draw("logsumexp")

    def model(t, x):
        z = x / t
        top = jnp.max(z)
        return top + jnp.log(jnp.sum(jnp.exp(z - top)))

    def reference(t, x):
        p = jnp.exp(x / t) / jnp.sum(jnp.exp(x / t))
        return jnp.log(jnp.sum(jnp.exp(x / t))), p / t, (jnp.diag(p) - jnp.outer(p, p)) / t**2

    return Scenario("logsumexp", model, jnp.asarray(1.3), draw(7, 4), reference=reference)


def _plane_wave() -> Scenario:
    """psi_a = exp(i k_a x): J = i k psi, H = -k k^T psi; the output is complex."""
    draw = Draw("plane_wave")

    def model(k, x):
        return jnp.exp(1j * (k @ x))

    def reference(k, x):
        psi = model(k, x)
        return psi, 1j * k * psi[:, None], -k[:, :, None] * k[:, None, :] * psi[:, None, None]

    return Scenario("plane_wave", model, draw(2, 3), draw(5, 3), reference=reference)


SCENARIOS = [
    _quadratic_form(),
    _cubic_polynomial(),
    _harmonic(),
    _gaussian_log_density(),
    _linear(),
    _constant_component(),
    _powers(),
    _norm(),
    _logsumexp(),
    _plane_wave(),
]
