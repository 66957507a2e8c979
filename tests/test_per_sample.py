"""Models written for a whole batch: independent samples are proved, coupled ones refused with their line."""

from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_batch_models
from batch_models import ACCEPTED, COUPLED, A, C, D, P, draw
from jax import lax
from jax.extend.core import primitives

import nablax
from nablax import errors
from nablax.graph.classify import INLINED
from nablax.independence import calls, proof

X = draw(D, C)


@pytest.fixture(autouse=True)
def promotion():
    """A bias for all samples is added as everybody does it."""
    with jax.numpy_rank_promotion("allow"):
        yield


def batch_of(model):
    return draw(D, *model.shape)


def samples_first(model):
    """The batch model as a function of X with the samples on axis 0, its outputs likewise."""
    axis = (model.options.get("in_axes") or (None, 0))[1]
    out_axes = model.options.get("out_axes", 0)

    def function(X):
        outputs = model.function(P, jnp.moveaxis(X, 0, axis), *model.rest)
        axes = jax.tree.broadcast(out_axes, outputs, is_leaf=lambda a: a is None)
        first = lambda a, y: jnp.broadcast_to(y, (D, *y.shape)) if a is None else jnp.moveaxis(y, a, 0)
        return jax.tree.map(first, axes, outputs, is_leaf=lambda a: a is None)

    return function


def along(function, order, X, V, W):
    """Values of all samples, and their first and second derivatives when all samples move at once.

    Samples that are independent have H_d[v_d, w_d]; a term that mixes samples would have to vanish by chance.
    """
    first = lambda X: jax.jvp(function, (X,), (V,))
    if order == 1:
        return first(X)
    (y, by_V), (_, by_both) = jax.jvp(first, (X,), (W,))
    return y, by_V, by_both


def along_backwards(function, order, X, V, W):
    """The same for a model that has no forward mode: by pullbacks, and pullbacks of those."""
    pulled = lambda X, U: jax.vjp(function, X)[1](U)[0]
    y = function(X)
    # <U, J V> is linear in U, and so is what is pulled back of it.
    first = lambda X: jax.vjp(lambda U: jnp.vdot(pulled(X, U), V), jnp.zeros_like(y))[1](1.0)[0]
    second = jax.vjp(lambda U: jnp.vdot(jax.vjp(first, X)[1](U)[0], W), jnp.zeros_like(y))[1](1.0)[0]
    return y, first(X), second


def contracted(array, *directions):
    """Derivatives (D, *y, *x, *x) of each sample along its own directions (D, *x)."""
    for v in reversed(directions):
        matrix = np.reshape(array, (D, -1, v[0].size))
        array = np.einsum("dyx,dx->dy", matrix, v.reshape(D, -1)).reshape(array.shape[: array.ndim - v.ndim + 1])
    return array


@pytest.mark.parametrize("model", ACCEPTED, ids=lambda model: model.name)
def test_independent_samples(model):
    """Value, Jacobian and Hessian are those of nested differentiation through the whole batch."""
    X, V, W = batch_of(model), draw(D, *model.shape), draw(D, *model.shape)
    one = nablax.per_sample(model.function, **model.options)
    wants = ("value", "jacobian", "hessian")[: model.order + 1]
    transform = nablax.derivatives(one, *wants, in_axes=(None, 0, *[0] * len(model.rest)))
    reference = partial(along_backwards if model.reverse else along, samples_first(model), model.order)
    found, expected = jax.jit(lambda *X: (transform(P, X[0], *model.rest), reference(*X)))(X, V, W)
    for times, (want, derivative) in enumerate(zip(wants, expected, strict=True)):
        compare = lambda a, b: np.testing.assert_allclose(contracted(a, *(V, W)[:times]), b, rtol=1e-10, atol=1e-10)
        jax.tree.map(compare, found[want], derivative)


@pytest.mark.parametrize("model", COUPLED, ids=lambda model: model.name)
def test_coupled_samples(model):
    """Refused, with the operation, what it does to which axis, and the line of this program."""
    with pytest.raises(errors.CoupledSamplesError) as caught:
        nablax.hessian(nablax.per_sample(model.function, **model.options))(P, batch_of(model), *model.rest)
    said = "the samples are coupled" if model.proven else "cannot prove"
    for fragment in (said, model.operation, model.axis, f"at {model.line}. "):
        assert fragment in str(caught.value)


def test_how_many():
    assert len(ACCEPTED) >= 40
    assert len(COUPLED) >= 30


def test_operations_without_a_rule_are_listed():
    page = (Path(__file__).parents[1] / "docs" / "per_sample.md").read_text()
    known = {**proof.RULES, **calls.RULES}
    found = {name[:-2]: getattr(place, name) for place in (primitives, lax) for name in dir(place) if name[-2:] == "_p"}
    without = [name for name, primitive in found.items() if primitive not in known and primitive not in INLINED]
    assert [name for name in without if f"`{name}`" not in page] == []


# --- trying to fool it ---


def lonely_branch(X):
    return X - X.mean(axis=0) if len(X) == 1 else X**2


def squeezed(X):
    return jnp.squeeze(X**2)


def no_rank_left(X):
    return jnp.squeeze((X**2).sum(axis=1))


@pytest.mark.parametrize("function", [lonely_branch, squeezed, no_rank_left], ids=lambda f: f.__name__)
def test_a_batch_of_one_may_be_special(function):
    """Such models run for two samples, and are those of larger batches."""
    one = nablax.per_sample(function)
    np.testing.assert_allclose(jax.vmap(one)(X), function(X), rtol=1e-12)
    assert nablax.hessian(one)(X).any()


REFUSED = {
    "two are special": lambda X: X - X.mean(axis=0) if len(X) <= 2 else X,
    "even numbers are special": lambda X: X - X.mean(axis=0) if len(X) % 2 == 0 else X,
    "many are special": lambda X: X - X.mean(axis=0) if len(X) > 64 else X,
    "own index moved on": lambda X: X[(jnp.arange(len(X)) + 1) % len(X)],
    "own index backwards": lambda X: X[jnp.arange(len(X))[::-1]],
    "own index into parameters": lambda X: X * jnp.sin(jnp.arange(4000.0))[jnp.arange(len(X))][:, None],
    "own index as a small integer": lambda X: X[jnp.arange(len(X), dtype=jnp.int8), 0],
    "own index compared": lambda X: jnp.where(jnp.arange(len(X))[:, None] == 0, X, X**2),
    "weights of positions": lambda X: X * jnp.linspace(0, 1, len(X))[:, None],
    "number of samples in a vector": lambda X: X * jnp.full((len(X), 1), 1.0 / len(X)),
    "number of samples by a sum of ones": lambda X: X / jnp.ones(len(X)).sum(),
    "number of samples as steps": lambda X: lax.fori_loop(0, len(X), lambda i, h: h * 1.1, X),
    "number of samples as a limit": lambda X: lax.while_loop(
        lambda state: state[0] < len(X), lambda state: (state[0] + 1, 1.1 * state[1]), (0, X)
    )[1],
    "number of samples as a branch": lambda X: lax.cond(len(X) > 3, jnp.sin, jnp.cos, X),
    "counter of a loop": lambda X: lax.scan(lambda i, x: (i + 1, x * i), 0, X)[1],
    "samples of two loops": lambda X: lax.map(lambda x: lax.map(lambda y: x @ y, X).sum() + x, X),
    "all samples in every step": lambda X: lax.map(lambda x: x * X.sum(), X),
    "a sample picked by another": lambda X: lax.map(lambda x: X[(x[0] > 0).astype(int)], X),
    "order read backwards": lambda X: X.T.reshape(len(X), C),
    "order of columns": lambda X: X.reshape(C, len(X)).T,
    "direction of a loop": lambda X: lax.scan(lambda h, x: (h + x, h), 0.0 * X[:, 0], X.T, reverse=len(X) == 23)[1].T,
    "direction of a reduction": lambda X: lax.reduce(
        X, 0.5, (lambda a, b: a - 2 * b) if len(X) == 23 else (lambda a, b: b - 2 * a), (1,)
    ),
    "number of branches": lambda X: lax.switch(0, [jnp.sin, jnp.cos, jnp.tan][: 2 + len(X) % 2], X),
    "mutable state": lambda X: stateful(X),
    "mean over devices": lambda X: jax.vmap(lambda x: x - lax.pmean(x, "batch"), axis_name="batch")(X),
    "number of devices": lambda X: jax.vmap(lambda x: x * lax.psum(1, "batch"), axis_name="batch")(X),
    "place among devices": lambda X: jax.vmap(lambda x: x * lax.axis_index("batch"), axis_name="batch")(X),
    "gradient of a mean": jax.grad(lambda X: jnp.mean(jnp.tanh(X) ** 2)),
    "gradient of a product": jax.grad(lambda X: jnp.sum(jnp.tanh(X)) ** 2),
    "segments": lambda X: jax.ops.segment_sum(X, jnp.zeros(len(X), int), 1) + X,
    "ranks": lambda X: X * jnp.argsort(X, axis=0),
    "noise with one key": lambda X: X * jax.random.gamma(jax.random.key(0), jnp.exp(X)),
    "written into one row": lambda X: X.at[0].set(X[1]),
    "shape as a value": lambda X: X * jnp.array(X.shape)[0],
}


def stateful(X):
    total = jax.new_ref(jnp.zeros(()))
    total[...] = X.sum()
    return X * total[...]


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_not_fooled(name):
    with pytest.raises(errors.CoupledSamplesError, match=r"test_per_sample\.py:\d+"):
        jax.eval_shape(nablax.per_sample(REFUSED[name]), X[0])


KEY = jax.random.key(7)

INDEPENDENT = {
    "gradient of a sum": jax.grad(lambda X: jnp.sum(jnp.tanh(X) ** 2)),
    "hessians": jax.vmap(jax.hessian(jnp.prod)),
    "derivatives by nablax": nablax.laplacian(lambda x: jnp.sum(jnp.sin(x)) ** 2),
    "flat": lambda X: (X.reshape(-1) ** 2 * jnp.tile(jnp.arange(4.0), len(X))).reshape(-1, C),
    "flat, by numpy": lambda X: (X.T.reshape(-1) * np.repeat(np.arange(4.0), len(X))).reshape(C, -1).T,
    "one key for all": lambda X: X * jax.vmap(lambda x: jax.random.normal(jax.random.key(0), (C,)))(X),
    "weight through a loop": lambda X: lax.scan(lambda w, x: (w, w * x), 2.0, X)[1],
    "interpolation": lambda X: jnp.interp(X, jnp.arange(5.0), jnp.sin(jnp.arange(5.0))),
    "median": lambda X: jnp.median(X, axis=1),
    "associative scan": lambda X: lax.associative_scan(jnp.multiply, X, axis=1),
    "own index with columns": lambda X: X[jnp.arange(len(X))[:, None], jnp.arange(2)[None, :]],
    "singular values": lambda X: jnp.linalg.svd(X.reshape(-1, 2, 2))[1],
    "vectorize": jnp.vectorize(lambda x: x.sum() * x, signature="(n)->(n)"),
    "attention of jax": lambda X: jax.nn.dot_product_attention(*[X.reshape(-1, 2, 1, 2)] * 3),
    "generic reductions": lambda X: lax.reduce(X, 1.0, lambda a, b: a * b + 0 * a, (1,)),
    "key from outside": lambda X: X * jax.random.normal(KEY, (1, C)),
    "printed": lambda X: (jax.debug.callback(lambda x: None, X.sum()), X**2)[1],
    "scan of scans": lambda X: lax.map(lambda x: lax.scan(lambda h, c: (h * c, h), 1.0, x)[1], X),
}


@pytest.mark.parametrize("options", [{}, {"chunk_size": 8}, {"memory_budget": "200KiB"}])
def test_a_model_that_takes_derivatives_in_chunks(options):
    """The model is compared for a thousand samples, too: enough for chunks, or more than a budget."""
    W = jnp.asarray(np.random.default_rng(5).normal(size=(8, 100))) / 3
    u = lambda x: jnp.tanh(jnp.tanh(x @ W) @ W.T)
    X = jnp.asarray(np.random.default_rng(6).normal(size=(4, 8)))
    batch = lambda X: nablax.hessian(u, **options)(X).sum((2, 3))
    assert nablax.explain(u, "hessian")(jax.ShapeDtypeStruct((1022, 8), X.dtype)).chunks > 1
    found = nablax.jacobian(nablax.per_sample(batch))(X)
    expected = jax.vmap(jax.jacfwd(lambda x: jax.hessian(u)(x).sum((1, 2))))(X)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_more_that_is_independent(name):
    """The rows of the batch are what the model of one sample returns; the derivatives are tested above."""
    function = INDEPENDENT[name]
    rows, batch = jax.jit(lambda X: (jax.vmap(nablax.per_sample(function))(X), function(X)))(X)
    np.testing.assert_allclose(rows, batch, rtol=1e-5, atol=1e-12)


def check_random_models(seeds):
    """What is accepted must agree with every row of batches of several sizes."""
    shape = jax.ShapeDtypeStruct((random_batch_models.T, random_batch_models.C), float)
    count = 0
    for seed in seeds:
        model = random_batch_models.draw(seed, length=4 + seed % 5)
        one = nablax.per_sample(model)
        try:
            jax.eval_shape(one, shape)
        except (errors.CoupledSamplesError, errors.AxesError):
            continue
        count += 1
        assert random_batch_models.difference(model, one) < 1e-9, f"{seed}: {model}"
    return count


def test_random_models():
    assert check_random_models(range(3)) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 1500, 50))
def test_many_random_models(start):
    assert check_random_models(range(start, start + 50)) >= 10


# --- with everything else ---


def network(p, X):
    return jnp.tanh(X @ p["V"]) @ p["W"]


one_network = nablax.per_sample(network)


def test_it_composes():
    one = lambda p, x: jnp.tanh(x @ p["V"]) @ p["W"]
    np.testing.assert_allclose(jax.jit(one_network)(P, X[0]), one(P, X[0]), rtol=1e-12)
    weights = {"V": P["V"], "W": P["W"]}
    loss = lambda model: jax.jit(jax.grad(lambda p: jnp.sum(nablax.laplacian(model)(p, X) ** 2)))(weights)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12), loss(one_network), loss(one))
    pairs = {"V": jnp.stack([P["V"]] * 2), "W": jnp.stack([P["W"]] * 2)}
    both = jax.vmap(lambda p: nablax.jacobian(one_network)(p, X))(pairs)
    np.testing.assert_allclose(both[1], nablax.jacobian(one)(P, X), rtol=1e-10)
    captured = jax.jit(lambda V: nablax.jacobian(nablax.per_sample(lambda X: jnp.tanh(X @ V)))(X))
    np.testing.assert_allclose(captured(P["V"]), nablax.jacobian(lambda x: jnp.tanh(x @ P["V"]))(X), rtol=1e-10)


def test_other_public_functions_take_it():
    assert nablax.check(one_network, "jacobian", samples=2)(P, X).passed
    assert nablax.explain(one_network, "hessian")(P, X).outputs == A
    dense = nablax.parameter_jacobian(one_network)({"V": P["V"], "W": P["W"]}, X).dense()
    assert dense.shape == (D, A, C * C + C * A)
    named = nablax.partials(one_network, coordinates="t x y z", of="u u_t u_xx")(P, X)
    assert named["u_xx"].shape == (D, A)


def test_trees_of_samples_and_further_arguments():
    def model(p, X, scale, shift):
        return {"sum": (X["a"] * scale + X["b"].sum(axis=2).T) @ p, "shift": X["a"] + shift}

    tree = {"a": draw(D, C), "b": draw(C, D, 2)}
    scale, shift = draw(D, 1), draw(C)
    axes = (None, {"a": 0, "b": 1}, 0, None)
    one = nablax.per_sample(model, in_axes=axes)
    found = nablax.jacobian(one, in_axes=axes)(P["W"], tree, scale, shift)
    assert found["sum"]["b"].shape == (D, A, C, 2)
    np.testing.assert_allclose(found["shift"]["a"], np.broadcast_to(np.eye(C), (D, C, C)))
    np.testing.assert_allclose(found["sum"]["a"], jnp.swapaxes(scale[:, :, None] * P["W"], 1, 2), rtol=1e-12)


def test_a_changed_global_is_seen():
    scale = {"s": 1.0}
    one = nablax.per_sample(lambda X: scale["s"] * X**2)
    first = nablax.jacobian(one)(X)
    scale["s"] = 3.0
    np.testing.assert_allclose(nablax.jacobian(one)(X), 3 * first, rtol=1e-12)


def test_a_module_with_new_weights_is_not_compiled_again():
    traces = []

    class Network(eqx.Module):
        weights: jax.Array

        def __call__(self, X):
            traces.append(X.shape)
            return jnp.sin(X @ self.weights)

    first = nablax.jacobian(nablax.per_sample(Network(P["W"])))(X)
    count = len(traces)
    second = nablax.jacobian(nablax.per_sample(Network(2 * P["W"])))(X)
    assert len(traces) == count
    assert not np.allclose(first, second)


def test_batch_norm_of_equinox():
    def model(inference, X):
        norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(C, axis_name="batch", mode="ema")
        batched = lambda x: eqx.nn.inference_mode(norm, inference)(x, state)
        return jax.vmap(batched, axis_name="batch", out_axes=(0, None))(X)[0]

    one = nablax.per_sample(partial(model, True))
    np.testing.assert_allclose(jax.vmap(one)(X), model(True, X), rtol=1e-6)
    with pytest.raises(errors.CoupledSamplesError, match=r"psum reduces axis 0 .*test_per_sample\.py"):
        nablax.jacobian(nablax.per_sample(partial(model, False)))(X)


NUMBERS_SHOW = {
    "batch_norm_in_training",
    "rolled_samples",
    "divided_by_their_number",
    "dropout",
    "loop_over_samples_with_memory",
}


class TestAssumeIndependent:
    def test_what_cannot_be_proved(self):
        model = lambda p, X: jnp.stack([jnp.tanh(x @ p["W"]) for x in X])
        one = nablax.per_sample(model, assume_independent=True)
        expected = nablax.hessian(lambda p, x: jnp.tanh(x @ p["W"]))(P, X)
        np.testing.assert_allclose(nablax.hessian(one)(P, X), expected, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("model", [m for m in COUPLED if m.name in NUMBERS_SHOW], ids=lambda model: model.name)
    def test_numbers_show_what_is_coupled(self, model):
        one = nablax.per_sample(model.function, assume_independent=True, **model.options)
        with pytest.raises(errors.CoupledSamplesError, match="random numbers"):
            jax.eval_shape(one, P, X[0])

    def test_a_batch_of_random_keys(self):
        model = lambda keys, X: X * jax.vmap(lambda key: jax.random.uniform(key))(keys)[:, None]
        one = nablax.per_sample(model, in_axes=0, assume_independent=True)
        keys = jax.random.split(jax.random.key(0), D)
        assert nablax.jacobian(one, in_axes=0)(keys, X).shape == (D, C, C)


class TestErrors:
    def test_class(self):
        with pytest.raises(errors.OptionError, match=r"per_sample was given the class MLP .* a whole batch"):
            nablax.per_sample(eqx.nn.MLP)

    def test_in_axes(self):
        with pytest.raises(errors.OptionError, match="in_axes='last'"):
            nablax.per_sample(network, in_axes="last")
        with pytest.raises(errors.AxesError, match=r"axis 2 of argument 1.*shape \(4,\) for one sample.* -2 to 1"):
            nablax.per_sample(network, in_axes=(None, 2))(P, X[0])
        with pytest.raises(errors.AxesError, match="nothing batched"):
            nablax.per_sample(network, in_axes=(None, None))(P, X[0])

    def test_out_axes(self):
        with pytest.raises(errors.AxesError, match=r"out_axes says 1 .* samples on axis 0"):
            nablax.per_sample(network, out_axes=1)(P, X[0])
        with pytest.raises(errors.AxesError, match=r"out_axes says None .* samples on axis 0"):
            nablax.per_sample(network, out_axes=None)(P, X[0])
        with pytest.raises(errors.AxesError, match="no sample axis"):
            nablax.per_sample(lambda X: jnp.ones(3))(X[0])
        with pytest.raises(errors.AxesError, match="together with other entries"):
            nablax.per_sample(lambda X: X.reshape(-1))(X[0])
        with pytest.raises(errors.AxesError, match=r"axis 2 of output 0 .*\(19, 2\).* -2 to 1"):
            nablax.per_sample(network, out_axes=2)(P, X[0])
        with pytest.raises(errors.AxesError, match="does not fit the structure"):
            nablax.per_sample(network, out_axes={"y": 0})(P, X[0])

    def test_a_model_of_one_sample(self):
        with pytest.raises(errors.ModelTraceError, match=r"TypeError .* batch of 19 samples .*in_axes"):
            nablax.per_sample(lambda p, x: p["W"].T @ x)(P, X[0])

    def test_a_structure_that_depends_on_the_number(self):
        with pytest.raises(errors.CoupledSamplesError, match="another structure"):
            nablax.per_sample(lambda X: [X] * (len(X) % 5))(X[0])
