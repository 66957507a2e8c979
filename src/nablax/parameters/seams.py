"""Seams: equations in which a parameter W meets a value x of one sample, and how the result depends on W.

Every kind of seam here is brought to one form. With G groups (heads, channel groups, layers of a scan) and T positions
(tokens, pixels, time steps), z = seam(x, W) and the adjoint dy/dz of the output y, the derivative by W is

    dy/dW[g, h, k] = sum_t  u[g, t, h] v[g, t, k],        u made of x, v made of dy/dz,

and u, v are much smaller than it. A seam says how to make u and v. For a lookup in a table, u[g, t, :] is a unit
vector, and only its index is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import primitives as p

from nablax._compat import DOT_GENERAL
from nablax.graph.dense import dense_p
from nablax.graph.inline import Equation
from nablax.parameters.views import View


@dataclass(frozen=True, eq=False)
class Seam:
    """One equation where a parameter meets a sample.

    Attributes:
        equation: it; its only output is z.
        kind: what it is called in the table of leaves.
        view: the parameter leaf as (G, H, K), up to loops around the equation.
        reading: operands of the equation -> u, (G, T, H), or the indices (G, T) of a lookup.
        adjoint: dy/dz -> v, (G, T, K).
        lookup: whether `reading` gives indices.
    """

    equation: Equation
    kind: str
    view: View
    reading: Callable[..., Array]
    adjoint: Callable[[Array], Array]
    lookup: bool = False


def find_seam(eqn: Equation, which: int, view: View) -> Seam | None:
    """The seam that `eqn` is for its operand number `which`, a parameter in the given view; None if it is no known
    one.
    """
    rule = _RULES.get(eqn.primitive)
    return None if rule is None else rule(eqn, which, view)


def _contraction(eqn: Equation, which: int, view: View) -> Seam:
    """A product of tensors: z[g, t, k] = sum_h x[g, t, h] W[g, h, k] after sorting the axes of each."""
    if eqn.primitive is dense_p:
        rank = len(eqn.inputs[0].aval.shape)  # pyright: ignore[reportAttributeAccessIssue]
        contracted, batched = ((rank - 1,), (eqn.params["axis"],)), ((), ())
    else:
        contracted, batched = eqn.params["dimension_numbers"]
    W, x = (eqn.inputs[i].aval.shape for i in (which, 1 - which))  # pyright: ignore[reportAttributeAccessIssue]
    free_W, free_x = (
        tuple(axis for axis in range(len(shape)) if axis not in (*contracted[i], *batched[i]))
        for i, shape in ((which, W), (1 - which, x))
    )
    G = math.prod(W[axis] for axis in batched[which])
    H = math.prod(W[axis] for axis in contracted[which])
    K, T = math.prod(W[axis] for axis in free_W), math.prod(x[axis] for axis in free_x)
    order_x = (*batched[1 - which], *free_x, *contracted[1 - which])

    def reading(*operands: Array) -> Array:
        return operands[1 - which].transpose(order_x).reshape(G, T, H)

    def adjoint(z: Array) -> Array:
        # the free axes of the first operand come first in z
        return z.reshape(G, T, K) if which == 1 else z.reshape(G, K, T).swapaxes(1, 2)

    sorted_view = view.transposed((*batched[which], *contracted[which], *free_W)).reshaped((G, H, K))
    kind = "dense layer" if eqn.primitive is dense_p else "contraction"
    return Seam(eqn, kind, sorted_view, reading, adjoint)


def _convolution(eqn: Equation, which: int, view: View) -> Seam | None:
    """A convolution is a product of W with the patches of x that its window sees."""
    params = eqn.params
    if which != 1 or params["batch_group_count"] != 1:
        return None
    numbers, G = params["dimension_numbers"], params["feature_group_count"]
    W = eqn.inputs[1].aval.shape  # pyright: ignore[reportAttributeAccessIssue]
    out, inside, *window = numbers.rhs_spec
    K, H = W[out] // G, W[inside] * math.prod(W[axis] for axis in window)
    sizes = [W[axis] for axis in window]

    def reading(*operands: Array) -> Array:
        given = operands[0]
        patches = jax.lax.conv_general_dilated_patches(
            given.transpose(numbers.lhs_spec),
            sizes,
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            precision=jax.lax.Precision.HIGHEST,  # it only moves numbers
        )
        N, channels = patches.shape[:2]
        patches = patches.reshape(N, G, channels // G, -1)
        return patches.transpose(1, 0, 3, 2).reshape(G, -1, H)

    def adjoint(z: Array) -> Array:
        z = z.transpose(numbers.out_spec)
        return z.reshape(z.shape[0], G, K, -1).transpose(1, 0, 3, 2).reshape(G, -1, K)

    sorted_view = (
        view.transposed(numbers.rhs_spec)
        .reshaped((G, K, H))
        .transposed((0, 2, 1))
        # H is (channel, window), as the features of a patch are
        .reshaped((G, H, K))
    )
    return Seam(eqn, "convolution", sorted_view, reading, adjoint)


def _lookup(eqn: Equation, which: int, view: View) -> Seam | None:
    """Rows of a table by index, an embedding: z[t] = W[index[t]]."""
    numbers, mode = eqn.params["dimension_numbers"], eqn.params["mode"]
    W = eqn.inputs[0].aval.shape  # pyright: ignore[reportAttributeAccessIssue]
    whole_rows = tuple(eqn.params["slice_sizes"]) == (1, *W[1:])
    if which != 0 or not whole_rows or numbers.operand_batching_dims or tuple(numbers.start_index_map) != (0,):
        return None
    rows, row = W[0], math.prod(W[1:])
    drops = mode == jax.lax.GatherScatterMode.FILL_OR_DROP
    offsets = tuple(numbers.offset_dims)

    def reading(*operands: Array) -> Array:
        index = operands[1].reshape(1, -1)
        clipped = jnp.clip(index, 0, rows - 1)
        # what lies outside is read as a constant: no row has a derivative there
        return jnp.where(index == clipped, index, -1) if drops else clipped

    def adjoint(z: Array) -> Array:
        positions = [axis for axis in range(z.ndim) if axis not in offsets]
        return z.transpose((*positions, *offsets)).reshape(1, -1, row)

    return Seam(eqn, "embedding", view.reshaped((1, rows, row)), reading, adjoint, lookup=True)


def _row(eqn: Equation, which: int, view: View) -> Seam | None:
    """One row of a table, by an index that is a number: a lookup of one position."""
    W = eqn.inputs[0].aval.shape  # pyright: ignore[reportAttributeAccessIssue]
    if which != 0 or not W or tuple(eqn.params["slice_sizes"]) != (1, *W[1:]):
        return None
    rows, row = W[0], math.prod(W[1:])
    reading = lambda *operands: jnp.clip(operands[1], 0, rows - 1).reshape(1, 1)
    adjoint = lambda z: z.reshape(1, 1, row)
    return Seam(eqn, "embedding", view.reshaped((1, rows, row)), reading, adjoint, lookup=True)


_RULES: dict[Any, Callable[[Equation, int, View], Seam | None]] = {
    dense_p: _contraction,
    DOT_GENERAL: _contraction,
    p.conv_general_dilated_p: _convolution,
    p.gather_p: _lookup,
    p.dynamic_slice_p: _row,
}


def see_through(eqn: Equation, view: View) -> View | None:
    """The view after an equation that only rearranges entries, or None if it does more."""
    before, after = eqn.inputs[0].aval, eqn.outputs[0].aval  # pyright: ignore[reportAttributeAccessIssue]
    if eqn.primitive is p.transpose_p:
        return view.transposed(eqn.params["permutation"])
    if eqn.primitive in (p.copy_p, p.convert_element_type_p, *_SHARDING):
        # a cast to integers is no view; it has no derivative and never gets here
        return view
    if eqn.primitive in (p.reshape_p, p.squeeze_p, p.broadcast_in_dim_p) and before.size == after.size:
        # a broadcast without new entries keeps the order of its axes
        return view.reshaped(after.shape)
    return None


_SHARDING: Sequence[Any] = tuple(
    getattr(p, name) for name in ("sharding_constraint_p", "device_put_p") if hasattr(p, name)
)
