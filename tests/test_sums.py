"""Sums as products with ones, or written out: the same numbers under every transformation, and known where graphs are
read.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import nablax
from nablax._compat import SUMS_BY_LIBRARY
from nablax.graph.inline import equations
from nablax.graph.merge import traced
from nablax.graph.sums import FEW_BACK, LONG, repeated_p, total, total_p


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


W, V, X = draw(3, 40) / 2, draw(40, 2) / 6, draw(5, 3)


def normalised(p, x):
    h = jnp.tanh(x @ p[0])
    centred = h - h.mean()
    return (centred / jnp.sqrt((centred * centred).mean() + 1e-3)) @ p[1]


def laplacian(p, x):
    return nablax.laplacian(normalised)(p, x[None])[0]


def plain_laplacian(p, x):
    return jnp.trace(jax.hessian(lambda x: normalised(p, x))(x), axis1=-2, axis2=-1)


def test_it_is_a_sum_under_every_transformation():
    x = draw(4, 6)
    theirs = lambda x: jnp.sum(x, -1)
    for wrap in (jax.jit, jax.vmap, jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(wrap(total))(x), wrap(theirs)(x), rtol=1e-14, atol=1e-14)
    check_grads(jax.jit(lambda x: total(x * x) ** 2), (x,), order=3)
    z = jax.lax.complex(x, 2 * x)
    np.testing.assert_allclose(jax.jit(total)(z), theirs(z), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("axis, mapped", [(0, 0), (0, 1), (1, 1), (1, 4), (2, 3), (3, 0), (3, 4)])
def test_samples_stay_where_they_are(axis, mapped):
    """A sum of two or three is written out, one over the last axis a product; by whichever axis it is mapped."""
    x = draw(3, 2, 5, 4)
    batch = jnp.stack([x, 2 * x], mapped)
    ours = lambda x: total_p.bind(x, axes=(axis,))
    for wrap in (lambda f: f, jax.jacrev):
        found = jax.jit(jax.vmap(wrap(ours), mapped))(batch)
        np.testing.assert_allclose(found, jax.vmap(wrap(lambda x: jnp.sum(x, axis)), mapped)(batch), rtol=1e-14)
    left = mapped - (axis < mapped)
    text = str(jax.make_jaxpr(jax.vmap(ours, mapped, left))(batch))
    assert " total[" in text
    assert "transpose" not in text


@pytest.mark.parametrize(
    "function, found",
    [
        (lambda x: jnp.sum(x * x, -1), True),
        (lambda x: jnp.sum(x**3, 1), True),
        (lambda x: jnp.sum(-(x * x), -1), True),
        (lambda x: jnp.sum(-x, -1), SUMS_BY_LIBRARY),
        (lambda x: jnp.sum(x + 1, -1), SUMS_BY_LIBRARY),  # no products
        (lambda x: jnp.sum(x * x, 0), False),  # not the last axis, and many
        (lambda x: jnp.sum(x[:4] ** 2, 0), True),
        (lambda x: jnp.sum(x[:4].reshape(2, 2, 40) ** 2, 1), True),
        (lambda x: jnp.sum(x[:5] ** 2, 0), SUMS_BY_LIBRARY),
        (lambda x: jnp.sum(x[:1] ** 2, 0), False),
        (lambda x: jnp.sum(jnp.tanh(x[:4]), 0), SUMS_BY_LIBRARY),
        (lambda x: jnp.sum(x[:2] ** 2, (0, 1)), False),
        (lambda x: jnp.sum(x * x), False),  # not alone
        (lambda x: jnp.sum(x[:, :20] ** 2, -1), False),  # too few
        (lambda x: jnp.sum((x * x).astype(jnp.bfloat16), -1), SUMS_BY_LIBRARY),  # in single precision
    ],
)
def test_which_sums_are_taken_apart(function, found):
    x = draw(50, 40)
    merged = traced(function, x)
    assert ("total" in str(jax.make_jaxpr(merged)(x))) == found
    np.testing.assert_allclose(merged(x), function(x), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("axis, operation", [(1, "dot_general"), (0, "add")])
def test_only_a_cpu_takes_them_apart(axis, operation):
    lowered = jax.jit(lambda x: total_p.bind(x, axes=(axis,))).trace(draw(3, 40))
    for platform, found, other in (("cpu", operation, "reduce"), ("cuda", "reduce", operation)):
        text = lowered.lower(lowering_platforms=(platform,)).as_text()
        assert f"stablehlo.{found}" in text
        assert f"stablehlo.{other}(" not in text


@pytest.mark.parametrize(
    "own, shape, axes, found",
    [
        ((3,), (4, 3), (1,), True),
        ((3, 40), (2, 3, 5, 40), (1, 3), True),
        ((3, 1, 5), (3, 4, 5), (0, 1, 2), True),
        ((1, 5), (FEW_BACK + 1, 1, 5), (1, 2), False),  # too many
        ((5,), (5, LONG), (0,), True),
        ((5,), (5, LONG - 1), (0,), False),
        ((), (3,), (), False),
    ],
)
def test_repetitions_go_back_as_such_sums(own, shape, axes, found):
    x, given = draw(2, *own), draw(2, *shape)
    how = {"shape": shape, "broadcast_dimensions": axes}
    ours, theirs = (lambda x, f=f: f(x, **how) for f in (repeated_p.bind, jax.lax.broadcast_in_dim))
    for mapped in (lambda f: jax.vmap(lambda x, y: f(x) * y), lambda f: lambda x, y: f(x[0]) * y[0]):
        for wrap in (lambda f: f, jax.jacfwd, jax.jacrev):
            np.testing.assert_array_equal(wrap(mapped(ours))(x, given), wrap(mapped(theirs))(x, given))
    last = jnp.moveaxis(x, 0, -1)
    np.testing.assert_array_equal(jax.vmap(ours, -1)(last), jax.vmap(theirs, -1)(last))
    check_grads(jax.jit(lambda x: ours(x) ** 3), (x[0],), order=3)
    back = jax.make_jaxpr(jax.vjp(ours, x[0])[1])(given[0])
    assert any(eqn.primitive is total_p for eqn in back.jaxpr.eqns) == (found and SUMS_BY_LIBRARY)


def test_what_is_repeated_in_a_derivative():
    """Every row with every other; no number."""
    x = draw(3, 5)

    def outer(x):
        return x[:, None] * jnp.tanh(x)[None] + x.sum()

    merged = traced(outer, x)
    found = [eqn for eqn in equations(jax.make_jaxpr(merged)(x).jaxpr) if eqn.primitive is repeated_p]
    assert bool(found) == SUMS_BY_LIBRARY
    assert all(eqn.invars[0].aval.size > 1 for eqn in found)
    np.testing.assert_allclose(merged(x), outer(x), rtol=1e-14)


def test_models_that_hold_one():
    """A model in which something is repeated is traced as if JAX had done it."""
    ours, theirs = (
        lambda p, x, repeat=repeat: jnp.tanh(repeat(jnp.sin(x), shape=(4, 3), broadcast_dimensions=(1,)) @ p[0]).sum(1)
        for repeat in (repeated_p.bind, jax.lax.broadcast_in_dim)
    )
    params = (W, V)
    assert nablax.explain(ours, "hessian")(params, X) == nablax.explain(theirs, "hessian")(params, X)
    np.testing.assert_allclose(nablax.hessian(ours)(params, X), nablax.hessian(theirs)(params, X), rtol=1e-12)


def test_derivatives_of_models_that_hold_one():
    params = (W, V)
    batch = nablax.per_sample(lambda params, X: nablax.laplacian(normalised)(params, X))
    expected = jax.vmap(jax.jacfwd(plain_laplacian, 1), (None, 0))(params, X)
    for strategy in ("forward", "reverse"):
        found = nablax.jacobian(laplacian, strategy=strategy)(params, X)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(nablax.jacobian(batch)(params, X), expected, rtol=1e-9, atol=1e-9)
    operator = nablax.parameter_jacobian(laplacian)(params, X)
    dense = operator.dense().reshape(10, -1)
    np.testing.assert_allclose(operator.gram().reshape(10, 10), dense @ dense.T, rtol=1e-10, atol=1e-10)


def test_samples_that_are_summed_are_coupled():
    coupled = lambda W, X: total((X @ W).T ** 2)[None, :3] * X
    with pytest.raises(nablax.errors.CoupledSamplesError, match="total sums over axis"):
        nablax.jacobian(nablax.per_sample(coupled))(W, X)


@pytest.mark.parametrize("want", ["hessian", "laplacian"])
def test_layers_of_one_width_are_summed_at_once(want):
    """The first layer's tangents are its weights, and it is a product; then come two of 40 and one of 33 entries."""
    p = [draw(a, b) / 3 for a, b in ((3, 40), (40, 40), (40, 40), (40, 33), (33, 1))]

    def model(p, x):
        for W in p[:-1]:
            x = jnp.tanh(x @ W)
        return (x @ p[-1])[0]

    ours = getattr(nablax, want)(model, strategy="adjoint")
    found = [eqn for eqn in equations(jax.make_jaxpr(ours)(p, X).jaxpr) if eqn.primitive is total_p]
    assert sum(eqn.params["axes"] == (eqn.invars[0].aval.ndim - 1,) for eqn in found) == 2
    hessian = jax.jit(jax.vmap(jax.hessian(model, 1), (None, 0)))(p, X)
    expected = hessian if want == "hessian" else jnp.trace(hessian, axis1=1, axis2=2)
    np.testing.assert_allclose(jax.jit(ours)(p, X), expected, rtol=1e-10)
