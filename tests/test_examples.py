"""The examples run, in their quick form, and reach what they say."""

import importlib.util
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_poisson_by_natural_gradient(tmp_path):
    poisson = example("poisson_natural_gradient")
    params, errors = poisson.train(width=12, points=10, steps=40, report=lambda line: None)
    # The full form goes below 1e-5 in 100 steps.
    assert errors[0] > 0.1
    assert errors[-1] < 5e-2
    poisson.draw(params, errors, tmp_path / "poisson.png")
    assert (tmp_path / "poisson.png").stat().st_size > 10_000
