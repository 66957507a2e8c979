"""The ten models of the grid, each for one sample: sizes, weights, inputs.

A is the number of outputs, C of inputs, D of samples, H the width, L the number of hidden layers or blocks. Weights
and inputs come from numpy with a fixed seed, in float32, so that JAX and torch see the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

Rng = np.random.Generator
Params = Any


@dataclass(frozen=True)
class Cell:
    """One model of the grid.

    Attributes:
        name: its row in the tables.
        A: outputs of one sample; the models with `scalar` return shape (), the others (A,).
        C: inputs of one sample, always shape (C,).
        D: samples.
        about: the architecture in a few words.
        model: ``model(ops, params, x) -> y`` for one sample; ops is a namespace of `benchmarks.ops`.
        init: ``init(rng) -> params`` as numpy arrays.
        scalar: whether the output has no A axis.
    """

    name: str
    A: int
    C: int
    D: int
    about: str
    model: Callable[[Any, Params, Any], Any]
    init: Callable[[Rng], Params]
    scalar: bool = False

    def data(self) -> tuple[Params, np.ndarray]:
        """The weights and the inputs X (D, C)."""
        rng = np.random.default_rng(20240607)
        params = self.init(rng)
        return params, rng.normal(size=(self.D, self.C)).astype(np.float32)

    def with_samples(self, D: int) -> Cell:
        return replace(self, D=D)


def dense(rng: Rng, inputs: int, outputs: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Weights of one layer; the bias is not zero, so that a lost bias shows."""
    W = rng.normal(size=(inputs, outputs)) * scale / np.sqrt(inputs)
    return {"W": W.astype(np.float32), "b": (0.1 * rng.normal(size=outputs)).astype(np.float32)}


def linear(layer, x):
    return x @ layer["W"] + layer["b"]


# Multilayer perceptrons.


def init_mlp(rng: Rng, C: int, H: int, L: int, A: int) -> Params:
    sizes = [C] + [H] * L + [A]
    return [dense(rng, a, b) for a, b in pairwise(sizes)]


def mlp(ops, params, x, *, activation: str, scalar: bool = False):
    for layer in params[:-1]:
        x = getattr(ops, activation)(linear(layer, x))
    y = linear(params[-1], x)
    return y[0] if scalar else y


def mlp_cell(name: str, activation: str, *, A: int, C: int, H: int, L: int, D: int, scalar: bool = False) -> Cell:
    return Cell(
        name,
        A,
        C,
        D,
        f"MLP {activation} H{H} L{L}",
        partial(mlp, activation=activation, scalar=scalar),
        partial(init_mlp, C=C, H=H, L=L, A=A),
        scalar,
    )


# SIREN (Sitzmann et al. 2020): sine layers of frequency 30.

SIREN_FREQUENCY = 30.0


def init_siren(rng: Rng, C: int, H: int, L: int, A: int) -> Params:
    def layer(inputs, outputs, bound):
        W = rng.uniform(-bound, bound, size=(inputs, outputs))
        b = rng.uniform(-1, 1, size=outputs) / np.sqrt(inputs)
        return {"W": W.astype(np.float32), "b": b.astype(np.float32)}

    hidden = np.sqrt(6 / H) / SIREN_FREQUENCY
    return [layer(C, H, 1 / C)] + [layer(H, H, hidden) for _ in range(L - 1)] + [layer(H, A, hidden)]


def siren(ops, params, x):
    for layer in params[:-1]:
        x = ops.sin(SIREN_FREQUENCY * linear(layer, x))
    return linear(params[-1], x)


# Layer norm, attention and residual blocks.


def init_norm(H: int) -> dict[str, np.ndarray]:
    return {"scale": np.ones(H, np.float32), "shift": np.zeros(H, np.float32)}


def layer_norm(ops, norm, x):
    centred = x - ops.mean(x)
    return centred / ops.sqrt(ops.mean(centred * centred) + 1e-5) * norm["scale"] + norm["shift"]


def init_attention(rng: Rng, n: int, d: int, L: int) -> Params:
    def block():
        return {
            "norm": init_norm(d),
            "qkv": [dense(rng, d, d) for _ in range(3)],
            "out": dense(rng, d, d),
            "norm_mlp": init_norm(d),
            "mlp": [dense(rng, d, 2 * d), dense(rng, 2 * d, d)],
        }

    return {"embed": dense(rng, 3, d), "blocks": [block() for _ in range(L)], "head": dense(rng, d, 1)}


def attention(ops, params, x, *, n: int, heads: int):
    """N particles in three dimensions, mixed by self-attention; one number comes out."""
    h = linear(params["embed"], x.reshape(n, 3))
    for block in params["blocks"]:
        z = layer_norm(ops, block["norm"], h)
        q, k, v = (linear(layer, z).reshape(n, heads, -1) for layer in block["qkv"])
        scores = ops.einsum("ihd,jhd->hij", q, k) / q.shape[-1] ** 0.5
        mixed = ops.einsum("hij,jhd->ihd", ops.softmax(scores), v).reshape(n, -1)
        h = h + linear(block["out"], mixed)
        up, down = block["mlp"]
        h = h + linear(down, ops.gelu(linear(up, layer_norm(ops, block["norm_mlp"], h))))
    return ops.sum(linear(params["head"], h))


def init_resnet(rng: Rng, C: int, H: int, L: int, A: int) -> Params:
    blocks = [{"norm": init_norm(H), "up": dense(rng, H, H), "down": dense(rng, H, H)} for _ in range(L)]
    return {"in": dense(rng, C, H), "blocks": blocks, "norm": init_norm(H), "out": dense(rng, H, A)}


def resnet(ops, params, x):
    h = linear(params["in"], x)
    for block in params["blocks"]:
        h = h + linear(block["down"], ops.gelu(linear(block["up"], layer_norm(ops, block["norm"], h))))
    return linear(params["out"], layer_norm(ops, params["norm"], h))


# Slater-Jastrow: log |det phi_k(r_i)| + sum over pairs of a r_ij / (1 + b r_ij).


def init_slater_jastrow(rng: Rng, n: int, H: int) -> Params:
    return {
        "orbitals": init_mlp(rng, 4, H, 2, n),
        "decay": np.linspace(0.5, 1.0, n).astype(np.float32),
        "pair": np.array([0.25, 0.5], np.float32),
    }


def slater_jastrow(ops, params, x, *, n: int):
    r = x.reshape(n, 3)
    distance = ops.sqrt(ops.sum(r * r, -1))[:, None]
    features = ops.concatenate(r, distance)
    orbitals = mlp(ops, params["orbitals"], features, activation="tanh") * ops.exp(-distance * params["decay"])
    i, j = np.triu_indices(n, 1)
    between = r[i] - r[j]
    r_ij = ops.sqrt(ops.sum(between * between, -1))
    a, b = params["pair"][0], params["pair"][1]
    return ops.log_abs_det(orbitals) + ops.sum(a * r_ij / (1 + b * r_ij))


# A recurrent network: one feature a step.


def init_rnn(rng: Rng, H: int, A: int) -> Params:
    return {"in": dense(rng, 1, H), "recurrent": dense(rng, H, H), "out": dense(rng, H, A)}


def rnn(ops, params, x):
    def step(h, feature):
        return ops.tanh(h @ params["recurrent"]["W"] + feature * params["in"]["W"][0] + params["in"]["b"])

    # A learnt first state: the recurrent layer's bias.
    return linear(params["out"], ops.scan(step, params["recurrent"]["b"], x))


CELLS: tuple[Cell, ...] = (
    mlp_cell("pinn", "tanh", A=1, C=3, H=50, L=4, D=4096),
    mlp_cell("small", "tanh", A=2, C=4, H=64, L=2, D=4096),
    mlp_cell("wide", "gelu", A=10, C=10, H=128, L=3, D=512),
    mlp_cell("tall", "silu", A=64, C=8, H=128, L=3, D=128),
    mlp_cell("vmc", "tanh", A=1, C=30, H=256, L=4, D=256, scalar=True),
    Cell("siren", 3, 2, 1024, "SIREN H128 L4", siren, partial(init_siren, C=2, H=128, L=4, A=3)),
    Cell(
        "attention",
        1,
        12,
        128,
        "4 particles, d64, 2 blocks of 4 heads",
        partial(attention, n=4, heads=4),
        partial(init_attention, n=4, d=64, L=2),
        scalar=True,
    ),
    Cell(
        "slater",
        1,
        12,
        256,
        "Slater-Jastrow, 4 electrons, orbitals H64 L2",
        partial(slater_jastrow, n=4),
        partial(init_slater_jastrow, n=4, H=64),
        scalar=True,
    ),
    Cell(
        "resnet",
        3,
        16,
        512,
        "ResNet gelu H96, 3 blocks, layer norm",
        resnet,
        partial(init_resnet, C=16, H=96, L=3, A=3),
    ),
    Cell("rnn", 2, 8, 256, "scan RNN tanh H64, 8 steps", rnn, partial(init_rnn, H=64, A=2)),
)


def cell(name: str) -> Cell:
    for candidate in CELLS:
        if candidate.name == name:
            return candidate
    raise SystemExit(f"no cell is called {name!r}; the grid has {', '.join(c.name for c in CELLS)}")
