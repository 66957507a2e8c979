"""Histograms, and means over the samples, of arrays that are read piece by piece."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

PIECE_BYTES = 2**23
"""What is read at a time, unless a chunk is larger: 8 MiB."""

BINS = 100
"""Of a histogram, at most."""

Spans = Iterable[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Measured:
    """What is drawn of an array; entries that are not finite are left out.

    Attributes:
        counts, edges: histogram of all entries, of their absolute values if they are complex.
        mean: over the samples, of the absolute values if that was asked or if they are complex; NaN where no sample is
            finite; None if it was not asked.
    """

    counts: np.ndarray
    edges: np.ndarray
    mean: np.ndarray | None


def measure(pieces: Iterable[np.ndarray], entries: int, lowest: float, highest: float, mean: str = "") -> Measured:
    """The histogram between two values, and the mean over axis 0 in the same pass.

    Args:
        pieces: of the array, along axis 0.
        entries: of the array, about: of few, the histogram is coarse.
        lowest, highest: of the finite entries, NaN if there are none.
        mean: "value", "absolute", or empty for none.
    """
    bins = min(max(math.isqrt(entries), 10), BINS)
    edges = _edges(lowest, highest, bins)
    counts, total, finite_samples = np.zeros(bins, dtype=np.int64), np.float64(0), np.int64(0)
    for piece in pieces:
        values = np.abs(piece) if piece.dtype.kind == "c" else piece
        finite = np.isfinite(values)
        counts += np.histogram(values[finite], edges)[0]
        if mean:
            summed = np.abs(values) if mean == "absolute" else values
            with np.errstate(over="ignore"):
                total = total + np.sum(summed, axis=0, where=finite, dtype=np.float64)
            finite_samples = finite_samples + finite.sum(axis=0)
    if not mean:
        return Measured(counts, edges, None)
    with np.errstate(invalid="ignore"):  # 0 / 0 where no sample is finite
        return Measured(counts, edges, np.asarray(total / finite_samples))


def pieces_of_samples(array: Any, spans: Spans) -> Iterator[np.ndarray]:
    """The samples in some spans, whole chunks at a time."""
    step = _step(math.prod(array.shape[1:]) * array.dtype.itemsize, array.chunks[0])
    for begin, end in spans:
        for first in range(begin, end, step):
            yield array[first : min(first + step, end)]


def pieces_of_pairs(array: Any) -> Iterator[np.ndarray]:
    """All pairs of samples, (D, ..., D, ...), whole chunks at a time."""
    half, D = len(array.shape) // 2, array.shape[0]
    row = array.chunks[0]
    one = math.prod(array.shape[1:half]) * math.prod(array.shape[half + 1 :]) * array.dtype.itemsize
    column = _step(row * one, array.chunks[half])
    for first, other in itertools.product(range(0, D, row), range(0, D, column)):
        index: list[Any] = [slice(None)] * len(array.shape)
        index[0], index[half] = slice(first, first + row), slice(other, other + column)
        yield array[tuple(index)]


def _step(each: int, chunk: int) -> int:
    """Samples of `each` bytes that are read at a time."""
    return max(PIECE_BYTES // max(each, 1) // chunk, 1) * chunk


def _edges(lowest: float, highest: float, bins: int) -> np.ndarray:
    """Of the bins; a single value has a bin in the middle."""
    if not math.isfinite(lowest):
        lowest = highest = 0.0
    if lowest == highest:
        width = min(abs(lowest), 1e300) / 2 or 0.5
        lowest, highest = lowest - width, highest + width
    t = np.linspace(0, 1, bins + 1)
    return lowest * (1 - t) + highest * t  # the difference of the two may be too large for float64
