"""Models that are written for a whole batch: some keep samples apart, some do not, and say where."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scenarios import Draw

draw = Draw("batch_models")
D, C, A, T = 3, 4, 2, 5

P = {
    "W": draw(C, A),
    "V": draw(C, C),
    "b": draw(A),
    "kernel": draw(3, C, A),
    "table": draw(7, C),
    "scale": draw(1, C),
    "token": draw(1, 1, C),
    "word": jnp.array([2, 0, 1]),
}


@dataclass
class BatchModel:
    """One of them, with the arguments that it is tried on: `shape` is that of one sample of X."""

    function: Callable[..., Any]
    shape: tuple[int, ...] = (C,)
    rest: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    reverse: bool = False
    order: int = 1
    operation: str = ""
    axis: str = ""
    proven: bool = True

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def line(self) -> str:
        """The line of this file that is marked as the one where samples mix."""
        lines, start = inspect.getsourcelines(self.function)
        if any("# see there" in line for line in lines):
            lines, start = Path(__file__).read_text().splitlines(), 1
        mark = "# there" if start == 1 else "# here"
        (offset,) = (number for number, line in enumerate(lines) if line.rstrip().endswith(mark))
        return f"{Path(__file__).name}:{start + offset}"


ACCEPTED: list[BatchModel] = []
COUPLED: list[BatchModel] = []


def accepted(*shape, rest=(), reverse=False, order=1, **options):
    """A model whose derivatives are tested up to this order."""

    def add(function):
        ACCEPTED.append(BatchModel(function, shape or (C,), rest, options, reverse, order))
        return function

    return add


def coupled(operation, axis="", *shape, rest=(), proven=True, **options):
    def add(function):
        COUPLED.append(BatchModel(function, shape or (C,), rest, options, False, 2, operation, axis, proven))
        return function

    return add


# --- samples are independent ---


@accepted(order=2)
def perceptron(p, X):
    return jnp.tanh(X @ p["V"]) @ p["W"] + p["b"]


@accepted()
def gelu_and_residual(p, X):
    return (X + jax.nn.gelu(X @ p["V"])) @ p["W"]


@accepted()
def relu_network(p, X):
    return jax.nn.relu(X @ p["V"]) ** 2 @ p["W"]


@accepted()
def softplus_and_swish(p, X):
    return jax.nn.softplus(X @ p["W"]) * jax.nn.swish(X[:, :A])


@accepted()
def layer_norm(p, X):
    centred = X - X.mean(axis=-1, keepdims=True)
    return (centred / jnp.sqrt(X.var(axis=-1, keepdims=True) + 1e-3)) @ p["W"]


@accepted()
def softmax_of_logits(p, X):
    return jax.nn.softmax(X @ p["W"], axis=-1)


@accepted()
def log_sum_exp(p, X):
    return jax.nn.logsumexp(X @ p["V"], axis=1)


@accepted()
def batch_norm_in_inference(p, X):
    mean, variance = p["V"][0], jnp.square(p["V"][1]) + 0.1
    return jnp.tanh((X - mean) / jnp.sqrt(variance)) @ p["W"]


@accepted(T, C, order=2)
def attention(p, X):
    q, k = X @ p["V"], X @ p["V"].T
    weights = jax.nn.softmax(q @ jnp.swapaxes(k, 1, 2) / np.sqrt(C), axis=-1)
    return jnp.einsum("dts,dsc->dtc", weights, X).mean(axis=1) @ p["W"]


@accepted(T, C)
def attention_with_merged_heads(p, X):
    D, heads = X.shape[0], 2
    split = (X @ p["V"]).reshape(D, T, heads, -1).transpose(0, 2, 1, 3).reshape(D * heads, T, -1)
    mixed = jax.nn.softmax(split @ split.transpose(0, 2, 1), axis=-1) @ split
    return mixed.reshape(D, heads, T, -1).transpose(0, 2, 1, 3).reshape(D, T, C)[:, 0] @ p["W"]


@accepted(T, C, in_axes=(None, 1), out_axes=0)
def heads_before_samples(p, X):
    D = X.shape[1]
    rows = jnp.tanh(X.reshape(T * D, C) @ p["W"])
    return rows.reshape(T, D, A).sum(axis=0)


@accepted(T, C)
def vision_transformer_token(p, X):
    token = jnp.broadcast_to(p["token"], (X.shape[0], 1, C))
    return jnp.sin(jnp.concatenate([token, X], axis=1)).mean(axis=1) @ p["W"]


@accepted(T, C)
def convolution_over_time(p, X):
    y = lax.conv_general_dilated(X, p["kernel"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    return jnp.tanh(y).sum(axis=1)


@accepted(6, 6, 1)
def pooled_image(p, X):
    kernel = p["V"].reshape(2, 2, 1, C)
    y = lax.conv_general_dilated(X, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    pooled = lax.reduce_window(jnp.tanh(y), 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return pooled.reshape(X.shape[0], -1)[:, :A]


@accepted(T, C)
def average_pool_over_time(p, X):
    return lax.reduce_window(X**3, 0.0, lax.add, (1, 3, 1), (1, 2, 1), "VALID")[:, 0, :A]


@accepted(T, C, order=2)
def recurrent_network(p, X):
    def step(h, x):
        h = jnp.tanh(x @ p["V"] + h)
        return h, h

    _, hs = lax.scan(step, jnp.zeros((X.shape[0], C)), jnp.swapaxes(X, 0, 1))
    return jnp.swapaxes(hs, 0, 1)[:, -1] @ p["W"]


@accepted(order=2)
def mapped_over_samples(p, X):
    return lax.map(lambda x: jnp.tanh(x @ p["W"]), X)


@accepted()
def vmapped(p, X):
    return jax.vmap(lambda x: jnp.tanh(x @ p["V"]).reshape(2, 2).sum(axis=0))(X)


@accepted()
def jitted_and_checkpointed(p, X):
    return jax.checkpoint(jax.jit(lambda X: jnp.cos(X @ p["W"])))(X)


@accepted()
def own_label(p, X):
    return (X**2)[jnp.arange(X.shape[0]), jnp.argmax(X, axis=1)]


@accepted()
def own_label_by_numpy(p, X):
    return jnp.sin(X)[np.arange(X.shape[0]), jnp.argmin(X, axis=1)]


@accepted(rest=(jnp.array([[0], [3], [1]]),), in_axes=(None, 0, 0))
def label_of_every_sample(p, X, label):
    return jnp.take_along_axis(jnp.exp(X), label, axis=1)


@accepted(rest=(jnp.array([6, 0, 2]),), in_axes=(None, 0, 0))
def embedding(p, X, word):
    return (X**2 * p["table"][word]) @ p["W"]


@accepted(rest=(jnp.array([3, 0, 2]),), in_axes=(None, 0, 0))
def one_hot(p, X, label):
    return jax.nn.log_softmax(X @ p["V"]) * jax.nn.one_hot(label, C)


@accepted(rest=(jnp.array([3, 0, 2]),), in_axes=(None, 0, 0), order=2)
def write_to_the_own_row(p, X, label):
    return (X**2).at[jnp.arange(X.shape[0]), label].add(X[:, 0] ** 3)


@accepted()
def write_to_columns(p, X):
    return (X @ p["V"]).at[:, 1].set(X[:, 0] * X[:, 2]).at[:, jnp.array([0, 2])].add(X[:, :2] ** 2)


@accepted()
def sorted_features(p, X):
    return jnp.sort(X, axis=1) ** 2 @ p["W"]


@accepted()
def top_features(p, X):
    return lax.top_k(X, 2)[0] ** 3


@accepted()
def cumulative_features(p, X):
    return jnp.cumsum(X**2, axis=-1) * jnp.cumprod(X, axis=-1)


@accepted()
def fourier_features(p, X):
    return jnp.abs(jnp.fft.rfft(X, axis=-1)) ** 2


@accepted()
def matrix_functions(p, X):
    matrices = X[:, :, None] * X[:, None, :] + 2 * jnp.eye(C)
    factors = jnp.linalg.cholesky(matrices)
    solved = jnp.linalg.solve(matrices, X[..., None])[..., 0]
    return solved[:, :A] + factors[:, 1, :A]


@accepted()
def triangular_systems(p, X):
    matrices = jnp.eye(C) * 2 + jnp.tril(X[:, :, None] * X[:, None, :])
    return jax.vmap(lambda L, x: jax.scipy.linalg.solve_triangular(L, x, lower=True))(matrices, X)


@accepted()
def eigenvalues(p, X):
    return jnp.linalg.eigvalsh(X[:, :, None] * X[:, None, :] + jnp.diag(jnp.arange(1.0, C + 1)))


@accepted()
def antithetic_pair(p, X):
    both = jnp.tanh(jnp.concatenate([X, -X]) @ p["V"]) @ p["W"] + p["b"]
    return both[: X.shape[0]] * both[X.shape[0] :]


@accepted()
def split_in_two(p, X):
    left, right = jnp.split(jnp.tanh(jnp.concatenate([X, 2 * X])), 2)
    return (left * right) @ p["W"]


@accepted(in_axes=(None, 1), out_axes=1)
def columns_are_samples(p, X):
    return jnp.tanh(p["V"] @ X)[:A] * X.sum(axis=0)


@accepted(in_axes=(None, -1), out_axes={"y": -1, "norm": 0, "weight": None}, order=2)
def tree_of_outputs(p, X):
    return {"y": jnp.sin(p["W"].T @ X), "norm": (X**2).sum(axis=0), "weight": (p["W"] ** 2).sum()}


@accepted()
def branch_by_parameters(p, X):
    return lax.cond(p["b"][0] > 0, lambda X: jnp.sin(X), lambda X: jnp.cos(X), X) @ p["W"]


@accepted()
def branch_of_each_sample(p, X):
    return jax.vmap(lambda x: lax.cond(x[0] > 0, lambda x: x**2, lambda x: x**3, x))(X)


@accepted()
def loop_of_fixed_length(p, X):
    return lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ p["V"]) * i + X, X) @ p["W"]


@accepted()
def loop_until_each_sample_is_done(p, X):
    small = lambda x: lax.while_loop(lambda y: jnp.sum(y**2) > 0.5, lambda y: y * 0.7, x)
    return jax.vmap(small)(X) ** 2 @ p["W"]


@accepted()
def loop_for_parameters(p, X):
    scale = lax.while_loop(lambda s: s < 5, lambda s: 2 * s, 1.0 + p["b"][0] ** 2)
    return jnp.sin(scale * X) @ p["W"]


@jax.custom_jvp
def own_tanh(x):
    return jnp.tanh(x)


own_tanh.defjvp(lambda primals, tangents: (own_tanh(primals[0]), (1 - own_tanh(primals[0]) ** 2) * tangents[0]))


@accepted(order=2)
def custom_tangents(p, X):
    return own_tanh(X @ p["W"])


@jax.custom_vjp
def own_linear(W, X):
    return jnp.tanh(X @ W)


def own_linear_backward(saved, g):
    W, X, y = saved
    g = g * (1 - y**2)
    return X.T @ g, g @ W.T


own_linear.defvjp(lambda W, X: (own_linear(W, X), (W, X, own_linear(W, X))), own_linear_backward)


@accepted(reverse=True, order=2)
def custom_cotangents(p, X):
    return own_linear(p["W"], X)


@accepted()
def normalised_rows(p, X):
    return X / jnp.linalg.norm(X, axis=1, keepdims=True)


@accepted()
def pairwise_within_a_sample(p, X):
    return jnp.exp(-((X[:, :, None] - X[:, None, :]) ** 2)).sum(axis=(1, 2))


@accepted()
def outer_products(p, X):
    return jnp.einsum("di,dj,ij->d", X, X**2, p["V"])


@accepted()
def shifted_features(p, X):
    return jnp.roll(X, 1, axis=1) * jnp.pad(X, ((0, 0), (1, 0)))[:, :-1] * jnp.flip(X, axis=1)


@accepted()
def complex_amplitudes(p, X):
    return jnp.exp(1j * (X @ p["W"])) * (1 + X[:, :1])


@accepted()
def clipped_and_selected(p, X):
    return jnp.where(X > 0, jnp.clip(X, -0.5, 0.5) ** 2, X**3) @ p["W"]


@accepted()
def tiled_and_repeated(p, X):
    return jnp.tile(X**2, (1, 2)) * jnp.repeat(X, 2, axis=1)


@accepted()
def scale_for_all_samples(p, X):
    return jnp.tanh(X * jnp.broadcast_to(p["scale"], X.shape)) @ p["W"] + jnp.zeros((X.shape[0], A))


@accepted()
def dead_code_may_mix(p, X):
    unused = X.mean(axis=0) + jnp.arange(X.shape[0]).sum()
    del unused
    return jnp.sin(X) @ p["W"]


@accepted()
def mixture_of_experts(p, X):
    experts = jnp.stack([jnp.tanh(X @ p["W"]), jnp.sin(X @ p["W"])], axis=1)
    gates = jax.nn.softmax(X[:, :2], axis=-1)
    return jnp.einsum("de,dea->da", gates, experts)


@accepted()
def parameters_at_every_sample(p, X):
    weights = jax.vmap(lambda x: jnp.outer(x, p["b"]))(X)
    return jnp.einsum("dc,dca->da", X, jnp.tanh(weights))


@accepted(T, C)
def convolution_with_kernels_of_samples(p, X):
    def one(x):
        kernel = p["kernel"] * x[0][None, :, None]
        return lax.conv_general_dilated(x[None], kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))[0]

    return jax.vmap(one)(X).sum(axis=1)


NETWORK = eqx.nn.MLP(C, A, 6, 2, activation=jnp.tanh, key=jax.random.key(0))
NORM = eqx.nn.LayerNorm(C)


@accepted()
def equinox_network(p, X):
    return jax.vmap(lambda x: NETWORK(NORM(x)))(X)


# --- samples are coupled; "# here" marks where ---


@coupled("reduce_sum", "axis 0")
def batch_norm_in_training(p, X):
    h = X @ p["W"]
    return (h - h.mean(axis=0)) / jnp.sqrt(1e-5 + p["b"] ** 2)  # here


@coupled("reduce_sum", "axis 0")
def variance_of_the_batch(p, X):
    return X / jnp.sqrt(jnp.var(X, axis=0) + 1e-5)  # here


@coupled("reduce_sum", "axis 0")
def sum_of_outputs(p, X):
    y = jnp.tanh(X @ p["W"])
    total = y.sum(axis=0)  # here
    return y + total


@coupled("reduce_max", "axis 0")
def largest_in_the_batch(p, X):
    return X / jnp.max(jnp.abs(X))  # here


@coupled("reduce_max", "axis 0")
def softmax_over_the_batch(p, X):
    return jax.nn.softmax(X @ p["W"], axis=0)  # here


@coupled("dot_general", "axis 0")
def gram_matrix(p, X):
    K = X @ X.T  # here
    return K @ X


@coupled("dot_general", "axis 1")
def covariance(p, X):
    S = X.T @ X  # here
    return X @ S


@coupled("sub", "axis 0")
def pairwise_distances(p, X):
    distances = X[:, None, :] - X[None, :, :]  # here
    return jnp.sin(distances).sum(axis=1)


@coupled("reduce_sum", "axis 0")
def contrastive(p, X):
    scores = jax.vmap(lambda x: x @ p["W"])(X)
    return scores - jnp.log(jnp.exp(scores).sum(axis=0))  # here


@coupled("dot_general", "axis 0")
def attention_over_samples(p, X):
    weights = jax.nn.softmax(jnp.einsum("ic,jc->ij", X, X))  # here
    return weights @ X


@coupled("cumsum", "axis 0")
def running_sum(p, X):
    return jnp.cumsum(X @ p["W"], axis=0)  # here


@coupled("sort", "axis 0")
def sorted_samples(p, X):
    return jnp.sort(X, axis=0)  # here


@coupled("argmax", "axis 0")
def best_sample(p, X):
    best = jnp.argmax(X, axis=0)  # here
    return X * best


@coupled("rev", "axis 0")
def reversed_samples(p, X):
    return X * X[::-1]  # here


@coupled("slice", "axis 0", proven=False)
def rolled_samples(p, X):
    return X * jnp.roll(X, 1, axis=0)  # here


@coupled("slice", "axis 0", proven=False)
def first_sample(p, X):
    return X - X[0]  # here


@coupled("slice", "axis 0", proven=False)
def differences(p, X):
    steps = X[1:] - X[:-1]  # here
    return jnp.concatenate([steps, steps])


@coupled("gather", "number of samples")
def permuted(p, X):
    return X + X[jnp.array([2, 0, 1])].sum()  # here


@coupled("gather", "axis 0")
def neighbours_of_a_graph(p, X):
    neighbours = jnp.take(X, p["word"], axis=0, mode="clip")  # here
    return X + neighbours.sum()


@coupled("iota", "axis 0")
def weighted_by_position(p, X):
    return X * jnp.arange(X.shape[0])[:, None]  # here


@coupled("constant", "differ from sample to sample")
def weighted_by_a_table_of_positions(p, X):
    return X * np.linspace(0.0, 1.0, X.shape[0])[:, None]  # here


@coupled("div", "number of samples")
def divided_by_their_number(p, X):
    y = jnp.tanh(X @ p["W"])
    return y / X.shape[0]  # here


@coupled("random_bits", "position")
def dropout(p, X):
    keep = jax.random.bernoulli(jax.random.key(0), 0.5, X.shape)  # here
    return jnp.where(keep, X, 0.0) @ p["W"]


@coupled("random_split", "position")
def a_key_for_every_position(p, X):
    keys = jax.random.split(jax.random.key(0), X.shape[0])  # here
    return X + jax.vmap(lambda key: jax.random.normal(key, (C,)))(keys)


@coupled("reduce_or", "axis 0")
def loop_until_all_are_done(p, X):
    return lax.while_loop(lambda Y: jnp.any(jnp.abs(Y) > 1), lambda Y: Y * 0.7, X)  # here


@coupled("reduce_and", "axis 0")
def branch_for_all(p, X):
    positive = jnp.all(X > 0)  # here
    return lax.cond(positive, jnp.sin, jnp.cos, X)


@coupled("scan", "one to the next", proven=False)
def loop_over_samples_with_memory(p, X):
    def step(h, x):
        h = jnp.tanh(h + x)
        return h, h

    return lax.scan(step, jnp.zeros(C), X)[1]  # here


@coupled("conv_general_dilated", "axis 2")
def convolution_over_samples(p, X):
    kernel = jnp.ones((C, C, 3))
    y = lax.conv_general_dilated(X.T[None], kernel, (1,), "SAME", dimension_numbers=("NCW", "OIW", "NCW"))  # here
    return y[0].T


@coupled("reduce_window_sum", "axis 0")
def window_over_samples(p, X):
    return lax.reduce_window(X, 0.0, lax.add, (2, 1), (1, 1), "SAME")  # here


@coupled("fft", "axis 1")
def spectrum_over_samples(p, X):
    return jnp.fft.fft(X, axis=0).real  # here


@coupled("dot_general", "axis 1")
def spread_over_samples(p, X):
    return jnp.ones((1, X.shape[0])) @ X + X  # here


@coupled("reshape", "axis 0")
def reshape_across_samples(p, X):
    y = X.reshape(2, X.shape[0], 2)  # here
    return y.sum(axis=0)


@coupled("scatter-add", "no sample axis")
def histogram(p, X):
    counts = jnp.zeros(C).at[jnp.argmax(X, axis=1)].add(1.0)  # here
    return X * counts


@coupled("iota", "2 axes", proven=False)
def mask_of_pairs(p, X):
    mask = jnp.tril(jnp.ones((X.shape[0], X.shape[0])))  # here
    return mask @ X


@jax.custom_jvp
def mixing_tangents(x):
    return jnp.sin(x)


@mixing_tangents.defjvp
def _(primals, tangents):
    mean = tangents[0].mean(axis=0, keepdims=True)  # there
    return jnp.sin(primals[0]), jnp.cos(primals[0]) * mean


@coupled("reduce_sum", "axis 0")
def rule_for_tangents_mixes(p, X):
    return mixing_tangents(X)  # see there


@jax.custom_vjp
def mixing_cotangents(x):
    return jnp.sin(x)


mixing_cotangents.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (jnp.cos(x) * g.sum(axis=0, keepdims=True),))


@coupled("reduce_sum", "axis 0")
def rule_for_cotangents_mixes(p, X):
    return mixing_cotangents(X)  # here


@coupled("pure_callback", "no rule", proven=False)
def host_code(p, X):
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(X.shape, X.dtype), X)  # here


@coupled("", "", proven=False)
def unrolled_over_samples(p, X):
    return jnp.stack([jnp.sin(x) for x in X])  # here


@coupled("", "", proven=False)
def different_for_large_batches(p, X):
    return X - X.mean(axis=0) if X.shape[0] > 100 else X * 2.0  # here
