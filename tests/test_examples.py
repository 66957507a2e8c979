"""The examples run, in their quick form, and reach what they say."""

import importlib
from pathlib import Path

import jax.numpy as jnp
import pytest

pytestmark = pytest.mark.examples

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def example(monkeypatch):
    """Imports an example by its name, as its neighbours import it."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


def test_poisson_by_natural_gradient(example, tmp_path):
    poisson = example("poisson_natural_gradient")
    params, errors = poisson.train(width=12, points=10, steps=40, report=lambda line: None)
    # The full form goes below 1e-5 in 100 steps.
    assert errors[0] > 0.1
    assert errors[-1] < 5e-2
    poisson.draw(params, errors, tmp_path / "poisson.png")
    assert (tmp_path / "poisson.png").stat().st_size > 10_000


def test_helium(example, tmp_path):
    """The full form reaches 1e-3 hartree, with ten times as many configurations."""
    atoms = example("atoms")
    params, means, found, positions = atoms.train("helium", iterations=50, chains=200, steps=40, quiet=True)
    assert means[0] - atoms.EXACT["helium"] > 0.05  # the first wavefunction is a bad one
    assert abs(found.mean - atoms.EXACT["helium"]) < 4 * found.standard_error + 2e-3
    assert found.standard_error < 3e-3
    atoms.draw({"helium": (params, means, found, positions)}, tmp_path / "atoms.png")
    assert (tmp_path / "atoms.png").stat().st_size > 10_000


def test_ground_state_in_a_magnetic_field(example, tmp_path):
    fock_darwin = example("fock_darwin")
    name = next(iter(fock_darwin.states()))
    log_psi, _, exact, _ = fock_darwin.states()[name]
    params, means, found, positions = fock_darwin.train(
        name, iterations=40, chains=200, steps=20, damping=(1e-3, 1e-3), quiet=True
    )
    assert means[0] / exact - 1 > 0.05
    assert abs(found.mean.real / exact - 1) < 3e-3
    assert abs(found.mean.imag) < 4 * found.standard_error + 1e-6
    # the phase of the exact wavefunction: no real one has this energy
    x = jnp.array([0.7, 0.5])
    turned = (log_psi(params, x) - log_psi(params, x * jnp.array([1.0, 0.0]))).imag
    assert abs(turned + fock_darwin.CHARGE * fock_darwin.FIELD * x[0] * x[1] / 2) < 0.1
    fock_darwin.draw({name: (params, means, found, positions)}, tmp_path / "fock_darwin.png")
    assert (tmp_path / "fock_darwin.png").stat().st_size > 10_000
