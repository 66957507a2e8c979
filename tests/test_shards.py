"""Samples that are spread over devices stay there, and no device asks another one for anything."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from reference import assert_close

import nablax
from nablax import _call

COLLECTIVES = re.compile(r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast")
RNG = np.random.default_rng(0)
PARAMS = {"W": RNG.normal(size=(5, 4)), "V": RNG.normal(size=(3, 5))}
X = RNG.normal(size=(24, 4))
KINDS = (AxisType.Auto, AxisType.Explicit)


def model(params, x):
    return params["V"] @ jnp.tanh(params["W"] @ x)


def mesh_of(kind):
    return jax.make_mesh((2, 2), ("data", "more"), axis_types=(kind, kind))


def text_of_call(monkeypatch, f, *args):
    """(result, the compiled program of an eager call)."""
    programs, original = [], _call.compiled
    monkeypatch.setattr(_call, "compiled", lambda *key: programs.append(original(*key)) or programs[-1])
    result = f(*args)
    return result, programs[0].lower([], None, args).compile().as_text()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("want", ["jacobian", "hessian", "laplacian"])
def test_a_mesh_of_one_device(kind, want):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(kind,), devices=jax.devices()[:1])
    placed = jax.device_put(X, NamedSharding(mesh, PartitionSpec("data")))
    derive = getattr(nablax, want)(model)
    assert_close(derive(PARAMS, placed), derive(PARAMS, X))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("names", ["data", ("data", "more")], ids=str)
def test_results_stay_where_the_samples_are(kind, names, monkeypatch):
    spread = jax.device_put(X, NamedSharding(mesh_of(kind), PartitionSpec(names)))
    f = nablax.hessian(model, chunk_size=4)  # 12 or 6 samples on a device: two or three chunks, the last one padded
    found, text = text_of_call(monkeypatch, f, PARAMS, spread)
    assert_close(found, f(PARAMS, X))
    assert found.sharding.spec[0] == names
    assert not COLLECTIVES.findall(text)


@pytest.mark.parametrize("inside", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_sines_of_one_device_do_not_ask_another(inside, monkeypatch):
    """Series on every device, however large their numbers are (see `nablax.graph.sine`)."""
    f = nablax.jacobian(lambda params, x: params["V"] @ jnp.sin(params["W"] @ x), chunk_size=None)
    single = jax.tree.map(jnp.float32, (PARAMS, X))
    spread = jax.device_put(single[1], NamedSharding(mesh_of(AxisType.Auto), PartitionSpec("data")))
    if inside is jax.jit:
        text = jax.jit(f).lower(single[0], spread).compile().as_text()
    else:
        _, text = text_of_call(monkeypatch, f, single[0], spread)
    assert not COLLECTIVES.findall(text)
    assert not re.findall(r" (?:sine|cosine)\(", text)
    assert_close(inside(f)(single[0], spread), f(*single), 1e-6)


def test_what_is_not_spread_over_samples_is_gathered(monkeypatch):
    """The check of the others can fail."""
    spread = jax.device_put(X, NamedSharding(mesh_of(AxisType.Auto), PartitionSpec(None, "data")))
    found, text = text_of_call(monkeypatch, nablax.hessian(model, chunk_size=5), PARAMS, spread)
    assert_close(found, nablax.hessian(model)(PARAMS, X))
    assert COLLECTIVES.findall(text)


def test_several_arguments_other_axes_and_trees():
    mesh = mesh_of(AxisType.Auto)
    shift = RNG.normal(size=(24,))

    def two(params, x, c):
        return {"y": model(params, x) * c, "s": jnp.sum(jnp.sin(x)) * c}

    options = {"in_axes": (None, 1, 0), "out_axes": 1, "chunk_size": 5}
    f = nablax.jacobian(two, **options)
    spread = jax.device_put(X.T, NamedSharding(mesh, PartitionSpec(None, "more")))
    found = f(PARAMS, spread, shift)
    assert_close(found, f(PARAMS, X.T, shift))
    assert found["y"].sharding.spec[1] == "more"


def test_aux_and_autotune():
    spread = jax.device_put(X, NamedSharding(mesh_of(AxisType.Auto), PartitionSpec("data")))
    f = nablax.hessian(lambda params, x: (model(params, x), {"norm": x @ x}), has_aux=True, strategy="autotune")
    found, aux = f(PARAMS, spread)
    assert_close(found, nablax.hessian(model)(PARAMS, X))
    assert_close(aux["norm"], jnp.sum(X**2, axis=1))
    assert aux["norm"].sharding.spec[0] == "data"


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_training_through_a_sharded_laplacian(kind):
    mesh = mesh_of(kind)
    loss = lambda params, X: jnp.sum(nablax.laplacian(model, chunk_size=5)(params, X) ** 2)
    with jax.set_mesh(mesh):
        spread = jax.device_put(X, NamedSharding(mesh, PartitionSpec("data")))
        everywhere = jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec()))
        found = jax.grad(loss)(everywhere, spread)
    assert_close(found, jax.grad(loss)(jax.tree.map(jnp.asarray, PARAMS), jnp.asarray(X)), 1e-9)


def test_inside_of_jit_explicit_axes_are_seen():
    mesh = mesh_of(AxisType.Explicit)
    f = jax.jit(nablax.hessian(model, chunk_size=5))
    with jax.set_mesh(mesh):
        spread = jax.device_put(X, NamedSharding(mesh, PartitionSpec("data")))
        text = f.lower(PARAMS, spread).compile().as_text()
        assert_close(f(PARAMS, spread), nablax.hessian(model)(PARAMS, X))
    assert not COLLECTIVES.findall(text)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("want", ["jacobian", "hessian", "laplacian"])
def test_single_precision_layers_of_usual_size(kind, want, monkeypatch):
    """Those are written otherwise on a CPU (see `nablax.graph.dense`)."""
    W, V = (RNG.normal(size=shape).astype(np.float32) / 8 for shape in ((64, 48), (48, 64)))
    deep = lambda params, x: (jnp.tanh(jnp.tanh(x @ params["W"]) @ params["V"]) @ params["W"])[:3]
    samples = RNG.normal(size=(128, 64)).astype(np.float32)
    spread = jax.device_put(samples, NamedSharding(mesh_of(kind), PartitionSpec("data")))
    f, params = getattr(nablax, want)(deep), {"W": W, "V": V}
    found, text = text_of_call(monkeypatch, f, params, spread)
    assert not COLLECTIVES.findall(text)
    assert found.sharding.spec[0] == "data"
    assert_close(found, f(params, samples), 1e-5)


def test_a_budget_is_that_of_a_device():
    """24 samples of 3 x 4 x 4 doubles are 9216 bytes; half of them are on each device."""
    spread = jax.device_put(X, NamedSharding(mesh_of(AxisType.Auto), PartitionSpec("data")))
    f = nablax.hessian(model, memory_budget=9000)
    with pytest.raises(nablax.errors.MemoryBudgetError):
        f(PARAMS, X)
    assert f(PARAMS, spread).shape == (24, 3, 4, 4)
