"""Long elementwise chains derived as a whole: which they are, and that nothing gets lost in them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import nablax
from nablax.graph import trace
from nablax.graph.inline import equations
from nablax.graph.slopes import has_slope

W, b, x = (jnp.asarray(np.random.default_rng(seed).normal(size=shape)) for seed, shape in enumerate([(3, 3), 3, 3]))


def graph_of(function, x=x):
    like = lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype)
    return trace(lambda W, b, x: [function(W, b, x)], [like(W), like(b)], like(x))


def layer(W, b, x):
    return jax.nn.gelu(x @ W + b) * b[0]


CHAINS = {
    "gelu": (layer, 1),
    "silu": (lambda W, b, x: jax.nn.silu(x @ W + b), 1),
    "two of them": (lambda W, b, x: layer(W, b, layer(W, b, x)), 2),
    "its own rule within": (lambda W, b, x: jax.nn.softplus(x @ W + b) ** 2, 0),
    "it has a kink": (lambda W, b, x: jnp.abs(jnp.exp(x @ W + b) - 1), 0),
    "too short": (lambda W, b, x: jnp.tanh(x @ W + b), 0),
    "it chooses": (lambda W, b, x: jnp.where(b > 0, jnp.exp(x * b) * b, x**2), 0),
    "it rounds": (lambda W, b, x: jnp.exp((x * b).astype(jnp.float32) * 2).astype(x.dtype) * 3, 0),
    "two roots": (lambda W, b, x: x * (x @ W), 0),
}


@pytest.mark.parametrize("name", CHAINS)
def test_which_chains_are_derived_as_a_whole(name):
    function, count = CHAINS[name]
    assert sum(map(has_slope, graph_of(function).program.nodes)) == count


# Some of those without a slope: they stay as they are.
LATER = ("too short", "it has a kink", "two roots")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LATER else ()) for n in CHAINS])
def test_every_derivative_is_that_of_the_equations(name):
    """By x and by what the chains capture, in both modes and to the third order."""
    graph = graph_of(CHAINS[name][0])
    plain = lambda W, b, x: graph.bind([W, b])(x)[0]
    chained = lambda W, b, x: graph.bind([W, b]).by_slopes(x)[0]
    third = lambda f, i: jax.jacfwd(jax.jacrev(jax.jacrev(f, i), i), i)
    derivatives = [(d, argnum) for argnum in (0, 1, 2) for d in (jax.jacfwd, jax.jacrev, third)]
    expected, found = (
        jax.jit(lambda *at, f=f: [d(f, i)(*at) for d, i in derivatives])(W, b, x) for f in (plain, chained)
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6 if name == "it rounds" else 1e-12, atol=1e-12)


def test_a_tangent_passes_through_a_chain_in_one_product():
    graph = graph_of(lambda W, b, x: jax.nn.gelu(x * b))
    products = []
    for f in (graph.bind([W, b]), graph.bind([W, b]).by_slopes):
        _, along = jax.linearize(lambda x, f=f: f(x)[0], x)
        used = [eqn.primitive.name for eqn in equations(jax.make_jaxpr(along)(x).jaxpr)]
        products.append(used.count("mul"))
    plain, ours = products  # plain: 9 in jax 0.10
    assert ours == 1
    assert plain > 4


def test_in_loops_captures_belong_to_their_step():
    def model(W, x):
        return lax.scan(lambda h, w: (jax.nn.gelu(h @ W + w) * w, None), x, W)[0]

    X = jnp.stack([x, 2 * x])
    for transform, plain in ((nablax.jacobian, jax.jacfwd), (nablax.hessian, jax.hessian)):
        gradient = lambda derivative: jax.jit(jax.grad(lambda W: jnp.sum(derivative(W) ** 3)))(W)
        ours = gradient(lambda W, t=transform: t(model)(W, X))
        expected = gradient(lambda W, p=plain: jax.vmap(p(lambda x: model(W, x)))(X))
        np.testing.assert_allclose(ours, expected, rtol=1e-11)
