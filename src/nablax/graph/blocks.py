"""Which values of a graph fall into blocks, each of which depends on its own block of the inputs alone.

A wavefunction reads C = 3 n numbers as n electrons and treats each by itself, up to the layer where they meet. Until
then, the Jacobian of every value is block diagonal: the directions of all electrons can be pushed through at once,
three tangents instead of 3 n. That is the colouring of a sparse Jacobian by A. R. Curtis, M. J. D. Powell and J. K.
Reid (J. Inst. Math. Appl. 13, 1974), for the pattern that such models have.

A block is recognised by the place of its entries in the order of an array: entry e belongs to block ``(e // inner) %
count``. So a reshape keeps it, and so does whatever treats the axis of the blocks as a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.extend.core import primitives as p

from nablax._compat import SPLIT, STACK, UNSTACK
from nablax.graph.dense import dense_p
from nablax.graph.inline import Equation, Flat, Variable
from nablax.graph.nodes import Kind, Node, Program
from nablax.graph.once import once_p


@dataclass(frozen=True, eq=False)
class Blocks:
    """Values that fall into blocks.

    Attributes:
        count: the number of blocks of the inputs.
        width: how many inputs a block has: C / count.
        inner: for each value that falls into blocks, how many entries stand behind the number of the block.
    """

    count: int
    width: int
    inner: Mapping[Variable, int]

    def holds(self, node: Node) -> bool:
        """Whether everything that `node` reads and gives falls into blocks."""
        return all(v in self.inner for v in (*node.roots, *node.outputs))

    def axis(self, variable: Variable) -> int | None:
        """The axis of a value that counts the blocks, if one does."""
        return _axis(variable.aval.shape, self.inner[variable], self.count)

    def apart(self, array: Array, variable: Variable, leading: int) -> Array:
        """Entries of a value behind `leading` other axes, block by block: (count, *leading, entries of a block)."""
        lead, axis = array.shape[:leading], self.axis(variable)
        if axis is None:
            array, axis = array.reshape(*lead, -1, self.count, self.inner[variable]), 1
        return jnp.moveaxis(array, leading + axis, 0).reshape(self.count, *lead, -1)


def blocks(program: Program) -> Blocks | None:
    """The blocks that save most; None where no curved node falls into any."""
    v = program.flat.inputs[-1]
    C = v.aval.shape[0]
    reshaped = {_rows_of(eqn, C) for node in program.nodes for eqn in node.equations}
    found = [_follow(program, v, C, count) for count in sorted({C, *reshaped} - {1})]
    saved = lambda b: (1 - 1 / b.count) * sum(_size(node) for node in program.nodes if b.holds(node))
    curved = [b for b in found if any(node.kind is not Kind.LINEAR and b.holds(node) for node in program.nodes)]
    return max(curved, key=saved, default=None)


def parted(program: Program, blocks: Blocks) -> tuple[Program, Program] | None:
    """A program up to where `blocks` meet, and from there on; None where the first part needs something of the second.

    The first gives what the second reads: first what depends on the inputs, then what does not. The second takes that
    the other way round.
    """
    known, first, second = set(program.flat.inputs), [], []
    for step in program.steps:
        reads = {a for eqn in _equations(step) for a in eqn.inputs if isinstance(a, Variable)}
        own = {o for eqn in _equations(step) for o in eqn.outputs}
        ready = known.issuperset(reads - own)
        held = isinstance(step, Node) and blocks.holds(step)
        if held and not ready:
            return None
        here = held or (ready and isinstance(step, Equation))
        (first if here else second).append(step)
        if here:
            known |= own
    wanted = [a for step in second for eqn in _equations(step) for a in eqn.inputs] + list(program.flat.outputs)
    across = [a for a in dict.fromkeys(wanted) if a in known]
    meeting, rest = [a for a in across if a in blocks.inner], [a for a in across if a not in blocks.inner]
    return (
        _part(program, first, program.flat.inputs, (*meeting, *rest)),
        _part(program, second, (*rest, *meeting), program.flat.outputs),
    )


def _equations(step: Equation | Node) -> tuple[Equation, ...]:
    return (step,) if isinstance(step, Equation) else step.equations


def _part(program: Program, steps: list[Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> Program:
    flat = Flat(tuple(inputs), tuple(outputs), tuple(eqn for step in steps for eqn in _equations(step)))
    return Program(flat, tuple(steps), program.varying)


def _rows_of(eqn: Equation, C: int) -> int:
    """Into how many rows an equation cuts C entries; 1 if it does not."""
    shape = eqn.outputs[0].aval.shape
    cuts = eqn.primitive is p.reshape_p and math.prod(shape) == C and len(shape) > 1
    return next((size for size in shape if size > 1), 1) if cuts else 1


def _size(node: Node) -> int:
    return sum(math.prod(o.aval.shape) for o in node.outputs)


def _follow(program: Program, v: Variable, C: int, count: int) -> Blocks:
    """The values that fall into `count` blocks of the inputs v."""
    inner = {v: C // count}
    for node in program.nodes:
        if node.kind not in (Kind.OPAQUE, Kind.LOOP) and all(root in inner for root in node.roots):
            inner.update(_through(node, {root: inner[root] for root in node.roots}, count))
    return Blocks(count, C // count, inner)


def _through(node: Node, local: dict[Variable, int], count: int) -> dict[Variable, int]:
    """The outputs of a node that fall into blocks."""
    for eqn in node.equations:
        moving = [local.get(a) if isinstance(a, Variable) else None for a in eqn.inputs]
        known = {i for i in moving if i is not None}
        if node.kind is Kind.ELEMENTWISE or _keeps_places(eqn, moving):
            found = known.pop() if len(known) == 1 else None
        else:
            found = _along_axis(eqn, moving, count)
        if found is None or not all(math.prod(o.aval.shape) for o in eqn.outputs):  # no entries, no places
            return {}
        local.update(dict.fromkeys(eqn.outputs, found))
    return {o: local[o] for o in node.outputs}


def _keeps_places(eqn: Equation, moving: Sequence[int | None]) -> bool:
    """Whether entry e of the result comes from entry e of what it depends on."""
    if eqn.primitive is p.reshape_p:
        return eqn.params.get("dimensions") is None
    shape = eqn.outputs[0].aval.shape
    return eqn.primitive in _ENTRYWISE and all(
        a.aval.shape == shape  # pyright: ignore[reportAttributeAccessIssue]
        for a, i in zip(eqn.inputs, moving, strict=True)
        if i is not None
    )


def _along_axis(eqn: Equation, moving: Sequence[int | None], count: int) -> int | None:
    """Where the blocks are in the results of an operation for which their axis is one of a batch, or None."""
    rule = _RULES.get(eqn.primitive)
    axes = [
        None if i is None else _axis(a.aval.shape, i, count)  # pyright: ignore[reportAttributeAccessIssue]
        for a, i in zip(eqn.inputs, moving, strict=True)
    ]
    if rule is None or any(i is not None and axis is None for i, axis in zip(moving, axes, strict=True)):
        return None
    places = {rule(eqn, number, axis) for number, axis in enumerate(axes) if axis is not None}
    axis = places.pop()
    if places or axis is None:
        return None
    behind = {math.prod(o.aval.shape[axis + 1 :]) for o in eqn.outputs if o.aval.shape[axis] == count}
    return behind.pop() if len(behind) == 1 else None


def _axis(shape: tuple[int, ...], inner: int, count: int) -> int | None:
    """The axis that counts blocks, if one does."""
    return next((k for k, size in enumerate(shape) if size == count and math.prod(shape[k + 1 :]) == inner), None)


# Rules: (equation, number of an operand, the axis of its blocks) -> the axis of the blocks in the results, or None.

_Rule = Callable[[Equation, int, int], int | None]


def _removed(name: str) -> _Rule:
    """Without the axes that the parameter `name` lists."""

    def rule(eqn: Equation, _: int, axis: int) -> int | None:
        axes: Iterable[int] = eqn.params[name]
        return None if axis in axes else axis - sum(k < axis for k in axes)

    return rule


def _along(name: str) -> _Rule:
    """Works along the axis in the parameter `name`."""
    return lambda eqn, _, axis: None if axis == eqn.params[name] else axis


def _sliced(eqn: Equation, _: int, axis: int) -> int | None:
    whole = eqn.params["limit_indices"][axis] - eqn.params["start_indices"][axis]
    return axis if whole == eqn.inputs[0].aval.shape[axis] else None  # pyright: ignore[reportAttributeAccessIssue]


def _dotted(eqn: Equation, number: int, axis: int) -> int | None:
    """The axes of a result: batched ones, what is left of the left operand, what is left of the right one."""
    contracted, batched = eqn.params["dimension_numbers"]
    if axis in contracted[number]:
        return None
    if axis in batched[number]:
        return list(batched[number]).index(axis)
    if number == 1:
        behind = len(eqn.inputs[1].aval.shape) - axis  # pyright: ignore[reportAttributeAccessIssue]
        gone = sum(k > axis for k in (*contracted[1], *batched[1]))
        return len(eqn.outputs[0].aval.shape) - behind + gone
    return len(batched[0]) + sum(k not in (*contracted[0], *batched[0]) for k in range(axis))


def _dense(eqn: Equation, number: int, axis: int) -> int | None:
    leads = number == 0 and axis < len(eqn.inputs[0].aval.shape) - 1  # pyright: ignore[reportAttributeAccessIssue]
    return axis if leads else None


_RULES: dict[Any, _Rule] = {
    p.broadcast_in_dim_p: lambda eqn, _, axis: eqn.params["broadcast_dimensions"][axis],
    p.squeeze_p: _removed("dimensions"),
    p.reduce_sum_p: _removed("axes"),
    p.reduce_max_p: _removed("axes"),
    p.reduce_min_p: _removed("axes"),
    p.transpose_p: lambda eqn, _, axis: list(eqn.params["permutation"]).index(axis),
    p.rev_p: lambda eqn, _, axis: None if axis in eqn.params["dimensions"] else axis,
    p.pad_p: lambda eqn, _, axis: None if any(eqn.params["padding_config"][axis]) else axis,
    p.slice_p: _sliced,
    p.concatenate_p: _along("dimension"),
    p.cumsum_p: _along("axis"),
    p.dot_general_p: _dotted,
    dense_p: _dense,
    # Where JAX has no such primitive, this is a rule for nothing.
    SPLIT: _along("axis"),
    UNSTACK: lambda eqn, _, axis: None if axis == eqn.params["axis"] else axis - (eqn.params["axis"] < axis),
    STACK: lambda eqn, _, axis: axis + (eqn.params["axis"] <= axis),
}

_ENTRYWISE = frozenset(
    {p.add_p, p.sub_p, p.neg_p, p.mul_p, p.div_p, p.convert_element_type_p, p.copy_p, p.select_n_p, p.real_p, p.imag_p}
    | {p.max_p, p.min_p, p.abs_p, p.clamp_p, p.conj_p, once_p}
)
