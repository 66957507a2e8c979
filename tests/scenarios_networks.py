"""Networks as people write them."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from jax import lax
from scenarios import Draw, Scenario


def _layers(draw: Draw, *sizes: int) -> list[dict[str, jax.Array]]:
    return [
        {"W": draw(out, into, scale=into**-0.5), "b": draw(out, scale=0.3)} for into, out in itertools.pairwise(sizes)
    ]


def _mlp(activation):
    def model(params, x):
        *hidden, last = params
        for layer in hidden:
            x = activation(layer["W"] @ x + layer["b"])
        return last["W"] @ x + last["b"]

    return model


def _perceptron(name: str, activation, outputs: int, inputs: int, samples: int, hidden: int) -> Scenario:
    draw = Draw(name)
    params = _layers(draw, inputs, hidden, hidden, outputs)
    return Scenario(name, _mlp(activation), params, draw(samples, inputs))


def _scalar_network() -> Scenario:
    draw = Draw("scalar_network")
    tanh = _mlp(jnp.tanh)
    return Scenario("scalar_network", lambda p, x: tanh(p, x)[0], _layers(draw, 3, 4, 1), draw(7, 3))


def _layer_norm(z, gain):
    centred = z - jnp.mean(z, -1, keepdims=True)
    return gain[None] * centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 0.1)


def _attention() -> Scenario:
    """One block on 3 tokens of 2 features, with a layer norm and a residual: x has rank 2, y has 4 numbers."""
    draw = Draw("attention")
    shapes = {"E": (2, 6), "Q": (6, 5), "K": (6, 5), "V": (6, 6), "out": (6, 4)}
    params = {name: draw(*shape, scale=0.6) for name, shape in shapes.items()} | {"gain": 1 + 0.1 * draw(6)}

    def model(p, x):
        h = x @ p["E"]
        z = _layer_norm(h, p["gain"])
        scores = (z @ p["Q"]) @ (z @ p["K"]).T / jnp.sqrt(5.0)
        h = h + jax.nn.softmax(scores, axis=-1) @ (z @ p["V"])
        return jnp.mean(h, 0) @ p["out"]

    return Scenario("attention", model, params, draw(5, 3, 2))


def _convolution() -> Scenario:
    """Two convolutions (one strided) on a 2 x 3 x 4 image, then the mean over pixels."""
    draw = Draw("convolution")
    params = {"first": draw(3, 2, 2, 2, scale=0.5), "second": draw(5, 3, 2, 2, scale=0.5)}

    def model(p, x):
        z = jnp.tanh(lax.conv_general_dilated(x[None], p["first"], (1, 1), "SAME"))
        z = jax.nn.silu(lax.conv_general_dilated(z, p["second"], (2, 1), [(0, 1), (1, 0)]))
        return jnp.mean(z, axis=(0, 2, 3))

    return Scenario("convolution", model, params, draw(3, 2, 3, 4))


def _recurrent() -> Scenario:
    """A gated recurrent cell over 4 steps, and the mean of its states."""
    draw = Draw("recurrent")
    params = {
        "Wz": draw(3, 3, scale=0.6),
        "Uz": draw(3, 2),
        "Wh": draw(3, 3, scale=0.6),
        "Uh": draw(3, 2),
        "out": draw(4, 3),
    }

    def model(p, x):
        def step(h, token):
            gate = jax.nn.sigmoid(p["Wz"] @ h + p["Uz"] @ token)
            new = (1 - gate) * h + gate * jnp.tanh(p["Wh"] @ h + p["Uh"] @ token)
            return new, new

        last, states = lax.scan(step, jnp.zeros(3), x)
        return p["out"] @ (last + jnp.mean(states, 0))

    return Scenario("recurrent", model, params, draw(5, 4, 2))


def _scanned_layers() -> Scenario:
    """Equal layers, their weights stacked, by one scan."""
    draw = Draw("scanned_layers")
    params = {"W": draw(3, 4, 4, scale=0.5), "b": draw(3, 4, scale=0.3), "out": draw(2, 4)}

    def model(p, x):
        z, _ = lax.scan(
            lambda z, layer: (z + jnp.tanh(layer["W"] @ z + layer["b"]), None), x, {"W": p["W"], "b": p["b"]}
        )
        return p["out"] @ z

    return Scenario("scanned_layers", model, params, draw(7, 4))


def _rematerialised() -> Scenario:
    """Blocks under jax.checkpoint."""
    draw = Draw("rematerialised")
    params = _layers(draw, 3, 4, 4, 2)

    def model(p, x):
        block = jax.checkpoint(lambda layer, z: jnp.sin(layer["W"] @ z + layer["b"]))
        for layer in p:
            x = block(layer, x)
        return x

    return Scenario("rematerialised", model, params, draw(5, 3))


def _nested_vmap() -> Scenario:
    """Particles in a plane: a vmap over pairs of particles inside the model."""
    draw = Draw("nested_vmap")
    params = {"pair": _layers(draw, 3, 4, 2)}
    network = _mlp(jax.nn.softplus)

    def model(p, x):
        def pair(r, s):
            return network(p["pair"], jnp.concatenate([r + s, jnp.sum((r - s) ** 2)[None]]))

        return jnp.sum(jax.vmap(jax.vmap(pair, (None, 0)), (0, None))(x, x), axis=(0, 1))

    return Scenario("nested_vmap", model, params, draw(5, 3, 2))


@jax.jit
def silu(x):
    """Not the activation of that name: a library that trusts names would be wrong here."""
    return jnp.sin(x) * x**2


def _misnamed() -> Scenario:
    draw = Draw("misnamed_silu")
    return Scenario("misnamed_silu", _mlp(silu), _layers(draw, 3, 4, 2), draw(5, 3))


SCENARIOS = [
    _perceptron("mlp_tanh", jnp.tanh, 2, 3, 5, 4),
    _perceptron("mlp_gelu", jax.nn.gelu, 3, 4, 7, 5),
    _perceptron("mlp_silu", jax.nn.silu, 4, 2, 5, 3),
    _perceptron("mlp_softplus", jax.nn.softplus, 2, 4, 5, 3),
    _scalar_network(),
    _attention(),
    _convolution(),
    _recurrent(),
    _scanned_layers(),
    _rematerialised(),
    _nested_vmap(),
    _misnamed(),
]
