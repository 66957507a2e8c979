"""What the functions are called with: arrays that all depend on x, by a smooth map that bends.

``tanh(W x + b)``, W and b of its own for each array, is moved into the domain that the name stands for. So the first
and second derivatives of the arguments matter, and an answer that is only right for arguments that are linear in x, or
for a Hessian that is diagonal, is found out.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

C, D = 2, 3
"""Inputs and samples."""

CONSTANTS: dict[str, Any] = {
    "i": np.array([2, 0, 3, 1]),
    "b": np.array([True, False, True, True]),
    "rows": np.array([0, 2]),
    "at": np.array([[0], [2]]),
}

_Draw = Callable[..., jax.Array]


def _complex(draw: _Draw, *shape: int) -> jax.Array:
    return draw("re", *shape) + 1j * draw("im", *shape)


def _definite(root: jax.Array) -> jax.Array:
    return root @ root.conj().T + jnp.diag(jnp.arange(1.0, 4.0))


# Name -> how it is made of `draw(key, *shape)`, an array of numbers between -1 and 1.
KINDS: dict[str, Callable[[_Draw], jax.Array]] = {
    # vectors of any sign, positive ones, between 0 and 1, above 1
    **dict.fromkeys("vwy", lambda draw: 1.6 * draw("", 4)),
    **dict.fromkeys("pq", lambda draw: 1.3 + 0.9 * draw("", 4)),
    **dict.fromkeys(["u"], lambda draw: 0.5 + 0.4 * draw("", 4)),
    **dict.fromkeys(["g"], lambda draw: 2.0 + 0.8 * draw("", 4)),
    # numbers
    **dict.fromkeys("st", lambda draw: draw("")),
    # matrices: any, invertible, symmetric positive definite, lower triangular; an array of rank three
    **dict.fromkeys(["m"], lambda draw: 1.5 * draw("", 2, 3)),
    **dict.fromkeys(["n"], lambda draw: 1.5 * draw("", 3, 2)),
    **dict.fromkeys("ad", lambda draw: jnp.diag(jnp.array([2.0, -3.0, 4.0])) + draw("", 3, 3)),
    **dict.fromkeys(["h"], lambda draw: _definite(draw("", 3, 3))),
    **dict.fromkeys(["l"], lambda draw: jnp.tril(draw("", 3, 3)) + 2 * jnp.eye(3)),
    **dict.fromkeys("TU", lambda draw: 1.5 * draw("", 2, 3, 4)),
    # complex: vectors, invertible, Hermitian positive definite
    **dict.fromkeys(["c", "e"], lambda draw: _complex(draw, 4)),
    **dict.fromkeys(["ca"], lambda draw: jnp.diag(jnp.array([2.0, -3.0, 4.0])) + _complex(draw, 3, 3)),
    **dict.fromkeys(["ch"], lambda draw: _definite(_complex(draw, 3, 3))),
}

GUESSES = ("f(v)", "f(v, w)", "f(m)", "f(a)", "f(v, w, y)", "f(m, n)", "f([v, w])", "f(i)", "f(i, i)")
"""How a function is called that is in no table: the first that works."""

DOMAINS = ("v", "u", "p", "g")
"""What stands for v in a guess, until the value is finite."""


class Arguments(dict):
    """The arrays of `KINDS` for one x, made when they are first used."""

    def __init__(self, x: jax.Array) -> None:
        super().__init__(CONSTANTS)
        self._x = x

    def __missing__(self, name: str) -> jax.Array:
        if name not in KINDS:
            raise KeyError(name)
        self[name] = KINDS[name](functools.partial(self._draw, name))
        return self[name]

    def _draw(self, name: str, part: str, *shape: int) -> jax.Array:
        random = np.random.default_rng(zlib.crc32(f"{name} {part}".encode()))
        count = int(np.prod(shape, dtype=int))
        W, b = random.normal(size=(count, C)), random.normal(size=count)
        return jnp.tanh(W @ self._x + b).reshape(shape)


def samples() -> jax.Array:
    """X (D, C)."""
    return jnp.asarray(np.random.default_rng(7).normal(size=(D, C)))


def evaluate(call: str, f: Callable[..., Any], x: jax.Array) -> Any:
    """What the text of a call returns for one x."""
    names = {"f": f, "jax": jax, "jnp": jnp, "np": np, "lax": jax.lax}
    return eval(call, names, Arguments(x))
