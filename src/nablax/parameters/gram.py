"""The kernel of all pairs of samples, block by block of pairs, so that what is intermediate stays small."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from nablax.batching.chunks import chunk_shape
from nablax.parameters.contract import entries, gram, pays, positions, row_count
from nablax.parameters.factors import Bias, Block

PIECE_BYTES = 2 * 2**20
"""Size of the kernel of one layer for one piece on a CPU: it stays in the cache while the layers are added up."""

FORMED_BYTES = 32 * 2**20
"""Size of the derivatives of one piece on a CPU, where a layer is cheaper by way of these."""

PIECE_BYTES_ACCELERATOR = 2**30


def gram_in_pieces(left: Sequence[Block], right: Sequence[Block] | None, budget: int | None) -> Array:
    """Sum over all parameters of dY dY'*: (D, R, D', R'). `right` None: that of `left` with itself.

    Args:
        left: blocks of D samples.
        right: blocks of D' samples.
        budget: bytes for intermediate arrays that the user allows, or None.
    """
    if right is None:
        return _of_all_pairs(left, budget)
    D, R, E, S = *_shape(left), *_shape(right)
    rows, height = chunk_shape(D, _width(left, right, budget))
    columns, width = chunk_shape(E, _width(left, right, budget))
    if rows == columns == 1:
        return gram(left, right)
    a, b = _padded(left, rows * height - D), _padded(right, columns * width - E)
    pairs = jnp.asarray(list(itertools.product(range(rows), range(columns))))

    def place(whole: Array, pair: Array) -> tuple[Array, None]:
        i, j = pair
        found = _piece(_cut(a, i, height), _cut(b, j, width))
        return jax.lax.dynamic_update_slice(whole, found, (i * height, 0, j * width, 0)), None

    whole = jnp.zeros((rows * height, R, columns * width, S), _dtype(left))
    return jax.lax.scan(place, whole, pairs)[0][:D, :, :E]


def _of_all_pairs(blocks: Sequence[Block], budget: int | None) -> Array:
    """The kernel of one batch, (D, R, D, R): the pieces above the diagonal are computed, those below are copied."""
    D, R = _shape(blocks)
    count, width = chunk_shape(D, _width(blocks, blocks, budget))
    if count == 1:
        return gram(blocks, blocks)
    padded = _padded(blocks, count * width - D)

    def place(whole: Array, pair: Array) -> tuple[Array, None]:
        i, j = pair
        found = _piece(_cut(padded, i, width), _cut(padded, j, width))
        return jax.lax.dynamic_update_slice(whole, found, (i * width, 0, j * width, 0)), None

    def mirror(whole: Array, pair: Array) -> tuple[Array, None]:
        i, j = pair
        found = jax.lax.dynamic_slice(whole, (i * width, 0, j * width, 0), (width, R, width, R))
        turned = jnp.moveaxis(found, (2, 3), (0, 1)).conj()
        return jax.lax.dynamic_update_slice(whole, turned, (j * width, 0, i * width, 0)), None

    # Two loops: in one, XLA on a CPU computes each piece twice, the second time in the order of memory of its mirror.
    whole = jnp.zeros((count * width, R, count * width, R), _dtype(blocks))
    whole, _ = jax.lax.scan(place, whole, jnp.asarray([(i, j) for i in range(count) for j in range(i, count)]))
    whole, _ = jax.lax.scan(mirror, whole, jnp.asarray([(i, j) for i in range(count) for j in range(i + 1, count)]))
    return whole[:D, :, :D]


_piece = jax.checkpoint(gram)


def _cut(blocks: Sequence[Block], i: Array, width: int) -> Sequence[Block]:
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * width, width), blocks)


def _shape(blocks: Sequence[Block]) -> tuple[int, int]:
    """(D, R)."""
    first = next(block for block in blocks if not isinstance(block, Bias))
    return jax.tree.leaves(first)[0].shape[0], row_count(first)


def _dtype(blocks: Sequence[Block]) -> jnp.dtype:
    inexact = (x.dtype for x in jax.tree.leaves(blocks) if jnp.issubdtype(x.dtype, jnp.inexact))
    return jnp.result_type(*inexact)


def _width(left: Sequence[Block], right: Sequence[Block], budget: int | None) -> int:
    """How many samples of each side meet at once."""
    on_cpu = jax.default_backend() == "cpu"
    limit = lambda bytes_on_cpu: min(bytes_on_cpu if on_cpu else PIECE_BYTES_ACCELERATOR, budget or math.inf)
    size, R, S, width = _dtype(left).itemsize, _shape(left)[1], _shape(right)[1], 2**30
    for a, b in zip(left, right, strict=True):
        if pays(a, b):
            each_pair = size * positions(a) * R * positions(b) * S
            width = min(width, math.isqrt(max(int(limit(PIECE_BYTES) // each_pair), 1)))
        else:
            each = size * max(entries(a), entries(b), 1) * (R + S)
            width = min(width, max(int(limit(FORMED_BYTES) // each), 1))
    return width


def _padded(blocks: Sequence[Block], missing: int) -> Sequence[Block]:
    """More samples, copies of the last: what they give is cut off."""
    fill = lambda x: jnp.concatenate([x, jnp.broadcast_to(x[-1:], (missing, *x.shape[1:]))]) if missing else x
    return jax.tree.map(fill, blocks)
