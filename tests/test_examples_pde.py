"""The physics-informed examples in their quick form, and the reference solutions that they are compared with."""

import importlib
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.examples

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def example(monkeypatch):
    """Imports an example by its name, as its neighbours import it."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.syspath_prepend(EXAMPLES / "reference")
    return importlib.import_module


def test_burgers(example, tmp_path):
    burgers = example("burgers")
    sizes = {"width": 12, "depth": 2, "count": 300, "steps": 30, "until": 0.3}
    params, history = burgers.train(**sizes, report=lambda line: None)
    # the initial values alone are off by much more
    zero = [(0 * W, 0 * b) for W, b in params]
    assert burgers.relative_error(zero, 0.3) > 0.2
    assert burgers.relative_error(params, 0.3) == history[-1][2] < 0.02
    burgers.draw(params, history, tmp_path / "burgers.png", 0.3)
    assert (tmp_path / "burgers.png").stat().st_size > 10_000


def test_schroedinger(example, tmp_path):
    schroedinger = example("schroedinger")
    sizes = {"width": 12, "depth": 2, "count": 300, "steps": 30, "until": 0.3}
    params, history = schroedinger.train(**sizes, report=lambda line: None)
    zero = [(0 * W, 0 * b) for W, b in params]
    assert schroedinger.relative_errors(zero, 0.3) == (1.0, 1.0)
    of_modulus, of_all = history[-1][2:]
    assert of_modulus < of_all < 0.1
    schroedinger.draw(params, history, tmp_path / "schroedinger.png", 0.3)
    assert (tmp_path / "schroedinger.png").stat().st_size > 10_000


def test_reference_of_burgers_is_the_exact_solution(example):
    """By the Cole-Hopf transform, which shares nothing with the spectral method."""
    made, (t, x, u) = example("make_references"), example("burgers").reference()
    assert u.shape == (101, 257)
    np.testing.assert_allclose(u[0], -np.sin(np.pi * x), atol=1e-12)
    for row in (1, 30, 60, 100):
        np.testing.assert_allclose(u[row], made.cole_hopf(t[row], x), atol=1e-6)


def test_reference_of_schroedinger_conserves_and_nearly_is_the_soliton_of_order_two(example):
    """On the whole line 2 sech(x) has a closed form (Satsuma and Yajima 1974), of period pi / 2 in its modulus. The
    tails beyond |x| = 5, and the jump of the slope there, are of the size 4 exp(-5) = 0.03, and travel inwards.
    """
    made, (t, x, h) = example("make_references"), example("schroedinger").reference()
    mass, energy = made.conserved(h[:, :-1], h.shape[1] - 1)
    np.testing.assert_allclose(mass, mass[0], rtol=5e-5)  # integrated over a sixteenth of the points
    np.testing.assert_allclose(energy, energy[0], rtol=1e-3)
    T, X = t[:, None], x[None]
    soliton = 4 * np.exp(0.5j * T) * (np.cosh(3 * X) + 3 * np.exp(4j * T) * np.cosh(X))
    soliton /= np.cosh(4 * X) + 4 * np.cosh(2 * X) + 3 * np.cos(4 * T)
    np.testing.assert_allclose(soliton[0], 2 / np.cosh(x), atol=1e-12)
    centre = np.abs(x) < 2.5
    early = t < 0.5
    assert np.abs(h - soliton)[early][:, centre].max() < 0.01
    assert np.abs(h).max() > 3.9
