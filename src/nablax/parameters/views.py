"""Views of a parameter: its entries in another order, none changed and none lost."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from jax import Array


class Step(Enum):
    """What one step of a view does."""

    TRANSPOSE = "transpose"
    """Permute the axes."""
    RESHAPE = "reshape"
    """Other axes, the entries in the same row-major order."""
    SCANNED = "scanned"
    """A loop reads one entry of the leading axis in each turn; later steps act on the axes behind it."""
    REPEATED = "repeated"
    """A loop reads all of it in each turn."""


@dataclass(frozen=True)
class View:
    """The entries of parameter leaf number `leaf`, of shape `shape`, rearranged step by step."""

    leaf: int
    shape: tuple[int, ...]
    steps: tuple[tuple[Step, Any], ...] = ()

    def transposed(self, permutation: tuple[int, ...]) -> View:
        return replace(self, steps=(*self.steps, (Step.TRANSPOSE, tuple(permutation))))

    def reshaped(self, shape: tuple[int, ...]) -> View:
        return replace(self, steps=(*self.steps, (Step.RESHAPE, tuple(shape))))

    def scanned(self, length: int) -> View:
        """What the body of a loop sees of a leaf that it scans over."""
        return replace(self, steps=(*self.steps, (Step.SCANNED, length)))

    def repeated(self, length: int) -> View:
        """What the body of a loop sees of a leaf that is a constant of the loop."""
        return replace(self, steps=(*self.steps, (Step.REPEATED, length)))

    @property
    def loops(self) -> tuple[tuple[Step, int], ...]:
        """The loops around the place where the view is read, the outermost first."""
        return tuple((step, by) for step, by in self.steps if step in (Step.SCANNED, Step.REPEATED))

    def _stages(self) -> list[tuple[Step, Any, int, tuple[int, ...]]]:
        """(step, argument, number of scanned axes, shape before it), for each step."""
        stages, shape, scanned = [], self.shape, 0
        for step, by in self.steps:
            stages.append((step, by, scanned, shape))
            if step is Step.TRANSPOSE:
                shape = shape[:scanned] + tuple(shape[scanned + axis] for axis in by)
            elif step is Step.RESHAPE:
                shape = shape[:scanned] + by
            scanned += step is Step.SCANNED
        return [*stages, (Step.REPEATED, None, scanned, shape)]

    def apply(self, leaf: Any) -> Any:
        """The leaf as (G, H, K), for a view whose last step makes three axes of the unscanned ones."""
        for step, by, scanned, shape in self._stages()[:-1]:
            if step is Step.TRANSPOSE:
                leaf = leaf.transpose((*range(scanned), *(scanned + axis for axis in by)))
            elif step is Step.RESHAPE:
                leaf = leaf.reshape(shape[:scanned] + by)
        return leaf.reshape(-1, *leaf.shape[-2:])

    def restore(self, array: Array, batch: int) -> Array:
        """The inverse of `apply` behind `batch` leading axes: (.., G, H, K) -> (.., *shape)."""
        *stages, (_, _, _, shape) = self._stages()
        lead = array.shape[:batch]
        array = array.reshape(lead + shape)
        for step, by, scanned, before in reversed(stages):
            if step is Step.TRANSPOSE:
                inverse = (batch + scanned + int(axis) for axis in np.argsort(by))
                array = array.transpose((*range(batch + scanned), *inverse))
            elif step is Step.RESHAPE:
                array = array.reshape(lead + before)
        return array

    def entries(self) -> np.ndarray:
        """Which entry of the leaf stands where in (G, H, K)."""
        return self.apply(np.arange(math.prod(self.shape)).reshape(self.shape))
