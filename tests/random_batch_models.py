"""Random models of a whole batch, some of which mix samples: to try to fool the proof.

A model is a list of steps that was drawn once; each step makes a new array out of earlier ones, so that the same steps
can run for every number of samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

C, T = 4, 3
W = np.linspace(-1.0, 1.0, C * C).reshape(C, C)
NUMBERS = np.linspace(0.5, 1.5, 12)


def _axis(x, k):
    return k % x.ndim


def _merge(x, k):
    k %= x.ndim - 1
    return x.reshape(*x.shape[:k], -1, *x.shape[k + 2 :])


def _scan(x, k):
    rows = jnp.moveaxis(x, _axis(x, k), 0)
    return jnp.moveaxis(lax.scan(lambda h, row: (jnp.tanh(h + row),) * 2, jnp.zeros(rows.shape[1:]), rows)[1], 0, k)


def _map(x, k):
    rows = jnp.moveaxis(x, _axis(x, k), 0)
    return lax.map(lambda row: jnp.sin(row) * row.sum(), rows)


def _while(x, k):
    small = lambda row: lax.while_loop(lambda y: jnp.sum(y**2) > 0.5, lambda y: 0.6 * y, row)
    return small(x) if k % 3 == 0 else jax.vmap(small)(x)


def _cond(x, k):
    branch = lambda row: lax.cond(jnp.sum(row) > 0, jnp.sin, jnp.cos, row)
    return branch(x) if k % 3 == 0 else jax.vmap(branch)(x)


def _own_entry(x, k):
    return x[jnp.arange(x.shape[0]), jnp.argmax(x, axis=1) if k % 2 else k % 3]


def _write(x, k):
    places = (slice(None), k % x.shape[1]) if k % 3 else (jnp.arange(x.shape[0]), jnp.argmin(x, axis=1))
    return x.at[places].set(1.5 if k % 2 else x[places] ** 2)


def _conv(x, k):
    rows = x.reshape(x.shape[0], x.shape[1], -1)
    kernel = jnp.ones((rows.shape[1], rows.shape[1], 2)) * 0.3
    return lax.conv_general_dilated(rows, kernel, (1,), "SAME", dimension_numbers=("NCW", "OIW", "NCW"))


SAFE = {
    "sin": lambda x, k: jnp.sin(x),
    "relu": lambda x, k: jax.nn.relu(x),
    "softplus": lambda x, k: jax.nn.softplus(x),
    "dense": lambda x, k: x @ W,
    "scaled": lambda x, k: x * NUMBERS[k],
    "last_sum": lambda x, k: x.sum(axis=-1),
    "last_norm": lambda x, k: x - x.mean(axis=-1, keepdims=True),
    "first": lambda x, k: x[..., 0],
    "zeros": lambda x, k: jnp.concatenate([x, jnp.zeros((*x.shape[:-1], 1))], axis=-1)[..., 1:],
    "own_entry": _own_entry,
    "write": _write,
    "map": _map,
    "along_axis": lambda x, k: jnp.take_along_axis(x, jnp.argsort(x, axis=-1), axis=-1),
    "jit": lambda x, k: jax.jit(jax.checkpoint(lambda x: x**2))(x),
    "gram": lambda x, k: jnp.einsum("ij,ik->ijk", x, x),
}

RISKY = {
    "sum": lambda x, k: x.sum(axis=_axis(x, k)),
    "max": lambda x, k: x - x.max(axis=_axis(x, k), keepdims=True),
    "softmax": lambda x, k: jax.nn.softmax(x, axis=_axis(x, k)),
    "cumsum": lambda x, k: jnp.cumsum(x, axis=_axis(x, k)),
    "sort": lambda x, k: jnp.sort(x, axis=_axis(x, k)),
    "flip": lambda x, k: jnp.flip(x, axis=_axis(x, k)),
    "roll": lambda x, k: jnp.roll(x, 1, axis=_axis(x, k)),
    "swap": lambda x, k: jnp.swapaxes(x, 0, _axis(x, k)),
    "move": lambda x, k: jnp.moveaxis(x, _axis(x, k), -1),
    "merge": _merge,
    "turn": lambda x, k: x.reshape(x.shape[1], x.shape[0], *x.shape[2:]),
    "unmerge": lambda x, k: x.reshape(-1, (2, C, T)[k % 3], *x.shape[1:]),
    "unmerge_last": lambda x, k: x.reshape(*x.shape[:-1], -1, 2),
    "expand": lambda x, k: jnp.expand_dims(x, k % (x.ndim + 1)),
    "squeeze": lambda x, k: x.squeeze(),
    "take": lambda x, k: jnp.take(x, k % 2, axis=_axis(x, k)),
    "part": lambda x, k: lax.slice_in_dim(x, k % 2, 2, axis=_axis(x, k)),
    "half": lambda x, k: lax.slice_in_dim(x, 0, x.shape[_axis(x, k)] // 2, axis=_axis(x, k)),
    "doubled": lambda x, k: jnp.concatenate([x, 2 * x], axis=_axis(x, k)),
    "tile": lambda x, k: jnp.repeat(x, 2, axis=_axis(x, k)) if k % 2 else jnp.concatenate([x] * 2, _axis(x, k)),
    "pad": lambda x, k: jnp.pad(x, [(1, 0) if a == _axis(x, k) else (0, 0) for a in range(x.ndim)]),
    "position": lambda x, k: x + lax.broadcasted_iota(float, x.shape, _axis(x, k)),
    "size": lambda x, k: x / x.shape[_axis(x, k)],
    "noise": lambda x, k: x + jax.random.normal(jax.random.key(k), x.shape[: 1 + k % x.ndim][::-1]).sum(),
    "noises": lambda x, k: x * jax.random.uniform(jax.random.key(k), x.shape),
    "pairs": lambda x, k: jnp.tensordot(x, x, axes=((k % x.ndim,), (k % x.ndim,))),
    "mean_of_all": lambda x, k: x - x.mean(),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "conv": _conv,
    "fft": lambda x, k: jnp.fft.fft(x, axis=_axis(x, k)).real,
    "lonely": lambda x, k: x - x.mean(axis=0) if len(x) == 1 else x,
}

BINARY = {
    "add": lambda x, y, k: x + y,
    "mul": lambda x, y, k: x * y,
    "where": lambda x, y, k: jnp.where(x > 0, x, y),
    "concat": lambda x, y, k: jnp.concatenate([x, y], axis=_axis(x, k)),
    "stack": lambda x, y, k: jnp.stack([x, y], axis=k % (x.ndim + 1)),
    "matmul": lambda x, y, k: x @ y,
    "outer": lambda x, y, k: jnp.tensordot(x, y, axes=0),
    "batched": lambda x, y, k: jnp.einsum("d...,d...->d...", x, y),
    "transposed": lambda x, y, k: x + y.T,
}


@dataclass(frozen=True)
class Step:
    """``operation(*[pool[i] for i in inputs], number)``."""

    name: str
    inputs: tuple[int, ...]
    number: int

    def __call__(self, pool):
        operation = {**SAFE, **RISKY, **BINARY}[self.name]
        return operation(*(pool[i] for i in self.inputs), self.number)


@dataclass(frozen=True)
class RandomModel:
    """X (D, C, T) -> (D, ..): the steps, and which array is the output."""

    steps: tuple[Step, ...]
    output: int

    def __call__(self, X):
        pool = [X]
        for step in self.steps:
            pool.append(step(pool))
        return pool[self.output]

    def __str__(self):
        return " ".join(f"{step.name}{step.inputs}{step.number}" for step in self.steps) + f" -> {self.output}"


def draw(seed, length=7, risk=0.35):
    """A model whose steps can run for any number of samples, and whose output has as many rows as X."""
    random = np.random.default_rng(seed)
    shapes = {n: [jax.ShapeDtypeStruct((n, T, C), float)] for n in (1, 2, 7, 11)}
    steps = []
    for _ in range(6 * length):
        kinds = random.choice(3, p=[0.75 - risk, risk, 0.25])
        name = str(random.choice(list((SAFE, RISKY, BINARY)[kinds])))
        latest = len(shapes[7]) - 1
        inputs = (latest, int(random.integers(latest + 1)))[: 2 if kinds == 2 else 1]
        if kinds == 2 and random.random() < 0.3:
            inputs = (latest, latest)
        step = Step(name, inputs, int(random.integers(12)))
        try:
            found = {n: jax.eval_shape(lambda *pool: step(pool), *pool) for n, pool in shapes.items()}
        except Exception:  # shapes that do not fit
            continue
        if found[7].size > 4000 or found[7].size == 0 or len({y.ndim for y in found.values()}) > 1:
            continue
        steps.append(step)
        for n, pool in shapes.items():
            pool.append(found[n])
        if len(steps) == length:
            break
    rows = lambda k: all(p[k].ndim and p[k].shape == (n, *shapes[7][k].shape[1:]) for n, p in shapes.items())
    return RandomModel(tuple(steps), max(k for k in range(len(steps) + 1) if rows(k)))


def difference(model, one, sizes=(2, 3, 5), seed=0):
    """How far the rows of batches are from the model of one sample; NaN in the same places is no difference."""
    worst = 0.0
    for n in sizes:
        X = np.random.default_rng(seed + n).standard_normal((n, T, C))
        rows, alone = np.asarray(jax.jit(model)(X)), np.asarray(jax.jit(jax.vmap(one))(X))
        if not (np.isnan(rows) == np.isnan(alone)).all():
            return np.inf
        scale = 1 + np.nanmax(np.abs(rows), initial=0.0)
        worst = max(worst, float(np.nanmax(np.abs(rows - alone), initial=0.0)) / scale)
    return worst
