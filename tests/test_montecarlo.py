"""Expectations, local energies, samples and stochastic reconfiguration, against exact integrals and exact solutions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nablax
from nablax import errors, montecarlo

# ------------------------------------------------------------------------------------------------------- expectations

# p is a normal density of mean a and width s, all up to a constant that depends on the parameters.
AT = {"a": jnp.array(0.3), "s": jnp.array(0.8), "k": jnp.array(1.7)}


def log_density(params, x):
    return -0.5 * ((x - params["a"]) / params["s"]) ** 2


# f by one sample, and E f as a function of the parameters, from E exp(i k x) = exp(i k a - k^2 s^2 / 2) and moments.
INTEGRANDS = {
    "real": (
        lambda p, x: p["k"] * x**4,
        lambda p: p["k"] * (p["a"] ** 4 + 6 * (p["a"] * p["s"]) ** 2 + 3 * p["s"] ** 4),
    ),
    "complex": (
        lambda p, x: jnp.exp(1j * p["k"] * x) * (1 + 2j),
        lambda p: jnp.exp(1j * p["k"] * p["a"] - 0.5 * (p["k"] * p["s"]) ** 2) * (1 + 2j),
    ),
    "vector": (
        lambda p, x: jnp.stack([x, x * p["k"], x**2]),
        lambda p: jnp.stack([p["a"], p["a"] * p["k"], p["a"] ** 2 + p["s"] ** 2]),
    ),
}


def quadrature(log_p=log_density, count=801):
    """Nodes as chains of one step, and log weights: the trapezoidal rule is exact to rounding for smooth densities that
    vanish at both ends.
    """
    x = jnp.linspace(-9, 9, count)[:, None]
    return x, jax.vmap(lambda x: log_p(AT, x))(x)


def parts(value):
    """Real numbers."""
    value = jnp.ravel(value)
    return jnp.concatenate([value.real, value.imag]) if jnp.iscomplexobj(value) else value


@pytest.mark.parametrize("name", INTEGRANDS)
@pytest.mark.parametrize("order", [0, 1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_derivatives_of_every_order_are_exact_under_quadrature(name, order):
    f, exact = INTEGRANDS[name]
    x, log_weights = quadrature()
    estimate = montecarlo.expectation(log_density, jax.vmap(f, (None, 0)))
    found = lambda p: parts(estimate(p, x, log_weights=log_weights).mean)
    wanted = lambda p: parts(exact(p))
    for _ in range(order):
        found, wanted = jax.jacfwd(found) if order == 2 else jax.jacrev(found), jax.jacrev(wanted)
    found, wanted = jax.jit(found)(AT), jax.jit(wanted)(AT)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * max(1, float(jnp.abs(b).max())))


@pytest.mark.parametrize("name", [pytest.param("real", marks=pytest.mark.slow), "complex"])
def test_derivatives_of_samples_are_right_to_monte_carlo_error(name):
    """In 64 batches, so that the error of each derivative is measured and not guessed."""
    f, exact = INTEGRANDS[name]
    estimate = montecarlo.expectation(log_density, jax.vmap(f, (None, 0)))
    X = AT["a"] + AT["s"] * jax.random.normal(jax.random.key(1), (64, 4000, 1))
    flat = lambda tree: jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    def both(function):
        first = lambda p: jax.jacrev(lambda p: parts(function(p)))(p)
        return lambda p: flat((first(p), jax.jit(jax.jacfwd(first))(p)))

    found = jax.jit(jax.vmap(lambda x: both(lambda p: estimate(p, x).mean)(AT)))(X)
    wanted = both(exact)(AT)
    error = found.std(0, ddof=1) / 8
    assert (jnp.abs(found.mean(0) - wanted) < 4.5 * error + 1e-9).all()
    # the test can fail: the errors are small beside the derivatives
    assert jnp.linalg.norm(error) < 0.1 * jnp.linalg.norm(wanted)


def test_variance_is_differentiated_too():
    x, log_weights = quadrature()
    estimate = montecarlo.expectation(log_density, lambda p, X: X)
    variance = lambda p: estimate(p, x, log_weights=log_weights).variance
    assert abs(variance(AT) - 0.8**2) < 1e-10
    assert abs(jax.jit(jax.grad(variance))(AT)["s"] - 2 * 0.8) < 1e-10
    assert abs(jax.jit(jax.grad(variance))(AT)["a"]) < 1e-10


def autoregressive(key, chains, steps, memory):
    """Chains of a stationary process of variance one whose autocorrelation is memory^lag."""
    noise = jax.random.normal(key, (steps, chains))
    step = lambda x, e: (memory * x + math.sqrt(1 - memory**2) * e,) * 2
    _, rest = jax.lax.scan(step, noise[0], noise[1:])
    return jnp.concatenate([noise[:1], rest]).T


def test_standard_error_knows_the_autocorrelation():
    """The integrated autocorrelation time of the process is (1 + m) / (1 - m) = 19."""
    X = autoregressive(jax.random.key(2), 16, 4000, 0.9)
    estimate = montecarlo.expectation(lambda p, x: -0.5 * x**2, lambda p, X: X)
    found = estimate(None, X)
    assert abs(found.effective_samples * 19 / X.size - 1) < 0.15
    assert abs(found.standard_error / math.sqrt(19 / X.size) - 1) < 0.1
    assert 1 <= found.r_hat < 1.01
    # of a complex number both parts count
    both = montecarlo.expectation(lambda p, x: -0.5 * x**2, lambda p, X: X * (3 + 4j))(None, X)
    np.testing.assert_allclose(both.standard_error, 5 * found.standard_error, rtol=1e-9)
    np.testing.assert_allclose(both.effective_samples, found.effective_samples, rtol=1e-9)
    np.testing.assert_allclose(both.r_hat, found.r_hat, rtol=1e-9)
    shifted = estimate(None, X + jnp.arange(16)[:, None] / 4)
    assert shifted.r_hat > 1.2


def test_standard_errors_cover():
    """Of 400 estimates from independent samples, weighted or not, 95 % are within 1.96 standard errors."""
    estimate = montecarlo.expectation(lambda p, x: -0.5 * x**2, lambda p, X: X**2)
    X = jax.random.normal(jax.random.key(3), (400, 500, 1))
    for scale, short in ((1.0, 1), (0.9, 1), (1.0, 2)):
        # samples of width 1 for the density of width `scale`; the same ones as half as many chains of two steps
        log_weights = 0.5 * X**2 * (1 - 1 / scale**2)
        shape = (400, 500 // short, short)
        found = jax.vmap(lambda x, w: estimate(None, x, log_weights=w))(X.reshape(shape), log_weights.reshape(shape))
        covered = jnp.mean(jnp.abs(found.mean - scale**2) < 1.96 * found.standard_error)
        assert 0.92 < covered < 0.98
        assert jnp.isnan(found.r_hat).all()


def test_expectation_of_trees_and_a_constant():
    X = {"r": jnp.ones((3, 5, 2)), "n": jnp.arange(15).reshape(3, 5)}
    estimate = montecarlo.expectation(lambda p, x, c: -p * c * x["r"].sum(), lambda p, X, c: X["n"] * 0 + p * c)
    found = estimate(jnp.array(2.0), X, 3.0)
    np.testing.assert_allclose((found.mean, found.variance, found.standard_error), (6.0, 0.0, 0.0), atol=1e-12)
    assert abs(jax.jit(jax.grad(lambda p: estimate(p, X, 3.0).mean))(2.0) - 3.0) < 1e-12


def test_no_derivative_goes_through_the_samples():
    estimate = montecarlo.expectation(lambda p, x: -0.5 * (x - p) ** 2, lambda p, X: X)
    noise = jax.random.normal(jax.random.key(0), (20_000, 1))
    derivative = jax.jit(jax.grad(lambda p: estimate(p, p + noise).mean))(0.5)
    assert abs(derivative - 1) < 0.05  # 2 if the samples were differentiated too


# ----------------------------------------------------------------------------------------------------- local energies


def test_local_energy_of_exact_states_is_constant():
    """Hydrogen, by x of shape (3,) and by (1, 3)."""
    X = jax.random.normal(jax.random.key(0), (7, 3))
    for shape in ((3,), (1, 3)):
        energy = montecarlo.local_energy(lambda z, x: -z * jnp.linalg.norm(x), lambda x: -1 / jnp.linalg.norm(x))
        np.testing.assert_allclose(energy(1.0, X.reshape(7, *shape)), -0.5, rtol=1e-12)


@pytest.mark.parametrize("mass", [1.0, 2.0, np.array([1.0, 3.0]), np.array([[2.0], [5.0], [1.0]])])
def test_local_energy_with_masses(mass):
    """Harmonic oscillators: psi = exp(-sum m x^2 / 2) has the energy 1/2 for each coordinate."""
    X = jax.random.normal(jax.random.key(1), (5, 3, 2))
    m = np.broadcast_to(mass, (3, 2))
    energy = montecarlo.local_energy(
        lambda p, x: -0.5 * jnp.sum(m * x**2), lambda x: 0.5 * jnp.sum(m * x**2), mass=mass, chunk_size=2
    )
    np.testing.assert_allclose(energy(None, X), 3.0, rtol=1e-12)


@pytest.mark.parametrize("sign, gauge", [(-1.0, 0.7), pytest.param(1.0, 0.0, marks=pytest.mark.slow)])
def test_fock_darwin_states(sign, gauge):
    """A charge in the plane, in a trap and a magnetic field: exact energies for every angular momentum, in a gauge with
    a divergence too.
    """
    B, omega, m, q = 0.9, 1.3, 1.4, sign * 0.8
    larmor = q * B / (2 * m)
    Omega = math.sqrt(omega**2 + larmor**2)
    turn = lambda x: jnp.array([-x[1], x[0]])
    chi = lambda x: gauge * jnp.sin(x[0]) * x[1] ** 2  # psi -> psi exp(i q chi), A -> A + grad chi
    A = lambda x: 0.5 * B * turn(x) + jax.jit(jax.grad(chi))(x)
    V = lambda x: 0.5 * m * omega**2 * jnp.sum(x**2)
    X = jax.random.normal(jax.random.key(2), (6, 2))
    for l in (-2, -1, 0, 1, 3):
        z = lambda x, l=l: x[0] + (1j if l >= 0 else -1j) * x[1]
        log_psi = lambda p, x, l=l, z=z: abs(l) * jnp.log(z(x)) - 0.5 * m * Omega * jnp.sum(x**2) + 1j * q * chi(x)
        energy = montecarlo.local_energy(log_psi, V, mass=m, charge=q, vector_potential=A)(None, X)
        np.testing.assert_allclose(energy, Omega * (abs(l) + 1) - larmor * l, rtol=1e-10)


def network(params, x):
    """log psi of two coordinates, complex."""
    W, b, v = params
    h = jnp.tanh(W @ x.ravel() + b)
    return (h @ v)[0] + 1j * (h @ v)[1] - 0.3 * jnp.sum(x**2)


def parameters():
    a, b, c = jax.random.split(jax.random.key(5), 3)
    return jax.random.normal(a, (5, 2)), jax.random.normal(b, (5,)), jax.random.normal(c, (5, 2))


A_OF_X = lambda x: jnp.array([jnp.sin(x[1]) + x[0] ** 2, x[0] * x[1]])
V_OF_X = lambda x: jnp.sum(jnp.cos(x))


@pytest.mark.parametrize("field", [pytest.param(None, marks=pytest.mark.slow), A_OF_X])
def test_local_energy_against_the_operator_written_out(field):
    """(p - q A)^2 applied to psi itself, twice the covariant derivative; and the gradient of a loss through it."""
    X, params, q = jax.random.normal(jax.random.key(3), (4, 2)), parameters(), 0.6
    A = field or (lambda x: jnp.zeros(2))
    psi = lambda params, x: jnp.exp(network(params, x))

    def covariant(function, c):
        return lambda x: -1j * jax.jvp(function, (x,), (jnp.eye(2)[c],))[1] - q * A(x)[c] * function(x)

    def wanted(params, x):
        f = lambda x: psi(params, x)
        kinetic = sum(covariant(covariant(f, c), c)(x) for c in range(2))
        return kinetic / 2 / f(x) + V_OF_X(x)

    energy = montecarlo.local_energy(network, V_OF_X, charge=q, vector_potential=field)
    np.testing.assert_allclose(energy(params, X), jax.vmap(wanted, (None, 0))(params, X), rtol=1e-10)
    loss = lambda function: lambda params: jnp.sum(jnp.abs(function(params)) ** 2)
    found = jax.jit(jax.grad(loss(lambda params: energy(params, X))))(params)
    other = jax.jit(jax.grad(loss(lambda params: jax.vmap(wanted, (None, 0))(params, X))))(params)
    for a, b in zip(found, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_gradient_of_the_energy_is_twice_the_force():
    """d<E> = 2 Re < O* (E - <E>) >: only the density is differentiated, for H is Hermitian. By quadrature in the plane,
    where the two are equal to rounding; stochastic reconfiguration solves for this force.
    """
    params = parameters()
    line = jnp.linspace(-9, 9, 121)
    X = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    log_p = lambda params, x: 2 * network(params, x).real
    energy = montecarlo.local_energy(network, V_OF_X, charge=0.6, vector_potential=A_OF_X)
    estimate = montecarlo.expectation(log_p, energy)
    weights = jax.vmap(log_p, (None, 0))(params, X)[:, None]
    total = jax.jit(lambda params: estimate(params, X[:, None], log_weights=weights).mean)
    gradient = jax.jit(jax.grad(lambda params: total(params).real))(params)
    w = jax.nn.softmax(weights[:, 0])
    O = nablax.parameter_jacobian(network)(params, X)
    energies = energy(params, X)
    force = O.T @ (w * (energies - w @ energies))
    for a, b in zip(gradient, force, strict=True):
        np.testing.assert_allclose(a, 2 * b, atol=1e-10)
    assert abs(total(params).imag) < 1e-10  # H is Hermitian


# ------------------------------------------------------------------------------------------------------------ samples


@pytest.mark.parametrize(
    "method, step_size",
    [
        pytest.param("metropolis", 0.01, marks=pytest.mark.slow),
        pytest.param("metropolis", 30.0, marks=pytest.mark.slow),
        ("mala", 0.001),
    ],
)
def test_samples_have_the_moments_of_the_density(method, step_size):
    """A tree of two kinds of coordinates, correlated; the step size is found from far off."""
    log_p = lambda p, x: -0.5 * (jnp.sum((x["r"] - p) ** 2) + (x["s"] - 0.5 * x["r"].sum()) ** 2)
    draw = montecarlo.sample(log_p, steps=400, burn_in=400, method=method)
    X0 = {"r": jnp.zeros((32, 2)), "s": jnp.zeros(32)}
    found = jax.jit(draw)(1.5, jax.random.key(0), X0, step_size=step_size)
    assert jax.tree.map(jnp.shape, found.positions) == {"r": (32, 400, 2), "s": (32, 400)}
    assert jax.tree.map(jnp.shape, found.last) == {"r": (32, 2), "s": (32,)}
    target = 0.35 if method == "metropolis" else 0.574
    assert abs(found.acceptance - target) < 0.08
    moments = lambda p, X: jnp.stack([X["r"][:, 0], X["r"][:, 1] ** 2, X["s"], X["s"] ** 2], -1)
    estimate = montecarlo.expectation(log_p, moments)(1.5, found.positions)
    exact = np.array([1.5, 1.5**2 + 1, 1.5, 1.5**2 + 1.5])
    assert (np.abs(estimate.mean - exact) < 4 * estimate.standard_error).all()
    assert (estimate.standard_error < 0.2).all()
    assert (estimate.r_hat < 1.05).all()


def test_samples_go_on_where_they_stopped_and_thin():
    draw = montecarlo.sample(lambda p, x: -0.5 * x**2, steps=3, burn_in=0, thin=5)
    first = draw(None, jax.random.key(0), jnp.zeros(4), step_size=0.5)
    assert first.positions.shape == (4, 3)
    assert first.step_size == 0.5
    np.testing.assert_array_equal(first.last, first.positions[:, -1])
    again = draw(None, jax.random.key(0), jnp.zeros(4), step_size=0.5)
    np.testing.assert_array_equal(first.positions, again.positions)
    other = draw(None, jax.random.key(1), jnp.zeros(4), step_size=0.5)
    assert (other.positions != first.positions).any()


def test_a_start_outside_of_the_density_is_an_error():
    draw = montecarlo.sample(lambda p, x: jnp.log(x), steps=3, burn_in=1)
    with pytest.raises(Exception, match="not finite at a starting point"):
        jax.jit(draw)(None, jax.random.key(0), jnp.array([1.0, -1.0]))


# ------------------------------------------------------------------------------------------ stochastic reconfiguration


def test_stochastic_reconfiguration_against_the_matrix():
    params, X = parameters(), jax.random.normal(jax.random.key(4), (40, 2))
    energies = montecarlo.local_energy(network, V_OF_X, charge=0.6, vector_potential=A_OF_X)(params, X)
    O = nablax.parameter_jacobian(network)(params, X).dense()
    O = O - O.mean(0, keepdims=True)
    S, F = (O.conj().T @ O / 40).real, (O.conj().T @ (energies - energies.mean()) / 40).real
    wanted = np.linalg.solve(S + 1e-3 * np.eye(25), F)
    for method in ("auto", "kernel", "fisher"):
        step = montecarlo.stochastic_reconfiguration(network, damping=1e-3, method=method)(params, X, energies).step
        found = jnp.concatenate([leaf.ravel() for leaf in step])
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10)


def test_stochastic_reconfiguration_of_holomorphic_parameters():
    """One complex step where it exists: the same as by real and imaginary part, for log psi holomorphic."""
    log_psi = lambda w, x: jnp.sum(jnp.sin(w * x)) - 0.5 * jnp.sum(x**2)
    w, X = jnp.array([0.3 + 0.2j, -0.5 + 0.1j]), jax.random.normal(jax.random.key(6), (30, 2))
    energies = montecarlo.local_energy(log_psi, V_OF_X)(w, X)
    step = lambda mode: montecarlo.stochastic_reconfiguration(log_psi, damping=1e-2, mode=mode)(w, X, energies).step
    np.testing.assert_allclose(step("holomorphic"), step("complex"), rtol=1e-9)


def test_a_real_wavefunction_in_a_magnetic_field_feels_the_real_part():
    log_psi = lambda a, x: -0.5 * jnp.sum(a * x**2)
    a, X = jnp.array([1.0, 1.3]), jax.random.normal(jax.random.key(7), (30, 2))
    energies = montecarlo.local_energy(log_psi, V_OF_X, vector_potential=A_OF_X)(a, X)
    assert jnp.abs(energies.imag).max() > 0.1
    step = lambda energies: montecarlo.stochastic_reconfiguration(log_psi, damping=1e-3)(a, X, energies).step
    np.testing.assert_allclose(step(energies), step(energies.real), rtol=1e-12)


# -------------------------------------------------------------------------------------------------------------- errors

MEAN = montecarlo.expectation(lambda p, x: -0.5 * x**2, lambda p, X: X)
ENERGY = lambda **options: montecarlo.local_energy(lambda p, x: -jnp.sum(x**2), jnp.sum, **options)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: MEAN(None, jnp.ones(5)), errors.BatchSizeError, r"shape\(s\) \(5,\).*X\[:, None\]"),
        (lambda: MEAN(None, jnp.ones((0, 5))), errors.BatchSizeError, "at least one of each"),
        (lambda: MEAN(None, (jnp.ones((2, 5)), jnp.ones((2, 4)))), errors.BatchSizeError, "the same for all leaves"),
        (lambda: MEAN(None, jnp.ones((2, 5)), log_weights=jnp.ones(5)), errors.OptionError, r"\(5,\).*\(2, 5\)"),
        (
            lambda: montecarlo.expectation(lambda p, x: -(x**2), lambda p, X: X.sum())(None, jnp.ones((2, 5))),
            errors.OutputTypeError,
            r"float64\(\) for a batch of 10 samples.*jax.vmap",
        ),
        (
            lambda: montecarlo.expectation(lambda p, x: 1j * x, lambda p, X: X)(None, jnp.ones((2, 5))),
            errors.OutputTypeError,
            "log_density returns complex128.*2 \\* log_psi.real",
        ),
        (
            lambda: ENERGY(mass=jnp.ones(2))(None, jnp.ones((4, 3))),
            errors.OptionError,
            r"mass has shape \(2,\).*\(3,\)",
        ),
        (lambda: ENERGY()(None, {"r": jnp.ones((4, 3))}), errors.InputTypeError, "give one array"),
        (
            lambda: montecarlo.local_energy(lambda p, x: x, jnp.sum)(None, jnp.ones((4, 3))),
            errors.OutputTypeError,
            "log_psi must return one number",
        ),
        (
            lambda: montecarlo.local_energy(lambda p, x: -jnp.sum(x**2), lambda x: x)(None, jnp.ones((4, 3))),
            errors.OutputTypeError,
            r"potential returns the shape\(s\) \[\(3,\)\]",
        ),
        (
            lambda: ENERGY(vector_potential=jnp.sum)(None, jnp.ones((4, 3))),
            errors.OutputTypeError,
            "one component for each coordinate",
        ),
        (lambda: montecarlo.sample(jnp.sum, steps=0, burn_in=1), errors.OptionError, "steps=0"),
        (lambda: montecarlo.sample(jnp.sum, steps=1, burn_in=1, method="hmc"), errors.OptionError, "metropolis, mala"),
        (
            lambda: montecarlo.sample(jnp.sum, steps=1, burn_in=1, target_acceptance=40),
            errors.OptionError,
            "between 0 and 1",
        ),
        (
            lambda: montecarlo.sample(lambda p, x: x, steps=1, burn_in=1)(None, jax.random.key(0), jnp.ones((2, 3))),
            errors.OutputTypeError,
            r"float64\(3,\)",
        ),
        (
            lambda: montecarlo.sample(lambda p, x: x, steps=1, burn_in=1)(None, jax.random.key(0), jnp.ones(())),
            errors.BatchSizeError,
            "at least one chain",
        ),
        (
            lambda: montecarlo.stochastic_reconfiguration(network, damping=1e-3)(parameters(), jnp.ones((4, 2)), 1.0),
            errors.OptionError,
            r"energies has shape \(\) and log psi \(4,\)",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_names_of_the_package():
    assert set(montecarlo.__all__) <= set(dir(montecarlo))
    for name in montecarlo.__all__:
        assert getattr(montecarlo, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'sampler'"):
        montecarlo.sampler  # noqa: B018
