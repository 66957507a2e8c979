"""Rules for operations that move entries without computing: where does the sample axis go?

A rule takes a `Twin` and what is known of its operands, and returns what is known of its results: one value for all of
them, or a list. Whatever it returns is checked against the sizes of the results, so that a rule may trust that the axis
it names is one that counts samples.
"""

from __future__ import annotations

import math
from typing import Any

from nablax.independence.twins import Twin, sample_axes, shape_of
from nablax.independence.values import Samples, Value


def broadcast_in_dim(eqn: Twin, operand: Value, *_: Value) -> Value:
    """Axis k of the operand becomes axis broadcast_dimensions[k]."""
    if isinstance(operand, Samples):
        return operand.at(int(eqn.params["broadcast_dimensions"][operand.axis]))
    return created(eqn)


def created(eqn: Twin) -> Value:
    """An array with one row for each sample, all rows made of the same shared values."""
    axes = sample_axes(*eqn.outputs[0])
    if len(axes) != 1:
        return eqn.unproven(f"makes an array with {len(axes)} axes that depend on the number of samples")
    return Samples(axes[0], 1, shape_of(eqn.outputs[0][0])[axes[0]] // eqn.sizes[0])


def tile(eqn: Twin, operand: Value) -> Value:
    """The whole axis, over and over: samples repeat from outside."""
    if not isinstance(operand, Samples):
        return created(eqn)
    if "reps" in eqn.changed:
        return eqn.unproven("repeats samples as often as there are samples")
    return Samples(operand.axis, operand.outer * int(eqn.params["reps"][operand.axis]), operand.inner)


def reshape(eqn: Twin, operand: Value, *_: Value) -> Value:
    """Entries keep their order, so the samples stay where they are in it.

    In that order sample d owns the entries ``(o * D + d) * S + i``, i < S. The new axis of the samples must cut the
    order at multiples of S, and the axes before it at multiples of D * S.
    """
    assert isinstance(operand, Samples)
    text = f"reshapes {eqn.typed(0)}, whose axis {operand.axis} holds the samples, across the borders of samples"
    old, axes = eqn.shape(0), sample_axes(*eqn.outputs[0])
    if eqn.params.get("dimensions") is not None:  # axes change places first
        order = list(eqn.params["dimensions"])
        old, operand = tuple(old[k] for k in order), operand.at(order.index(operand.axis))
    if len(axes) != 1 or 0 in old:
        return eqn.unproven(text)
    new, axis = shape_of(eqn.outputs[0][0]), axes[0]
    inside = operand.inner * math.prod(old[operand.axis + 1 :])
    outside = operand.outer * math.prod(old[: operand.axis])
    after, before = math.prod(new[axis + 1 :]), math.prod(new[:axis])
    if inside % after or outside % before:
        return eqn.mixes(text)
    return Samples(axis, outside // before, inside // after)


def squeeze(eqn: Twin, operand: Value) -> Value:
    """Axes of length one go."""
    assert isinstance(operand, Samples)
    return operand.at(operand.axis - sum(d < operand.axis for d in eqn.params["dimensions"]))


def transpose(eqn: Twin, operand: Value) -> Value:
    """Axis permutation[k] becomes axis k."""
    assert isinstance(operand, Samples)
    return operand.at(list(eqn.params["permutation"]).index(operand.axis))


def rev(eqn: Twin, operand: Value) -> Value:
    """Reversed axes."""
    assert isinstance(operand, Samples)
    if operand.axis in eqn.params["dimensions"]:
        return eqn.mixes(f"reverses axis {operand.axis} of {eqn.typed(0)}, which holds the samples")
    return operand


def pad(eqn: Twin, operand: Value, _: Value) -> Value:
    """Padding of the other axes."""
    if not isinstance(operand, Samples) or "padding_config" in eqn.changed:
        return eqn.mixes("pads by a number that depends on the number of samples")
    if any(eqn.params["padding_config"][operand.axis]):
        return eqn.mixes(f"pads axis {operand.axis} of {eqn.typed(0)}, which holds the samples")
    return operand


def slice_(eqn: Twin, operand: Value) -> Value:
    """A part of the other axes; of the sample axis, all samples of some of its outer blocks."""
    assert isinstance(operand, Samples)
    axis, starts, limits = operand.axis, eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    taken = _blocks(eqn, operand, [(starts[axis], limits[axis]), _second(eqn, axis)])
    if taken is None or strides[axis] != 1:
        return eqn.unproven(f"takes only some of the samples, axis {axis} of {eqn.typed(0)}")
    second = eqn.second_params["start_indices"]
    if any(a != b for k, (a, b) in enumerate(zip(starts, second, strict=True)) if k != axis):
        return eqn.mixes("takes a part of an axis that depends on the number of samples")
    return Samples(axis, taken, operand.inner)


def _second(eqn: Twin, axis: int) -> tuple[int, int]:
    return eqn.second_params["start_indices"][axis], eqn.second_params["limit_indices"][axis]


def _blocks(eqn: Twin, operand: Samples, ranges: list[tuple[int, int]]) -> int | None:
    """How many outer blocks of D * inner rows the ranges of the sample axis hold, the same in both traces, or None."""
    found: set[tuple[int, int]] = set()
    for (start, limit), size in zip(ranges, eqn.sizes, strict=True):
        block = size * operand.inner
        if start % block or limit % block or limit <= start:
            return None
        found.add((int(start) // block, int(limit) // block))
    first, *others = found
    return None if others else first[1] - first[0]


def split(eqn: Twin, operand: Value) -> Value | list[Value]:
    """Consecutive parts of one axis."""
    assert isinstance(operand, Samples)
    axis = eqn.params["axis"]
    if axis != operand.axis:
        return operand if "sizes" not in eqn.changed else eqn.mixes("splits an axis by the number of samples")
    results, starts = [], [0, 0]
    for sizes in zip(eqn.params["sizes"], eqn.second_params["sizes"], strict=True):
        limits = [start + size for start, size in zip(starts, sizes, strict=True)]
        taken = _blocks(eqn, operand, list(zip(starts, limits, strict=True)))
        text = f"takes only some of the samples, axis {axis} of {eqn.typed(0)}"
        results.append(eqn.unproven(text) if taken is None else Samples(axis, taken, operand.inner))
        starts = limits
    return results


def concatenate(eqn: Twin, *operands: Value) -> Value:
    """Side by side on another axis; on the sample axis, as outer blocks."""
    (axis, inner), *others = {(v.axis, v.inner) if isinstance(v, Samples) else (-1, 0) for v in operands}
    if not others and axis != eqn.params["dimension"]:
        return entrywise(eqn, *operands)
    if others or axis < 0:
        return eqn.mixes(f"joins samples along axis {eqn.params['dimension']} with something else")
    return Samples(axis, sum(v.outer for v in operands if isinstance(v, Samples)), inner)


def stack(eqn: Twin, *operands: Value) -> Value:
    """A new axis."""
    found = entrywise(eqn, *operands)
    return found.at(found.axis + (eqn.params["axis"] <= found.axis)) if isinstance(found, Samples) else found


def unstack(eqn: Twin, operand: Value) -> Value:
    """An axis taken apart."""
    assert isinstance(operand, Samples)
    axis = eqn.params["axis"]
    if axis == operand.axis:
        return eqn.unproven(f"takes the samples apart, axis {axis} of {eqn.typed(0)}")
    return operand.at(operand.axis - (axis < operand.axis))


def dynamic_slice(eqn: Twin, operand: Value, *_: Value) -> Value:
    """A window into the other axes: one as long as the sample axis starts at 0 wherever it is asked to start."""
    if not isinstance(operand, Samples) or eqn.params["slice_sizes"][operand.axis] != eqn.shape(0)[operand.axis]:
        return eqn.unproven(f"takes only some of the samples of {eqn.typed(0)}")
    return operand


def dynamic_update_slice(eqn: Twin, operand: Value, update: Value, *_: Value) -> Value:
    """A window into the other axes, overwritten."""
    if not isinstance(operand, Samples) or operand != update:
        return eqn.unproven(f"overwrites only some of the samples of {eqn.typed(0)}")
    return operand


def entrywise(eqn: Twin, *operands: Value) -> Value:
    """Entry by entry: all operands must hold the samples in the same places."""
    found = {value: number for number, value in enumerate(operands) if isinstance(value, Samples)}
    first, *others = found
    if others:
        axes = " and ".join(f"axis {value.axis} of {eqn.typed(number)}" for value, number in list(found.items())[:2])
        if first.axis == others[0].axis:
            return eqn.unproven(f"combines samples that are ordered in different ways, {axes}")
        return eqn.mixes(f"combines each sample with every other, {axes}")
    return first


RULES: dict[str, Any] = {
    "broadcast_in_dim": broadcast_in_dim,
    "tile": tile,
    "reshape": reshape,
    "squeeze": squeeze,
    "transpose": transpose,
    "rev": rev,
    "pad": pad,
    "slice": slice_,
    "split": split,
    "concatenate": concatenate,
    "stack": stack,
    "unstack": unstack,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
}
