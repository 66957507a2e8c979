"""How many samples go through the model at once.

All samples at once want the most memory and are not the fastest on a CPU, where chunks that fit the cache win. Chunks
are mapped in order by one compiled loop; each is recomputed in the backward pass, so that training through a derivative
needs the memory of one chunk too. A gradient keeps several times as much of each sample: its chunks are smaller.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from nablax._types import PyTree


def chunk_shape(samples: int, size: int | None) -> tuple[int, int]:
    """(number of chunks, samples in each): at most `size` in each, with as little padding as possible.

    An exact divisor of `samples` down to half of `size` is preferred: it needs no padding, and no copy of the results
    to cut the padding off. A number that is only a name (`jax.export.symbolic_shape`) cannot be divided: one chunk.
    """
    if size is None or not isinstance(samples, int) or size >= samples:
        return 1, samples
    for candidate in range(size, size // 2, -1):
        if samples % candidate == 0:
            return samples // candidate, candidate
    count = math.ceil(samples / size)
    return count, math.ceil(samples / count)


def map_samples(
    function: Callable[[list[Array]], PyTree], batched: list[Array], size: int | None, again: bool = True
) -> PyTree:
    """``vmap(function)`` over axis 0 of all of `batched`, `size` samples at a time (None: all at once).

    A chunk is computed `again` in the backward pass; what is never differentiated compiles faster without that. A last
    chunk that is not full is filled with repetitions of the last sample, whose results are cut off.
    """
    samples = batched[0].shape[0]
    count, width = chunk_shape(samples, size)
    vectorised = jax.vmap(function)
    if count == 1:
        return vectorised(batched)
    missing = count * width - samples

    def cut(leaf: Array) -> Array:
        if missing:
            leaf = jnp.concatenate([leaf, jnp.broadcast_to(leaf[-1:], (missing, *leaf.shape[1:]))])
        return leaf.reshape(count, width, *leaf.shape[1:])

    def join(leaf: Any) -> Array:
        return leaf.reshape(count * width, *leaf.shape[2:])[:samples]

    # prevent_cse is for code outside a loop; inside one it would only hinder the compiler. To lower a loop, JAX traces
    # its body once more, but not a call in it.
    body = jax.checkpoint(vectorised, prevent_cse=False) if again else jax.jit(vectorised)
    results = jax.lax.map(body, jax.tree.map(cut, batched))
    return jax.tree.map(join, results)


def other_if_differentiated(
    value: Callable[[PyTree], PyTree], other: Callable[[PyTree], PyTree], inputs: PyTree
) -> PyTree:
    """``value(inputs)``, whose derivatives of every order are those of ``other(inputs)``, another way to the same.

    Neither may depend on traced values beside the inputs: their derivatives would be lost.
    """
    leaves, tree = jax.tree.flatten(inputs)

    @jax.custom_jvp
    def mapped(*leaves: Array) -> PyTree:
        return value(jax.tree.unflatten(tree, leaves))

    @functools.partial(mapped.defjvp, symbolic_zeros=True)
    def differentiated(primals: Sequence[Array], tangents: Sequence[Any]) -> tuple[PyTree, PyTree]:
        # What does not move is left out, or its zeros would be pushed through the model.
        moving = [k for k, tangent in enumerate(tangents) if not isinstance(tangent, SymbolicZero)]

        def at(*moved: Array) -> PyTree:
            known = dict(zip(moving, moved, strict=True))
            return other(jax.tree.unflatten(tree, [known.get(k, p) for k, p in enumerate(primals)]))

        return jax.jvp(at, [primals[k] for k in moving], [tangents[k] for k in moving])

    return mapped(*leaves)


def sum_over_chunks(function: Callable[[list[Array]], PyTree], batched: list[Array], size: int | None) -> PyTree:
    """``function(chunk)``, summed over chunks of at most `size` samples of all of `batched` (None: all at once).

    What is left over after full chunks goes through by itself: a sum has no room for repeated samples.
    """
    samples = batched[0].shape[0]
    chunks, width = chunk_shape(samples, size)
    if chunks == 1:
        return function(batched)
    count, rest = divmod(samples, width)
    function = jax.checkpoint(function, prevent_cse=False)
    whole = [leaf[: count * width].reshape(count, width, *leaf.shape[1:]) for leaf in batched]
    add = lambda total, more: jax.tree.map(jnp.add, total, more)
    zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(function, [leaf[0] for leaf in whole]))
    total, _ = jax.lax.scan(lambda total, chunk: (add(total, function(chunk)), None), zero, whole)
    return add(total, function([leaf[count * width :] for leaf in batched])) if rest else total
