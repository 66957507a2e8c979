"""What goes in comes out: dtypes of inputs, parameters and results, and kinds of arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from perceptron import PARAMS, SECOND_ORDER, C, D, X, expected, model
from reference import assert_close
from scenarios import Draw

import nablax


@pytest.mark.parametrize("strategy", SECOND_ORDER)
@pytest.mark.parametrize("x64", [True, False])
def test_float32_stays_float32(strategy, x64):
    exact = expected(model)
    p, X32 = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (PARAMS, X))
    with jax.enable_x64(x64):
        wants = ("value", "jacobian", "hessian", "laplacian")
        found = nablax.derivatives(model, *wants, weights=np.eye(C), strategy=strategy)(p, X32)
    for want in wants:
        assert found[want].dtype == jnp.float32, want
        np.testing.assert_allclose(found[want], exact[want], atol=2e-5)


@pytest.mark.parametrize("strategy", SECOND_ORDER)
def test_bfloat16_is_accepted(strategy):
    p, X16 = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (PARAMS, X))
    found = nablax.derivatives(model, "value", "hessian", strategy=strategy)(p, X16)
    assert found["hessian"].dtype == found["value"].dtype == jnp.bfloat16
    exact = expected(model, *jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (p, X16)))
    np.testing.assert_allclose(found["hessian"].astype(float), exact["hessian"], atol=0.15)


@pytest.mark.parametrize("strategy", SECOND_ORDER)
def test_complex64_of_float32(strategy, float32):
    wave = lambda x: jnp.exp(1j * x) * x[0]
    X32 = jnp.asarray(np.asarray(X, np.float32))
    found = nablax.hessian(wave, strategy=strategy)(X32)
    assert found.dtype == jnp.complex64
    parts = [jax.vmap(jax.hessian(lambda x, part=part: part(wave(x))))(X32) for part in (jnp.real, jnp.imag)]
    np.testing.assert_allclose(found, parts[0] + 1j * parts[1], atol=1e-5)


def test_float32_input_with_float64_parameters():
    """The derivative has the dtype of the output, as that of `jax.jacfwd`."""
    found = nablax.jacobian(model)(PARAMS, X.astype(jnp.float32))
    assert found.dtype == jax.vmap(jax.jacfwd(model, argnums=1), (None, 0))(PARAMS, X.astype(jnp.float32)).dtype


def test_numpy_arguments():
    p = jax.tree.map(np.asarray, PARAMS)
    assert_close(nablax.hessian(model)(p, np.asarray(X)), expected(model)["hessian"])


def test_python_numbers_as_parameters():
    assert_close(nablax.jacobian(lambda p, x: p["k"] * x**2)({"k": 2.0}, X[:, 0]), 4 * X[:, 0])


def test_integer_parameters():
    """Only what is differentiated has to be real."""
    f = lambda p, x: x ** p["n"]
    assert_close(nablax.jacobian(f)({"n": jnp.array(3)}, X[:, 0]), 3 * X[:, 0] ** 2)


def test_random_keys_as_parameters():
    f = lambda key, x: jnp.sin(x) * jax.random.normal(key, (C,))
    exact = jax.vmap(lambda x: jnp.diag(jnp.cos(x) * jax.random.normal(jax.random.key(1), (C,))))(X)
    assert_close(nablax.jacobian(f)(jax.random.key(1), X), exact)


def test_batched_random_keys():
    keys = jax.random.split(jax.random.key(1), D)
    f = lambda key, x: x**2 * jax.random.normal(key)
    exact = 2 * X * jax.vmap(jax.random.normal)(keys)[:, None]
    assert_close(nablax.hessian_diagonal(f, in_axes=(0, 0), chunk_size=2)(keys, X)[:, 0, 0], exact[:, 0] / X[:, 0])


def test_none_in_the_parameters():
    """None is an empty tree, as everywhere in JAX."""
    f = lambda p, x: p["k"] * x**2 if p["bias"] is None else x
    assert_close(nablax.jacobian(f)({"k": 2.0, "bias": None}, X[:, 0]), 4 * X[:, 0])


@pytest.mark.parametrize(
    "strategy, narrow", [("forward", jnp.bfloat16), ("forward", jnp.float32), ("adjoint", jnp.bfloat16)]
)
def test_layers_of_less_precision_inside(strategy, narrow):
    """Mixed precision: what is rounded inside is rounded in the derivatives too, to the same dtype."""
    draw = Draw("mixed precision")
    params = {"W": draw(5, 3), "V": draw(2, 5)}

    def model(params, x, narrow=narrow):
        hidden = params["W"].astype(narrow) @ jnp.sin(x).astype(narrow)
        hidden = jnp.tanh(hidden.astype(x.dtype)) + jnp.exp(-(x[0] ** 2))
        normed = (hidden - jax.nn.logsumexp(hidden.astype(narrow)).astype(x.dtype)) ** 2
        return params["V"] @ normed

    X = draw(4, 3)
    wants = ("jacobian", "hessian", "laplacian")
    found = nablax.derivatives(model, *wants, strategy=strategy)(params, X)
    wide = nablax.derivatives(lambda *args: model(*args, narrow=jnp.float64), *wants)(params, X)
    tolerance = 0.05 if narrow == jnp.bfloat16 else 1e-6
    for want in wants:
        assert found[want].dtype == jnp.float64
        assert_close(found[want], np.asarray(wide[want]), tolerance, f"{want} ")
        assert not np.array_equal(found[want], wide[want])
