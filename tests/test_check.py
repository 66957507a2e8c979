"""nablax.check: it passes what is right, and it fails what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenarios import Draw, all_scenarios

import nablax

draw = Draw("test_check")
A, C, D = 2, 3, 5
M, X = draw(A, C), draw(D, C)
WANTS = ("value", "jacobian", "hessian", "hessian_diagonal", "laplacian")


def model(p, x):
    return jnp.tanh(p @ x)


def wrong_rule(order):
    """sin(x), whose rule for the derivative of that order is off by 1 %."""
    slope = lambda x: jnp.cos(x) * (1.01 if order == 1 else 1.0)
    if order == 2:
        slope = jax.custom_jvp(jnp.cos)
        slope.defjvp(lambda x, v: (jnp.cos(x[0]), -1.01 * jnp.sin(x[0]) * v[0]))
    f = jax.custom_jvp(jnp.sin)
    f.defjvp(lambda x, v: (jnp.sin(x[0]), slope(x[0]) * v[0]))
    return lambda p, x: f(p @ x)


def test_right_model_passes_all_wants():
    report = nablax.check(model, *WANTS)(M, X)
    assert report.passed
    report.raise_if_failed()
    text = str(report)
    for want in WANTS:
        assert want in text
    assert "nested AD in float64" in text
    assert "finite differences" in text
    assert "DIFFERS" not in text


@pytest.mark.parametrize(
    "order, wants", [(1, ("jacobian", "divergence")), (2, ("hessian", "hessian_diagonal", "laplacian"))]
)
def test_wrong_derivative_rule_is_found(order, wants):
    """JAX believes a custom rule, so nested AD agrees; finite differences do not."""
    p = draw(C, C)
    for want in wants:
        report = nablax.check(wrong_rule(order), want)(p, X)
        assert not report.passed, want
        assert "DIFFERS" in str(report)
        with pytest.raises(nablax.errors.CheckFailedError, match=f"(?s){want}.*finite differences.*DIFFERS"):
            report.raise_if_failed()


def test_each_want_fails_when_it_is_wrong(monkeypatch):
    """A strategy that returns numbers 1 % off is found in every want by both references."""
    from nablax.strategies import Derivatives

    honest = Derivatives.get
    for want in (*WANTS, "divergence"):
        monkeypatch.setattr(
            Derivatives, "get", lambda self, name, want=want: honest(self, name) * (1.01 if name == want else 1)
        )
        f = lambda p, x: jnp.sin(p @ x)  # a fresh function: nothing is cached for it
        report = nablax.check(f, want)(draw(C, C), X)
        assert not report.passed, want
        assert "nested AD in float64" in str(report)
        monkeypatch.undo()


@pytest.mark.parametrize("name", ["trees_both_ways", "mixed_output", "while_loop", "custom_vjp", "scalar_input"])
def test_scenarios_pass(name):
    (scenario,) = (scenario for scenario in all_scenarios() if scenario.name == name)
    report = nablax.check(scenario.function, "jacobian", "hessian", in_axes=scenario.in_axes, samples=2)(*scenario.args)
    assert report.passed, str(report)


def test_float32_has_its_own_tolerance():
    report = nablax.check(model, "hessian")(M.astype(jnp.float32), X.astype(jnp.float32))
    assert report.passed, str(report)
    assert "float32" in str(report)


def test_works_without_x64(float32):
    report = nablax.check(model, "hessian", "laplacian")(np.asarray(M, np.float32), np.asarray(X, np.float32))
    assert report.passed, str(report)
    assert not jax.config.jax_enable_x64


def test_weights_aux_and_axes():
    f = lambda p, x: (model(p, x), x)
    options = {"weights": draw(C, C), "in_axes": (None, -1), "has_aux": True}
    report = nablax.check(f, "laplacian", **options)(M, X.T)
    assert report.passed, str(report)


def test_how_many_samples():
    assert nablax.check(model, "value", samples=3)(M, X).samples == 3
    assert nablax.check(model, "value", samples=50)(M, X).samples == D


def test_nonfinite_numbers_are_named():
    """sqrt at 0: the derivative is infinite, and the report says at which sample."""
    poisoned = X.at[3].set(0.0)
    f = lambda p, x: jnp.sqrt(jnp.sum(x**2))
    text = str(nablax.check(f, "hessian")(M, poisoned))
    assert "3" in text


def test_strategy_is_the_one_that_is_checked():
    with pytest.raises(nablax.errors.StrategyError, match="order"):
        nablax.check(model, "hessian", strategy="reverse")(M, X)
