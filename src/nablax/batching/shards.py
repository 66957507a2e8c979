"""Samples that lie on several devices stay there: every device derives its own, in chunks of its own.

Left to itself, XLA gathers an array that is sharded over the axis of a loop onto every device, and says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from nablax._types import PyTree
from nablax.batching.axes import Batch, InAxes, find_batch

Placement = NamedSharding | None


@dataclass(frozen=True)
class Shards:
    """How the samples are spread.

    Attributes:
        mesh: the devices.
        names: the axes of the mesh that the samples are spread over.
        batch: where the samples are in the arguments.
    """

    mesh: Mesh | AbstractMesh
    names: str | tuple[str, ...]
    batch: Batch

    def map(self, derive: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """``derive(arrays, weights, args)`` on every device with its own samples; the results have them on axis 0."""

        def mapped(arrays: PyTree, weights: PyTree, args: tuple[PyTree, ...]) -> PyTree:
            same, leaves = (
                PartitionSpec(),
                [PartitionSpec() if axis is None else self._at(axis) for axis in self.batch.axes],
            )
            specs = same, same, jax.tree.unflatten(jax.tree.structure(args), leaves)
            # The model is traced for one sample, of which JAX cannot say whether it varies over the mesh.
            run = jax.shard_map(derive, mesh=self.mesh, in_specs=specs, out_specs=self._at(0), check_vma=False)
            return run(arrays, weights, args)

        return mapped

    def _at(self, axis: int) -> PartitionSpec:
        return PartitionSpec(*[None] * axis, self.names)


def placements(args: PyTree) -> tuple[Placement, ...]:
    """For every leaf of `args`, how it is spread over several devices; () if none is.

    Inside ``jax.jit`` an array says so only if the axes of its mesh are explicit.
    """
    found = tuple(_placement(leaf) for leaf in jax.tree.leaves(args))
    return found if any(found) else ()


def _placement(leaf: Any) -> Placement:
    if not isinstance(leaf, jax.Array):
        return None
    sharding = jax.typeof(leaf).sharding if isinstance(leaf, Tracer) else leaf.sharding
    if not isinstance(sharding, NamedSharding):
        return None
    # One device too, where its axes are explicit: the types inside the chunks would name them.
    spread = sharding.mesh.size > 1 or AxisType.Explicit in sharding.mesh.axis_types
    return sharding if spread else None


def find_shards(
    placed: Sequence[Placement], args: tuple[PyTree, ...], wrt: int | None, in_axes: InAxes
) -> Shards | None:
    """The shards of the samples of `args`, placed as `placements` said; None if they are not spread."""
    if not placed:
        return None
    batch = find_batch(args, wrt, in_axes)
    for placement, axis in zip(placed, batch.axes, strict=True):
        if placement is not None and axis is not None and axis < len(placement.spec):
            names = placement.spec[axis]
            if isinstance(names, str | tuple) and names:
                return Shards(placement.mesh, names, batch)
    return None
