"""Short loops are written out: the same numbers, without a loop in the program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import nablax

W, V = (jnp.asarray(np.random.default_rng(seed).normal(size=(4, 4))) / 2 for seed in (0, 1))
X = jnp.asarray(np.random.default_rng(2).normal(size=(5, 4)))


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    monkeypatch.setattr("nablax.graph.inline.SHORT", 128)


def recurrent(W, x):
    return lax.scan(lambda h, a: (jnp.tanh(W @ h + a), None), jnp.ones(4), x)[0]


def backwards(W, x):
    last, states = lax.scan(lambda h, a: (jnp.sin(W @ h) * a, h[0] * a), x, x * x, reverse=True)
    return jnp.concatenate([last, states])


def layers(W, x):
    return lax.scan(lambda h, w: (jnp.tanh(w @ h), None), x, jnp.stack([W, V, W.T]))[0]


def counted(W, x):
    """A whole number is carried, and one that does not depend on x; nothing is scanned over."""

    def step(carry, _):
        k, h, fixed = carry
        return (k + 1, jnp.sin(h) * (k + 1) + fixed, fixed * 2), k

    (_, h, _), numbers = lax.scan(step, (0, W @ x, jnp.ones(4)), length=3)
    return h * numbers.sum()


def nested(W, x):
    inner = lambda h: lax.fori_loop(0, 2, lambda k, h: jnp.tanh(W @ h) + k, h)
    return lax.scan(lambda h, a: (inner(h) * a, jnp.exp(-h[:2])), x, jnp.arange(1.0, 4.0))[1].reshape(-1)


def once_only(W, x):
    return (
        lax.scan(lambda h, a: (h * a, h + a), x[0], (W @ x) ** 2)[1]
        + lax.scan(lambda h, _: (h**2, None), x, length=1)[0]
    )


def chosen(W, x):
    return lax.scan(lambda h, a: (jnp.where(h > 0, jnp.sqrt(jnp.where(h > 0, h, 1)), h**2) * a, None), W @ x, x)[0]


def imaginary(W, x):
    return lax.scan(lambda z, a: (jnp.exp(1j * z) * a, None), (W @ x).astype(complex), x)[0]


MODELS = [recurrent, backwards, layers, counted, nested, once_only, chosen, imaginary]


def has_loop(f, *args):
    return "scan[" in str(jax.make_jaxpr(f)(*args))


@pytest.mark.parametrize("turn", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_the_same_numbers_without_a_loop(model, turn):
    """By both sweeps, and by turns the gradient through one of them."""
    assert has_loop(model, W, X[0])
    plain = jax.vmap(jax.jacfwd(jax.jacfwd(model, 1), 1), (None, 0))
    loss = lambda f: lambda W: jnp.sum(jnp.abs(f(W, X)) ** 2)

    @jax.jit
    def reference(W):
        first = (jax.vmap(f, (None, 0))(W, X) for f in (model, jax.jacfwd(model, 1)))
        return *first, plain(W, X), jax.grad(loss(plain))(W)

    value, jacobian, H, gradient = reference(W)
    expected = {"value": value, "jacobian": jacobian, "hessian": H, "hessian_diagonal": jnp.einsum("dacc->dac", H)}
    for strategy in ("forward", "adjoint"):
        ours = nablax.derivatives(model, *expected, strategy=strategy)
        assert not has_loop(ours, W, X)
        found = ours(W, X)
        for name in expected:
            message = f"{strategy}: {name}"
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-10, atol=1e-10, err_msg=message)
    strategy = ("forward", "adjoint")[(MODELS.index(model) + turn) % 2]
    by_ours = jax.jit(jax.grad(loss(nablax.hessian(model, strategy=strategy))))(W)
    np.testing.assert_allclose(by_ours, gradient, rtol=1e-9, atol=1e-9, err_msg=strategy)


def test_long_loops_and_those_that_do_more_stay_loops():
    long = lambda x: lax.fori_loop(0, 100, lambda _, h: jnp.tanh(h) + x, x)
    printing = lambda x: lax.scan(lambda h, a: (jax.debug.print("{}", h[0]), (jnp.sin(h * a), None))[1], x, x)[0]
    deep = lambda x: lax.scan(lambda h, a: (jax.jit(lambda h: sum(jnp.sin(k * h) for k in range(40)))(h), a), x, x)[0]
    none = lambda x: lax.scan(lambda h, a: (jnp.sin(h * a), None), x, x[:0])[0]
    for model in (long, printing, deep, none):
        assert has_loop(nablax.hessian(model, strategy="forward"), X)
    np.testing.assert_array_equal(nablax.hessian(none)(X), 0)


def test_explain_knows_the_lines_of_every_step():
    found = nablax.explain(lambda x: lax.scan(lambda h, a: (jnp.cumprod(h * a), None), x, x)[0], "hessian")(X)
    ((opaque,),) = [found.opaque]
    line = test_explain_knows_the_lines_of_every_step.__code__.co_firstlineno + 1
    assert (opaque.count, opaque.lines) == (4, (f"test_short_loops.py:{line}",))
