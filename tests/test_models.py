"""Models of every library: the same derivatives as nested differentiation of the library's own call."""

import importlib.util
import os
from itertools import product

os.environ["KERAS_BACKEND"] = "jax"

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

import nablax
from nablax.errors import CoupledSamplesError, ModelTraceError, OptionError

keras.config.set_floatx("float64")
KEY = jax.random.key(0)
D, T, E, A = 3, 4, 8, 2
SHAPES = {"mlp": (3,), "conv": (6, 6, 1), "transformer": (T, 3)}
WANTS = ["jacobian", "hessian", "laplacian", "parameter_jacobian"]


@pytest.fixture(autouse=True)
def rank_promotion():
    """The libraries rely on it."""
    with jax.numpy_rank_promotion("allow"):
        yield


def samples(kind):
    return jax.random.normal(jax.random.key(1), (D, *SHAPES[kind]))


def double(params):
    return jax.tree.map(lambda p: p.astype(float), params)


# Each function makes (what from_model gets, the model on a batch, (params, x) -> y by the library's own means).


def of_nnx(kind):
    rngs = nnx.Rngs(0)

    class MLP(nnx.Module):
        def __init__(self):
            self.a, self.b = nnx.Linear(3, E, rngs=rngs), nnx.Linear(E, A, rngs=rngs)
            self.norm, self.drop = nnx.BatchNorm(E, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.b(self.drop(self.norm(jnp.tanh(self.a(x)))))

    class Conv(nnx.Module):
        def __init__(self):
            self.a, self.b = nnx.Conv(1, 3, (3, 3), rngs=rngs), nnx.Linear(27, A, rngs=rngs)

        def __call__(self, x):
            return self.b(nnx.avg_pool(nnx.gelu(self.a(x)), (2, 2), (2, 2)).reshape(len(x), -1))

    class Transformer(nnx.Module):
        def __init__(self):
            self.a, self.b = nnx.Linear(3, E, rngs=rngs), nnx.Linear(E, A, rngs=rngs)
            self.attend = nnx.MultiHeadAttention(2, E, decode=False, rngs=rngs)
            self.norm = nnx.LayerNorm(E, rngs=rngs)

        def __call__(self, x):
            h = self.a(x)
            return self.b(self.norm(h + self.attend(h)).mean(1))

    model = {"mlp": MLP, "conv": Conv, "transformer": Transformer}[kind]()
    model.eval()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    double_model = nnx.merge(graph, double(params), rest)
    return (model,), double_model, lambda p, x: nnx.merge(graph, p, rest, copy=True)(x[None])[0]


def of_linen(kind):
    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            h = nn.BatchNorm(use_running_average=not train)(jnp.tanh(nn.Dense(E)(x)))
            return nn.Dense(A)(nn.Dropout(0.5, deterministic=not train)(h))

    class Conv(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.avg_pool(nn.gelu(nn.Conv(3, (3, 3))(x)), (2, 2), (2, 2))
            return nn.Dense(A)(h.reshape(len(x), -1))

    class Transformer(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.Dense(E)(x)
            return nn.Dense(A)(nn.LayerNorm()(h + nn.MultiHeadAttention(2)(h)).mean(1))

    model = {"mlp": MLP, "conv": Conv, "transformer": Transformer}[kind]()
    variables = model.init(KEY, samples(kind))
    rest = {name: value for name, value in variables.items() if name != "params"}
    own = lambda p, X: model.apply({"params": p, **rest}, X)
    params = double(variables["params"])
    return (model, variables), lambda X: own(params, X), lambda p, x: own(p, x[None])[0]


def of_equinox(kind):
    keys = jax.random.split(KEY, 3)

    class Conv(eqx.Module):
        a: eqx.nn.Conv2d
        b: eqx.nn.Linear

        def __call__(self, x):
            h = jax.nn.gelu(self.a(x.transpose(2, 0, 1)))
            return self.b(eqx.nn.AvgPool2d(2, 2)(h).reshape(-1))

    class Transformer(eqx.Module):
        a: eqx.nn.Linear
        attend: eqx.nn.MultiheadAttention
        norm: eqx.nn.LayerNorm
        b: eqx.nn.Linear

        def __call__(self, x):
            h = jax.vmap(self.a)(x)
            return self.b(jax.vmap(self.norm)(h + self.attend(h, h, h)).mean(0))

    model = {
        "mlp": lambda: eqx.nn.MLP(3, A, E, 2, jnp.tanh, key=KEY),
        "conv": lambda: Conv(eqx.nn.Conv2d(1, 3, 3, padding=1, key=keys[0]), eqx.nn.Linear(27, A, key=keys[1])),
        "transformer": lambda: Transformer(
            eqx.nn.Linear(3, E, key=keys[0]),
            eqx.nn.MultiheadAttention(2, E, key=keys[1]),
            eqx.nn.LayerNorm(E),
            eqx.nn.Linear(E, A, key=keys[2]),
        ),
    }[kind]()
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    return (model,), jax.vmap(eqx.combine(double(params), rest)), lambda p, x: eqx.combine(p, rest)(x)


def of_haiku(kind):
    def mlp(x, train=False):
        h = hk.BatchNorm(True, True, 0.9)(jnp.tanh(hk.Linear(E)(x)), is_training=train)
        return hk.Linear(A)(h)

    def conv(x):
        h = jax.nn.gelu(hk.Conv2D(3, 3)(x))
        return hk.Linear(A)(hk.AvgPool((2, 2, 1), (2, 2, 1), "VALID")(h).reshape(len(x), -1))

    def transformer(x):
        h = hk.Linear(E)(x)
        h = h + hk.MultiHeadAttention(2, 4, w_init=hk.initializers.VarianceScaling())(h, h, h)
        return hk.Linear(A)(hk.LayerNorm(-1, True, True)(h).mean(1))

    if kind == "mlp":
        model = hk.transform_with_state(mlp)
        params, state = model.init(KEY, samples(kind), True)
        own = lambda p, X: model.apply(p, state, None, X)[0]
        return (model, (params, state)), lambda X: own(double(params), X), lambda p, x: own(p, x[None])[0]
    model = hk.transform({"conv": conv, "transformer": transformer}[kind])
    params = model.init(KEY, samples(kind))
    own = lambda p, X: model.apply(p, None, X)
    return (model, params), lambda X: own(double(params), X), lambda p, x: own(p, x[None])[0]


def of_keras(kind):
    keras.utils.set_random_seed(0)
    x = keras.Input(SHAPES[kind])
    layers = keras.layers
    if kind == "mlp":
        h = layers.Dropout(0.5)(layers.BatchNormalization()(layers.Dense(E, activation="tanh")(x)))
    elif kind == "conv":
        h = layers.Conv2D(3, 3, padding="same", activation="gelu")(x)
        h = layers.Flatten()(layers.AveragePooling2D(2)(h))
    else:
        h = layers.Dense(E)(x)
        h = layers.LayerNormalization()(h + layers.MultiHeadAttention(2, 4)(h, h))
        h = layers.GlobalAveragePooling1D()(h)
    model = keras.Model(x, layers.Dense(A)(h))
    rest = [v.value for v in model.non_trainable_variables]
    in_order = lambda p: [p[v.path] for v in model.trainable_variables]
    own = lambda p, x: model.stateless_call(in_order(p), rest, x[None], training=False)[0][0]
    return (model,), model, own


LIBRARIES = {"nnx": of_nnx, "linen": of_linen, "equinox": of_equinox, "haiku": of_haiku, "keras": of_keras}


# Every library and every kind of network; the other pairs take a minute.
FIRST = {
    ("nnx", "transformer"),
    ("linen", "conv"),
    ("haiku", "transformer"),
    ("keras", "conv"),
    *product(LIBRARIES, ["mlp"]),
}


@pytest.mark.parametrize(
    ("library", "kind"),
    [pytest.param(*pair, marks=() if pair in FIRST else pytest.mark.slow) for pair in product(LIBRARIES, SHAPES)],
)
def test_the_table(library, kind):
    given, model, own = LIBRARIES[library](kind)
    X = samples(kind)
    params, f = nablax.from_model(*given)
    params = double(params)
    found = {want: getattr(nablax, want)(f)(params, X) for want in WANTS}

    @jax.jit
    def reference(params):
        each = lambda derive: jax.vmap(lambda x: derive(params, x))(X)
        return {
            "value": each(f),
            "jacobian": each(jax.jacrev(own, 1)),
            "hessian": each(jax.jacfwd(jax.jacrev(own, 1), 1)),
            "parameter_jacobian": each(jax.jacrev(own)),
        }

    expected = reference(params)
    np.testing.assert_allclose(expected["value"], model(X), rtol=1e-9, atol=1e-12)
    C = int(np.prod(SHAPES[kind]))
    expected["laplacian"] = jnp.einsum("dacc->da", expected["hessian"].reshape(D, A, C, C))
    found["parameter_jacobian"] = found["parameter_jacobian"].tree()
    # Some layers compute in float32 whatever they are given, such as the softmax in the attention of Flax.
    single = "f32[" in str(jax.make_jaxpr(own)(params, X[0]))
    rtol, atol = (1e-4, 1e-6) if single else (1e-8, 1e-10)
    for want in WANTS:
        for a, b in zip(jax.tree.leaves(found[want]), jax.tree.leaves(expected[want]), strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=want)
    assert float(jnp.abs(expected["hessian"]).max()) > 1e-3


def of_torch(kind):
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("torchax") is None:  # not imported here: that takes what from_model does
        pytest.skip("torchax is not installed")
    torch.manual_seed(0)
    layers = torch.nn

    class Transformer(layers.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = layers.Linear(3, E), layers.Linear(E, A)
            self.encode = layers.TransformerEncoderLayer(E, 2, 16, batch_first=True)

        def forward(self, x):
            return self.b(self.encode(self.a(x)).mean(1))

    return {
        "mlp": lambda: layers.Sequential(
            layers.Linear(3, E), layers.Tanh(), layers.BatchNorm1d(E), layers.Dropout(0.5), layers.Linear(E, A)
        ),
        "conv": lambda: layers.Sequential(
            *(layers.Conv2d(1, 3, 3, padding=1), layers.GELU(), layers.AvgPool2d(2), layers.Flatten()),
            layers.Linear(27, A),
        ),
        "transformer": Transformer,
    }[kind]().double().eval()  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
def test_torch_against_torch_func(kind):
    model = of_torch(kind)
    import torch

    X = samples(kind).transpose(0, 3, 1, 2) if kind == "conv" else samples(kind)
    params, f = nablax.from_model(model)
    found = {want: getattr(nablax, want)(f)(params, X) for want in WANTS}
    weights = {name: value.detach() for name, value in model.named_parameters()}
    buffers = dict(model.named_buffers())
    own = lambda p, x: torch.func.functional_call(model, {**p, **buffers}, (x[None],))[0]
    points = torch.from_numpy(np.asarray(X).copy())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the other kernels derive once only
        hessian = torch.stack([torch.func.jacrev(torch.func.jacrev(own, 1), 1)(weights, x) for x in points])
    C = int(np.prod(SHAPES[kind]))
    expected = {
        "jacobian": torch.stack([torch.func.jacrev(own, 1)(weights, x) for x in points]),
        "hessian": hessian,
        "laplacian": torch.einsum("dacc->da", hessian.reshape(D, A, C, C)),
    }
    for want, value in expected.items():
        np.testing.assert_allclose(found[want], value, rtol=1e-8, atol=1e-10, err_msg=want)
    tree, by_name = found["parameter_jacobian"].tree(), torch.func.jacrev(own)
    assert set(tree) == set(weights)
    for number, x in enumerate(points):
        for name, value in by_name(weights, x).items():
            np.testing.assert_allclose(tree[name][number], value, rtol=1e-8, atol=1e-10, err_msg=name)


def test_torch_errors():
    model = of_torch("mlp")
    message = "the parameter 0.bias of the model is float64, which JAX would round"
    with jax.enable_x64(False), pytest.raises(OptionError, match=message):
        nablax.from_model(model)
    params, f = nablax.from_model(model.train())
    with pytest.raises(CoupledSamplesError):
        nablax.jacobian(f)(params, samples("mlp"))
    params, f = nablax.from_model(model.eval())
    assert nablax.jacobian(f)(params, samples("mlp")).shape == (D, A, 3)
    model[0].bias.requires_grad_(False)
    assert set(nablax.from_model(model)[0]) == set(params) - {"0.bias"}


def test_tied_parameters_of_torch():
    """Under whichever of its names it is kept, it is a parameter, with one derivative for all its uses."""
    of_torch("mlp")
    import torch

    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.z = torch.nn.Parameter(torch.randn(3, 3, dtype=torch.float64))
            self.a = self.z

        def forward(self, x):
            return torch.tanh(torch.tanh(x @ self.z.T) @ self.a.T)

    model, X = Tied(), samples("mlp")
    params, f = nablax.from_model(model)
    assert len(params) == 1
    (found,) = nablax.parameter_jacobian(f)(params, X).tree().values()
    W = jnp.asarray(model.z.detach().numpy())
    expected = jax.vmap(jax.jacobian(lambda W, x: jnp.tanh(W @ jnp.tanh(W @ x))), (None, 0))(W, X)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


# ------------------------------------------------------------------------------------------------- training and state


def test_batch_normalisation_and_dropout_in_training_are_refused():
    X = samples("mlp")
    (model,), _, _ = of_nnx("mlp")
    model.train()
    (linen, variables), _, _ = of_linen("mlp")
    (net,), _, _ = of_keras("mlp")
    for given, options in [
        ((model,), {}),
        ((linen, variables), {"train": True, "mutable": ["batch_stats"]}),
        ((net,), {"training": True}),
    ]:
        params, f = nablax.from_model(*given, **options)
        with pytest.raises((CoupledSamplesError, ModelTraceError), match=r"couple|needs PRNG|cannot prove"):
            nablax.jacobian(f)(params, X)


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(A)(nn.Dropout(0.5, deterministic=False)(jnp.tanh(nn.Dense(E)(x))))


class NoisyNNX(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = nnx.Linear(3, E, rngs=rngs), nnx.Linear(E, A, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.b(self.drop(jnp.tanh(self.a(x))))


class NoisyEquinox(eqx.Module):
    a: eqx.nn.Linear
    drop: eqx.nn.Dropout

    def __call__(self, x, key=None):
        return self.drop(jnp.tanh(self.a(x)), key=key)


def noisy(library):
    """from_model of a network with dropout, switched on."""
    if library == "linen":
        return nablax.from_model(Noisy(), Noisy().init(KEY, jnp.ones(3)), rngs="dropout")
    if library == "nnx":
        return nablax.from_model(NoisyNNX(nnx.Rngs(0, dropout=1)), rngs=("dropout",))
    if library == "equinox":
        return nablax.from_model(NoisyEquinox(eqx.nn.Linear(3, E, key=KEY), eqx.nn.Dropout(0.5)), rngs="key")
    model = hk.transform(lambda x: hk.dropout(hk.next_rng_key(), 0.5, jnp.tanh(hk.Linear(E)(x))))
    return nablax.from_model(model, model.init(KEY, jnp.ones(3)), rngs="dropout")


@pytest.mark.parametrize("library", ["linen", "nnx", "equinox", "haiku"])
def test_every_sample_has_a_key_of_its_own(library):
    X, keys = jnp.ones((4, 3)), jax.random.split(KEY, 4)
    params, f = noisy(library)
    J = nablax.jacobian(f, in_axes=(None, 0, 0))(params, X, keys)
    np.testing.assert_allclose(J[2], jax.jit(jax.jacfwd(f, 1))(params, X[2], keys[2]), rtol=1e-6, atol=1e-7)
    assert float(jnp.abs(J[0] - J[1]).max()) > 1e-3  # another mask


def test_state_through_has_aux():
    """What a model returns besides y is handed on: here the statistics that linen updates."""
    (model, variables), _, _ = of_linen("mlp")
    params, f = nablax.from_model(model, variables, mutable=["batch_stats"], out_axes=(0, None))
    J, state = nablax.jacobian(f, has_aux=True)(params, samples("mlp"))
    assert J.shape == (D, A, 3)
    assert set(state) == {"batch_stats"}


def test_modules_are_models_by_themselves():
    net = eqx.nn.MLP(3, A, E, 1, jnp.tanh, key=KEY)
    X = samples("mlp")
    params, f = nablax.from_model(net)
    np.testing.assert_array_equal(nablax.hessian(net)(X), nablax.hessian(f)(params, X))
    (module,), _, _ = of_nnx("mlp")
    params, f = nablax.from_model(module)
    np.testing.assert_allclose(nablax.hessian(module)(X), nablax.hessian(f)(params, X), rtol=1e-6, atol=1e-7)


def test_parameters_can_be_trained():
    """The function sees the parameters that it is given, and the model is what it was."""
    (module,), _, _ = of_nnx("mlp")
    params, f = nablax.from_model(module)
    loss = lambda p: jnp.sum(nablax.laplacian(f)(p, samples("mlp")) ** 2)
    slope = jax.jit(jax.grad(loss))(params)
    smaller = jax.tree.map(lambda p, s: p - 1e-4 * s, params, slope)
    assert float(loss(smaller)) < float(loss(params))
    assert jax.tree.structure(slope) == jax.tree.structure(params)
    np.testing.assert_array_equal(module.a.kernel[...], params["a"]["kernel"][...])


def test_results_are_numpy_or_torch_arrays_without_a_copy():
    J = nablax.jacobian(lambda x: jnp.sin(x))(samples("mlp"))
    assert np.asarray(J).__array_interface__["data"][0] == J.unsafe_buffer_pointer()
    if importlib.util.find_spec("torch"):
        import torch

        assert torch.from_dlpack(J).data_ptr() == J.unsafe_buffer_pointer()


# -------------------------------------------------------------------------------------------------------------- errors


def test_errors():
    (module,), _, _ = of_nnx("mlp")
    (linen, variables), _, _ = of_linen("mlp")
    stateful = hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.9)(x, is_training=False))
    unbuilt = keras.Sequential([keras.layers.Dense(2)])
    for call, message in [
        (lambda: nablax.from_model(lambda p, x: x), "was given a function; it knows models of Flax NNX, Flax Linen"),
        (lambda: nablax.from_model(module, variables), "variables were given for a model of Flax NNX, which holds its"),
        (lambda: nablax.from_model(linen), "a model of Flax Linen holds no parameters: give what model.init"),
        (lambda: nablax.from_model(linen, variables["params"]), "should be what model.init(..) returned, a dict with"),
        (lambda: nablax.from_model(module, rngs="noise"), "whose streams of random numbers are ['default']"),
        (lambda: nablax.from_model(module, rngs="default", batched=True), "would draw for a whole batch from one key"),
        (lambda: nablax.from_model(stateful, {}), "the model has a state: give (params, state)"),
        (lambda: nablax.from_model(unbuilt), "the Keras model has no weights yet"),
        (
            lambda: nablax.from_model(of_keras("mlp")[0][0], rngs="dropout"),
            "of Keras, which draws from a generator of its own",
        ),
    ]:
        with pytest.raises(OptionError) as error:
            call()
        assert message in str(error.value)


def test_a_model_that_a_library_was_never_imported_for_is_not_asked_about():
    """Only the file of the library that made the model is imported."""
    import subprocess
    import sys

    code = (
        "import equinox, jax, nablax, sys\n"
        "nablax.from_model(equinox.nn.Linear(2, 2, key=jax.random.key(0)))\n"
        "print([name for name in ('flax', 'haiku', 'keras', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
