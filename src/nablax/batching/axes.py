"""Which axis of which argument holds the samples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nablax._errors import AxesError, BatchSizeError, OptionError
from nablax._types import PyTree

InAxes = int | None | Sequence[Any]

_whole: ContextVar[bool] = ContextVar("whole", default=False)


@contextlib.contextmanager
def whole_batches() -> Iterator[None]:
    """Within, the number of samples plays no part in a plan: one program for every number is traced, without chunks.

    Batch-wise models are compared for several numbers, and run for one sample, or a few.
    """
    token = _whole.set(True)
    try:
        yield
    finally:
        _whole.reset(token)


def in_whole_batches() -> bool:
    """Whether that is so. What is compiled within is not for use outside: it belongs into keys."""
    return _whole.get()


@dataclass(frozen=True)
class Batch:
    """The arguments of one call, their sample axes found.

    Attributes:
        axes: for every leaf of the arguments, the axis that holds the samples (not negative), or None.
        samples: D.
        wrt: the number of the argument to differentiate.
    """

    axes: tuple[int | None, ...]
    samples: int
    wrt: int

    def planned(self, chunk_size: int | str | None, bounded: bool) -> tuple[int, int | str | None]:
        """(D, chunk size) to plan for; `bounded` says that other options need D.

        Of a number that is only a name (`jax.export.symbolic_shape`) nothing is known: the plan is that of one sample,
        and all go through at once. So it is within `whole_batches`.
        """
        if _whole.get():
            return 1, None
        if isinstance(self.samples, int):
            return self.samples, chunk_size
        if bounded or isinstance(chunk_size, int):
            raise OptionError(
                f"the number of samples is the symbol {self.samples}, and chunk_size as a number, memory_budget and "
                'strategy="autotune" need to know it. Leave them out: all samples then go through the model at once; '
                "or trace for a number of samples that is known."
            )
        return 1, None

    def split(self, leaves: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """(batched leaves with the samples on axis 0, shared leaves)."""
        batched = [
            jnp.moveaxis(leaf, axis, 0) for leaf, axis in zip(leaves, self.axes, strict=True) if axis is not None
        ]
        shared = [leaf for leaf, axis in zip(leaves, self.axes, strict=True) if axis is None]
        return batched, shared

    def merge(self, batched: Sequence[Any], shared: Sequence[Any]) -> list[Any]:
        """The inverse of `split` for one sample: all leaves in their order."""
        one, all_ = iter(batched), iter(shared)
        return [next(all_) if axis is None else next(one) for axis in self.axes]


def find_batch(args: Sequence[PyTree], wrt: int | None, in_axes: InAxes) -> Batch:
    """Resolve the options `wrt` and `in_axes` for given arguments.

    Raises:
        OptionError, AxesError, BatchSizeError: see `nablax.errors`.
    """
    count = len(args)
    if count == 0:
        raise AxesError("the transformed function was called without arguments; call it as f(params, X) or f(X)")
    position = _position(wrt, count)
    names, leaves, axes = leaf_axes(args, in_axes)
    sizes = {name: leaf.shape[a] for a, name, leaf in zip(axes, names, leaves, strict=True) if a is not None}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise BatchSizeError(
            f"the batched arguments disagree about the number of samples: {listed}. "
            "They must hold equally many along the axes that in_axes names; use None in in_axes for an argument "
            "that all samples share."
        )
    samples = next(iter(sizes.values()))
    if samples == 0:
        raise BatchSizeError(
            f"{next(iter(sizes))} holds zero samples along its sample axis; give an array with at least one."
        )
    return Batch(axes, samples, position)


def leaf_axes(
    args: Sequence[PyTree], in_axes: InAxes, of_one: bool = False
) -> tuple[list[str], list[Any], tuple[int | None, ...]]:
    """(names, leaves, sample axes) of all leaves of the arguments; the axes are not negative.

    With `of_one` the arguments are those of one sample, and the axes say where the batch has one more axis.

    Raises:
        AxesError: see `nablax.errors`.
    """
    names, leaves, axes = [], [], []
    for number, (arg, axis) in enumerate(zip(args, _per_argument(in_axes, len(args)), strict=True)):
        names += [f"argument {number}{jax.tree_util.keystr(p)}" for p, _ in jax.tree_util.tree_leaves_with_path(arg)]
        leaves += jax.tree.leaves(arg)
        axes += _broadcast(axis, arg, number)
    found = tuple(_normalised(axis, name, leaf, of_one) for axis, name, leaf in zip(axes, names, leaves, strict=True))
    if all(axis is None for axis in found):
        raise AxesError(
            f"in_axes={in_axes!r} leaves nothing batched: every argument would be shared by all samples. "
            "Give the number of the sample axis for at least one argument, for example in_axes=(None, 0)."
        )
    return names, leaves, found


def _position(wrt: int | None, count: int) -> int:
    if wrt is None:
        return min(1, count - 1)
    if not -count <= wrt < count:
        raise OptionError(f"wrt={wrt} names no argument: the function was called with {count}; use 0 to {count - 1}.")
    return wrt % count


def _per_argument(in_axes: InAxes, count: int) -> list[Any]:
    """in_axes as one entry for each argument."""
    if in_axes is None:
        return [0] if count == 1 else [None, 0] + [None] * (count - 2)
    if isinstance(in_axes, int):
        return [in_axes] * count
    if len(in_axes) > count:
        raise AxesError(
            f"in_axes={in_axes!r} has {len(in_axes)} entries, but the function was called with {count} argument(s); "
            "give one entry for each argument, or fewer (the rest is shared)."
        )
    return [*in_axes, *[None] * (count - len(in_axes))]


def _broadcast(axis: Any, arg: PyTree, number: int) -> list[int | None]:
    """The entry of in_axes for one argument, spread over its leaves."""
    entries: list[Any] = []

    def spread(entry: Any, subtree: PyTree) -> None:
        entries.extend([entry] * len(jax.tree.leaves(subtree)))

    try:
        jax.tree.map(spread, axis, arg, is_leaf=lambda a: a is None)
    except ValueError as error:
        raise AxesError(
            f"in_axes for argument {number} is {axis!r}, which does not fit the structure of that argument, "
            f"{jax.tree.structure(arg)}; give an int, None, or a tree of them that is a prefix of the argument."
        ) from error
    for entry in entries:
        if entry is not None and (isinstance(entry, bool) or not isinstance(entry, int)):
            raise AxesError(f"in_axes for argument {number} contains {entry!r}; each entry must be an int or None.")
    return entries


def _normalised(axis: int | None, name: str, leaf: Any, of_one: bool) -> int | None:
    if axis is None:
        return None
    shape = jnp.shape(leaf)
    rank = len(shape) + of_one
    if not -rank <= axis < rank:
        raise AxesError(
            f"in_axes asks for axis {axis} of {name}, which has shape {shape}{' for one sample' * of_one}. "
            + (
                "It is a single number; pass None in in_axes if all samples share it, or an array with the samples "
                "on an axis."
                if rank == 0
                else f"Use an axis from {-rank} to {rank - 1}, or None if all samples share it."
            )
        )
    return axis % rank


def move_out(results: PyTree, out_axes: Any) -> PyTree:
    """Move the sample axis of every result from 0 to where `out_axes` wants it."""
    if isinstance(out_axes, int) and out_axes == 0:
        return results
    try:
        axes = jax.tree.broadcast(out_axes, results)
    except ValueError as error:
        raise AxesError(
            f"out_axes={out_axes!r} does not fit the structure of the result, {jax.tree.structure(results)}; "
            "give an int, or a tree of ints that is a prefix of the result."
        ) from error

    def move(leaf: Array, axis: Any) -> Array:
        if isinstance(axis, bool) or not isinstance(axis, int) or not -leaf.ndim <= axis < leaf.ndim:
            raise AxesError(
                f"out_axes asks for axis {axis!r} of a result of shape {leaf.shape} (samples first); "
                f"use an int from {-leaf.ndim} to {leaf.ndim - 1}."
            )
        return jnp.moveaxis(leaf, 0, axis)

    return jax.tree.map(move, results, axes)
