"""The models whose derivatives by parameters are tested: how parameters meet samples, in every way that people write.

D = 5 samples everywhere; A (outputs), C (inputs), H (hidden units) and T (positions) differ from it and from each other
in a scenario, so that no transposed axis goes unseen.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from scenarios import Draw

import nablax

D = 5


@dataclass(frozen=True, eq=False)
class ParameterScenario:
    """One model, its parameters and one batch for it.

    Attributes:
        name: as it appears in the names of the tests.
        model: the model of one sample, ``model(params, x, *rest)``.
        params: first argument; where `wrt` says so, another one.
        X: the batch, or the batches of all arguments from the second on if `in_axes` gives them.
        rest: further arguments.
        in_axes: as for the transform; None is the default.
        wrt: number of the argument that holds the parameters.
        factored: the parameters that must be handled in factors, by their paths, and how; "" for any way but "whole".
        whole: the parameters that no structure can help.
        forward_mode: False for a model that JAX cannot push tangents through (custom_vjp).
        tolerance: of results, relative to the largest entry.
    """

    name: str
    model: Callable[..., Any]
    params: Any
    X: Any
    rest: tuple[Any, ...] = ()
    in_axes: tuple[Any, ...] | None = None
    wrt: int = 0
    factored: dict[str, str] | None = None
    whole: tuple[str, ...] = ()
    forward_mode: bool = True
    tolerance: float = 1e-10

    def __repr__(self) -> str:
        return self.name

    @property
    def axes(self) -> tuple[Any, ...]:
        """One entry for each argument: the axis of its samples, or None for a shared one."""
        given = self.in_axes if self.in_axes is not None else (None, 0)
        return (*given, *[None] * (2 + len(self.rest) - len(given)))

    def args(self, params: Any, X: Any) -> tuple[Any, ...]:
        """The arguments of the model, in its order."""
        return (X, params, *self.rest) if self.wrt == 1 else (params, X, *self.rest)

    @property
    def samples_axis(self) -> int:
        return self.axes[1 - self.wrt]

    def other_batch(self) -> Any:
        """Three other samples."""

        def pick(leaf: jax.Array) -> jax.Array:
            some = jnp.take(leaf, jnp.asarray([3, 0, 4]), axis=self.samples_axis)
            return some if jnp.issubdtype(leaf.dtype, jnp.integer) else 0.8 * some + 0.1

        return jax.tree.map(pick, self.X)


def layers(draw: Draw, *sizes: int) -> list[dict[str, jax.Array]]:
    """Weights and biases of a network."""
    return [
        {"W": draw(out, into, scale=into**-0.5), "b": draw(out, scale=0.3)} for into, out in itertools.pairwise(sizes)
    ]


def mlp(params: Any, x: jax.Array, activation: Callable[[Any], Any] = jnp.tanh) -> jax.Array:
    """A perceptron."""
    *hidden, last = params
    for layer in hidden:
        x = activation(layer["W"] @ x + layer["b"])
    return last["W"] @ x + last["b"]


SCENARIOS: list[ParameterScenario] = []


def scenario(**options: Any) -> Callable[[Callable[[Draw], tuple[Any, ...]]], Callable[[Draw], tuple[Any, ...]]]:
    """Enter the model, parameters, batch and further arguments that a function makes in the table under its name."""

    def enter(make: Callable[[Draw], tuple[Any, ...]]) -> Callable[[Draw], tuple[Any, ...]]:
        name = make.__name__
        model, params, X, *rest = make(Draw(f"parameters of {name}"))
        SCENARIOS.append(ParameterScenario(name, model, params, X, tuple(rest), **options))
        return make

    return enter


# ---------------------------------------------------------------------------------------------------------- perceptrons


@scenario(factored={"[0]['W']": "dense layer", "[1]['W']": "dense layer", "[2]['W']": "dense layer", "[0]['b']": ""})
def perceptron(draw):
    return mlp, layers(draw, 3, 4, 6, 2), draw(D, 3)


@scenario(factored={"[0]['W']": "dense layer", "[1]['W']": "dense layer"})
def scalar_output(draw):
    return lambda p, x: mlp(p, x)[0] ** 2, layers(draw, 3, 4, 1), draw(D, 3)


@scenario(factored={"['W']": "dense layer", "['out']": ""})
def matrix_output(draw):
    model = lambda p, x: jnp.einsum("ijh,h->ij", p["out"], jnp.sin(p["W"] @ x))
    return model, {"W": draw(6, 3), "out": draw(2, 4, 6)}, draw(D, 3)


@scenario(factored={"['W']": "dense layer", "['out']": "dense layer"})
def tree_output(draw):
    def model(p, x):
        z = jnp.sin(p["W"] @ x)
        return {"late": p["out"] @ z, "early": (jnp.sum(z**2), z[None, :2])}

    return model, {"W": draw(4, 3), "out": draw(6, 4)}, draw(D, 3)


@scenario(factored={"['W']": "dense layer", "['deep'][0][0]": "dense layer", "['deep'][1]['out']": "dense layer"})
def nested_tree(draw):
    """Parameters in dicts, lists and tuples, and a None among them."""

    def model(p, x):
        (V, b), last = p["deep"]
        return last["out"] @ jnp.tanh(V @ jnp.tanh(p["W"] @ x) + b)

    deep = [(draw(6, 4), draw(6)), {"out": draw(2, 6), "none": None}]
    return model, {"deep": deep, "W": draw(4, 3)}, draw(D, 3)


@scenario(factored={".layers[0].weight": "dense layer", ".layers[1].weight": "dense layer"})
def equinox_module(draw):
    network = eqx.nn.MLP(3, 2, 4, 1, activation=jnp.sin, key=jax.random.key(7), dtype=jnp.float64)
    params, rest = eqx.partition(network, eqx.is_array)
    return lambda p, x: eqx.combine(p, rest)(x), params, draw(D, 3)


@scenario(factored={"['W']": "dense layer"})
def python_float(draw):
    """A leaf that is a Python number."""
    model = lambda p, x: p["scale"] * jnp.tanh(p["W"] @ x) + p["shift"]
    return model, {"scale": 1.5, "W": draw(2, 3), "shift": -0.25}, draw(D, 3)


@scenario(in_axes=(None, -1), factored={"[0]['W']": "dense layer"})
def samples_last(draw):
    return lambda p, x: mlp(p, x.reshape(-1)), layers(draw, 6, 4, 2), draw(3, 2, D)


@scenario(wrt=1, in_axes=(0, None), factored={"[0]['W']": "dense layer"})
def parameters_second(draw):
    return lambda x, p: mlp(p, x), layers(draw, 3, 4, 2), draw(D, 3)


@scenario(factored={"[0]['W']": "dense layer"})
def shared_rest(draw):
    """Further arguments that all samples share: a matrix, and a tree with a Python number."""
    model = lambda p, x, M, options: mlp(p, M @ x + options["shift"])
    return model, layers(draw, 6, 4, 2), draw(D, 3), draw(6, 3), {"shift": 0.5}


@scenario(factored={"['r']": "dense layer", "['s']": "dense layer"})
def tree_input(draw):
    """X is a tree, one leaf of integers."""

    def model(p, x):
        return jnp.tanh(p["r"] @ x["r"] + p["s"] @ x["s"].reshape(-1)) * (1.0 + x["n"])

    X = {"r": draw(D, 3), "s": draw(D, 2, 3), "n": draw.integers(4, D)}
    return model, {"r": draw(4, 3), "s": draw(4, 6)}, X


@scenario(factored={"[0]['W']": "dense layer", "[1]['W']": "dense layer"})
def jitted(draw):
    layer = jax.jit(lambda layer, x: jnp.tanh(layer["W"] @ x + layer["b"]))
    return jax.jit(lambda p, x: functools.reduce(lambda z, q: layer(q, z), p, x)), layers(draw, 3, 4, 2), draw(D, 3)


@scenario(factored={"[0]['W']": "dense layer", "[1]['W']": "dense layer"})
def rematerialised(draw):
    def model(p, x):
        block = jax.checkpoint(lambda layer, z: jnp.sin(layer["W"] @ z + layer["b"]))
        return functools.reduce(lambda z, layer: block(layer, z), p, x)

    return model, layers(draw, 3, 4, 2), draw(D, 3)


@scenario(tolerance=1e-5)
def single_precision(draw):
    """Weights in float32 that the model casts to float64."""

    def model(p, x):
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), p)
        return mlp(wide, x)

    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), layers(draw, 3, 4, 2))
    return model, params, draw(D, 3)


# --------------------------------------------------------------------------------------- parameters used in many places


@scenario(factored={"['W']": ""})
def tied_autoencoder(draw):
    """W and its transpose in one model."""
    model = lambda p, x: (p["W"].T @ jnp.tanh(p["W"] @ x + p["b"]) + p["c"])[:2]
    return model, {"W": draw(4, 3), "b": draw(4), "c": draw(3)}, draw(D, 3)


@scenario(factored={"['W']": "dense layer", "['into']": "dense layer", "['b']": ""})
def layer_twice(draw):
    def model(p, x):
        z = p["into"] @ x
        for _ in range(2):
            z = jnp.tanh(p["W"] @ z + p["b"])
        return p["out"] @ z

    return model, {"into": draw(4, 3), "W": draw(4, 4), "b": draw(4), "out": draw(2, 4)}, draw(D, 3)


@scenario()
def shared_bias(draw):
    """One bias after two layers, and once more elsewhere."""

    def model(p, x):
        z = p["V"] @ jnp.tanh(p["W"] @ x + p["b"]) + p["b"]
        return z[:2] * jnp.sum(p["b"] ** 2)

    return model, {"W": draw(4, 3), "V": draw(4, 4), "b": draw(4)}, draw(D, 3)


@scenario(whole=("['W']",))
def both_ways(draw):
    """One use is a layer, the other one is not."""
    model = lambda p, x: p["W"] @ x + jnp.sin(p["W"]).sum(1) * x[:1]
    return model, {"W": draw(4, 3)}, draw(D, 3)


@scenario()
def cut_in_pieces(draw):
    """Slices of one matrix in several layers."""

    def model(p, x):
        W = p["W"]
        return W[4:6] @ jnp.tanh(jnp.pad(W[:4] @ x, (0, 2))[:3])

    return model, {"W": draw(6, 3)}, draw(D, 3)


@scenario()
def flat_parameters(draw):
    """All weights in one vector, cut and reshaped."""

    def model(theta, x):
        W, b, V = theta[:12].reshape(4, 3), theta[12:16], theta[16:24].reshape(4, 2)
        return jnp.tanh(W @ x + b) @ V

    return model, draw(24), draw(D, 3)


@scenario()
def concatenated(draw):
    """A weight that is put together, moved and reversed before it is used."""

    def model(p, x):
        W = jnp.concatenate([p["top"], p["bottom"].T[::-1]])
        return jnp.tanh(W @ x) * jnp.stack([p["a"], p["b"]], 1).reshape(-1)

    return model, {"top": draw(2, 3), "bottom": draw(3, 4), "a": draw(3), "b": draw(3)}, draw(D, 3)


@scenario()
def unused(draw):
    """Parameters without a use, or with one that has no derivative."""

    def model(p, x):
        target = lax.stop_gradient(p["W"]) @ x
        return jnp.tanh(p["W"] @ x) - target + lax.stop_gradient(p["frozen"])

    return model, {"W": draw(2, 3), "frozen": draw(2), "idle": draw(4, 2)}, draw(D, 3)


@scenario()
def nothing_used(draw):
    return lambda p, x: x[:2] ** 2, {"W": draw(4, 3)}, draw(D, 3)


# ------------------------------------------------------------------------- parameters that are changed before their use


@scenario(whole=("['theta']",))
def raw_parameters(draw):
    model = lambda p, x: jnp.sum(jnp.sin(p["theta"] * x[:, None]), axis=0) + p["phase"] ** 2
    return model, {"theta": draw(3, 2), "phase": draw(2)}, draw(D, 3)


@scenario()
def weight_norm(draw):
    def model(p, x):
        W = p["g"][:, None] * p["V"] / jnp.linalg.norm(p["V"], axis=1, keepdims=True)
        return p["out"] @ jnp.tanh(W @ x)

    return model, {"g": draw(4), "V": draw(4, 3), "out": draw(2, 4)}, draw(D, 3)


@scenario()
def low_rank(draw):
    """A product of parameters, and a product of products."""
    model = lambda p, x: jnp.tanh((p["U"] @ p["V"]) @ x) + p["U"] @ (p["V"] @ x)
    return model, {"U": draw(4, 2), "V": draw(2, 3)}, draw(D, 3)


@scenario()
def positive_weights(draw):
    model = lambda p, x: jnp.exp(p["log"]) * (jax.nn.softplus(p["raw"]) @ x)
    return model, {"raw": draw(4, 3), "log": draw(4, scale=0.3)}, draw(D, 3)


@scenario()
def elementwise_product(draw):
    """A layer written without a matrix product, its bias broadcast over positions."""
    model = lambda p, x: jnp.sum(p["W"][None] * x[:, None, :], axis=-1) + p["b"][None]
    return model, {"W": draw(2, 3), "b": draw(2)}, draw(D, 4, 3)


@scenario()
def not_of_the_sample(draw):
    """Layers that meet constants before they meet the sample."""

    def model(p, x):
        field = jnp.tanh(p["W"] @ jnp.arange(1.0, 5.0))
        return p["V"] @ (field * x) + p["W"][:2] @ jnp.ones(4)

    return model, {"W": draw(3, 4), "V": draw(2, 3)}, draw(D, 3)


@scenario()
def gated_by_parameters(draw):
    """Parameters that meet what other parameters have made of the sample."""

    def model(p, x):
        z = p["W"] @ x
        return (p["gate"] * z) @ p["M"] * jnp.dot(p["gate"], z)

    return model, {"W": draw(4, 3), "gate": draw(4), "M": draw(4, 2)}, draw(D, 3)


@scenario(whole=("['L']",))
def triangular_solve(draw):
    def model(p, x):
        L = jnp.tril(p["L"]) + 3 * jnp.eye(3)
        return (p["W"] @ jax.scipy.linalg.solve_triangular(L, x, lower=True)) * jnp.sum(jnp.log(jnp.diag(L)))

    return model, {"L": draw(3, 3, scale=0.5), "W": draw(2, 3)}, draw(D, 3)


# --------------------------------------------------------------------------------------------------------- contractions


@scenario()
def bilinear(draw):
    """W between two functions of the sample, and x on both sides of another one."""
    model = lambda p, x: jnp.einsum("i,aij,j->a", jnp.tanh(p["V"] @ x), p["W"], x)
    return model, {"V": draw(4, 3), "W": draw(2, 4, 3)}, draw(D, 3)


@scenario(factored={"['q']": "", "['k']": "", "['v']": "", "['o']": ""})
def attention_einsum(draw):
    """Heads as axes of the weights: 4 tokens of 6 features, 2 heads of 3."""

    def model(p, x):
        q, k, v = (jnp.einsum("td,dnk->tnk", x, p[name]) for name in "qkv")
        scores = jax.nn.softmax(jnp.einsum("tnk,snk->nts", q, k) / jnp.sqrt(3.0))
        return jnp.einsum("nts,snk,nko->to", scores, v, p["o"])[-1]

    params = {name: draw(6, 2, 3, scale=0.4) for name in "qkv"} | {"o": draw(2, 3, 7, scale=0.4)}
    return model, params, draw(D, 4, 6)


@scenario(factored={"['qkv']": "", "['o']": "dense layer"})
def attention_reshaped(draw):
    """Heads by reshaping, all three projections in one matrix; a layer norm with scale and bias; a residual."""

    def model(p, x):
        centred = x - jnp.mean(x, -1, keepdims=True)
        z = centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 0.1) * p["scale"][None] + p["bias"][None]
        q, k, v = jnp.moveaxis((z @ p["qkv"]).reshape(4, 3, 2, 3), 1, 0)
        scores = jax.nn.softmax(jnp.einsum("tnk,snk->nts", q, k))
        h = x + jnp.einsum("nts,snk->tnk", scores, v).reshape(4, 6) @ p["o"]
        return jnp.mean(h, 0)[:2]

    params = {"qkv": draw(6, 18, scale=0.4), "o": draw(6, 6, scale=0.4), "scale": 1 + 0.1 * draw(6), "bias": draw(6)}
    return model, params, draw(D, 4, 6)


@scenario(factored={"[0]['W']": "dense layer", "[1]['W']": "dense layer"})
def inner_vmap(draw):
    """A vmap over the elements of a set: one layer at 4 positions."""

    def model(p, x):
        return p[2]["W"] @ jnp.sum(jax.vmap(lambda element: mlp(p[:2], element))(x), axis=0)

    return model, [*layers(draw, 3, 6, 7), {"W": draw(2, 7)}], draw(D, 4, 3)


@scenario()
def inner_vmap_of_parameters(draw):
    """An ensemble: a vmap over stacked parameters."""
    model = lambda p, x: jax.vmap(mlp, (0, None))(p, x).sum(0) ** 2
    members = [layers(draw, 3, 4, 2) for _ in range(6)]
    return model, jax.tree.map(lambda *leaves: jnp.stack(leaves), *members), draw(D, 3)


@scenario()
def experts(draw):
    """The sample chooses its weights: by an index, by a slice, and by a where."""

    def model(p, x):
        z = p["experts"][x["expert"]] @ x["r"]
        some = lax.dynamic_slice(p["bank"], (x["expert"], 0), (2, 4))
        return (some @ z) * jnp.where(x["r"][0] > 0, p["a"], p["b"])

    X = {"r": draw(D, 3), "expert": draw.integers(3, D)}
    return model, {"experts": draw(3, 4, 3), "bank": draw(6, 4), "a": draw(2), "b": draw(2)}, X


# ----------------------------------------------------------------------------------------------------------- embeddings


@scenario(factored={"['E']": ""})
def embedding_tied(draw):
    """Tokens that repeat, through an embedding whose transpose is the last layer."""

    def model(p, tokens):
        h = p["E"][tokens] + p["positions"]
        return p["E"] @ jnp.tanh(jnp.mean(h, axis=0) @ p["W"])

    X = jnp.asarray(
        [[1, 1, 3, 6, 1, 0], [2, 3, 2, 3, 2, 3], [4, 4, 4, 4, 4, 4], [0, 1, 2, 3, 4, 5], [6, 5, 0, 0, 5, 6]]
    )
    return model, {"E": draw(7, 4), "positions": draw(6, 4), "W": draw(4, 4)}, jnp.asarray(X)


@scenario()
def embedding_modes(draw):
    """Indices that are negative or too large, in every mode of jnp; 7 rows."""

    def model(p, tokens):
        E, inside = p["E"], jnp.clip(tokens, -7, 6)
        clipped = E.at[tokens].get(mode="clip")
        filled = E.at[tokens].get(mode="fill", fill_value=0.25)
        wrapped = jnp.take(E, tokens, axis=0, mode="wrap")
        rows = clipped * filled + jnp.sin(wrapped) * E[inside]
        return jnp.sum(rows * jnp.cos(tokens)[:, None], axis=0)

    X = jnp.asarray([[-1, 2, 7, 3], [-8, -7, 6, 0], [9, -9, 1, 1], [-3, -3, 4, 12], [5, -1, 13, -14]])
    return model, {"E": draw(7, 2)}, X


@scenario()
def embedding_of_columns(draw):
    """Looked up along the last axis, by two indices, and by a multi-dimensional index."""

    def model(p, tokens):
        pairs = p["pair"][tokens[:3], tokens[1:]]
        return p["E"][:, tokens].sum(1) * jnp.sum(pairs) + p["F"][tokens.reshape(2, 2)].sum((0, 1))

    return model, {"E": draw(2, 7), "pair": draw(7, 7), "F": draw(7, 2)}, draw.integers(7, D, 4)


# --------------------------------------------------------------------------------------------------------- convolutions


def _convolve(z, W, strides, padding, **options):
    return lax.conv_general_dilated(z[None], W, strides, padding, **options)[0]


@scenario(factored={"['first']": "convolution", "['second']": "convolution"})
def convolution(draw):
    """In a plane: strided, then dilated with uneven padding; a bias for each channel."""

    def model(p, x):
        z = jnp.tanh(_convolve(x, p["first"], (2, 1), "SAME") + p["bias"][:, None, None])
        z = _convolve(z, p["second"], (1, 1), [(0, 1), (2, 0)], rhs_dilation=(2, 1))
        return jnp.sum(z**2, axis=(1, 2))

    params = {"first": draw(3, 2, 3, 2, scale=0.5), "second": draw(4, 3, 2, 3, scale=0.5), "bias": draw(3)}
    return model, params, draw(D, 2, 6, 7)


@scenario(factored={"['grouped']": "", "['depthwise']": ""})
def convolution_in_groups(draw):
    """Two groups, then one group for each channel, with more outputs than inputs."""

    def model(p, x):
        z = jnp.tanh(_convolve(x, p["grouped"], (1, 1), "SAME", feature_group_count=2))
        return jnp.mean(_convolve(z, p["depthwise"], (1, 2), "VALID", feature_group_count=6), axis=(1, 2))

    return model, {"grouped": draw(6, 2, 2, 3), "depthwise": draw(12, 1, 2, 2)}, draw(D, 4, 3, 5)


@scenario()
def convolution_of_sequences(draw):
    """On a line, channels last, then transposed (a dilated input), then depthwise."""

    def model(p, x):
        numbers = ("NWC", "WIO", "NWC")
        z = jnp.tanh(_convolve(x, p["plain"], (2,), [(1, 1)], dimension_numbers=numbers))
        z = jnp.tanh(_convolve(z, p["up"], (1,), [(1, 2)], lhs_dilation=(2,), dimension_numbers=numbers))
        return _convolve(z, p["deep"], (1,), "SAME", feature_group_count=2, dimension_numbers=numbers)[:3]

    return model, {"plain": draw(3, 3, 4), "up": draw(2, 4, 2), "deep": draw(3, 1, 2)}, draw(D, 7, 3)


# -------------------------------------------------------------------------------------------------------------- control


@scenario(factored={"['W']": "dense layer", "['U']": "dense layer", "['out']": "dense layer"})
def recurrent(draw):
    """Weights that a scan over 6 steps closes over."""

    def model(p, x):
        def step(h, token):
            new = jnp.tanh(p["W"] @ h + p["U"] @ token + p["b"])
            return new, new[:2]

        last, seen = lax.scan(step, jnp.zeros(4), x)
        return p["out"] @ last + jnp.sum(seen)

    params = {"W": draw(4, 4, scale=0.5), "U": draw(4, 3), "b": draw(4), "out": draw(2, 4)}
    return model, params, draw(D, 6, 3)


@scenario()
def initial_state(draw):
    """A parameter is the first state, and another one what is scanned over."""

    def model(p, x):
        def step(h, weight):
            return jnp.sin(p["W"] @ h + x) * weight, jnp.sum(h)

        last, sums = lax.scan(step, p["h"], p["weights"], reverse=True)
        return last * jnp.dot(sums, sums)

    return model, {"W": draw(3, 3), "h": draw(3), "weights": 1 + 0.2 * draw(4)}, draw(D, 3)


@scenario(factored={"['W']": ""})
def scanned_layers(draw):
    """Equal layers, their weights stacked."""

    def model(p, x):
        z, _ = lax.scan(lambda z, q: (z + jnp.tanh(q["W"] @ z + q["b"]), None), x, {"W": p["W"], "b": p["b"]})
        return p["out"] @ z

    return model, {"W": draw(6, 4, 4, scale=0.5), "b": draw(6, 4), "out": draw(2, 4)}, draw(D, 4)


@scenario()
def nested_scan(draw):
    """Stacked layers, each a recurrence over 3 steps of 2 numbers; the output is shared by both loops."""

    def model(p, x):
        def layer(sequence, q):
            def step(h, token):
                h = jnp.tanh(q @ h + token)
                return h, p["mix"] @ h

            return lax.scan(step, jnp.zeros(2), sequence)[1], None

        return lax.scan(layer, x, p["W"])[0][-1]

    return model, {"W": draw(4, 2, 2), "mix": draw(2, 2)}, draw(D, 3, 2)


@scenario()
def fori_loop(draw):
    """A loop that looks up its own weights."""

    def model(p, x):
        return lax.fori_loop(0, 4, lambda i, z: jnp.tanh(p["W"][i] @ z) + p["b"][i], x)[:2]

    return model, {"W": draw(4, 3, 3), "b": draw(4, 3)}, draw(D, 3)


@scenario()
def cond(draw):
    """The sample decides which layers it goes through."""

    def model(p, x):
        z = lax.cond(x[0] > 0, lambda: jnp.tanh(p["W"] @ x), lambda: p["V"] @ x**2 + p["b"])
        return lax.switch(jnp.sum(x > 0), [jnp.sin, lambda z: p["V"][:, :1] @ z[:1], jnp.cos], z)

    X = draw(D, 3).at[:, 0].set(jnp.asarray([1.0, -1.0, 0.5, 0.7, -0.3]))
    return model, {"W": draw(4, 3), "V": draw(4, 3), "b": draw(4)}, X


@jax.custom_jvp
def _saturating(z):
    return z / (1 + z**2)


@_saturating.defjvp
def _saturating_jvp(primals, tangents):
    """Not the derivative of the function: a library that differentiates the function itself would be wrong here."""
    (z,), (dz,) = primals, tangents
    return _saturating(z), 0.5 * jnp.cos(z) * dz


@scenario(factored={"[0]['W']": "dense layer", "[1]['W']": "dense layer"})
def custom_jvp(draw):
    return functools.partial(mlp, activation=_saturating), layers(draw, 3, 4, 2), draw(D, 3)


@jax.custom_vjp
def _own_layer(W, b, x):
    return jnp.sin(W @ x + b)


def _own_layer_forward(W, b, x):
    return _own_layer(W, b, x), (W, b, x)


def _own_layer_backward(kept, cotangent):
    """Half of the derivative by W: again the rule is what counts."""
    W, b, x = kept
    inner = jnp.cos(W @ x + b) * cotangent
    return 0.5 * inner[:, None] * x[None, :], inner, W.T @ inner


_own_layer.defvjp(_own_layer_forward, _own_layer_backward)


@scenario(forward_mode=False)
def custom_vjp(draw):
    """A layer with its own backward pass, its parameters among the arguments."""

    def model(p, x):
        return p["out"] @ _own_layer(p["W"], p["b"], jnp.tanh(p["into"] @ x))

    return model, {"into": draw(6, 3), "W": draw(4, 6), "b": draw(4), "out": draw(2, 4)}, draw(D, 3)


@scenario()
def kinks(draw):
    """Rectifiers, maxima and a sort."""

    def model(p, x):
        z = jax.nn.relu(p["W"] @ x)
        return jnp.sort(p["V"] @ z)[::2] * jnp.max(p["b"] + z) + jnp.abs(p["b"][:1])

    return model, {"W": draw(6, 3), "V": draw(4, 6), "b": draw(6)}, draw(D, 3)


# ------------------------------------------------------------------------------------------------------------ residuals


def _scalar_network(p, x):
    return mlp(p, x)[0]


# The first W is the derivative of the first layer by x: it meets the slopes of the activation entry by entry.
@scenario(factored={"[1]['W']": "dense layer"})
def laplacian_residual(draw):
    def model(p, x):
        return nablax.laplacian(_scalar_network)(p, x[None])[0] + jnp.sin(x[0])

    return model, layers(draw, 3, 4, 1), draw(D, 3)


@scenario()
def hessian_residual(draw):
    def model(p, x):
        H = nablax.hessian(_scalar_network)(p, x[None])[0]
        return jnp.stack([H[0, 0] * H[1, 1] - H[0, 1] ** 2, jnp.trace(H @ H) + p[1]["b"][0] ** 3])

    return model, layers(draw, 3, 4, 1), draw(D, 3)


@scenario()
def residual_of_jax(draw):
    """A wave equation by JAX's own derivatives: grad of grad."""

    def model(p, x):
        along = lambda i: jax.grad(lambda z: jax.grad(lambda z: _scalar_network(p, z))(z)[i])(x)[i]
        return along(0) - p_speed(p) * along(1)

    def p_speed(p):
        return jnp.exp(p[0]["b"][0])

    return model, layers(draw, 3, 4, 1), draw(D, 3)


# ----------------------------------------------------------------------------------------------------------- references


def dense_reference(scenario: ParameterScenario, params: Any, X: Any) -> jax.Array:
    """(D, A, B), by JAX alone: one vmapped jacrev."""
    flat = lambda *args: ravel_pytree(scenario.model(*args))[0]
    tree = jax.vmap(jax.jacrev(flat, argnums=scenario.wrt), scenario.axes)(*scenario.args(params, X))
    return jnp.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(tree)], axis=-1)


def from_dense(
    J: Any, names: Sequence[str], split: Callable[..., Any], given: dict[str, Any], J_other: Any = None
) -> dict[str, Any]:
    """The named results of an operator, by dense linear algebra on its array (D, *y.shape, B), real or complex.

    Args:
        J: the array.
        names: those of `asked`.
        split: ``split(array)`` cuts the last axis, B, into a tree like the parameters.
        given: the direction ``v`` (B,), the rows ``w``, the weights ``of_samples`` and ``of_rows``.
        J_other: the array of another operator.
    """
    rows, B = J.shape[:-1], J.shape[-1]
    flat = J.reshape(-1, B)
    weights = lambda name: jnp.asarray(given[name]).reshape(-1, *[1] * (J.ndim - 1 if name == "of_samples" else 1))
    scaled = {
        "of_samples": lambda array: (array * weights("of_samples")).reshape(-1, B),
        "of_rows": lambda array: array.reshape(-1, B) * weights("of_rows"),
    }
    by_name = {
        "dense": lambda: J,
        "tree": lambda: split(J),
        "gram": lambda: (flat @ flat.conj().T).reshape(*rows, *rows),
        "cross": lambda: (flat @ J_other.reshape(-1, B).conj().T).reshape(*rows, *J_other.shape[:-1]),
        "norms": lambda: (abs(J) ** 2).sum(-1),
        "product": lambda: (flat @ given["v"]).reshape(rows),
        "adjoint": lambda: split(flat.conj().T @ given["w"].reshape(-1)),
        "fisher": lambda: flat.conj().T @ flat,
        "fisher of samples": lambda: scaled["of_samples"](J.conj()).T @ flat,
        "fisher of rows": lambda: scaled["of_rows"](J.conj()).T @ flat,
        "diagonal": lambda: split((abs(flat) ** 2).sum(0)),
        "diagonal of samples": lambda: split(scaled["of_samples"](abs(J) ** 2).sum(0)),
        "diagonal of rows": lambda: split(scaled["of_rows"](abs(J) ** 2).sum(0)),
    }
    return {name: by_name[name]() for name in names}


def asked(O: Any, names: Sequence[str], given: dict[str, Any], other: Any = None) -> dict[str, Any]:
    """The named results of an operator; `given` is as for `from_dense`, but that ``v`` may be a tree."""
    by_name = {
        "dense": O.dense,
        "tree": O.tree,
        "gram": O.gram,
        "cross": lambda: O.gram(other),
        "norms": O.squared_norms,
        "product": lambda: O @ given["v"],
        "adjoint": lambda: O.T @ given["w"],
        "fisher": O.fisher,
        "fisher of samples": lambda: O.fisher(weights=given["of_samples"]),
        "fisher of rows": lambda: O.fisher(given["of_rows"]),
        "diagonal": O.fisher_diagonal,
        "diagonal of samples": lambda: O.fisher_diagonal(given["of_samples"]),
        "diagonal of rows": lambda: O.fisher_diagonal(weights=given["of_rows"]),
    }
    return {name: by_name[name]() for name in names}


def cut(params: Any) -> Callable[..., Any]:
    """``split`` of `from_dense` for real parameters: the last axis as a tree like them."""
    leaves, treedef = jax.tree.flatten(params)
    ends = np.cumsum([jnp.size(leaf) for leaf in leaves])[:-1].tolist()

    def split(array: Any) -> Any:
        numbers = np if isinstance(array, np.ndarray) else jnp
        parts = zip(numbers.split(array, ends, axis=-1), leaves, strict=True)
        return treedef.unflatten([part.reshape((*array.shape[:-1], *jnp.shape(leaf))) for part, leaf in parts])

    return split


# --------------------------------------------------------------------------------------------- complex by real numbers


def coordinates(params: Any) -> jax.Array:
    """The real coordinates of parameters: of a complex leaf all real parts, then all imaginary parts."""
    parts = [[leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf] for leaf in jax.tree.leaves(params)]
    return jnp.concatenate([part.ravel() for pair in parts for part in pair])


def packed(vector: jax.Array, params: Any) -> Any:
    """The tree like `params` that has these coordinates."""
    pair = lambda leaf, part: jax.lax.complex(part[0], part[1]) if jnp.iscomplexobj(leaf) else part
    return jax.tree.map(pair, params, cut_coordinates(params)(vector))


def cut_coordinates(params: Any) -> Callable[..., Any]:
    """As `cut`: a complex leaf has an axis of two, real and imaginary, in front of its own."""
    pairs = lambda leaf: jnp.zeros((2, *leaf.shape)) if jnp.iscomplexobj(leaf) else leaf
    return cut(jax.tree.map(pairs, params))


def complex_reference(model: Callable[..., Any], params: Any, X: jax.Array) -> jax.Array:
    """(D, *y.shape, B) by the real coordinates, from real derivatives of the real and imaginary parts."""
    theta = coordinates(params)
    by = lambda part: jax.vmap(lambda x: jax.jacrev(lambda theta: part(model(packed(theta, params), x)))(theta))(X)
    is_complex = jnp.iscomplexobj(jax.eval_shape(model, params, X[0]))
    return jax.lax.complex(by(jnp.real), by(jnp.imag)) if is_complex else by(jnp.real)
