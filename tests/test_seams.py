"""Which parameters are worked with in factors, where that would be wrong, what compiled programs must not remember."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scenarios import Draw

import nablax

draw = Draw("test_seams")
X = draw(5, 3)
P = {"W": draw(3, 4), "V": draw(4, 4), "b": draw(4)}


def first(p, x):
    return jnp.tanh(x @ p["W"])


# model, and how b is treated
BIASES = {
    "bias of one layer": (lambda p, x: jnp.tanh(x @ p["W"] + p["b"]), "bias"),
    "layer and bias used twice": (
        lambda p, x: jnp.tanh(jnp.tanh(first(p, x) @ p["V"] + p["b"]) @ p["V"] + p["b"]),
        "bias",
    ),
    "added to two layers": (
        lambda p, x: jnp.tanh(x @ p["W"] + p["b"]) @ p["V"] + p["b"],
        "whole: meets samples in add",
    ),
    "added to one of two uses": (
        lambda p, x: jnp.tanh(jnp.tanh(first(p, x) @ p["V"] + p["b"]) @ p["V"]),
        "whole: meets samples in add",
    ),
    "a readout too": (
        lambda p, x: jnp.stack([jnp.tanh(x @ p["W"] + p["b"]) @ p["b"], x[0]]),
        "whole: meets samples in add",
    ),
    "a factor too": (lambda p, x: jnp.tanh(x @ p["W"] + p["b"]) * p["b"], "whole: meets samples in add"),
    "result of the layer used again": (
        lambda p, x: (lambda z: jnp.tanh(z + p["b"]) * z)(x @ p["W"]),
        "whole: meets samples in add",
    ),
    "layer used transposed": (
        lambda p, x: jnp.tanh(jnp.tanh(first(p, x) @ p["V"] + p["b"]) @ p["V"].T + p["b"]),
        "whole: meets samples in add",
    ),
    "added reversed": (
        lambda p, x: jnp.tanh(x @ p["W"] + p["b"][::-1]),
        "whole: changed by rev, then meets samples in add",
    ),
    "added to every entry of a matrix": (
        lambda p, x: jnp.tanh(jnp.outer(x, x) @ p["W"] + p["b"][None]).sum(0),
        "bias",
    ),
    "along the other axis": (
        lambda p, x: jnp.tanh(jnp.outer(jnp.append(x, 1.0), x) @ p["W"] + p["b"][:, None]).sum(0),
        "whole: meets samples in add",
    ),
}


@pytest.mark.parametrize("name", BIASES)
def test_a_bias_belongs_to_its_layer_only_where_that_is_exact(name):
    model, treatment = BIASES[name]
    O = nablax.parameter_jacobian(model)(P, X)
    lines = {line.split()[0]: line for line in repr(O).splitlines()[1:]}
    assert lines["['b']"].endswith(treatment)
    flat, unravel = ravel_pytree(P)
    J = jax.vmap(lambda x: jax.jacrev(lambda flat: model(unravel(flat), x))(flat))(X)
    found = jax.jit(lambda O: (O.dense(), O.gram(), O.squared_norms(), O.flat(O.fisher_diagonal())))(O)
    expected = J, jnp.tensordot(J, J, (-1, -1)), jnp.sum(J**2, -1), jnp.sum(J**2, (0, 1))
    for got, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, right, rtol=0, atol=1e-12 * np.abs(right).max())


def test_a_program_does_not_remember_how_many_samples_another_operator_had():
    loss = lambda p, x: jnp.sum(first(p, x) ** 2)
    for batch in (X, X[:2], jnp.concatenate([X, X])):
        found = nablax.per_sample_gradients(loss)(P, batch).clipped_mean(1e6)
        mean = jax.grad(lambda p, batch=batch: jnp.mean(jax.vmap(loss, (None, 0))(p, batch)))(P)
        np.testing.assert_allclose(found["W"], mean["W"], rtol=1e-12)


def test_compiled_programs_keep_no_model_alive():
    model = lambda p, x: first(p, x)
    seen = weakref.ref(model)
    nablax.parameter_jacobian(model)(P, X).squared_norms()
    del model
    gc.collect()
    assert seen() is None


def test_a_parameter_that_is_not_used_takes_no_memory():
    p = P | {"table": jnp.zeros(2**12)}
    O = nablax.parameter_jacobian(lambda p, x: first(p, x))(p, X)
    blocks = jax.eval_shape(O._factors)
    assert "unused" in repr(O)
    assert sum(leaf.size for leaf in jax.tree.leaves(blocks)) < 2**10
    assert not O.fisher_diagonal()["table"].any()
