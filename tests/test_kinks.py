"""A second derivative that is zero because the model has kinks instead of curvature is said, and only then."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nablax
from nablax.errors import ZeroSecondDerivativeWarning

W = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
X = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)))


@pytest.mark.parametrize("activation", [jax.nn.relu, jnp.abs, jax.nn.leaky_relu, jax.nn.hard_tanh, jnp.sort])
def test_piecewise_linear_models_are_warned_of_once(activation):
    def model(x):
        return activation(W @ x)

    with pytest.warns(ZeroSecondDerivativeWarning, match=r"piecewise linear in its input .* tanh, silu or gelu"):
        assert np.all(nablax.laplacian(model)(X) == 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nablax.laplacian(model)(X)  # the program is compiled, and the warning said


def test_curved_and_linear_models_and_first_derivatives_are_not():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nablax.hessian(lambda x: jnp.tanh(jax.nn.relu(W @ x)))(X)
        nablax.hessian(lambda x: jnp.maximum(x, 0) ** 2)(X)
        nablax.hessian(lambda x: W @ x)(X)
        nablax.jacobian(lambda x: jax.nn.relu(W @ x))(X)


def test_absolute_value_of_a_complex_number_is_curved():
    def model(x):
        return jnp.abs(x[0] + 1j * x[1])

    x, y = X[:, 0], X[:, 1]
    r = jnp.hypot(x, y)
    np.testing.assert_allclose(nablax.laplacian(model)(X), 1 / r, rtol=1e-12)
