"""nablax.check: it passes what is right, and it fails what is wrong."""

from pathlib import Path

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


def by_complex_step(model, *wants):
    comparisons = nablax.check(model, *wants)(draw(C, C), X).comparisons
    return {c.want: c for c in comparisons if c.reference == "complex step"}


def test_a_complex_step_is_exact_for_holomorphic_models():
    def loop(p, x):
        return jax.lax.fori_loop(0, 3, lambda _, h: jnp.tanh(p @ h) / (1.5 + h**2), x)

    for f in (model, loop, wrong_rule(2)):
        found = by_complex_step(f, "value", "jacobian", "hessian", "divergence")
        assert set(found) == {"jacobian", "divergence"}
        assert all(c.passed and c.error < 1e-13 for c in found.values()), found


@pytest.mark.parametrize(
    "f",
    [
        lambda p, x: jax.nn.relu(p @ x),
        lambda p, x: jnp.abs(p @ x) ** 2,
        lambda p, x: jax.scipy.special.erf(x),
        lambda p, x: x * jnp.conj(x),
        lambda p, x: jnp.real(x) * x,
        lambda p, x: x.astype(float) ** 2,
        lambda p, x: jnp.exp(1j * x),
        lambda p, x: jnp.where(x > 0.1, jnp.exp(x), x),
    ],
)
def test_no_complex_step_where_it_would_be_wrong(f):
    assert not by_complex_step(f, "jacobian")


def test_a_complex_step_finds_a_wrong_rule_that_finite_differences_do_not_see():
    f = jax.custom_jvp(jnp.sin)
    f.defjvp(lambda x, v: (jnp.sin(x[0]), (1 + 1e-9) * jnp.cos(x[0]) * v[0]))
    report = nablax.check(lambda p, x: f(p @ x), "jacobian")(draw(C, C), X)
    assert [c.reference for c in report.comparisons if not c.passed] == ["complex step"]


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


# ---------------------------------------------------------------------------------------- kinks, and what is not finite


def line_of(text: str) -> str:
    """``file:line`` of the line of this file that ends with a comment."""
    lines = Path(__file__).read_text().splitlines()
    (number,) = [k for k, line in enumerate(lines, start=1) if line.endswith(f"# {text}")]
    return f"{Path(__file__).name}:{number}"


def crooked(params, x):
    radius = jnp.sqrt(jnp.sum(x**2))  # the root
    rectified = jax.nn.relu(params @ x)  # the relu
    largest = jnp.max(x)  # the maximum
    branch = jnp.where(x[0] > 1, x[0], 1.0)  # the branch
    bounded = jnp.clip(x[1], -3.0, 3.0)  # the bound
    ordered = jnp.sort(x) @ jnp.arange(3.0)  # the sort
    return jnp.array([radius, rectified.sum(), largest, branch, bounded, ordered, abs(x[2])])  # the abs


AT_KINKS = {
    (2.0, -1.0, 0.0): {"the abs"},
    (1.0, 0.5, 2.0): {"the branch"},
    (0.5, 3.0, 0.5): {"the bound", "the sort"},
    (0.5, 2.0, 2.0): {"the maximum", "the sort"},
    (-2.0, 2.0, 1.0): {"the relu"},
    (0.3, 0.7, -0.4): set(),
}


def test_samples_on_kinks_are_named_with_the_operation_and_the_line():
    params, X = jnp.array([[1.0, 1.0, 0.0]]), jnp.array(list(AT_KINKS))
    report = nablax.check(crooked, "jacobian", samples=len(X))(params, X)
    for number, texts in enumerate(AT_KINKS.values()):
        assert {kink.line for kink in report.kinks if kink.sample == number} == {line_of(text) for text in texts}
    assert f"sample 0 lies on a kink: abs at 0, at {line_of('the abs')}" in str(report)


def test_kinks_of_parameters_are_none_of_the_samples():
    model = lambda params, x: jnp.abs(params) * jnp.sin(x) + jnp.maximum(params, 0.0)
    assert nablax.check(model, "jacobian")(jnp.zeros(()), jnp.ones((2, 3))).kinks == ()


def singular(x):
    value = jnp.log(x[0])  # the logarithm
    first = jnp.sqrt(x[1])  # infinite slope
    second = x[2] ** 1.5  # infinite curvature
    return jnp.array([value, first, second])


@pytest.mark.parametrize(
    ("x", "order", "text"),
    [
        ((0.0, 1.0, 1.0), 0, "the logarithm"),
        ((1.0, 0.0, 1.0), 1, "infinite slope"),
        ((1.0, 1.0, 0.0), 2, "infinite curvature"),
    ],
)
def test_the_operation_that_makes_the_first_infinity_is_named(x, order, text):
    X = jnp.array([[1.0, 2.0, 3.0], x])
    (origin,) = nablax.check(singular, "hessian")(X).origins
    assert (origin.sample, origin.order, origin.line) == (1, order, line_of(text))
    assert str(origin) in str(nablax.check(singular, "hessian")(X))
    if order == 2:
        assert nablax.check(singular, "jacobian")(X).origins == ()


def test_a_branch_that_is_not_taken_makes_nothing_infinite():
    model = lambda x: jnp.where(x > 0, jnp.log(x), 0.0)
    assert nablax.check(model, "jacobian")(jnp.array([[0.0], [1.0]])).origins == ()


def test_the_worst_entry_is_named():
    @jax.custom_jvp
    def wrong(x):
        return jnp.stack([jnp.sum(jnp.sin(x)), jnp.sum(x**2)])

    @wrong.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        return wrong(x), jnp.stack([jnp.sum(jnp.cos(x) * t), jnp.sum(2 * x * t) + 3 * t[2]])

    report = nablax.check(wrong, "jacobian")(jnp.ones((2, 4)))
    comparison = next(c for c in report.comparisons if c.reference == "finite differences")
    assert comparison.worst_entry == (1, 2)
    assert "DIFFERS, most in entry (1, 2)" in str(report)
