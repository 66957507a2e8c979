"""The dense layer as a primitive: the same numbers as a matrix product under every transformation of JAX."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from reference import same_gradients_mapped

import nablax
from nablax._compat import convolutions_are_products
from nablax.graph.dense import as_dense, dense, dense_p
from nablax.graph.inline import inline

HOW = {"precision": None, "preferred_element_type": None}


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


def product(x, W, axis):
    return jnp.tensordot(x, W, axes=((x.ndim - 1,), (axis,)))


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("axis", [0, 1])
class TestAgainstTensordot:
    def operands(self, leading, axis):
        return draw(*leading, 4), draw(4, 5) if axis == 0 else draw(5, 4)

    def test_value_and_derivatives(self, leading, axis):
        x, W = self.operands(leading, axis)
        f = lambda x, W: jnp.sin(dense(x, W, axis=axis, **HOW))
        np.testing.assert_allclose(f(x, W), jnp.sin(product(x, W, axis)), rtol=1e-12)
        check_grads(jax.jit(f), (x, W), order=2)

    def test_mapped_and_its_gradient(self, leading, axis):
        ours = lambda x, W: dense(x, W, axis=axis, **HOW)
        theirs = lambda x, W: product(x, W, axis)
        same_gradients_mapped(ours, theirs, self.operands(leading, axis), [(0, None), (None, 1), (1, 0), (-1, -1)])


def test_gradient_by_the_matrix_contracts_one_axis():
    """What the primitive is for: XLA copies the factors of a product that contracts two axes."""
    x, W = draw(6, 3, 4), draw(4, 5)
    loss = lambda W: jnp.sum(jax.vmap(jax.vmap(lambda x: dense(x, W, axis=0, **HOW)))(x) ** 2)
    contracted = [
        eqn.params["dimension_numbers"][0]
        for eqn in jax.make_jaxpr(jax.grad(loss))(W).eqns
        if "dot" in eqn.primitive.name
    ]
    assert contracted == [((0,), (0,))]


@pytest.mark.parametrize(
    ("formula", "shapes", "found"),
    [
        ("h,hk->k", ((4,), (4, 5)), True),
        ("nh,kh->nk", ((3, 4), (5, 4)), True),
        ("kh,h->k", ((5, 4), (4,)), True),
        ("h,h->", ((4,), (4,)), False),
        ("bnh,bhk->bnk", ((2, 3, 4), (2, 4, 5)), False),
        ("nmh,mhk->nk", ((3, 2, 4), (2, 4, 5)), False),
    ],
)
def test_which_products_are_dense_layers(formula, shapes, found):
    args = [draw(*shape) for shape in shapes]
    closed = jax.make_jaxpr(lambda a, b: jnp.einsum(formula, a, b))(*args)
    primitives = {eqn.primitive for eqn in inline(closed).equations}
    assert (dense_p in primitives) == found


def test_explicit_sharding_is_left_alone():
    params = {"dimension_numbers": (((0,), (0,)), ((), ())), "precision": None, "preferred_element_type": None}
    operands = jax.typeof(draw(4)), jax.typeof(draw(4, 5))
    assert as_dense(operands, params | {"out_sharding": None})
    assert as_dense(operands, params | {"out_sharding": "anything"}) is None


def test_half_precision_keeps_its_type():
    """A product that accumulates in float32 and returns it, and its gradient in the type of each operand."""
    how = {"precision": None, "preferred_element_type": jnp.dtype("float32")}
    x, W = draw(3, 4).astype("bfloat16"), draw(4, 5).astype("bfloat16")
    f = lambda x, W: dense(x, W, axis=0, **how)
    assert f(x, W).dtype == "float32"
    assert [g.dtype for g in jax.grad(lambda x, W: f(x, W).sum(), (0, 1))(x, W)] == ["bfloat16", "bfloat16"]


def single(*shape):
    return draw(*shape).astype(np.float32)


def compiled(f, *args):
    return jax.jit(f).lower(*args).compile().as_text()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="how a CPU is told")
class TestAsConvolution:
    """In single precision, from a certain size on: the same product, for another library."""

    @pytest.mark.parametrize("leading", [(64,), (16, 33), (3, 4, 8)], ids=str)
    @pytest.mark.parametrize("axis", [0, 1])
    @pytest.mark.parametrize("precision", [None, "highest"])
    def test_value_and_gradients(self, leading, axis, precision):
        x, W = single(*leading, 40), single(40, 36) if axis == 0 else single(36, 40)
        how = HOW | {"precision": precision and (jax.lax.Precision(precision),) * 2}
        for loss in (lambda f: f, lambda f: jax.grad(lambda x, W: jnp.sum(jnp.sin(f(x, W))), (0, 1))):
            found = jax.jit(loss(lambda x, W: dense(x, W, axis=axis, **how)))(x, W)
            exact = jax.jit(loss(lambda x, W: product(x, W, axis)))(x.astype(float), W.astype(float))
            for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
                assert ours.dtype == "float32"
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())

    @pytest.mark.parametrize("rows", [32, 33, 1000])
    @pytest.mark.parametrize("shape", [(32, 32), (50, 100), (257, 64)], ids=str)
    @pytest.mark.parametrize("axis", [0, 1])
    def test_it_is_a_product_again(self, rows, shape, axis):
        """Also in a loop, whose operands are not those of the program. As a convolution it would take many times as
        long.
        """
        W = single(*shape)
        x = single(rows, shape[axis])
        f = lambda x, W: jnp.tanh(dense(jnp.cos(x), W, axis=axis, **HOW))
        looped = lambda x, W: jax.lax.fori_loop(0, 3, lambda k, y: y + f(x * k, W), f(x, W))
        for text in (compiled(f, x, W), compiled(looped, x, W)):
            assert " dot(" in text
            assert " convolution(" not in text

    @pytest.mark.skipif(not convolutions_are_products(), reason="this version of XLA has a loop for it")
    def test_which_are_written_so(self):
        written = lambda x, W, axis=0, **how: (
            "convolution" in jax.jit(lambda x, W: dense(x, W, axis=axis, **HOW | how)).lower(x, W).as_text()
        )
        x, W = single(32, 32), single(32, 32)
        assert written(x, W)
        assert written(single(512, 32), W, axis=1)
        assert written(x, W, preferred_element_type=jnp.dtype("float32"))
        assert not any(
            (
                written(x[:31], W),
                written(x, W[:, :31]),
                written(x[:, :31], W[:31]),
                written(x[0], W),
                written(single(511, 32), W, axis=1),
                written(x.astype(float), W.astype(float)),
                written(x.astype("bfloat16"), W.astype("bfloat16")),
                written(x, W, precision=jax.lax.DotAlgorithmPreset.F32_F32_F32),
            )
        )


def test_exported_for_any_number_of_samples():
    (many,) = jax.export.symbolic_shape("many")
    f = jax.jit(lambda x, W: dense(x, W, axis=0, **HOW))
    x, W = jax.ShapeDtypeStruct((many, 32), np.float32), single(32, 32)
    np.testing.assert_allclose(jax.export.export(f)(x, W).call(W, W), W @ W, rtol=1e-4, atol=1e-4)


def test_without_that_a_product_stays_one(monkeypatch):
    """As with versions of XLA that would compute a convolution."""
    monkeypatch.setattr("nablax.graph.dense.convolutions_are_products", lambda: False)
    lowered = jax.jit(lambda x, W: dense(x, W, axis=0, **HOW)).lower(single(32, 32), single(32, 32))
    assert "convolution" not in lowered.as_text()


def test_nested_transforms_see_a_dense_layer():
    """The Laplacian of a model that holds a Laplacian: the primitive is differentiated through our own graph."""
    W, x = draw(3, 4), draw(2, 3)
    inner = lambda x: jnp.sum(jnp.tanh(x @ W))
    lap = lambda f: lambda x: jnp.trace(jax.hessian(f)(x))
    one = lambda x: nablax.laplacian(inner, strategy="adjoint")(x[None])[0]
    np.testing.assert_allclose(nablax.laplacian(one)(x), jax.jit(jax.vmap(lap(lap(inner))))(x), rtol=1e-9)
