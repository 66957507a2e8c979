"""Rows times one vector as a primitive: the same numbers as a product that is broadcast, and one sum for the vector."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import same_derivatives, same_gradients_mapped

import nablax
from nablax.graph import scaled
from nablax.graph.inline import equations, inline
from nablax.graph.merge import traced
from nablax.graph.scaled import scaled_p
from nablax.graph.sums import FEW, total_p


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


def plain(x, s):
    return x * s.reshape((1,) * (x.ndim - s.ndim) + s.shape)


@pytest.mark.parametrize("many", [1, 1024])
@pytest.mark.parametrize("shape, vector", [((3, 4), (4,)), ((2, 3, 4), (4,)), ((2, 3, 4), (3, 4)), ((3, 4), (3, 4))])
class TestAgainstBroadcasting:
    def test_value_and_derivatives(self, monkeypatch, shape, vector, many):
        monkeypatch.setattr(scaled, "_MANY", many)
        x, s = draw(*shape), draw(*vector) + 1
        np.testing.assert_array_equal(jax.jit(scaled_p.bind)(x, s), plain(x, s))
        bent = lambda f: lambda x, s: jnp.sin(f(x, s))[..., 0]
        same_derivatives(bent(scaled_p.bind), bent(plain), x, s)

    def test_mapped_and_its_gradient(self, monkeypatch, shape, vector, many):
        monkeypatch.setattr(scaled, "_MANY", many)
        axes = [(0, None), (1, None), (-1, None), (None, 1), (1, 0)]
        same_gradients_mapped(scaled_p.bind, plain, (draw(*shape), draw(*vector) + 1), axes)


@pytest.mark.parametrize("many", [0, 1024])
def test_vectors_and_rows_without_entries(monkeypatch, many):
    monkeypatch.setattr(scaled, "_MANY", many)
    for shape in ((5, 0), (0, 3)):
        gradient = jax.grad(lambda s, x: jnp.sum(scaled_p.bind(x, s)))(jnp.ones(shape[1:]), jnp.ones(shape))
        np.testing.assert_array_equal(gradient, jnp.zeros(shape[1:]))


@pytest.mark.parametrize(
    "samples, entries, ours, products",
    [(8, 4, False, 0), (400, 4, True, 1), (10, 400, False, 0), (10, 600, True, int(FEW < 30)), (11, 600, False, 0)],
)
def test_a_sum_over_many_rows_or_few_long_ones_is_one_product(samples, entries, ours, products):
    """Of samples with 3 rows each; few are written out with later versions of JAX. Others are summed as JAX would."""
    x, s = draw(samples, 3, entries), draw(entries)
    loss = lambda s: jnp.sum(jax.vmap(scaled_p.bind, (0, None))(x, s) ** 2)
    text = jax.jit(jax.grad(loss)).trace(s).lower().as_text()
    assert text.count("dot_general") == products
    assert ("stablehlo.reduce(" in text) != ours


W = draw(3, 4)
MODELS = {  # of s (4,) and x (3,), and whether the tangents of x are multiplied by a vector
    "scaled": (lambda s, x: jnp.tanh(x @ W) * s, True),
    "from the left": (lambda s, x: s * jnp.tanh(x @ W), True),
    "a matrix": (lambda s, x: jnp.sin(x[:, None]) * s[None, :] * jnp.ones((3, 1)), True),
    "the input of one sample": (lambda s, x: x * x + s[0], True),
    "what is computed": (lambda s, x: jnp.tanh(x @ W) * jnp.exp(s), False),
    "a number": (lambda s, x: jnp.tanh(x @ W) * s[0], False),
    "along another axis": (lambda s, x: jnp.sin(x[None, :]) * s[:, None], False),
    "whole numbers": (lambda s, x: jnp.tanh(x @ W) * jnp.arange(4), False),
}


@pytest.mark.parametrize("name", MODELS)
def test_which_products_are_found(name):
    model, found = MODELS[name]
    push = lambda s, x: jax.vmap(lambda t: jax.jvp(lambda x: model(s, x), (x,), (t,))[1])(jnp.eye(3))
    s, x = draw(4), draw(3)
    merged = traced(push, s, x)
    closed = jax.make_jaxpr(merged)(s, x)
    assert (scaled_p in {eqn.primitive for eqn in closed.eqns}) == found
    assert scaled_p not in {eqn.primitive for eqn in inline(closed).equations}
    np.testing.assert_allclose(merged(s, x), push(s, x), rtol=1e-12, atol=1e-15)


def normalised(p, x):
    for W, scale, shift in p:
        x = jnp.tanh(x @ W)
        x = (x - jnp.mean(x)) / jnp.sqrt(jnp.var(x) + 0.1) * scale + shift
    return x[:2]


@pytest.mark.parametrize("want, strategy", [("hessian", "adjoint"), ("laplacian", "forward"), ("jacobian", "forward")])
def test_gradients_by_the_scales_of_layer_norms(want, strategy):
    """Of 400 samples and 3 tangents: 1200 rows."""
    p, X = [(draw(3, 4), draw(4) + 1, draw(1, 4)[0]), (draw(4, 5), draw(5) + 1, draw(1, 5)[0])], draw(400, 3)
    derive = {
        "jacobian": jax.jacfwd(normalised, 1),
        "hessian": jax.hessian(normalised, 1),
        "laplacian": lambda p, x: jnp.trace(jax.hessian(normalised, 1)(p, x), axis1=1, axis2=2),
    }[want]
    ours = lambda p: getattr(nablax, want)(normalised, strategy=strategy)(p, X)
    theirs = lambda p: jax.vmap(derive, (None, 0))(p, X)
    loss = lambda f: jax.grad(lambda p: jnp.sum(jnp.sin(f(p))))
    for a, b in zip(*(jax.tree.leaves(jax.jit(loss(f))(p)) for f in (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
    eqns = list(equations(jax.make_jaxpr(loss(ours))(p).jaxpr))
    sums = [eqn for eqn in eqns if eqn.primitive is total_p and eqn.params["axes"] == (0,)]
    assert (1200, 4) in {eqn.invars[0].aval.shape for eqn in sums}


def test_what_is_the_same_for_all_samples_is_summed_over_them_first():
    """Products of tangents of the first layer: a gradient goes back through them once, not for each sample."""
    W, V, X = draw(4, 256) / 2, draw(256, 2) / 16, draw(20, 4)
    model = lambda W, x: jnp.tanh(x @ W) @ V
    loss = lambda derive: lambda W: jnp.sum(jnp.sin(derive(W)))
    ours = loss(lambda W: nablax.hessian(model, strategy="forward")(W, X))
    theirs = loss(lambda W: jax.vmap(jax.hessian(model, 1), (None, 0))(W, X))
    np.testing.assert_allclose(jax.jit(jax.grad(ours))(W), jax.grad(theirs)(W), rtol=1e-10, atol=1e-12)
    eqns = list(equations(jax.make_jaxpr(jax.grad(ours))(W).jaxpr))
    sums = [eqn.invars[0].aval.shape for eqn in eqns if eqn.primitive is total_p and eqn.params["axes"] == (0,)]
    assert sums == [(20, 10 * 256)]


def test_a_model_that_holds_one_is_read_as_a_graph():
    """That samples are independent is proved through it, and parameters are found behind it."""
    p, X = [(draw(3, 4), draw(4) + 1, draw(1, 4)[0])], draw(5, 3)
    batch = lambda p, X: nablax.jacobian(normalised, strategy="forward")(p, X).sum(2)
    assert nablax.jacobian(nablax.per_sample(batch))(p, X).shape == (5, 2, 3)
    one = lambda p, x: nablax.jacobian(normalised, strategy="forward")(p, x[None])[0].ravel()
    J = jax.jit(jax.vmap(jax.jacrev(one), (None, 0)))(p, X)
    J = jnp.concatenate([leaf.reshape(5, 6, -1) for leaf in jax.tree.leaves(J)], -1)
    expected, found = jnp.einsum("dab,ecb->daec", J, J), nablax.parameter_jacobian(one)(p, X).gram()
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-9, atol=1e-9)
