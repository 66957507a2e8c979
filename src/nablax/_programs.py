"""What the methods of `ParameterJacobian` compile: functions of (operands, traced model, arrays of the model, ..)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nablax._errors import OptionError
from nablax._operands import Operands
from nablax._parametric import Parametric
from nablax._types import PyTree
from nablax.parameters import contract
from nablax.parameters.factors import Block
from nablax.parameters.modes import cauchy_riemann_error, join_rows

Blocks = tuple[Block, ...]
Arrays = Sequence[Any]


def jvp(o: Operands, traced: Parametric, arrays: Arrays, direction: PyTree) -> Array:
    """J v, (D, A)."""
    if traced.has_forward_mode:
        along = functools.partial(traced.values, arrays, o.args)
        found = jax.jvp(along, (o.params,), (direction,))[1]
    else:
        v = o.coordinates.flat(direction)
        product = lambda blocks: jnp.concatenate([r[0] for r in contract.rows(_one(blocks))], axis=-1) @ v
        found = join_rows(traced.per_sample(arrays, o.args, product, traced.R * v.size), traced.A, 1)
    return o.presented(o.scaled(o.centred(found)))


def vjp(o: Operands, traced: Parametric, arrays: Arrays, w: Array) -> PyTree:
    """J^H w for w (D, A)."""
    traced.check_reverse_mode()
    w = o.scaled(w)
    if o.mean is not None:
        w = w - o.mean[:, None] * w.sum(0, keepdims=True)
    _, pull = jax.vjp(functools.partial(traced.values, arrays, o.args), o.params)
    # JAX pulls c back to Re(c dY) without conjugating, see `nablax.parameters.modes`
    (found,) = pull(w.conj().astype(o.y.dtype))
    return jax.tree.map(jnp.conj, found)


def factors(o: Operands, traced: Parametric, arrays: Arrays) -> Blocks:
    """The blocks of all samples."""
    return traced.per_sample(arrays, o.args, lambda blocks: blocks)


def squared_norms(o: Operands, traced: Parametric, arrays: Arrays) -> Array:
    """|J|^2 summed over the parameters, (D, A)."""
    mean = _mean(o, traced, arrays)

    def norms(blocks: Blocks) -> Array:
        if mean is None:
            return contract.squared_norms(_one(blocks))[0]
        return jnp.stack([contract.squared(r[0]).sum(-1) for r in _centred(_one(blocks), mean)]).sum(0)

    entries = 0 if mean is None else traced.R * o.coordinates.count
    found = traced.per_sample(arrays, o.args, norms, entries)
    found = found.reshape(o.samples, -1, traced.A).sum(1)
    return o.presented(found if o.scale is None else found * o.scale**2)


def fisher_diagonal(o: Operands, traced: Parametric, arrays: Arrays, w: Array) -> PyTree:
    """The sum of w |J|^2 over samples and outputs."""
    mean = _mean(o, traced, arrays)

    def sums(blocks: Blocks, w: Array) -> list[Array]:
        if mean is None:
            return contract.squared_sums(blocks, w)
        return [jnp.einsum("dr,drn->n", w, contract.squared(r)) for r in _centred(blocks, mean)]

    # Where squares are products of squares, nothing is multiplied out.
    entries = sum(
        contract.entries(block)
        for block in traced.block_shapes
        if mean is not None or not contract.squares_in_factors(block)
    )
    found = traced.summed(arrays, o.args, [_squared_weights(o, traced, w)], sums, traced.R * entries)
    return o.coordinates.stacked(found)


def fisher(o: Operands, traced: Parametric, arrays: Arrays, w: Array) -> Array:
    """J^H W J, (B, B)."""
    mean, B = _mean(o, traced, arrays), o.coordinates.count

    def product(blocks: Blocks, w: Array) -> Array:
        parts = contract.rows(blocks) if mean is None else _centred(blocks, mean)
        J = jnp.concatenate(parts, axis=-1).reshape(-1, B)
        return (J.conj() * w.reshape(-1, 1)).T @ J

    return traced.summed(arrays, o.args, [_squared_weights(o, traced, w)], product, 2 * traced.R * B)


def clipped_mean(o: Operands, traced: Parametric, arrays: Arrays, max_norm: Array) -> PyTree:
    """The mean of the gradients, each scaled down to `max_norm` where it is longer."""
    if traced.R != traced.A:
        raise OptionError("clipped_mean needs a real output, and the loss is complex.")
    scale = jnp.ones((o.samples, 1), o.real_dtype) if o.scale is None else o.scale

    def clipped(blocks: Blocks, scale: Array) -> list[Array]:
        squares = contract.squared_norms(blocks) * scale**2
        long = squares > max_norm**2
        # the root has no derivative at zero, so it is not taken there
        factor = jnp.where(long, max_norm / jnp.sqrt(jnp.where(long, squares, 1)), 1)
        return contract.weighted_sums(blocks, factor * scale / o.samples)

    return o.coordinates.joined(traced.summed(arrays, o.args, [scale], clipped))


def dense(o: Operands, traced: Parametric, arrays: Arrays) -> Array:
    """All of J in one array (D, A, B).

    Each block is computed where it belongs; concatenating them would copy everything once more.
    """
    # in the shape of the result: a reshape in the end would be a copy
    blocks = [block.reshape(*o.shape[:-1], -1) for block in _multiplied_out(o, traced, arrays)]
    ends = np.cumsum([block.shape[-1] for block in blocks]).tolist()
    whole = jnp.zeros(o.shape, jnp.result_type(*blocks))
    # the largest first: XLA fuses the zeros with it, and writes its part of the array once
    for block, end in sorted(zip(blocks, ends, strict=True), key=lambda placed: -placed[0].shape[-1]):
        # not .at[].set, whose bounds XLA tests for every entry
        whole = jax.lax.dynamic_update_slice_in_dim(whole, block.astype(whole.dtype), end - block.shape[-1], axis=-1)
    return whole


def tree(o: Operands, traced: Parametric, arrays: Arrays) -> PyTree:
    """All of J as a tree like the parameters."""
    return o.coordinates.stacked(_multiplied_out(o, traced, arrays), (o.samples, *o.y_shape))


def aux(o: Operands, traced: Parametric, arrays: Arrays) -> PyTree:
    """The auxiliary outputs of all samples."""
    return traced.aux_values(arrays, o.args)


def holomorphy_error(o: Operands, traced: Parametric, arrays: Arrays) -> Array:
    """How far the model is from being holomorphic at these parameters and samples."""
    leaves, treedef = jax.tree.flatten(o.params)
    function = lambda leaves: traced.values(arrays, o.args, jax.tree.unflatten(treedef, leaves))
    return cauchy_riemann_error(function, leaves, jax.random.key(0))


def _multiplied_out(o: Operands, traced: Parametric, arrays: Arrays) -> list[Array]:
    """The derivative by every block of coordinates, (D, A, entries), centred and weighted.

    The factors of all samples come first: they are small, and then every entry of the result is written once.
    """
    joined = (join_rows(r, traced.A, 1) for r in contract.rows(factors(o, traced, arrays)))
    return [o.scaled(o.centred(r)) for r in joined]


def _mean(o: Operands, traced: Parametric, arrays: Arrays) -> list[Array] | None:
    """The mean over samples that is taken off, (R, entries) for each block."""
    if o.mean is None:
        return None
    sums = lambda blocks, p: [jnp.einsum("d,drn->rn", p, r) for r in contract.rows(blocks)]
    return traced.summed(arrays, o.args, [o.mean], sums, traced.R * o.coordinates.count)


def _squared_weights(o: Operands, traced: Parametric, w: Array) -> Array:
    """Weights of squares of rows, (D, R)."""
    w = w if o.scale is None else w * o.scale**2
    return jnp.tile(w, (1, traced.R // traced.A))


def _one(blocks: Blocks) -> Blocks:
    """The blocks of one sample as a batch of one."""
    return jax.tree.map(lambda x: x[None], blocks)


def _centred(blocks: Blocks, mean: list[Array]) -> list[Array]:
    return [r - m[None] for r, m in zip(contract.rows(blocks), mean, strict=True)]
