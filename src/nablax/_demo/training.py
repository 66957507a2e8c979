"""The diabetes data (442 patients, 10 features; it comes with scikit-learn) and the training of the demo's network."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

from nablax._demo.network import network

FEATURES = {
    "age": "age",
    "sex": "sex",
    "bmi": "body mass index",
    "bp": "blood pressure",
    "s1": "total cholesterol",
    "s2": "LDL cholesterol",
    "s3": "HDL cholesterol",
    "s4": "cholesterol / HDL",
    "s5": "log triglycerides",
    "s6": "blood sugar",
}
OUTPUTS = ["mean", "log_variance"]
TEST_PATIENTS = 110
WIDTH = 16


@dataclass(frozen=True)
class Patients:
    """Standardised features X (D, 10), disease progression y (D,), and which patients the network has not seen."""

    X: np.ndarray
    y: np.ndarray
    test: np.ndarray
    names: list[str] = field(default_factory=lambda: list(FEATURES.values()))


def load_patients(seed: int = 0) -> Patients:
    """Reads the bundled data; one unit of a feature is one standard deviation over the patients."""
    X, y = map(np.asarray, load_diabetes(return_X_y=True, scaled=False))
    test = np.zeros(len(y), bool)
    test[np.random.default_rng(seed).permutation(len(y))[:TEST_PATIENTS]] = True
    X = (X - X[~test].mean(0)) / X[~test].std(0)
    return Patients(X.astype(np.float32), y.astype(np.float32), test)


def negative_log_likelihood(prediction, y):
    """Mean of -log N(y; mean, exp(log_variance)) over the samples of prediction (D, 2)."""
    mean, log_variance = prediction[:, 0], prediction[:, 1]
    return 0.5 * jnp.mean(jnp.log(2 * jnp.pi) + log_variance + (y - mean) ** 2 * jnp.exp(-log_variance))


def initial_parameters(key, inputs: int) -> dict:
    """Two hidden layers with LeCun weights; the last layer is zero: training starts at the mean and variance of y."""
    k1, k2 = jax.random.split(key)

    def layer(key, fan_in, fan_out):
        return {
            "weight": jax.random.normal(key, (fan_in, fan_out)) / fan_in**0.5,
            "bias": jnp.zeros(fan_out),
        }

    out = {"weight": jnp.zeros((WIDTH, 2)), "bias": jnp.zeros(2)}
    return {"hidden": layer(k1, inputs, WIDTH), "hidden2": layer(k2, WIDTH, WIDTH), "out": out}


def train(patients: Patients, steps: int = 200, seed: int = 0) -> dict:
    """Fits the network to the training patients; the outputs come back in units of disease progression."""
    X, y = jnp.asarray(patients.X[~patients.test]), patients.y[~patients.test]
    centre, scale = float(y.mean()), float(y.std())
    z = jnp.asarray((y - centre) / scale)
    params = initial_parameters(jax.random.key(seed), X.shape[1])
    optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, steps), weight_decay=1.0)

    def loss(params, X):
        return negative_log_likelihood(jax.vmap(network, (None, 0))(params, X), z)

    @jax.jit
    def step(carry, key):
        params, state = carry
        # Noise on the inputs: 332 patients are few, and an overfitted network has wild second derivatives.
        noisy = X + 0.5 * jax.random.normal(key, X.shape)
        value, gradient = jax.value_and_grad(loss)(params, noisy)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    keys = jax.random.split(jax.random.key(seed + 1), steps)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    return in_units(params, centre, scale)


def in_units(params: dict, centre: float, scale: float) -> dict:
    """Folds y = centre + scale z into the last layer, so that outputs and derivatives need no conversion afterwards."""
    weight, bias = params["out"]["weight"], params["out"]["bias"]
    out = {
        "weight": weight * jnp.array([scale, 1.0]),
        "bias": bias * jnp.array([scale, 1.0]) + jnp.array([centre, 2 * np.log(scale)]),
    }
    return params | {"out": out}


def quality(patients: Patients, params: dict) -> dict[str, float]:
    """How good the network is on the test patients, beside two yardsticks: a constant and a linear regression."""
    seen, test = ~patients.test, patients.test
    X, y = patients.X, patients.y
    prediction = jax.vmap(network, (None, 0))(params, jnp.asarray(X[test]))
    mean, sigma = np.asarray(prediction[:, 0]), np.exp(0.5 * np.asarray(prediction[:, 1]))
    linear = LinearRegression().fit(X[seen], y[seen])

    def r2(guess):
        return float(1 - np.sum((y[test] - guess) ** 2) / np.sum((y[test] - y[test].mean()) ** 2))

    def nll(guess, variance):
        columns = [np.broadcast_to(guess, mean.shape), np.full(mean.shape, np.log(variance))]
        return float(negative_log_likelihood(jnp.stack(columns, 1), y[test]))

    return {
        "r2": r2(mean),
        "r2_linear": r2(linear.predict(X[test])),
        "r2_constant": r2(y[seen].mean()),
        "nll": float(negative_log_likelihood(prediction, y[test])),
        "nll_linear": nll(linear.predict(X[test]), np.mean((y[seen] - linear.predict(X[seen])) ** 2)),
        "nll_constant": nll(y[seen].mean(), y[seen].var()),
        "within_1_sigma": float(np.mean(np.abs(y[test] - mean) < sigma)),
        "within_2_sigma": float(np.mean(np.abs(y[test] - mean) < 2 * sigma)),
    }
