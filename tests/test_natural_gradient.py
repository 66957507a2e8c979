"""Steps of natural_gradient against dense solutions of the damped normal equations."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax import lax
from jax.flatten_util import ravel_pytree
from parameter_scenarios import D, complex_reference, coordinates, cut, layers, mlp, packed
from scenarios import Draw

import nablax
from nablax import errors

METHODS = ("kernel", "fisher", "cg")
# With the options of each; and the accuracy of the step. CG stops at the square root of the rounding unit by default.
WAYS = {
    "kernel": ({}, 1e-9),
    "fisher": ({}, 1e-9),
    "cg": ({}, 1e-4),
    "cg to the end": ({"method": "cg", "tolerance": 1e-12, "max_steps": 300}, 1e-8),
}
DRAW = Draw("natural gradient")
X, MANY = DRAW(D, 3), DRAW(23, 3)
DAMPING = 0.05


def complexes(*shape):
    return lax.complex(DRAW(*shape, scale=0.5), DRAW(*shape, scale=0.5))


def _wavefunction(p, x):
    return jnp.dot(p["a"], x) + jnp.sum(jnp.log(jnp.cosh(p["W"] @ x + p["b"])))


PERCEPTRON = layers(DRAW, 3, 4, 2)
WAVE = {"W": complexes(4, 3), "a": complexes(3), "b": complexes(4)}
PHASE = {"W": DRAW(2, 3), "phase": complexes(2)}


def _phase(p, x):
    return jnp.exp(1j * (p["W"] @ x)) * p["phase"] + jnp.conj(p["phase"])


# Model, parameters, batch and mode. B: 26, 38 (or 19 complex ones), 10.
PROBLEMS = {
    "D A = 10 < B": (mlp, PERCEPTRON, X, "real"),
    "D A = 46 > B": (mlp, PERCEPTRON, MANY, "real"),
    "scalar output": (lambda p, x: mlp(p, x)[1], PERCEPTRON, X, "auto"),
    "complex, D A < B": (_wavefunction, WAVE, X, "complex"),
    "complex, 2 D A > B": (_phase, PHASE, X, "auto"),
    "holomorphic, D A < B": (_wavefunction, WAVE, X, "holomorphic"),
    "holomorphic, D A > B": (_wavefunction, WAVE, MANY, "holomorphic"),
}


def as_rows(model, params, X, mode):
    """J with one row for each output of each sample."""
    if mode == "holomorphic":
        tree = jax.jit(jax.vmap(lambda x: jax.jacrev(lambda p: model(p, x), holomorphic=True)(params)))(X)
        return np.concatenate([np.asarray(leaf).reshape(len(X), -1) for leaf in jax.tree.leaves(tree)], axis=1)
    J = np.asarray(jax.jit(functools.partial(complex_reference, model))(params, X))
    return J.reshape(-1, J.shape[-1])


def solution(J, residual, params, mode, damping=DAMPING):
    """By NumPy, as a tree like the parameters; by real coordinates, only the real part of the equations is there."""
    matrix, right = J.conj().T @ J, J.conj().T @ np.asarray(residual).reshape(-1)
    if mode != "holomorphic":
        matrix, right = matrix.real, right.real
    step = np.linalg.solve(matrix + damping * np.eye(len(matrix)), right)
    return cut(params)(step) if mode == "holomorphic" else packed(jnp.asarray(step), params)


def residual_like(y):
    draw = Draw("residual")
    return draw(*y.shape) + (1j * draw(*y.shape) if jnp.iscomplexobj(y) else 0)


def in_this_way(way):
    """A compiled step."""
    options = {"damping": DAMPING, "method": way} | WAYS[way][0]
    return jax.jit(functools.partial(nablax.natural_gradient, **options))


@pytest.mark.parametrize(
    "problem", [pytest.param(p, marks=pytest.mark.slow if i % 2 else ()) for i, p in enumerate(PROBLEMS)]
)
def test_all_methods_agree_with_the_dense_solution(problem):
    model, params, X, mode = PROBLEMS[problem]
    residual = residual_like(jax.eval_shape(jax.vmap(model, (None, 0)), params, X))
    wanted = solution(as_rows(model, params, X, mode), residual, params, mode)
    O = nablax.parameter_jacobian(model, mode=mode)(params, X)

    for way, (_, tolerance) in WAYS.items() if mode == "real" else list(WAYS.items())[:3]:
        step = in_this_way(way)(O, residual)
        reference.assert_close(step.step, wanted, tolerance, f"{way} ")
        assert step.method == way[: len(step.method)]
        assert isinstance(step.why, str)
        assert jnp.shape(step.relative_residual) == ()
        assert float(step.relative_residual) < tolerance


def test_step_is_the_minimum_of_a_damped_least_squares_problem():
    """Independent of normal equations: |J s - r|^2 + damping |s|^2 as one tall least-squares problem."""
    J, residual = as_rows(mlp, PERCEPTRON, X, "real"), residual_like(jnp.zeros((D, 2)))
    tall = np.concatenate([J, np.sqrt(DAMPING) * np.eye(J.shape[1])])
    wanted = np.linalg.lstsq(tall, np.concatenate([np.asarray(residual).ravel(), np.zeros(J.shape[1])]), rcond=None)[0]
    found = nablax.natural_gradient(nablax.parameter_jacobian(mlp)(PERCEPTRON, X), residual, damping=DAMPING)
    reference.assert_close(ravel_pytree(found.step)[0], wanted, 1e-9)


def _inside(p, x):
    return mlp(p, x)[0] ** 2 + jnp.sin(x[0])


def test_lists_of_operators():
    """Interior and boundary, each weighted: stacked rows, of different models, batches and numbers of outputs."""
    boundary = DRAW(4, 3)
    interior = nablax.parameter_jacobian(_inside)(PERCEPTRON, X).weighted(jnp.full(D, D**-0.5))
    edge = nablax.parameter_jacobian(mlp)(PERCEPTRON, boundary).weighted(jnp.full(4, 0.5))
    J = np.concatenate(
        [
            as_rows(_inside, PERCEPTRON, X, "real") * D**-0.5,
            as_rows(mlp, PERCEPTRON, boundary, "real") * 0.5,
        ]
    )
    residuals = [DRAW(D), DRAW(4, 2)]
    wanted = solution(J, np.concatenate([np.asarray(r).ravel() for r in residuals]), PERCEPTRON, "real")

    for way, (_, tolerance) in list(WAYS.items())[:3]:
        found = in_this_way(way)([interior, edge], residuals)
        reference.assert_close(found.step, wanted, tolerance, f"{way} ")
    automatic = nablax.natural_gradient((interior, edge), residuals, damping=DAMPING)
    assert automatic.method == "kernel", "5 + 4 * 2 rows, 26 parameters"
    assert "13" in automatic.why


def test_stochastic_reconfiguration():
    """Centred and weighted log-derivatives of a complex wavefunction."""
    p = np.asarray(Draw("probabilities").positive(D))
    p = p / p.sum()
    energies = residual_like(jnp.zeros(D, complex))
    for mode in ("complex", "holomorphic"):
        J = as_rows(_wavefunction, WAVE, X, mode)
        J = np.sqrt(p)[:, None] * (J - (p[:, None] * J).sum(0)[None])
        O = nablax.parameter_jacobian(_wavefunction, mode=mode)(WAVE, X).centred(jnp.asarray(p)).weighted(np.sqrt(p))
        found = jax.jit(lambda O: nablax.natural_gradient(O, energies, damping=DAMPING, method="kernel").step)(O)
        reference.assert_close(found, solution(J, energies, WAVE, mode), 1e-9, f"{mode} ")


def test_automatic_choice():
    """The smaller matrix: of D A rows, or of B parameters; and it says which."""
    for batch, method in ((X, "kernel"), (MANY, "fisher")):
        O = nablax.parameter_jacobian(mlp)(PERCEPTRON, batch)
        step = nablax.natural_gradient(O, jnp.ones((len(batch), 2)), damping=DAMPING, method="auto")
        assert step.method == method
        assert str(2 * len(batch)) in step.why
        assert "26" in step.why
        assert "asked" in nablax.natural_gradient(O, jnp.ones((len(batch), 2)), damping=1.0, method=method).why


def test_steps_reduce_a_loss():
    """Gauss-Newton on a small regression, with a step that is compiled once and differentiable in nothing."""
    target = jax.vmap(lambda x: jnp.stack([jnp.sin(x[0] + x[1]), x[2] ** 2]))(MANY)

    @jax.jit
    def advance(params):
        O = nablax.parameter_jacobian(mlp)(params, MANY)
        residual = target - jax.vmap(mlp, (None, 0))(params, MANY)
        step = nablax.natural_gradient(O, residual, damping=0.1)
        return jax.tree.map(jnp.add, params, step.step), jnp.mean(residual**2), step.relative_residual

    params, losses = PERCEPTRON, []
    for _ in range(8):
        params, loss, left = advance(params)
        losses.append(float(loss))
        assert float(left) < 1e-8
    assert losses[1] < losses[0]
    assert losses[-1] < 0.1 * losses[0]


def test_gradient_through_a_step():
    """By damping and residual, whose derivatives are those of the dense solution."""
    O, residual = nablax.parameter_jacobian(mlp)(PERCEPTRON, X), residual_like(jnp.zeros((D, 2)))
    J = jnp.asarray(as_rows(mlp, PERCEPTRON, X, "real"))

    def dense(damping, residual):
        step = jnp.linalg.solve(J.T @ J + damping * jnp.eye(26), J.T @ residual.ravel())
        return jnp.sum(jnp.sin(step))

    wanted = jax.jit(jax.grad(dense, (0, 1)))(DAMPING, residual)
    for method in ("kernel", "fisher"):

        def found(damping, residual, method=method):
            step = nablax.natural_gradient(O, residual, damping=damping, method=method).step
            return jnp.sum(jnp.sin(ravel_pytree(step)[0]))

        reference.assert_close(jax.jit(jax.grad(found, (0, 1)))(DAMPING, residual), wanted, 1e-8, method)


def test_vanishing_residual():
    O = nablax.parameter_jacobian(mlp)(PERCEPTRON, X)
    for method in METHODS:
        step = nablax.natural_gradient(O, jnp.zeros((D, 2)), damping=DAMPING, method=method)
        assert not np.any(np.asarray(coordinates(step.step))), method
        assert np.isfinite(float(step.relative_residual)), method


@pytest.mark.parametrize(
    "arguments, options, message",
    (
        ({}, {"damping": -0.1}, r"damping=-0\.1"),
        ({}, {"damping": 0.0}, "damping"),
        ({}, {"damping": float("nan")}, "damping"),
        ({}, {"damping": -1.0, "method": "cg"}, "damping"),
        ({}, {"damping": 0.1, "method": "newton"}, r"newton.*kernel.*fisher.*cg"),
        ({"residual": jnp.ones((2, D))}, {"damping": 0.1}, r"\(2, 5\).*\(5, 2\)"),
        ({"residual": jnp.ones(2 * D)}, {"damping": 0.1}, r"\(10,\).*\(5, 2\)"),
        ({"operator": jnp.ones((D, 2, 26))}, {"damping": 0.1}, "parameter_jacobian"),
        ({"operator": [], "residual": []}, {"damping": 0.1}, "natural_gradient"),
        ({"operator": ["O", "O"], "residual": ["r"]}, {"damping": 0.1}, "2.*1"),
        ({"operator": ["O", "other"], "residual": ["r", "r"]}, {"damping": 0.1}, "parameters"),
    ),
)
def test_wrong_arguments(arguments, options, message):
    made = {
        "O": nablax.parameter_jacobian(mlp)(PERCEPTRON, X),
        "other": nablax.parameter_jacobian(mlp)(layers(Draw("other"), 3, 6, 2), X),
        "r": jnp.ones((D, 2)),
    }
    named = lambda each: made.get(each, each) if isinstance(each, str) else each
    operator, residual = (arguments.get(key, default) for key, default in (("operator", "O"), ("residual", "r")))
    operator, residual = ([named(e) for e in x] if isinstance(x, list) else named(x) for x in (operator, residual))
    with pytest.raises(errors.OptionError, match=re.compile(message, re.S)):
        nablax.natural_gradient(operator, residual, **options)
