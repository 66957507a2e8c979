"""Where the samples are, and how many go through the model at once."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_close
from scenarios import Draw

import nablax
from nablax.graph.inline import equations

A, C, D, H = 2, 4, 7, 3
draw = Draw("test_batches")
PARAMS = {"W": draw(H, C), "out": draw(A, H)}
X = draw(D, C)


def model(p, x):
    return p["out"] @ jnp.tanh(p["W"] @ x)


@pytest.fixture(scope="module")
def hessian():
    return jax.jit(jax.vmap(jax.hessian(model, argnums=1), (None, 0)))(PARAMS, X)


class TestAxes:
    def test_layout_of_the_forum(self):
        """X is (C, D): J is (A, C, D), H is (A, C, C, D)."""
        M = draw(2, 4)
        f = lambda M, x: jnp.tanh(M @ x)
        options = {"in_axes": (None, -1), "out_axes": -1}
        jacobian = nablax.jacobian(f, **options)(M, X.T)
        assert jacobian.shape == (2, 4, D)
        z = jnp.tanh(M @ X.T)
        slope = 1 - z**2
        assert_close(jacobian, slope[:, None] * M[:, :, None])
        curvature = (-2 * z * slope)[:, None, None]
        assert_close(nablax.hessian(f, **options)(M, X.T), curvature * (M[:, :, None] * M[:, None, :])[..., None])

    @pytest.mark.parametrize("out_axes", [0, 1, 2, 3, -1, -2, -3, -4])
    def test_every_output_axis(self, hessian, out_axes):
        found = nablax.hessian(model, out_axes=out_axes)(PARAMS, X)
        assert_close(found, jnp.moveaxis(hessian, 0, out_axes))

    @pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
    def test_every_input_axis(self, axis):
        X = draw(5, 3, 2)
        f = lambda x: jnp.sum(jnp.sin(x), 0) * x[0, 0]
        assert_close(nablax.jacobian(f, in_axes=axis)(jnp.moveaxis(X, 0, axis)), jax.jit(jax.vmap(jax.jacrev(f)))(X))

    def test_one_int_for_all_arguments(self):
        each = jax.tree.map(lambda leaf: jnp.stack([leaf] * D), PARAMS)
        assert_close(nablax.jacobian(model, in_axes=0)(each, X), nablax.jacobian(model)(PARAMS, X))

    def test_axes_as_a_list_and_too_short(self):
        f = lambda p, x, s: model(p, x) * s
        for in_axes in ([None, 0], (None, 0), (None, 0, None)):
            assert_close(nablax.jacobian(f, in_axes=in_axes)(PARAMS, X, 2.0), 2 * nablax.jacobian(model)(PARAMS, X))

    def test_axes_of_single_leaves(self):
        """A tree of axes, with None for a part of x that all samples share."""
        x = {"own": X.T, "shared": draw(3)}
        f = lambda x: jnp.sin(x["own"]) * jnp.sum(x["shared"] ** 2)
        axes = ({"own": -1, "shared": None},)
        found = nablax.jacobian(f, in_axes=axes)(x)
        exact = jax.jit(jax.vmap(jax.jacrev(f), axes))(x)
        assert found["own"].shape == (D, C, C)
        assert found["shared"].shape == (D, C, 3)
        assert_close(found, exact)

    def test_parameters_partly_batched(self):
        p = {"W": PARAMS["W"], "out": jnp.stack([PARAMS["out"]] * D, axis=1)}
        axes = ({"W": None, "out": 1}, 0)
        assert_close(nablax.jacobian(model, in_axes=axes)(p, X), nablax.jacobian(model)(PARAMS, X))

    def test_out_axes_by_want_and_by_leaf(self, hessian):
        axes = {"value": 1, "hessian": -1}
        found = nablax.derivatives(model, "value", "hessian", out_axes=axes)(PARAMS, X)
        assert_close(found["hessian"], jnp.moveaxis(hessian, 0, -1))
        assert found["value"].shape == (A, D)
        f = lambda x: (x, jnp.sum(x**2))
        pair = nablax.jacobian(f, out_axes=(2, 1))(X)
        assert pair[0].shape == (C, C, D)
        assert_close(pair[1], 2 * X.T)

    def test_axis_of_a_scalar_output(self):
        assert nablax.hessian(lambda p, x: model(p, x)[0], out_axes=1)(PARAMS, X).shape == (C, D, C)
        assert nablax.laplacian(lambda p, x: model(p, x)[0], out_axes=-1)(PARAMS, X).shape == (D,)


class TestChunks:
    @pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 6, 7, 8, 100, None, "auto"])
    def test_every_size(self, hessian, chunk_size):
        assert_close(nablax.hessian(model, chunk_size=chunk_size)(PARAMS, X), hessian)

    @pytest.mark.parametrize("samples", [1, 2, 4, 6])
    def test_every_number_of_samples(self, hessian, samples):
        assert_close(nablax.hessian(model, chunk_size=4)(PARAMS, X[:samples]), hessian[:samples])

    def test_batched_arguments_of_all_kinds_are_chunked_alike(self):
        f = lambda p, x, t, n: p * x[n] * x**2 + t["a"]
        t = {"a": draw(D, C)}
        n = draw.integers(C, D)
        p = draw(C, D)
        axes = (1, 0, 0, 0)
        exact = jax.jit(jax.vmap(jax.hessian(f, argnums=1), axes))(p, X, t, n)
        assert_close(nablax.hessian(f, in_axes=axes, chunk_size=3)(p, X, t, n), exact)

    def test_no_sample_is_computed_twice_where_the_size_divides(self):
        """6 samples by 3: the compiled program has a loop of 2 steps of 3, without padding."""
        text = str(jax.make_jaxpr(nablax.hessian(model, chunk_size=3))(PARAMS, X[:6]))
        assert "length=2" in text
        assert "concatenate" not in text

    def test_memory_of_the_backward_pass_is_bounded(self):
        """Chunks are computed again: the gradient of 16 chunks keeps no more per chunk than the inputs."""
        many = jnp.concatenate([X[:4]] * 64)
        wide = {"W": draw(64, C), "out": draw(A, 64)}

        def temporary(chunk_size):
            loss = lambda p: jnp.sum(nablax.hessian(model, chunk_size=chunk_size)(p, many) ** 2)
            return jax.jit(jax.grad(loss)).lower(wide).compile().memory_analysis().temp_size_in_bytes

        assert temporary(16) < temporary(None) / 3

    def test_chunks_compute_one_after_the_other(self):
        """The forward pass of chunks needs less memory too."""
        many = jnp.concatenate([X[:4]] * 64)
        wide = {"W": draw(64, C), "out": draw(A, 64)}

        def temporary(chunk_size):
            f = jax.jit(nablax.laplacian(model, chunk_size=chunk_size))
            return f.lower(wide, many).compile().memory_analysis().temp_size_in_bytes

        assert temporary(16) < temporary(None) / 3

    def test_integer_and_boolean_arguments_in_chunks(self):
        f = lambda p, x, keep: jnp.where(keep, x**3, 0.0) * p
        keep = draw.integers(2, D, C).astype(bool)
        found = nablax.hessian_diagonal(f, in_axes=(None, 0, 0), chunk_size=2)(2.0, X, keep)
        exact = jnp.where(keep, 12 * X, 0.0)[:, :, None] * jnp.eye(C)[None]
        assert_close(found, exact)

    def test_aux_that_does_not_depend_on_x(self):
        """It is repeated for every sample, also when there is only one chunk."""
        f = lambda p, x: (jnp.sum(x**2), p["out"])
        for chunk_size in (None, 3):
            _, aux = nablax.hessian(f, has_aux=True, chunk_size=chunk_size)(PARAMS, X)
            np.testing.assert_array_equal(aux, np.broadcast_to(PARAMS["out"], (D, A, H)))


def test_one_sample_is_a_batch():
    f = lambda x: jnp.sin(x)
    assert nablax.hessian(f)(X[:1]).shape == (1, C, C, C)
    assert nablax.hessian(f, chunk_size=1)(X[:1]).shape == (1, C, C, C)


@pytest.fixture
def smaller_chunks(monkeypatch):
    """Gradients go through the model by four samples at a time, values all at once."""
    monkeypatch.setattr("nablax._call.choose_for_gradient", lambda problem, plan: replace(plan, chunk_size=4))


def steps_of_scans(f, *args):
    return {eqn.params["length"] for eqn in equations(jax.make_jaxpr(f)(*args).jaxpr) if eqn.primitive.name == "scan"}


def curved(M, x, k=1, s=1.0):
    return s * jnp.tanh(M @ x) * x[0] ** k


M12, X12 = draw(2, 3), draw(12, 3)
LOSS = lambda f: lambda M, X: jnp.sum(f(M, X) ** 2)
PLAIN = jax.jit(jax.vmap(jax.hessian(curved, 1), (None, 0)))


@pytest.mark.parametrize("strategy", ["adjoint", "forward"])
def test_what_is_differentiated_goes_through_in_smaller_chunks(smaller_chunks, strategy):
    H = nablax.hessian(lambda M, x: curved(M, x), strategy=strategy)
    assert steps_of_scans(H, M12, X12) == set()
    assert steps_of_scans(jax.grad(LOSS(H)), M12, X12) == {3}
    assert_close(H(M12, X12), PLAIN(M12, X12))
    for transform in (jax.grad, jax.jacfwd, jax.hessian):
        for argument in (0, 1):
            by_ours, plain = (jax.jit(transform(LOSS(f), argument))(M12, X12) for f in (H, PLAIN))
            assert_close(by_ours, plain)
    mapped = jax.jit(jax.vmap(jax.grad(LOSS(H)), (0, None)))(jnp.stack([M12, 2 * M12]), X12)
    assert_close(mapped[1], jax.jit(jax.grad(LOSS(PLAIN)))(2 * M12, X12))


def test_smaller_chunks_of_integers_keys_and_what_does_not_move(smaller_chunks):
    """Only what is differentiated is pushed: integers and keys beside it have no tangents."""
    model = lambda M, x, k, key: (curved(M, x, 2), {"k": k, "noise": jax.random.normal(key)})
    H = nablax.hessian(model, in_axes=(None, 0, 0, None), has_aux=True)
    k, key = jnp.arange(12), jax.random.key(0)
    loss = lambda M: (lambda found: (jnp.sum(found[0] ** 2), found[1]))(H(M, X12, k, key))
    slope, aux = jax.jit(jax.grad(loss, has_aux=True))(M12)
    plain = jax.vmap(jax.hessian(lambda M, x: curved(M, x, 2), 1), (None, 0))
    assert_close(slope, jax.jit(jax.grad(LOSS(plain)))(M12, X12))
    assert aux["k"].tolist() == list(range(12))
    assert_close(aux["noise"], jnp.full(12, jax.random.normal(key)))


def test_smaller_chunks_keep_derivatives_by_what_a_model_captures(smaller_chunks):
    """A traced value inside the model, an array that it holds, and weights."""
    by_capture = jax.jit(jax.grad(lambda M: jnp.sum(nablax.hessian(lambda x: curved(M, x))(X12) ** 2)))(M12)
    assert_close(by_capture, jax.jit(jax.grad(LOSS(PLAIN)))(M12, X12))

    def inside(s):
        return jnp.sum(nablax.laplacian(lambda M, x: curved(M, x, 1, s), weights=s)(M12, X12) ** 2)

    trace = jnp.trace(PLAIN(M12, X12), axis1=2, axis2=3)
    expected = jax.jit(jax.grad(lambda s: jnp.sum((s * s * trace) ** 2)))(1.3)
    for f in (inside, jax.jit(inside), jax.checkpoint(inside)):
        assert_close(jax.jit(jax.grad(f))(1.3), expected)
        assert_close(jax.jit(lambda s, f=f: jax.jvp(f, (s,), (1.0,))[1])(1.3), expected)
