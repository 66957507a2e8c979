"""Values that are computed once, and products of pairs: the same numbers under every transformation of JAX."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from reference import same_derivatives, same_gradients_mapped

import nablax
from nablax.graph.inline import inline
from nablax.graph.merge import traced
from nablax.graph.once import once
from nablax.graph.pairs import pair_products
from nablax.graph.sine import cosine_p, sine_and_cosine_p, sine_p
from nablax.strategies.forms import Pairs


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


def test_once_is_the_identity_under_every_transformation():
    x = draw(5)
    f = jax.jit(lambda x: jnp.sum(once(x) ** 3))
    np.testing.assert_array_equal(jax.jit(once)(x), x)
    np.testing.assert_array_equal(jax.vmap(once)(draw(3, 5)), draw(3, 5))
    check_grads(f, (x,), order=3)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.hessian(f)))(draw(3, 5)), jax.vmap(jnp.diag)(6 * draw(3, 5)))


@pytest.mark.parametrize("primitive, numpy", [(sine_p, np.sin), (cosine_p, np.cos)], ids=["sin", "cos"])
def test_sine_and_cosine(primitive, numpy):
    x = draw(3, 4)
    np.testing.assert_allclose(jax.jit(jax.vmap(primitive.bind))(x), numpy(x), rtol=1e-14)
    check_grads(jax.jit(primitive.bind), (x,), order=3)
    third = jax.grad(jax.grad(jax.grad(lambda x: primitive.bind(x))))
    expected = {np.sin: -np.cos(0.7), np.cos: np.sin(0.7)}[numpy]
    np.testing.assert_allclose(jax.jit(third)(0.7), expected, rtol=1e-14)


FLOATS = {
    "of every size": np.random.default_rng(0).integers(0, 255, 200_000, dtype=np.uint32) << 23
    | np.random.default_rng(1).integers(0, 2**23, 200_000, dtype=np.uint32),
    # Nearest to multiples of pi/2 among all numbers, where the fewest digits are left.
    "near multiples": np.array(
        [16367173 * 2.0**72, 10741887 * 2.0**51, 7247182848, 52516.43359375, 13176795 / 2**22, 11 * 2.0**1], np.float32
    ),
    "ends": np.array([0.0, 2.0**-126, 2.0**76, np.nextafter(np.float32(2.0**76), 0), np.finfo(np.float32).max]),
}


@pytest.mark.parametrize("primitive, exact", [(sine_p, math.sin), (cosine_p, math.cos)], ids=["sin", "cos"])
@pytest.mark.parametrize("name", FLOATS)
def test_single_precision_is_rounded_once(primitive, exact, name):
    """Held against double precision, for every size. The library of a GPU rounds more than once."""
    x = FLOATS[name].view(np.float32) if FLOATS[name].dtype == np.uint32 else FLOATS[name].astype(np.float32)
    x = x[np.abs(x) >= 2.0**-126] if name == "of every size" else x
    found = np.asarray(jax.jit(primitive.bind)(x), np.float64)
    expected = np.array([exact(number) for number in x.tolist()])
    off = np.abs(found - expected) / np.spacing(np.abs(expected).astype(np.float32))
    assert np.max(off) < (0.500002 if jax.default_backend() == "cpu" else 4)
    np.testing.assert_array_equal(jax.jit(primitive.bind)(-x), found if exact is math.cos else -found)


@pytest.mark.parametrize("other", [2.0**20, -1e38, np.inf, np.nan])
def test_a_sine_does_not_depend_on_the_numbers_beside_it(other):
    x = jnp.asarray(10 * draw(3, 64), jnp.float32)
    for primitive in (sine_p, cosine_p):
        alone, beside = jax.jit(primitive.bind)(x), jax.jit(primitive.bind)(x.at[1, 2].set(other))
        np.testing.assert_array_equal(beside.at[1, 2].set(alone[1, 2]), alone)


def test_sine_and_cosine_of_the_same_are_one_equation():
    """In a merged derivative; a model that contains one sees a sine and a cosine."""
    X = jnp.asarray(draw(4, 64), jnp.float32)
    slope = lambda x: jnp.sin(x) * jax.jvp(jnp.sin, (x,), (x,))[1]
    function = traced(slope, X[0])
    names = [eqn.primitive for eqn in jax.make_jaxpr(function)(X[0]).eqns]
    assert names.count(sine_and_cosine_p) == 1
    assert not {sine_p, cosine_p} & set(names)
    inlined = [eqn.primitive for eqn in inline(jax.make_jaxpr(function)(X[0])).equations]
    assert inlined.count(sine_p) == inlined.count(cosine_p) == 1
    assert sine_and_cosine_p not in inlined
    np.testing.assert_allclose(jax.jit(jax.vmap(function))(X), np.sin(X) * np.cos(X) * X, rtol=1e-6)
    x = jnp.asarray(X, jnp.float64)
    function = traced(slope, x[0])
    np.testing.assert_allclose(jax.vmap(function)(x), np.sin(x) * np.cos(x) * x, rtol=1e-14)
    same_derivatives(function, lambda x: jnp.sin(x) * jnp.cos(x) * x, x[0, :5])


def test_sines_of_what_is_no_number():
    x = jnp.array([jnp.nan, jnp.inf, -jnp.inf, -0.0], jnp.float32)
    for primitive in (sine_p, cosine_p):
        assert np.isnan(jax.jit(primitive.bind)(x)[:3]).all()
    assert np.signbit(jax.jit(sine_p.bind)(x)[3])
    assert jax.jit(sine_p.bind)(jnp.zeros((0, 3), jnp.float32)).shape == (0, 3)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sines_in_half_precision(dtype):
    x = draw(100).astype(dtype)
    np.testing.assert_array_equal(jax.jit(sine_p.bind)(x), jax.jit(jnp.sin)(x))
    assert jax.jit(cosine_p.bind)(x).dtype == dtype


def count(program, operation):
    return len(re.findall(rf"= f\d\d\S* {operation}\(", program))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only XLA on a CPU computes sines again")
def test_sines_of_a_compiled_model_are_computed_once():
    """Two layers: two sines and two cosines, however many directions and orders read them. Plain JAX computes more."""
    W, V, X = draw(3, 64), draw(64, 64), draw(128, 3)
    model = lambda W, x: jnp.sin(jnp.sin(x @ W) @ V)
    compiled = lambda f: jax.jit(f).lower(W, X).compile().as_text()
    ours = compiled(nablax.derivatives(model, "value", "laplacian", strategy="forward"))
    assert (count(ours, "sine"), count(ours, "cosine")) == (2, 2)
    plain = compiled(jax.vmap(lambda W, x: jnp.trace(jax.hessian(model, 1)(W, x), axis1=1, axis2=2), (None, 0)))
    assert count(plain, "sine") + count(plain, "cosine") > 4
    W, V, X = (a.astype(jnp.float32) for a in (W, V, X))
    single = compiled(nablax.derivatives(model, "value", "laplacian", strategy="forward"))
    assert (count(single, "sine"), count(single, "cosine")) == (0, 0)  # but series
    assert single.count(" round-nearest-even(") == 8  # the turns of each layer once: three parts and their sum


NAME = re.compile(r"%?\b(?:param_|[a-z_-]+\.)[\d.]+\w*")


def operations(program):
    """The operations that XLA compiles, each once: what is fused, whatever the names in it."""
    program = re.sub(r", metadata=\{[^}]*\}|/\*index=\d+\*/", "", program)
    found = set()
    for body in re.findall(r"^%(?:fused|wrapped)\S* \((.*?)^\}", program, re.MULTILINE | re.DOTALL):
        names = {}
        found.add(NAME.sub(lambda name, names=names: names.setdefault(name[0], f"n{len(names)}"), body))
    return found


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="operations of XLA on a CPU")
@pytest.mark.parametrize("strategy", ["adjoint", "forward"])
@pytest.mark.parametrize("activation", [jnp.sin, jnp.tanh], ids=lambda f: f.__name__)
def test_layers_share_their_operations(activation, strategy):
    """XLA compiles equal operations once: a Hessian of eleven layers compiles no more of them than one of seven."""

    def compiled(depth):
        layers = [draw(3, 40), *[draw(40, 40)] * depth, draw(40, 2)]
        model = lambda layers, x: functools.reduce(lambda x, W: activation(x @ W), layers, x)
        hessian = nablax.hessian(model, strategy=strategy, chunk_size=None)
        return jax.jit(hessian).lower(layers, draw(64, 3)).compile().as_text()

    fewer, more = compiled(5), compiled(9)
    assert 0 < len(operations(fewer)) == len(operations(more))
    assert fewer.count(" fusion(") < more.count(" fusion(")


def test_what_stands_for_jax_is_chosen_where_it_computes_the_same():
    names = lambda f, x: [eqn.primitive for eqn in inline(jax.make_jaxpr(f)(x)).equations]
    assert names(jnp.sin, 1.0) == [sine_p]
    assert sine_p not in names(jnp.sin, 1.0j)
    exact = lambda x: jax.lax.sin(x, accuracy=jax.lax.AccuracyMode.HIGHEST)
    assert sine_p not in names(exact, jnp.float32(1.0))


@pytest.mark.parametrize("strategy", ["forward", "adjoint"])
@pytest.mark.parametrize(
    "activation, width, held", [(jax.nn.gelu, 64, True), (jax.nn.gelu, 8, False), (jnp.tanh, 64, False)]
)
def test_second_derivatives_of_long_chains_are_computed_once(activation, width, held, strategy):
    """gelu is a long chain, unless it has few entries; tanh is none. And the numbers are the same."""
    W, V, x = draw(width, 3), draw(2, width), draw(1, 3)
    diagonal = nablax.hessian_diagonal(lambda x: V @ activation(W @ x), strategy=strategy)
    assert ("once" in str(jax.make_jaxpr(diagonal)(x))) == held
    hessian = jax.jit(jax.hessian(lambda x: V @ activation(W @ x)))(x[0])
    np.testing.assert_allclose(diagonal(x)[0], jnp.diagonal(hessian, axis1=1, axis2=2), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "bend, apart",
    [
        (lambda u, v: jnp.tanh(u), 0),
        (lambda u, v: u * v, 1),
        (lambda u, v: jnp.tanh(u) + jax.lax.dot(u, v) * u, 2),  # u v, and that by u
        (lambda u, v: u / (2 + v * v), 2),  # two pairs of roots
    ],
)
@pytest.mark.parametrize("want", ["hessian_diagonal", "laplacian"])
def test_terms_of_nodes_with_several_roots_are_computed_apart(bend, apart, want):
    """Entry by entry they are added to those of others; numbers and gradients are the same."""
    W, U, V, X = draw(40, 3) / 2, draw(2, 40, 40) / 9, draw(40), draw(4, 3)
    model = lambda W, x: V @ bend(*(U @ jnp.tanh(W @ x)))
    ours = getattr(nablax, want)(model, strategy="adjoint")
    assert str(jax.make_jaxpr(ours)(W, X)).count(" once ") == apart
    hessian = lambda W: jax.vmap(jax.hessian(model, 1), (None, 0))(W, X)
    plain = lambda W: jnp.trace(hessian(W), axis1=1, axis2=2)
    if want == "hessian_diagonal":
        plain = lambda W: jnp.diagonal(hessian(W), axis1=1, axis2=2)
    np.testing.assert_allclose(ours(W, X), jax.jit(plain)(W), rtol=1e-10, atol=1e-12)
    found, expected = (jax.jit(jax.grad(lambda W, f=f: jnp.sum(f(W) ** 2)))(W) for f in (lambda W: ours(W, X), plain))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "strategy, bend, held",
    [
        ("forward", lambda u, v: jnp.tanh(u), 1),
        ("adjoint", lambda u, v: jnp.tanh(u), 0),
        ("adjoint", lambda u, v: u / (2 + v * v), 1),
    ],
)
def test_matrices_of_pairs_are_fenced_where_it_pays(strategy, bend, held):
    """The first layer is contracted pair by pair; what comes behind it, by A = 2, as matrices."""
    W, U, V, x = draw(40, 3) / 2, draw(2, 40, 40) / 9, draw(2, 40), draw(1, 3)
    hessian = nablax.hessian(lambda x: V @ bend(*(U @ jnp.tanh(W @ x))), strategy=strategy)
    assert str(jax.make_jaxpr(hessian)(x)).count(" once ") == held


PAIRS = {
    "triangle": Pairs.triangle(4),
    "some": Pairs((0, 2, 2, 1), (3, 2, 0, 1), 4),
    "one": Pairs((1,), (2,), 4),  # and directions without a partner
    "many": Pairs((*range(4), 0, 2, 2, 1, 3, 3, 0), (*range(4), 3, 2, 0, 1, 3, 1, 0), 4),  # in a table
    "diagonal": Pairs.diagonal(4),
}


@pytest.mark.parametrize("name", PAIRS)
class TestPairs:
    def plain(self, form, x, y):
        c, e = np.array(form.first), np.array(form.second)
        return x[c] * y[e] + y[c] * x[e]

    def test_products_and_their_derivatives(self, name):
        form, x, y = PAIRS[name], draw(4, 5), draw(4, 5) + 1
        ours = lambda x, y: pair_products(x, y, form.first, form.second)
        np.testing.assert_array_equal(ours(x, y), self.plain(form, x, y))
        same_derivatives(ours, lambda x, y: self.plain(form, x, y), x, y)
        np.testing.assert_allclose(form.products(x, x), self.plain(form, x, x) / 2, rtol=1e-15)
        same_derivatives(lambda x: form.products(x, x), lambda x: self.plain(form, x, x) / 2, x)

    def test_with_a_weight_of_each_entry(self, name):
        form, x, y, weight = PAIRS[name], draw(4, 2), draw(4, 2) + 1, draw(2) - 2
        squares = lambda x, weight: weight[None] * self.plain(form, x, x) / 2
        same_derivatives(lambda x, weight: form.products(x, x, weight), squares, x, weight)
        products = weight[None] * self.plain(form, x, y)
        np.testing.assert_allclose(form.products(x, y, weight), products, rtol=1e-14)

    def test_mapped_and_its_gradient(self, name):
        form = PAIRS[name]
        ours, plain = lambda x, y: pair_products(x, y, form.first, form.second), lambda x, y: self.plain(form, x, y)
        same_gradients_mapped(ours, plain, (draw(4, 5), draw(4, 5) + 1), [(0, 0), (0, None), (None, -1)])


def test_the_gradient_of_pairs_scatters_nothing():
    """What the primitive is for."""
    form = Pairs.triangle(4)
    loss = lambda x: jnp.sum(jax.vmap(lambda x: form.products(x, x))(x) ** 2)
    assert "scatter" not in str(jax.make_jaxpr(jax.grad(loss))(draw(3, 4, 5)))


def test_no_rows_are_kept_for_the_gradient_by_a_weight():
    """Looked up in a table, they would be written down for the way back: XLA looks nothing up twice."""
    form = Pairs.triangle(4)
    _, back = jax.vjp(lambda x, weight: form.products(x, x, weight), draw(4, 5), draw(5))
    assert max(kept.size for kept in jax.tree.leaves(back)) == 4 * 5


def test_the_matrix_of_a_triangle():
    form, rows = Pairs.triangle(3), jnp.arange(12.0).reshape(6, 2)
    one = np.array([[0, 2, 4], [2, 6, 8], [4, 8, 10]])
    np.testing.assert_array_equal(form.matrix(rows), np.stack([one, one + 1]))
    infinite = form.matrix(rows.at[1, 0].set(jnp.inf))
    assert np.sum(~np.isfinite(infinite)) == 2  # what is not finite stays where it is
    taken = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])
    plain = lambda rows: jnp.moveaxis(rows[taken], -1, 0)
    matrices, wanted = (
        lambda rows, f=f: jnp.sin(f(rows)) * jnp.arange(18.0).reshape(2, 3, 3) for f in (form.matrix, plain)
    )
    same_derivatives(matrices, wanted, rows / 9)
    same_derivatives(*(jax.vmap(f, -1) for f in (matrices, wanted)), jnp.stack([rows, 2 * rows], -1) / 9)
    assert "scatter" not in str(jax.make_jaxpr(jax.grad(lambda rows: jnp.sum(matrices(rows))))(rows))


@pytest.mark.parametrize("outputs, inputs", [(1, 3), (2, 5), (7, 3)])
def test_first_layers_whose_tangents_are_those_of_all_samples(outputs, inputs):
    """Behind a linear map, curvature is contracted with products of its columns; elsewhere sample by sample."""
    W, V, U, X = draw(inputs, 6), draw(6, 6), draw(6, outputs), draw(4, inputs)
    models = (
        lambda W, x: jnp.tanh(jnp.tanh(x @ W + 1) @ V) @ U,
        lambda W, x: jnp.tanh(jax.nn.relu(x @ W) @ V) @ U,
        lambda W, x: (jnp.sin(x @ W) * jnp.exp(0.3 * (x @ W))) @ U,
    )
    ours = lambda model: nablax.hessian(model, strategy="adjoint")
    plain = lambda model: jax.vmap(jax.hessian(model, 1), (None, 0))

    def of_all(derive, W):
        sums = lambda model: lambda W: (jnp.sum((H := derive(model)(W, X)) ** 2), H)
        return [jax.grad(sums(model), has_aux=True)(W) for model in models]

    found, expected = jax.jit(lambda W: [of_all(derive, W) for derive in (ours, plain)])(W)
    for (gradient, H), (by_plain, wanted) in zip(found, expected, strict=True):
        np.testing.assert_allclose(H, wanted, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(gradient, by_plain, rtol=1e-9, atol=1e-11)
