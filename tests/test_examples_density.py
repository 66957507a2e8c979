"""The examples on sensitivities and on densities, in their quick forms: they reach what they say."""

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.examples

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def quiet(line):
    pass


# --- digits_sensitivity (one group: its tests share one training) ---

digits_group = pytest.mark.xdist_group("digits")


@pytest.fixture(scope="module")
def digits():
    """The example, its data and a small network after 8 epochs, in float32 as in the example."""
    module = example("digits_sensitivity")
    with jax.enable_x64(False):
        data = module.load()
        return module, data, module.train(data, channels=(1, 8, 16, 16), epochs=8, report=quiet)


@digits_group
def test_digits_are_recognised(digits, float32):
    module, data, params = digits
    assert len(set(data.train) | set(data.test)) == 1797
    assert not set(data.train) & set(data.test)
    untrained = module.initial(jax.random.key(1), (1, 8, 16, 16))
    assert module.accuracy(untrained, data.images[data.test], data.digits[data.test]) < 0.3
    assert module.accuracy(params, data.images[data.test], data.digits[data.test]) > 0.9


@digits_group
def test_digits_maps_predict_small_changes(digits, float32):
    module, data, params = digits
    images = data.images[:200]
    J = module.maps(params, images)
    assert J.shape == (200, 10, 8, 8)
    assert J.dtype == np.float32
    np.testing.assert_allclose(J, jax.vmap(jax.jacrev(module.network, 1), (None, 0))(params, images), atol=1e-4)
    errors = module.first_order_errors(params, images, J, (0.5, 0.25, 0.125, 0.0625))
    # A Jacobian that is off by a part in a hundred leaves an error that only halves.
    assert np.all(np.abs(np.divide(errors[:-1], errors[1:]) - 4) < 0.3)
    off = module.first_order_errors(params, images, 1.01 * J, (0.125, 0.0625))
    assert off[0] / off[1] < 3.5


@digits_group
def test_digits_overwriting_sensitive_pixels_costs_most(digits, float32, tmp_path):
    module, data, params = digits
    said = []
    J, errors, deleted = module.study(params, data, repeats=1, report=said.append)
    lost = {name: values[0] - values[3] for name, values in deleted["accuracy"].items()}
    assert deleted["pixels"][3] == 6
    assert lost["its own map and its sign"] > lost["its own map"] + 0.2
    assert lost["its own map"] > lost["random"] + 0.1
    assert lost["random"] > lost["its own map, reversed"]
    assert any("(1797, 10, 8, 8)" in line for line in said)
    module.draw(params, data, J, errors, deleted, tmp_path / "digits.png")
    assert (tmp_path / "digits.png").stat().st_size > 30_000


# --- score_matching ---


def test_score_is_matched(tmp_path):
    score = example("score_matching")
    params, history = score.train(width=32, steps=300, batch=256, points=61, report=quiet)
    found = score.errors(params, 61)
    assert history[0][1] > 0.8
    assert found["Fisher divergence"] < 0.3
    # Integration by parts, with p on the grid: it holds to rounding, and only if the divergence is right.
    assert abs(found["integral of p"] - 1) < 1e-6
    assert abs(found["the same from the loss"] - found["Fisher divergence"]) < 1e-5
    score.draw(params, history, tmp_path / "score.png", points=61)
    assert (tmp_path / "score.png").stat().st_size > 30_000


def test_score_in_closed_form_is_the_derivative_of_the_mixture():
    score = example("score_matching")
    x, h = jnp.array([0.3, -0.4]), 1e-6
    density = lambda x: np.mean(np.exp(-np.sum((x - score.CENTRES) ** 2, axis=-1) / (2 * score.SIGMA**2)))
    step = np.eye(2) * h
    numeric = [np.log(density(np.asarray(x) + e) / density(np.asarray(x) - e)) / (2 * h) for e in step]
    np.testing.assert_allclose(score.exact_score(x), numeric, rtol=1e-6)


# --- normalising_flow ---


def test_flow_learns_a_normalised_density(tmp_path):
    flow = example("normalising_flow")
    params, history = flow.train(width=24, steps=60, batch=128, runge_kutta=4, points=41, report=quiet)
    found = flow.errors(params, points=51, held_out=2000, runge_kutta=4)
    assert history[0][1] > 0.5
    assert history[-1][1] < 0.35
    assert abs(found["integral of p"] - 1) < 1e-6
    assert abs(found["integral of q"] - 1) < 5e-3
    assert 0 < found["KL(p | q), on the grid"] < 0.35
    assert abs(found["the difference"] - found["KL(p | q), on the grid"]) < 5 * found["its standard error"]
    flow.draw(params, history, tmp_path / "flow.png", points=51, runge_kutta=4)
    assert (tmp_path / "flow.png").stat().st_size > 30_000


def test_flow_of_a_linear_field_is_the_exact_gaussian():
    """v = a x moves N(0, 1) to N(0, e^2a): the log density is known."""
    flow = example("normalising_flow")
    rate = 0.3
    # A network without hidden layers is linear in (x, t).
    params = [(jnp.array([[rate, 0.0], [0.0, rate], [0.0, 0.0]]), jnp.zeros(2))]
    X = jnp.array([[0.5, -1.0], [2.0, 0.1], [0.0, 0.0]])
    exact = -np.sum(np.square(X), axis=-1) * np.exp(-2 * rate) / 2 - np.log(2 * np.pi) - 2 * rate
    np.testing.assert_allclose(flow.log_likelihood(params, X, 16), exact, atol=1e-7)
