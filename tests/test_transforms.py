"""Each transform by itself: its results and its options."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from perceptron import PARAMS, SECOND_ORDER, TRANSFORMS, A, C, D, H, X, expected, model
from reference import assert_close
from scenarios import Draw

import nablax

FIRST_ORDER = ("auto", "forward", "reverse", "forward_over_reverse", "forward_over_forward", "reverse_over_reverse")
WEIGHTS = Draw("test_transforms")(C, C)


def scalar_model(p, x):
    return model(p, x)[0]


def field(p, x):
    """A vector field: as many outputs as inputs."""
    return jnp.sin(p["W"] @ x)[:C] * x[0]


@pytest.mark.parametrize("want", TRANSFORMS)
@pytest.mark.parametrize("f", [model, scalar_model])
def test_each_transform(want, f):
    """By itself a want may be computed in another way than beside others. A scalar output has no A axis."""
    assert_close(getattr(nablax, want)(f)(PARAMS, X), expected(f)[want])


@pytest.mark.parametrize("strategy", FIRST_ORDER)
@pytest.mark.parametrize("f", [model, scalar_model])
def test_first_order_wants_by_every_strategy(strategy, f):
    found = nablax.derivatives(f, "value", "jacobian", strategy=strategy)(PARAMS, X)
    assert_close(found, {want: expected(f)[want] for want in ("value", "jacobian")})
    assert_close(nablax.derivatives(f, "value", strategy=strategy)(PARAMS, X), {"value": expected(f)["value"]})


@pytest.mark.parametrize("strategy", FIRST_ORDER)
def test_divergence(strategy):
    jacobian = expected(field)["jacobian"]
    assert_close(nablax.divergence(field, strategy=strategy)(PARAMS, X), jnp.trace(jacobian, axis1=1, axis2=2))


def test_divergence_of_trees_and_ranks():
    """x is a tree of a scalar and a matrix; so is the field."""
    X = {"s": Draw("trees")(D), "m": Draw("trees")(D, 2, 3)}

    def field(x):
        return {"s": x["s"] ** 3, "m": jnp.sin(x["m"]) * x["s"] + x["m"][::-1]}

    exact = 3 * X["s"] ** 2 + (jnp.cos(X["m"]) * X["s"][:, None, None]).sum((1, 2))
    assert_close(nablax.divergence(field)(X), exact)
    assert_close(nablax.derivatives(field, "divergence", "hessian_diagonal")(X)["divergence"], exact)


def test_divergence_of_a_scalar_field_of_one_variable():
    assert_close(nablax.divergence(jnp.sin)(X[:, 0]), jnp.cos(X[:, 0]))


@pytest.mark.parametrize("strategy", SECOND_ORDER)
@pytest.mark.parametrize("W", [2.5, WEIGHTS[0], WEIGHTS], ids=["number", "vector", "matrix"])
def test_weights_of_the_laplacian(strategy, W):
    matrix = W if jnp.ndim(W) == 2 else jnp.diag(jnp.broadcast_to(W, (C,)))
    exact = expected(model, W=matrix)["laplacian"]
    assert_close(nablax.laplacian(model, weights=W, strategy=strategy)(PARAMS, X), exact)
    assert_close(
        nablax.derivatives(model, "hessian", "laplacian", weights=W, strategy=strategy)(PARAMS, X)["laplacian"], exact
    )


def test_weights_may_be_traced_and_differentiated():
    total = lambda W: nablax.laplacian(model, weights=W)(PARAMS, X).sum()
    assert_close(jax.jit(jax.grad(total))(WEIGHTS), expected(model)["hessian"].sum((0, 1)))


def test_weights_of_numpy_and_lists_of_numbers():
    exact = expected(model, W=np.diag([1.0, 2.0, 3.0]))["laplacian"]
    assert_close(nablax.laplacian(model, weights=np.array([1, 2, 3]))(PARAMS, X), exact)


def test_wants_come_in_any_order_and_number():
    wants = ("laplacian", "value", "hessian_diagonal")
    found = nablax.derivatives(model, *wants)(PARAMS, X)
    assert set(found) == set(wants)
    assert_close(found, {want: expected(model)[want] for want in wants})


class TestWrt:
    """Which argument is differentiated; the others are constants."""

    def test_default_is_the_second_argument_or_the_only_one(self):
        three = lambda p, x, s: model(p, x) * s
        assert_close(nablax.jacobian(three)(PARAMS, X, 2.0), 2 * expected(model)["jacobian"])
        assert_close(nablax.jacobian(lambda x: model(PARAMS, x))(X), expected(model)["jacobian"])

    @pytest.mark.parametrize("wrt", [0, -2])
    def test_an_unbatched_argument(self, wrt):
        """The parameters are shared, the samples are not: every sample has its own derivative by the parameters."""
        found = nablax.jacobian(model, wrt=wrt)(PARAMS, X)
        assert_close(found, jax.vmap(jax.jacrev(model), (None, 0))(PARAMS, X))

    def test_the_third_argument(self):
        f = lambda p, t, x: model(p, x) * t
        found = nablax.hessian(f, wrt=2, in_axes=(None, None, 0))(PARAMS, 2.0, X)
        assert_close(found, 2 * expected(model)["hessian"])

    def test_one_argument_of_two_by_number_zero(self):
        f = lambda x, p: model(p, x)
        assert_close(nablax.hessian(f, wrt=0, in_axes=(0, None))(X, PARAMS), expected(model)["hessian"])


class TestAux:
    """has_aux: the model returns (y, aux), the transform (result, aux)."""

    def with_aux(self, p, x):
        y = model(p, x)
        return y, {"norm": jnp.sum(y**2), "count": jnp.argmax(x), "twice": (2 * x, 7)}

    @pytest.mark.parametrize("strategy", ("auto", *SECOND_ORDER))
    @pytest.mark.parametrize("chunk_size", [None, 2])
    def test_aux_of_every_strategy(self, strategy, chunk_size):
        options = {"has_aux": True, "strategy": strategy, "chunk_size": chunk_size}
        found, aux = nablax.derivatives(self.with_aux, "hessian", "value", **options)(PARAMS, X)
        assert_close(found, {want: expected(model)[want] for want in ("hessian", "value")})
        assert_close(aux["norm"], jnp.sum(expected(model)["value"] ** 2, -1))
        np.testing.assert_array_equal(aux["count"], jnp.argmax(X, -1))
        np.testing.assert_array_equal(aux["twice"][0], 2 * X)
        assert aux["twice"][1].shape == (D,)

    @pytest.mark.parametrize("strategy", ["forward", "reverse"])
    def test_aux_of_first_order(self, strategy):
        found, aux = nablax.jacobian(self.with_aux, has_aux=True, strategy=strategy, out_axes=-1)(PARAMS, X)
        assert_close(found, jnp.moveaxis(expected(model)["jacobian"], 0, -1))
        assert aux["twice"][0].shape == (D, C)  # out_axes is about the result

    def test_gradient_through_aux(self):
        def loss(p):
            hessian, aux = nablax.hessian(self.with_aux, has_aux=True)(p, X)
            return jnp.sum(hessian**2) + jnp.sum(aux["norm"])

        def plain(p):
            return jnp.sum(expected(model, p)["hessian"] ** 2) + jnp.sum(expected(model, p)["value"] ** 2)

        assert_close(jax.grad(loss)(PARAMS), jax.grad(plain)(PARAMS), 1e-9)


class TestModels:
    """What may be a model."""

    def test_equinox_module(self):
        net = eqx.nn.MLP(C, A, H, 1, activation=jnp.tanh, key=jax.random.key(0))
        assert_close(nablax.hessian(net)(X), jax.vmap(jax.hessian(net))(X))

    def test_gradient_by_the_weights_of_an_equinox_module(self):
        net = eqx.nn.MLP(C, A, H, 1, activation=jnp.tanh, key=jax.random.key(0))
        found = eqx.filter_grad(lambda net: jnp.sum(nablax.laplacian(net)(X) ** 2))(net)
        plain = lambda net: jnp.sum(jnp.trace(jax.vmap(jax.hessian(net))(X), axis1=-2, axis2=-1) ** 2)
        assert_close(eqx.filter(found, eqx.is_array), eqx.filter(eqx.filter_grad(plain)(net), eqx.is_array), 1e-9)

    def test_equinox_module_with_a_second_argument(self):
        net = eqx.nn.MLP(C, A, H, 1, activation=jnp.tanh, key=jax.random.key(0))
        params, static = eqx.partition(net, eqx.is_array)
        f = lambda p, x: eqx.combine(p, static)(x)
        assert_close(nablax.hessian(f)(params, X), jax.vmap(jax.hessian(net))(X))

    def test_bound_method_and_callable_object(self):
        class Net:
            def __init__(self, W):
                self.W = W

            def apply(self, x):
                return jnp.sin(self.W @ x)

            __call__ = apply

        net = Net(PARAMS["W"])
        exact = jax.vmap(jax.jacfwd(net.apply))(X)
        assert_close(nablax.jacobian(net.apply)(X), exact)
        assert_close(nablax.jacobian(net)(X), exact)

    def test_partial_of_functools_and_of_jax(self):
        for partial in (functools.partial, jax.tree_util.Partial):
            assert_close(nablax.jacobian(partial(model, PARAMS))(X), expected(model)["jacobian"])

    def test_jitted_model(self):
        assert_close(nablax.hessian(jax.jit(model))(PARAMS, X), expected(model)["hessian"])

    def test_builtin_of_jax(self):
        assert_close(nablax.hessian_diagonal(jnp.sin)(X[:, 0]), -jnp.sin(X[:, 0]))

    def test_constant_output_of_numpy_and_python(self):
        found = nablax.derivatives(lambda x: {"a": np.ones(A), "b": 1.5, "c": x[0]}, "value", "hessian")(X)
        assert found["value"]["b"].shape == (D,)
        assert found["hessian"]["a"].shape == (D, A, C, C)
        assert not any(leaf.any() for leaf in jax.tree.leaves(found["hessian"]))

    def test_identity(self):
        """The output is the input itself."""
        assert_close(nablax.jacobian(lambda x: x)(X), jnp.broadcast_to(jnp.eye(C), (D, C, C)))
        assert not nablax.hessian(lambda x: (x, x))(X)[0].any()

    def test_model_is_called_once_for_one_compilation(self):
        calls = []

        def counted(x):
            calls.append(x.shape)
            return jnp.sin(x)

        nablax.derivatives(counted, "value", "jacobian", "hessian", "laplacian")(X)
        assert calls == [(C,)]

    def test_name_of_the_result(self):
        assert "hessian" in nablax.hessian(model).__name__
        assert "model" in nablax.hessian(model).__name__


def test_results_do_not_depend_on_other_samples():
    """A NaN in one sample stays in that sample."""
    poisoned = X.at[3].set(jnp.nan)
    found = nablax.hessian(model, chunk_size=2)(PARAMS, poisoned)
    others = np.array([0, 1, 2, 4])
    assert np.isnan(found[3]).all()
    assert_close(found[others], expected(model)["hessian"][others])


def test_padding_of_the_last_chunk_does_not_reach_the_gradient():
    """The padded samples are repetitions of the last one, computed and thrown away."""
    f = lambda p, x: jnp.sqrt(p * jnp.sum(x**2))
    loss = lambda p, size: jnp.sum(nablax.laplacian(f, chunk_size=size)(p, X))
    assert_close(jax.grad(loss)(2.0, 3), jax.grad(loss)(2.0, None))


def test_docstrings_state_the_wants():
    for name in (*TRANSFORMS, "divergence", "derivatives", "partials", "check"):
        assert getattr(nablax, name).__doc__
