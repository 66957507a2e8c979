"""Traps that users of other systems fell into, each with the report of it, where there is one.

What has a test elsewhere is not tested again:

- BatchNorm through the sum trick (functorch issue 115: what is the derivative of a sample where samples are mixed?):
  test_per_sample.py, `batch_norm_in_inference` is proved independent and `batch_norm_in_training` refused.
- |z|^2 as a holomorphic function, and conj (JAX issue 3293): test_parameter_modes.py, `test_not_holomorphic` and
  `test_squared_modulus_is_not_holomorphic`; more complex and mixed parameters: `test_by_real_coordinates`.
- Parameters dropped, for every transform: test_composition.py,
  `test_gradient_through_each_transform_by_all_parameters`.
- Perturbation confusion of two levels: test_composition.py, `test_perturbation_confusion`, `test_nested_in_itself`.
- Callers that map, compile or checkpoint: test_composition.py. Integer samples: test_errors.py, `test_integers`.
- float32 in and out, x64 on and off: test_dtypes.py, `test_float32_stays_float32`; test_stale.py,
  `test_float32_after_float64`.
- relu's zero Laplacian is said, once: test_kinks.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenarios import Draw

import nablax

A, C, D, H = 2, 3, 5, 4
draw = Draw("traps")
W, V, X = draw(H, C), draw(A, H), draw(D, C)
SWEEPS = ("forward", "adjoint")


def close(found, expected, tolerance=1e-12):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("strategy", SWEEPS)
@pytest.mark.parametrize("name", ["sigmoid", "silu", "logsumexp"])
def test_functions_named_like_those_of_jax(name, strategy):
    """folx keeps rules for jitted functions by name: a user's `silu` under jit is just what it computes."""

    def model(x):
        return jnp.sum(x**3)

    model.__name__ = model.__qualname__ = name
    close(nablax.laplacian(jax.jit(model), strategy=strategy)(X), 6 * X.sum(1))


@pytest.mark.parametrize("strategy", [*SWEEPS, "auto"])
def test_diagonal_of_a_hessian_that_is_not_diagonal(strategy):
    """A Hessian times ones is no diagonal (pull request 23 of posteriors); nor is a trace copied C times (STDE)."""
    M = draw(C, C)
    model = lambda x: x @ M @ x
    close(nablax.hessian_diagonal(model, strategy=strategy)(X), np.tile(2 * np.diag(M), (D, 1)))


@pytest.mark.parametrize("strategy", SWEEPS)
@pytest.mark.parametrize("power", [2.0, 3.0, np.float64(2.0), jnp.asarray(2.0)])
def test_powers_of_zero_and_negative_numbers(power, strategy):
    """jax.experimental.jet takes pow as exp(log) (JAX pull request 2652): NaN at x <= 0, where x^2 is smooth."""
    X = jnp.array([[-1.5], [0.0], [2.0]])
    n = float(power)
    found = nablax.laplacian(lambda x: jnp.sum(x**power), strategy=strategy)(X)
    close(found, n * (n - 1) * X[:, 0] ** (n - 2))


@pytest.mark.parametrize("strategy", [*SWEEPS, "reverse_over_reverse"])
def test_complex_functions_of_real_numbers(strategy):
    """JAX issue 22948: neither jax.grad nor jax.hessian takes x^2 + i sin(x)."""
    x = jnp.array([0.3, -1.2])
    model = lambda x: x**2 + 1j * jnp.sin(x)
    close(nablax.jacobian(model)(x), 2 * x + 1j * jnp.cos(x))
    close(nablax.hessian(model, strategy=strategy)(x), 2 - 1j * jnp.sin(x))


def test_imaginary_parts_of_real_parameters():
    """NetKet issue 1240: with holomorphic=True for real parameters, a wrong tensor and no error; here an error."""
    phase = lambda p, x: jnp.sum(p * x) + 1j * jnp.sum(jnp.sin(p) * x**2)
    p = draw(C)
    close(nablax.parameter_jacobian(phase)(p, X).dense(), X + 1j * jnp.cos(p)[None] * X**2)
    with pytest.raises(nablax.errors.OptionError, match="needs complex parameters"):
        nablax.parameter_jacobian(phase, mode="holomorphic")(p, X)


def test_factors_of_two_of_real_and_complex_parameters():
    """NetKet pull request 1397: orders of real and imaginary parts mixed up. d|z|^2 = 2 Re, 2 Im, and d(r^2) = 2 r."""
    params = {"r": draw(2), "z": draw(2) + 1j * draw(2)}
    model = lambda p, x: x[0] * jnp.sum(p["r"] ** 2) + x[1] * jnp.sum(p["z"].real ** 2 + p["z"].imag ** 2)
    r, z = params["r"], params["z"]
    columns = np.hstack([2 * np.outer(X[:, 0], r), 2 * np.outer(X[:, 1], z.real), 2 * np.outer(X[:, 1], z.imag)])
    close(nablax.parameter_jacobian(model)(params, X).dense(), columns)


@pytest.mark.parametrize("strategy", SWEEPS)
def test_gradients_of_a_loss_that_holds_derivatives(strategy):
    """Flux issue 1966 (Zygote issue 1218): parameters inside a nested derivative received no gradient, silently."""
    net = lambda p, x: p["out"] @ jnp.tanh(p["W"] * x)
    p, x = {"W": draw(H), "out": draw(H)}, draw(D)

    def loss(p):
        return jnp.mean((nablax.jacobian(net)(p, x) - 1) ** 2 + nablax.laplacian(net, strategy=strategy)(p, x) ** 2)

    def by_hand(p):
        t = jnp.tanh(p["W"][None] * x[:, None])
        first = ((1 - t**2) * p["W"][None]) @ p["out"]
        second = (-2 * t * (1 - t**2) * p["W"][None] ** 2) @ p["out"]
        return jnp.mean((first - 1) ** 2 + second**2)

    jax.tree.map(close, jax.grad(loss)(p), jax.grad(by_hand)(p))
    assert all(np.all(np.abs(leaf) > 1e-6) for leaf in jax.tree.leaves(jax.grad(loss)(p)))


def test_tied_weights():
    """One matrix as encoder and decoder: its derivative is the sum of both, in every way to get it."""
    model = lambda M, x: M.T @ jnp.tanh(M @ x)
    M, one = draw(2, C), X[:1]
    t = jnp.tanh(M @ one[0])
    # d(M^T tanh(M x))_a / dM_hc = [a = c] t_h + M_ha (1 - t_h^2) x_c
    expected = jnp.einsum("ac,h->ahc", jnp.eye(C), t) + jnp.einsum("ha,h,c->ahc", M, 1 - t**2, one[0])
    close(nablax.parameter_jacobian(model)(M, one).dense()[0].reshape(C, 2, C), expected)
    # sum_a laplacian_a = sum_{h,c} M_ha (-2 t_h (1 - t_h^2)) M_hc^2
    loss = lambda M: jnp.sum(nablax.laplacian(model)(M, one))

    def by_hand(M):
        t = jnp.tanh(M @ one[0])
        return jnp.sum(M.sum(1) * -2 * t * (1 - t**2) * jnp.sum(M**2, axis=1))

    close(jax.grad(loss)(M), jax.grad(by_hand)(M))


def test_float0_tangents_of_integers():
    """Integers among the arguments have tangents of type float0, which are no arrays to compute with."""
    model = lambda p, x: p["scale"][p["kind"]] * jnp.sin(x) ** p["power"]
    p = {"scale": draw(2), "kind": jnp.array(1), "power": jnp.array(3)}
    loss = lambda p: jnp.sum(nablax.laplacian(model)(p, X[:, 0]))
    gradient = jax.grad(loss, allow_int=True)(p)
    assert gradient["kind"].dtype == gradient["power"].dtype == jax.dtypes.float0
    s, c = jnp.sin(X[:, 0]), jnp.cos(X[:, 0])
    close(gradient["scale"], [0, jnp.sum(6 * s * c**2 - 3 * s**3)])


@pytest.mark.parametrize("strategy", SWEEPS)
def test_weak_types_do_not_widen(strategy, float32):
    """Python numbers and NumPy float64 scalars in a model must not turn float32 into float64, nor bfloat16 into it."""
    for dtype in (jnp.float32, jnp.bfloat16):
        model = lambda x: 2.0 * jnp.sum(jnp.where(x > 0, x**2, 0.5 * x) ** 2) + 1
        found = nablax.derivatives(model, "value", "jacobian", "hessian", strategy=strategy)(X.astype(dtype))
        assert {array.dtype for array in found.values()} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("strategy", SWEEPS)
def test_error_of_bfloat16_is_bounded(strategy):
    """A bfloat16 number has 8 bits: second derivatives of a network of one layer keep a few percent of their size."""
    f = lambda p, x: p[1] @ jnp.tanh(p[0] @ x)
    small = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), ((W, V), X))
    exact = nablax.laplacian(f)(*jax.tree.map(lambda leaf: leaf.astype(float), small))
    found = nablax.laplacian(f, strategy=strategy)(*small)
    assert found.dtype == jnp.bfloat16
    assert np.max(np.abs(found.astype(float) - exact)) < 0.05 * np.max(np.abs(exact))


def test_confusion_of_three_levels():
    """jax.grad of nablax of nablax of jax.grad: each level has tangents of its own."""
    # g(a) = d/da sum_x laplacian_x [ d/dy (a y^2 x^3) at y = x ] = d/da sum (2 a x^4)'' = sum 24 x^2
    x = X[:, 0]
    inner = lambda a, x: jax.grad(lambda y: a * y**2 * x**3)(x)
    close(jax.grad(lambda a: jnp.sum(nablax.laplacian(inner)(a, x)))(2.0), jnp.sum(24 * x**2))
    # the same Laplacian, differentiated by x once more inside nablax: (24 a x^2)' = 48 a x
    outer = lambda a, x: nablax.laplacian(inner)(a, x[None])[0]
    close(nablax.jacobian(outer)(2.0, x), 96 * x)


@pytest.mark.parametrize("strategy", [*SWEEPS, "auto"])
def test_what_a_where_discards_may_be_nan(strategy):
    """The usual double `where`, written with a zero: JAX gives 0 for the discarded branch, not NaN (nor does this)."""

    def distance(x):
        square = jnp.sum(x**2)
        inside = square > 1
        kept = jnp.where(inside, square, 0.0)
        return jnp.where(inside, jnp.sqrt(kept) * kept, 0.0)

    near = jnp.array([[0.1, 0.2, 0.3], [1.0, 2.0, 2.0]])
    close(nablax.laplacian(distance, strategy=strategy)(near), [0, 12 * 3])  # r^3 has the Laplacian 12 r


@pytest.mark.parametrize("strategy", [*SWEEPS, "auto"])
def test_entropy_of_what_a_where_sets_to_zero(strategy):
    """x log x of masked probabilities: its slope at zero is infinite, and must not meet the zero of the ``where``."""
    mask = np.array([True, False, True])
    entropy = lambda x: jnp.sum(jax.scipy.special.entr(jnp.where(mask, jnp.exp(x), 0.0)))
    close(nablax.hessian(entropy, strategy=strategy)(X), jax.vmap(jax.hessian(entropy))(X))
    both = nablax.derivatives(entropy, "jacobian", "hessian_diagonal", strategy=strategy)(X)
    close(both["jacobian"], jax.vmap(jax.jacrev(entropy))(X))
    assert np.all(both["hessian_diagonal"][:, 1] == 0)
    close(nablax.jacobian(entropy, strategy="auto" if strategy == "adjoint" else strategy)(X), both["jacobian"])


@pytest.mark.parametrize("strategy", [*SWEEPS, "auto"])
def test_a_zero_that_no_where_made_does_not_hide_an_infinity(strategy):
    """(sqrt(x) + sqrt(y))^3 bends infinitely at zero, where its slope is zero: NaN, as in JAX, and never 0."""
    W = jnp.array([[1.0, 1.0], [1.0, -1.0]])
    model = lambda x: jnp.where(x[0] > -1, (W @ jnp.sqrt(x)).sum() ** 3, 0.0)
    assert np.all(np.isnan(nablax.laplacian(model, strategy=strategy)(jnp.zeros((1, 2)))))


@pytest.mark.parametrize("strategy", [*SWEEPS, "auto"])
def test_softmax_of_a_row_that_is_masked_completely(strategy):
    """Attention of a padded token: 0 / 0 in the middle of softmax, 0 behind the mask, and so are the derivatives."""
    mask = np.array([[True, True, False], [False, False, False]])
    model = lambda x: jax.nn.softmax(jnp.sin(x)[None] * jnp.array([[1.0], [2.0]]), where=mask)
    found = nablax.hessian(model, strategy=strategy)(X)
    assert np.all(found[:, 1] == 0)
    close(found[:, 0, :2, :2, :2], jax.vmap(jax.hessian(lambda z: jax.nn.softmax(jnp.sin(z))))(X[:, :2]))


@pytest.mark.parametrize("want", ["hessian", "laplacian"])
def test_functions_without_a_derivative_are_named(want):
    """A function that JAX cannot differentiate (again) is neither a zero nor an error without a name."""
    once = lambda x: jax.lax.igamma(1 + x**2, x**2).sum()
    with pytest.raises(nablax.errors.StrategyError, match="igamma_grad_a"):
        getattr(nablax, want)(once)(X)
    beside = lambda x: jax.lax.nextafter(x, 2 * x).sum()
    try:
        jax.grad(beside)(X[0])
    except NotImplementedError:
        with pytest.raises(nablax.errors.StrategyError, match="nextafter"):
            getattr(nablax, want)(beside)(X)
    else:  # JAX has given it a derivative in version 0.12
        assert not np.any(getattr(nablax, want)(beside)(X))
