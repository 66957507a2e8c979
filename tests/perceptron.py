"""One small network and all its derivatives by JAX, for the tests that are not about the model."""

import functools

import jax
import jax.numpy as jnp
from scenarios import Draw

A, C, D, H = 2, 3, 5, 4
TRANSFORMS = ("jacobian", "hessian", "hessian_diagonal", "laplacian")
SECOND_ORDER = ("forward_over_reverse", "forward_over_forward", "reverse_over_reverse", "forward", "adjoint")

draw = Draw("perceptron")
PARAMS = {"W": draw(H, C), "b": draw(H), "out": draw(A, H)}
X = draw(D, C)


def model(p, x):
    return p["out"] @ jnp.tanh(p["W"] @ x + p["b"])


@functools.partial(jax.jit, static_argnums=0)
def expected(f, p=PARAMS, X=X, W=None):
    """All wants by JAX alone."""
    hessian = jax.vmap(jax.hessian(f, argnums=1), (None, 0))(p, X)
    W = jnp.eye(C) if W is None else W
    return {
        "value": jax.vmap(f, (None, 0))(p, X),
        "jacobian": jax.vmap(jax.jacrev(f, argnums=1), (None, 0))(p, X),
        "hessian": hessian,
        "hessian_diagonal": jnp.diagonal(hessian, axis1=-2, axis2=-1),
        "laplacian": jnp.einsum("...ce,ce->...", hessian, W),
    }
