"""Both sweeps on random graphs equal nested automatic differentiation, and so do gradients through them.

Compiling dominates: they run in `make fuzz`, as many as RANDOM_GRAPHS says; test_properties.py has a short form.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, reject, settings
from random_graphs import BINARY, UNARY, WEIGHTS, recipes

import nablax

pytestmark = pytest.mark.slow

SWEEPS = ("forward", "adjoint")


def second_derivatives(model, strategy, p, X):
    """The Hessian, and its diagonal and weighted trace by themselves."""
    options = {"strategy": strategy, "chunk_size": None}
    weights = jnp.cos(jnp.arange(X.shape[1] ** 2.0)).reshape(X.shape[1], -1)
    hessian = nablax.hessian(model, **options)(p, X)
    if strategy in SWEEPS:
        rest = nablax.derivatives(model, "jacobian", "hessian_diagonal", "laplacian", weights=weights, **options)(p, X)
    else:
        rest = {
            "jacobian": nablax.jacobian(model, **options)(p, X),
            "hessian_diagonal": jnp.diagonal(hessian, axis1=-2, axis2=-1),
            "laplacian": jnp.einsum("dace,ce->da", hessian, weights),
        }
    return {"hessian": hessian, **rest}


def compare(model, inputs):
    """Second derivatives, and the gradient of a loss through the Hessian with respect to the parameter."""

    def found(p, X):
        results = [second_derivatives(model, s, p, X) for s in ("forward_over_forward", *SWEEPS)]
        for result, strategy in zip(results, ("forward_over_forward", *SWEEPS), strict=True):
            loss = lambda p, s=strategy: jnp.sum(jnp.sin(nablax.hessian(model, strategy=s)(p, X)))
            result["gradient"] = jax.grad(loss)(p)
        return results

    X = jnp.asarray(np.random.default_rng(inputs).normal(size=(2, inputs)))
    reference, *others = jax.jit(found)(0.9, X)
    if not all(np.isfinite(array).all() and np.abs(array).max() < 1e8 for array in reference.values()):
        reject()
    for strategy, got in zip(SWEEPS, others, strict=True):
        for name, expected in reference.items():
            tolerance = 1e-9 * max(np.abs(expected).max(), 1.0)
            np.testing.assert_allclose(got[name], expected, rtol=0, atol=tolerance, err_msg=f"{strategy} {name}")


@settings(max_examples=int(os.environ.get("RANDOM_GRAPHS", "50")))
@given(recipes)
def test_random_graphs(recipe):
    compare(recipe, recipe.inputs)


def test_every_operation_between_curved_ones():
    """All operations in one model, each behind a curved one and before another."""

    def model(p, x):
        a, b = jnp.tanh(jnp.asarray(WEIGHTS[:3, :3]) @ x) * p, jnp.cos(x)
        outputs = [UNARY[name](p, a) for name in UNARY] + [BINARY[name](p, a, b) for name in BINARY]
        return jnp.stack([jnp.sum(jnp.sin(o) * jnp.cos(jnp.arange(o.size)).reshape(o.shape)) for o in outputs])

    compare(model, 3)
