"""Transforms inside other transformations of JAX: jit, grad, vmap, checkpoint, scan, shard_map, and nablax itself."""

import jax
import jax.numpy as jnp
import pytest
from perceptron import PARAMS, SECOND_ORDER, TRANSFORMS, A, C, D, X, expected, model
from reference import assert_close
from scenarios import Draw

import nablax
from nablax.errors import OptionError


@pytest.mark.parametrize("want", TRANSFORMS)
def test_gradient_through_each_transform_by_all_parameters(want):
    cotangent = Draw(want)(*expected(model)[want].shape)
    for options in ({}, {"chunk_size": 2}):
        loss = lambda p, options=options: jnp.sum(getattr(nablax, want)(model, **options)(p, X) * cotangent)
        plain = lambda p: jnp.sum(expected(model, p)[want] * cotangent)
        assert_close(jax.jit(jax.grad(loss))(PARAMS), jax.jit(jax.grad(plain))(PARAMS), 1e-9)


def test_gradient_by_the_inputs():
    loss = lambda X: jnp.sum(nablax.laplacian(model)(PARAMS, X) ** 3)
    plain = lambda X: jnp.sum(expected(model, X=X)["laplacian"] ** 3)
    assert_close(jax.grad(loss)(X), jax.grad(plain)(X), 1e-9)


def test_second_derivative_of_a_loss():
    """Fourth derivatives of the model, by nested use of JAX from outside."""
    direction = jax.tree.map(lambda leaf: Draw("direction")(*leaf.shape), PARAMS)

    def product(loss):
        return jax.jit(lambda p: jax.jvp(jax.grad(loss), (p,), (direction,))[1])(PARAMS)

    loss = lambda p: jnp.sum(nablax.hessian_diagonal(model, chunk_size=2)(p, X) ** 2)
    assert_close(product(loss), product(lambda p: jnp.sum(expected(model, p)["hessian_diagonal"] ** 2)), 1e-9)


def test_jvp_of_a_transform():
    tangent = jax.tree.map(jnp.ones_like, PARAMS)
    found = jax.jvp(lambda p: nablax.hessian(model, chunk_size=2)(p, X), (PARAMS,), (tangent,))
    exact = jax.jvp(lambda p: expected(model, p)["hessian"], (PARAMS,), (tangent,))
    assert_close(found, exact)


def test_vmap_over_an_ensemble_of_parameters():
    ensemble = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, -leaf]), PARAMS)
    found = jax.vmap(nablax.hessian(model, chunk_size=2), (0, None))(ensemble, X)
    for number, factor in enumerate((1, 2, -1)):
        p = jax.tree.map(lambda leaf, factor=factor: factor * leaf, PARAMS)
        assert_close(found[number], expected(model, p)["hessian"])


def test_vmap_with_a_second_batch_axis():
    more = jnp.stack([X, X + 1])
    assert_close(jax.vmap(nablax.laplacian(model), (None, 0))(PARAMS, more)[1], expected(model, X=X + 1)["laplacian"])


def test_checkpointed_caller():
    loss = lambda p: jnp.sum(nablax.hessian(model)(p, X) ** 2)
    assert_close(jax.grad(jax.checkpoint(loss))(PARAMS), jax.grad(loss)(PARAMS))


def test_inside_a_scan():
    """Two steps of gradient descent on a loss that holds a Laplacian."""
    loss = lambda p: jnp.mean(nablax.laplacian(model)(p, X) ** 2)
    plain = lambda p: jnp.mean(expected(model, p)["laplacian"] ** 2)

    def descend(loss):
        step = lambda p, _: (jax.tree.map(lambda a, g: a - 0.01 * g, p, jax.grad(loss)(p)), None)
        return jax.jit(lambda p: jax.lax.scan(step, p, None, length=2)[0])(PARAMS)

    assert_close(descend(loss), descend(plain))


@pytest.mark.parametrize("strategy", ["forward_over_reverse", "forward", "adjoint"])
def test_model_that_closes_over_a_traced_value(strategy):
    """Eager gradient by a parameter that the model finds in its closure."""

    def loss(scale):
        return jnp.sum(nablax.hessian(lambda x: jnp.sin(scale * x[0]) * x, strategy=strategy)(X) ** 2)

    def plain(scale):
        return jnp.sum(jax.vmap(jax.hessian(lambda x: jnp.sin(scale * x[0]) * x))(X) ** 2)

    assert_close(jax.grad(loss)(0.7), jax.grad(plain)(0.7), 1e-9)
    assert_close(jax.jit(jax.grad(loss))(0.7), jax.grad(plain)(0.7), 1e-9)
    assert_close(jax.vmap(loss)(jnp.array([0.3, 0.7]))[1], plain(0.7))


@pytest.mark.parametrize("strategy", ["forward_over_reverse", "forward", "adjoint"])
def test_nested_in_itself(strategy):
    """Laplacian of the Laplacian; tangents of two levels must not be confused."""

    f = lambda z: jnp.sin(z[0] * z[1])
    inner = lambda x: nablax.laplacian(f, strategy=strategy)(x[None])[0]
    plain = lambda x: jnp.trace(jax.hessian(f)(x))
    exact = jax.jit(jax.vmap(lambda x: jnp.trace(jax.hessian(plain)(x))))(X[:, :2])
    assert_close(nablax.laplacian(inner, strategy=strategy)(X[:, :2]), exact, 1e-9)


@pytest.mark.parametrize("strategy", ("forward", "reverse"))
def test_perturbation_confusion(strategy):
    """d/dx [x d/dy (x + y)] = 1: the classical trap, which answers 2 where the levels are confused."""

    def outer(x):
        inner = nablax.jacobian(lambda y: x + y, strategy=strategy)(jnp.ones(1))[0]
        return x * inner

    assert_close(nablax.jacobian(outer, strategy=strategy)(jnp.array([3.0, 5.0])), jnp.ones(2))


def test_gradient_inside_the_model():
    """The model differentiates through nablax itself: Hessian of a force."""
    energy = lambda x: jnp.prod(jnp.sin(x))
    force = lambda x: -nablax.jacobian(energy)(x[None])[0]
    assert_close(nablax.jacobian(force)(X), -jax.vmap(jax.hessian(energy))(X))


@pytest.mark.parametrize("strategy", SECOND_ORDER)
def test_shard_map(strategy):
    """Over a mesh of one device; each shard is chunked by itself.

    JAX's check of which values differ from shard to shard (check_vma) refuses programs that were traced outside.
    """
    mesh = jax.make_mesh((1,), ("samples",), axis_types=(jax.sharding.AxisType.Auto,))
    P = jax.sharding.PartitionSpec
    f = nablax.hessian(model, chunk_size=2, strategy=strategy)
    sharded = jax.shard_map(f, mesh=mesh, in_specs=(P(), P("samples")), out_specs=P("samples"), check_vma=False)
    assert_close(jax.jit(sharded)(PARAMS, X), expected(model)["hessian"])


def test_export():
    f = jax.jit(nablax.hessian(model))
    exported = jax.export.export(f)(PARAMS, X)
    assert_close(exported.call(PARAMS, X), expected(model)["hessian"])


def symbolic():
    """Types of the arguments, the number of samples a symbol."""
    (samples,) = jax.export.symbolic_shape("samples")
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), PARAMS)
    return params, jax.ShapeDtypeStruct((samples, *X.shape[1:]), X.dtype)


@pytest.mark.parametrize("want", TRANSFORMS)
def test_export_for_any_number_of_samples(want):
    exported = jax.export.export(jax.jit(getattr(nablax, want)(model)))(*symbolic())
    for some in (X, X[:1]):
        assert_close(exported.call(PARAMS, some), expected(model, X=some)[want])
    loss = lambda p: jnp.sum(exported.call(p, X) ** 2)
    assert_close(jax.grad(loss)(PARAMS), jax.grad(lambda p: jnp.sum(expected(model, p)[want] ** 2))(PARAMS), 1e-9)


def test_export_of_parameter_derivatives_for_any_number_of_samples():
    operator = nablax.parameter_jacobian(model)
    exported = jax.export.export(jax.jit(lambda p, X: (operator(p, X).dense(), operator(p, X).gram())))(*symbolic())
    found = exported.call(PARAMS, X)
    assert_close(found, (operator(PARAMS, X).dense(), operator(PARAMS, X).gram()))


@pytest.mark.parametrize("options", [{"chunk_size": 2}, {"memory_budget": "1 MiB"}, {"strategy": "autotune"}])
def test_what_needs_the_number_of_samples_says_so(options):
    export = jax.export.export(jax.jit(nablax.hessian(model, **options)))
    with pytest.raises(OptionError, match="the symbol samples, and chunk_size as a number, memory_budget and strategy"):
        export(*symbolic())


def test_eval_shape():
    assert jax.eval_shape(nablax.hessian(model), PARAMS, X).shape == (D, A, C, C)
