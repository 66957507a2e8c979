"""The kernel of all pairs of samples, block by block of pairs, so that what is intermediate stays small."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from nablax.parameters.contract import entries, gram, pays, positions, row_count
from nablax.parameters.factors import Bias, Block

PIECE_BYTES = 32 * 2**20
"""Size of the largest intermediate array of one piece on a CPU."""

PIECE_BYTES_ACCELERATOR = 2**30


def gram_in_pieces(left: Sequence[Block], right: Sequence[Block] | None, budget: int | None) -> Array:
    """Sum over all parameters of dY dY'*: (D, R, D', R'). `right` None: that of `left` with itself.

    Args:
        left: blocks of D samples.
        right: blocks of D' samples.
        budget: bytes for intermediate arrays that the user allows, or None.
    """
    D, R, dtype = *_shape(left), _dtype(left)
    partner = left if right is None else right
    E, S = _shape(partner)
    width = _width(left, partner, budget)
    if width >= max(D, E):
        return gram(left, partner)
    rows, columns = -(-D // width), -(-E // width)
    a = _padded(left, rows * width - D)
    b = a if right is None else _padded(partner, columns * width - E)
    pairs = [(i, j) for i, j in itertools.product(range(rows), range(columns)) if right is not None or i <= j]
    cut = lambda blocks, i: jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * width, width), blocks)

    @jax.checkpoint
    def piece(i: Array, j: Array) -> Array:
        return gram(cut(a, i), cut(b, j))

    def place(whole: Array, pair: Array) -> tuple[Array, None]:
        i, j = pair
        found = piece(i, j)
        if right is None:
            mirrored = jnp.moveaxis(found, (2, 3), (0, 1)).conj()
            whole = jax.lax.dynamic_update_slice(whole, mirrored, (j * width, 0, i * width, 0))
        return jax.lax.dynamic_update_slice(whole, found, (i * width, 0, j * width, 0)), None

    whole = jnp.zeros((rows * width, R, columns * width, S), dtype)
    whole, _ = jax.lax.scan(place, whole, jnp.asarray(pairs))
    return whole[:D, :, :E]


def _shape(blocks: Sequence[Block]) -> tuple[int, int]:
    """(D, R)."""
    first = next(block for block in blocks if not isinstance(block, Bias))
    return jax.tree.leaves(first)[0].shape[0], row_count(first)


def _dtype(blocks: Sequence[Block]) -> jnp.dtype:
    inexact = (x.dtype for x in jax.tree.leaves(blocks) if jnp.issubdtype(x.dtype, jnp.inexact))
    return jnp.result_type(*inexact)


def _width(left: Sequence[Block], right: Sequence[Block], budget: int | None) -> int:
    """How many samples of each side meet at once."""
    limit = PIECE_BYTES if jax.default_backend() == "cpu" else PIECE_BYTES_ACCELERATOR
    limit = limit if budget is None else min(limit, budget)
    size, R, S, width = _dtype(left).itemsize, _shape(left)[1], _shape(right)[1], 2**30
    for a, b in zip(left, right, strict=True):
        if pays(a, b):
            each_pair = size * positions(a) * R * positions(b) * S
            width = min(width, math.isqrt(max(limit // each_pair, 1)))
        else:
            width = min(width, max(limit // (size * max(entries(a), entries(b), 1) * (R + S)), 1))
    return width


def _padded(blocks: Sequence[Block], missing: int) -> Sequence[Block]:
    """More samples, copies of the last: what they give is cut off."""
    fill = lambda x: jnp.concatenate([x, jnp.broadcast_to(x[-1:], (missing, *x.shape[1:]))]) if missing else x
    return jax.tree.map(fill, blocks)
