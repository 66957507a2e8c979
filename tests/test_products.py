"""Products of matrices as a primitive: the same numbers under every transformation, in the order that is fast."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads
from reference import same_gradients_mapped

import nablax
from nablax._compat import DOT_GENERAL
from nablax.graph.inline import inline
from nablax.graph.merge import traced
from nablax.graph.products import product, product_p

HOW = {"precision": lax.Precision.HIGHEST, "preferred_element_type": None}


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


LENGTHS = {"b": 3, "c": 2, "i": 4, "j": 5, "k": 6, "l": 33, "r": 24}
FORMULAS = [
    "bki,bkj->bij",  # written out as sums
    "bik,bjk->bji",
    "kcbi,kbjc->cbij",
    "bli,blj->bij",  # the first factor is copied
    "lbi,jlb->bji",
    "clib,bjlc->cbji",
    "bkil,blkj->bij",  # two sums
    "brl,bjl->brj",  # filled up
    "bjl,brl->bjr",
    "bl,bl->b",
    "bil,bl->bi",
    "il,jl->ji",  # no batch
    "bi,bj->bij",  # no sum
]


def operands(formula):
    first, second, out = re.split(",|->", formula)
    x, y = (draw(*(LENGTHS[a] for a in names)) for names in (first, second))
    return (x, y), lambda x, y: product(x, y, first=first, second=second, out=out, **HOW)


@pytest.mark.parametrize("formula", FORMULAS)
class TestAgainstEinsum:
    def test_value_and_derivatives(self, formula):
        args, ours = operands(formula)
        np.testing.assert_allclose(jax.jit(ours)(*args), jnp.einsum(formula, *args), rtol=1e-12, atol=1e-13)
        assert jax.eval_shape(ours, *args).shape == jnp.einsum(formula, *args).shape
        check_grads(jax.jit(ours), args, order=2)

    def test_mapped_and_its_gradient(self, formula):
        args, ours = operands(formula)
        theirs = lambda x, y: jnp.einsum(formula, x, y)
        same_gradients_mapped(ours, theirs, args, [(0, None), (None, -1), (1, 0)])


def dots(f, *args, platform="cpu"):
    """The products of a program: (whether there is a batch, terms of a sum, whether the first factor has them last)."""
    text = jax.jit(f).trace(*args).lower(lowering_platforms=(platform,)).as_text()
    numbers = r"((?:batching_dims = \S+ x \S+, )?)contracting_dims = \[([\d, ]*)\] x .*?: \(tensor<([\dx]*)x"
    for batch, summed, shape in re.findall(numbers, text):
        axes, lengths = [*map(int, summed.split(", "))], [*map(int, shape.split("x"))]
        last = axes == [*range(len(lengths) - len(axes), len(lengths))]
        yield bool(batch), np.prod([lengths[k] for k in axes]), last


def test_on_a_cpu_the_first_factor_is_summed_over_its_last_axis():
    for formula in ("bli,blj->bij", "bli,blj->bji", "bkil,blkj->bij"):
        args, ours = operands(formula)
        ((batch, _, last),) = dots(ours, *args)
        assert batch
        assert last
    args, ours = operands("bli,blj->bij")
    assert [*dots(ours, *args, platform="cuda")] == [(True, 33, False)]
    for formula in ("bki,bkj->bij", "bkl,bjk->bjl"):  # few terms: no product at all
        args, ours = operands(formula)
        assert [*dots(ours, *args)] == []
        assert [terms for _, terms, _ in dots(ours, *args, platform="cuda")] == [6]
    args, ours = operands("li,lj->ij")
    assert [*dots(ours, *args)] == [(False, 33, False)]


@pytest.mark.parametrize("rows, columns, computed", [(24, 5, 8), (24, 10, 16), (24, 4, 4), (48, 20, 20), (8, 5, 5)])
def test_few_columns_are_filled_up_where_rows_are_many(rows, columns, computed):
    x, y = draw(3, rows, 40), draw(3, columns, 40)
    f = jax.jit(lambda x, y: product(x, y, first="dra", second="dca", out="drc", **HOW)).trace(x, y)
    products = lambda **where: re.findall(r"dot_general.*-> tensor<3x(\d+)x(\d+)x", f.lower(**where).as_text())
    assert products() == [(str(rows), str(computed))]
    assert products(lowering_platforms=("cuda",)) == [(str(rows), str(columns))]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_keep_their_type(dtype):
    x, y = draw(3, 4, 9).astype(dtype), draw(3, 9, 5).astype(dtype)
    how = {"precision": None, "preferred_element_type": jnp.dtype("float32")}
    f = lambda x, y: product(x, y, first="bik", second="bkj", out="bij", **how)
    assert f(x, y).dtype == "float32"
    assert [g.dtype for g in jax.grad(lambda x, y: f(x, y).sum(), (0, 1))(x, y)] == [dtype, dtype]


def attention(p, x):
    """Two heads, and rows of one matrix with all of another."""
    q, k, v = (jnp.tanh(x @ W) for W in p)
    heads = lambda a: a.reshape(*a.shape[:-1], 2, -1)
    scores = jnp.einsum("ihd,jhd->hij", heads(q), heads(k)) + (q @ k.T)[None]
    return jnp.einsum("hij,jhd->ihd", jax.nn.softmax(scores), heads(v)).sum((0, 1))


def test_where_derivatives_are_merged_it_stands_for_dot_general():
    x, y = draw(4, 9), draw(2, 9)
    outer = lambda x, y: jnp.einsum("ki,kj->ij", x.T, y.T)
    names = [eqn.primitive for eqn in jax.make_jaxpr(traced(outer, x, y))(x, y).eqns]
    assert (names.count(product_p), names.count(DOT_GENERAL)) == (1, 0)
    inlined = [eqn.primitive for eqn in inline(jax.make_jaxpr(traced(outer, x, y))(x, y)).equations]
    assert (inlined.count(product_p), inlined.count(DOT_GENERAL)) == (0, 1)


CASES = [("jacobian", "reverse"), ("laplacian", "forward")]
CASES += [pytest.param(*case, marks=pytest.mark.slow) for case in (("jacobian", "forward"), ("laplacian", "adjoint"))]


@pytest.mark.parametrize("want, strategy", CASES)
def test_gradients_of_attention(want, strategy):
    p, X = [draw(3, 72) / 2, draw(3, 72) / 3, draw(3, 72) / 4], draw(5, 7, 3)
    plain = {"jacobian": lambda f: jax.jacfwd(f), "laplacian": lambda f: lambda x: laplacian(f, x)}[want]
    ours = lambda p: getattr(nablax, want)(attention, strategy=strategy)(p, X)
    theirs = lambda p: jax.vmap(plain(lambda x: attention(p, x)))(X)
    loss = lambda f: jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(f(p)))))
    for a, b in zip(loss(ours)(p), loss(theirs)(p), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    # Of 36 terms are products of vectors by matrices, too, which may have any order.
    found = [last for batch, terms, last in dots(jax.grad(lambda p: jnp.sum(ours(p))), p) if batch and terms > 36]
    assert len(found) > 2
    assert all(found)


def laplacian(f, x):
    H = jax.hessian(f)(x)
    return jnp.einsum("aijij->a", H)


def test_a_model_that_holds_one_is_read_as_a_graph():
    """That samples are independent is proved through it, and parameters are found behind it."""
    p, X = [draw(3, 8) / 2, draw(3, 8), draw(3, 8) / 3], draw(5, 7, 3)
    batch = lambda p, X: nablax.jacobian(attention)(p, X).sum((2, 3))
    assert nablax.jacobian(nablax.per_sample(batch))(p, X).shape == (5, 4, 7, 3)
    one = lambda p, x: nablax.laplacian(attention)(p, x[None])[0]
    J = jax.jit(jax.vmap(jax.jacrev(one), (None, 0)))(p, X)
    J = jnp.concatenate([leaf.reshape(5, 4, -1) for leaf in J], -1)
    expected, found = jnp.einsum("dab,ecb->daec", J, J), nablax.parameter_jacobian(one)(p, X).gram()
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-9, atol=1e-9)
