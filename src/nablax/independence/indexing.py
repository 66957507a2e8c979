"""Rules for gather and scatter, and for what they are made with: the numbers of the samples as an index.

``X[jnp.arange(D), label]`` picks one entry of every sample. The numbers 0 .. D - 1 treat samples by their position, so
that they may only be used to find the sample's own row again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nablax.graph.inline import Constant
from nablax.independence import moves
from nablax.independence.twins import Twin, dtype_of, sample_axes, shape_of
from nablax.independence.values import Columns, Mixed, Own, Samples, Value, plain


def iota(eqn: Twin) -> Value:
    """0, 1, 2, .. along one axis."""
    found = moves.created(eqn)
    if not isinstance(found, Samples) or found.axis != eqn.params["dimension"]:
        return found
    positions = eqn.mixes(f"numbers the samples, axis {found.axis}: they are treated by their position")
    # Small integers would overflow for many samples.
    small = np.dtype(eqn.params["dtype"]).itemsize < 4 or found.layout != (1, 1)
    return positions if small else Own(found.axis, positions.reason)


def gather(eqn: Twin, operand: Value, indices: Value) -> Value:
    """Windows of the operand, for each vector of indices along the last axis of `indices`."""
    n = eqn.params["dimension_numbers"]
    window = _others(len(eqn.shape(0)), n.collapsed_slice_dims, n.operand_batching_dims)
    places = _others(len(shape_of(eqn.outputs[0][0])), n.offset_dims)
    column = _column(eqn, 1, indices)
    if not isinstance(operand, Samples):
        if isinstance(indices, Samples) and indices.axis < len(eqn.shape(1)) - 1:
            return indices.at(places[indices.axis])
        return _positions(eqn, operand, indices)
    s = operand.axis
    whole = s in window and s not in n.start_index_map and eqn.params["slice_sizes"][s] == eqn.shape(0)[s]
    if whole and not isinstance(indices, Samples | Columns | Own):
        return operand.at(n.offset_dims[window.index(s)])
    batching = n.operand_batching_dims, n.start_indices_batching_dims
    if _same_sample(operand, indices, column, batching, n.collapsed_slice_dims, n.start_index_map):
        return operand.at(places[column.axis if column else _axis(indices)])
    return _positions(eqn, operand, indices)


def scatter(eqn: Twin, operand: Value, indices: Value, updates: Value) -> Value:
    """Windows of the operand, overwritten or added to."""
    n = eqn.params["dimension_numbers"]
    window = _others(len(eqn.shape(0)), n.inserted_window_dims, n.operand_batching_dims)
    places = _others(len(eqn.shape(2)), n.update_window_dims)
    column = _column(eqn, 1, indices)
    if not isinstance(operand, Samples) or not isinstance(updates, Samples):
        return _positions(eqn, operand, indices)
    s, aligned = operand.axis, operand.layout == updates.layout
    whole = s in window and s not in n.scatter_dims_to_operand_dims
    if whole and not isinstance(indices, Samples | Columns | Own):
        fits = updates.axis == n.update_window_dims[window.index(s)]
        return operand if fits and aligned else _positions(eqn, operand, indices)
    batching = n.operand_batching_dims, n.scatter_indices_batching_dims
    own = _same_sample(operand, indices, column, batching, n.inserted_window_dims, n.scatter_dims_to_operand_dims)
    if own and aligned and updates.axis == places[column.axis if column else _axis(indices)]:
        return operand
    return _positions(eqn, operand, indices)


def _same_sample(
    operand: Samples,
    indices: Value,
    column: Columns | None,
    batching: tuple[Sequence[int], Sequence[int]],
    single: Sequence[int],
    indexed: Sequence[int],
) -> bool:
    """Whether the indices of sample d lead to sample d of the operand.

    Either the two axes are batched together, or the column that indexes the sample axis holds the own number.
    """
    s, (of_operand, of_indices) = operand.axis, batching
    if isinstance(indices, Samples) and s in of_operand:
        return indices == operand.at(of_indices[list(of_operand).index(s)])
    own = column is not None and s in indexed and list(indexed).index(s) in column.own
    return own and s in single and operand.layout == (1, 1)


def _others(rank: int, *gone: Sequence[int]) -> list[int]:
    return [axis for axis in range(rank) if not any(axis in axes for axes in gone)]


def _axis(indices: Value) -> int:
    assert isinstance(indices, Samples)
    return indices.axis


def _column(eqn: Twin, number: int, indices: Value) -> Columns | None:
    """Indices of which some are the sample's own number."""
    if isinstance(indices, Own) and indices.axis != len(eqn.shape(number)) - 1 and eqn.shape(number)[-1] == 1:
        return Columns(indices.axis, frozenset({0}), indices.reason)
    return indices if isinstance(indices, Columns) else None


def _positions(eqn: Twin, operand: Value, indices: Value) -> Value:
    """Nothing that keeps samples apart."""
    if isinstance(plain(indices), Mixed):
        return plain(indices)
    if isinstance(operand, Samples):
        return eqn.mixes(f"picks samples by an index into axis {operand.axis} of {eqn.typed(0)}, which holds them")
    return eqn.mixes(f"collects entries of several samples in an array {eqn.typed(0)} that has no sample axis")


# --- the numbers of the samples, on their way to an index: what is known of the result, or None for nothing special ---


def _number(eqn: Twin, position: int) -> Any:
    """The value of an operand that is the same number in both traces, or None."""
    a, b = eqn.inputs[position]
    if isinstance(a, Constant) and isinstance(b, Constant) and np.shape(a.value) == np.shape(b.value) == ():
        return a.value if a.value == b.value else None
    return None


def select(eqn: Twin, which: Value, *cases: Value) -> Value | None:
    """A choice that is always the first case."""
    return cases[0] if isinstance(which, Samples) and which.false else None


def less(eqn: Twin, index: Value, bound: Value) -> Value | None:
    """No number of a sample is negative."""
    limit = _number(eqn, 1)
    if isinstance(index, Own) and limit is not None and limit <= 0:
        return Samples(index.axis, false=True)
    return None


def neutral(number: int) -> Callable[..., Value | None]:
    """An operation with a number that changes nothing."""

    def rule(eqn: Twin, a: Value, b: Value) -> Value | None:
        for value, other in ((a, 1), (b, 0)):
            if isinstance(value, Own) and _number(eqn, other) == number:
                return value
        return None

    return rule


def convert(eqn: Twin, index: Value) -> Value | None:
    """Another integer type."""
    dtype = dtype_of(eqn.outputs[0][0])
    wide = np.issubdtype(dtype, np.integer) and np.dtype(dtype).itemsize >= 4
    return index if isinstance(index, Own) and wide else None


def moved(rule: Callable[..., Value]) -> Callable[..., Value | None]:
    """A rule that only moves entries."""

    def special(eqn: Twin, value: Value, *rest: Value) -> Value | None:
        if not isinstance(value, Own | Samples) or len(sample_axes(*eqn.outputs[0])) != 1:
            return None
        found = rule(eqn, Samples(value.axis) if isinstance(value, Own) else value, *rest)
        if not isinstance(found, Samples):
            return None
        if isinstance(value, Samples):
            return Samples(found.axis, *found.layout, false=value.false)
        return Own(found.axis, value.reason) if found.layout == (1, 1) else None

    return special


def columns(eqn: Twin, *operands: Value) -> Value | None:
    """Vectors of indices, put together of columns."""
    last = len(eqn.shape(0)) - 1
    axes = {value.axis for value in operands if isinstance(value, Own | Samples)}
    known = all(isinstance(value, Own | Samples) for value in operands)
    if eqn.params["dimension"] != last or not known or len(axes) != 1 or last in axes:
        return None
    widths = [eqn.shape(number)[last] for number in range(len(operands))]
    starts = np.cumsum([0, *widths])
    own = {
        int(start) + k
        for value, start, width in zip(operands, starts, widths, strict=False)
        for k in range(width)
        if isinstance(value, Own)
    }
    reasons = [value.reason for value in operands if isinstance(value, Own)]
    mixed_layout = any(isinstance(value, Samples) and value.layout != (1, 1) for value in operands)
    return Columns(axes.pop(), frozenset(own), reasons[0]) if reasons and not mixed_layout else None


def into_own(rule: Callable[..., Value]) -> Callable[..., Value | None]:
    """A gather or scatter with the numbers of the samples among its indices."""

    def special(eqn: Twin, operand: Value, indices: Value, *updates: Value) -> Value | None:
        fit = isinstance(operand, Samples) and isinstance(indices, Own | Columns)
        return rule(eqn, operand, indices, *updates) if fit else None

    return special


SCATTERS = "scatter scatter_add scatter_sub scatter_mul scatter_min scatter_max"

RULES: dict[str, Callable[..., Value]] = {
    "iota": iota,
    "gather": gather,
    SCATTERS: scatter,
}

SPECIAL: dict[str, Callable[..., Value | None]] = {
    "select_n": select,
    "lt": less,
    "add": neutral(0),
    "mul": neutral(1),
    "convert_element_type": convert,
    "broadcast_in_dim": moved(moves.broadcast_in_dim),
    "reshape": moved(moves.reshape),
    "squeeze": moved(moves.squeeze),
    "transpose": moved(moves.transpose),
    "concatenate": columns,
    "gather": into_own(gather),
    SCATTERS: into_own(scatter),
}
