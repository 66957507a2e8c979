"""The three networks for JAX, of one sample, and their weights and samples as NumPy arrays.

Parameters are flat dicts that carry the names and layouts of the torch twins in `torch_models.py`. Also imported by the
worker of neural-tangents, with a JAX of 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

MODELS = ("mlp", "conv", "attention")
OUTPUTS = (1, 4)
HIDDEN = (256, 256, 256)
CHANNELS = (8, 16, 32)
TOKENS, WIDTH, HEADS, BLOCKS, INNER = 8, 64, 4, 2, 128
ABOUT = {
    "mlp": "dense 10-256-256-256-A, tanh",
    "conv": "1x16x16, three 3x3 convolutions of stride 2 to 8, 16, 32 channels, tanh, dense to A",
    "attention": "8 tokens of 64, two blocks of attention (4 heads) and gelu layers (128), layer norms, dense to A",
}
INPUT = {"mlp": (10,), "conv": (1, 16, 16), "attention": (TOKENS, WIDTH)}


def shapes(name: str, A: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters, weights as (out, in, ...)."""
    found: dict[str, tuple[int, ...]] = {}

    def layer(where: str, *weight: int) -> None:
        found[f"{where}.weight"] = weight
        found[f"{where}.bias"] = weight[:1]

    if name == "mlp":
        widths = (*INPUT["mlp"], *HIDDEN, A)
        for i, (into, out) in enumerate(pairwise(widths)):
            layer(str(2 * i), out, into)
    elif name == "conv":
        widths = (1, *CHANNELS)
        for i, (into, out) in enumerate(pairwise(widths)):
            layer(str(2 * i), out, into, 3, 3)
        layer("7", A, CHANNELS[-1] * 4)
    else:
        for i in range(BLOCKS):
            for part in ("query", "key", "value", "project"):
                layer(f"blocks.{i}.{part}", WIDTH, WIDTH)
            layer(f"blocks.{i}.wide", INNER, WIDTH)
            layer(f"blocks.{i}.narrow", WIDTH, INNER)
            for part in ("first", "second"):
                layer(f"blocks.{i}.{part}", WIDTH)
        layer("head", A, WIDTH)
    return found


def is_norm(key: str) -> bool:
    return key.split(".")[-2] in ("first", "second")


def inputs(name: str, A: int, D: int) -> dict[str, Any]:
    """params, X, targets Y, a direction v like params and weights w like the outputs; a scalar output has no axis."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    params, v = {}, {}
    for key, shape in sorted(shapes(name, A).items()):
        if key.endswith("bias"):
            params[key] = 0.1 * normal(*shape)
        elif is_norm(key):
            params[key] = 1 + 0.1 * normal(*shape)
        else:
            params[key] = normal(*shape) / np.float32(np.sqrt(np.prod(shape[1:])))
        v[key] = normal(*shape)
    y = () if A == 1 else (A,)
    return {"params": params, "X": normal(D, *INPUT[name]), "Y": normal(D, *y), "v": v, "w": normal(D, *y)}


def model(name: str, A: int) -> Callable[[dict[str, Any], Any], Any]:
    """``f(params, x)`` of one sample, with an output of shape () for A = 1 and (A,) otherwise."""
    network = {"mlp": mlp, "conv": conv, "attention": attention}[name]
    return (lambda params, x: network(params, x)[0]) if A == 1 else network


def loss(name: str, A: int) -> Callable[[dict[str, Any], Any, Any], Any]:
    f = model(name, A)
    return lambda params, x, y: ((f(params, x) - y) ** 2).sum() / 2


def dense(params: dict[str, Any], where: str, x: Any) -> Any:
    """One layer, without a transpose of W: behind one, neural-tangents forms whole Jacobians, 70 times slower."""
    import jax

    weight = params[f"{where}.weight"]
    return jax.lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ()))) + params[f"{where}.bias"]


def mlp(params: dict[str, Any], x: Any) -> Any:
    import jax.numpy as jnp

    for i in range(len(HIDDEN)):
        x = jnp.tanh(dense(params, str(2 * i), x))
    return dense(params, str(2 * len(HIDDEN)), x)


def conv(params: dict[str, Any], x: Any) -> Any:
    import jax
    import jax.numpy as jnp

    for i in range(len(CHANNELS)):
        weight, bias = params[f"{2 * i}.weight"], params[f"{2 * i}.bias"]
        x = jax.lax.conv_general_dilated(x[None], weight, (2, 2), [(1, 1), (1, 1)])[0]
        x = jnp.tanh(x + bias[:, None, None])
    return dense(params, "7", x.reshape(-1))


def attention(params: dict[str, Any], x: Any) -> Any:
    import jax
    import jax.numpy as jnp

    def norm(where, x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * params[f"{where}.weight"] + params[f"{where}.bias"]

    def attend(where, x):
        parts = (dense(params, f"{where}.{part}", x) for part in ("query", "key", "value"))
        q, k, v = (p.reshape(TOKENS, HEADS, -1) for p in parts)
        scores = jax.nn.softmax(jnp.einsum("ihd,jhd->hij", q, k) / np.sqrt(WIDTH / HEADS).item(), axis=-1)
        return dense(params, f"{where}.project", jnp.einsum("hij,jhd->ihd", scores, v).reshape(TOKENS, WIDTH))

    for i in range(BLOCKS):
        at = f"blocks.{i}"
        x = x + attend(at, norm(f"{at}.first", x))
        x = x + dense(params, f"{at}.narrow", jax.nn.gelu(dense(params, f"{at}.wide", norm(f"{at}.second", x))))
    return dense(params, "head", x.mean(0))
