"""How a run is cut into units, and what the axes of its results are called."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from nablax._dimensions import dimension_names, output_rank
from nablax._errors import OptionError

UNIT_BYTES = 2**23
"""Inputs and results of one unit, if the caller does not say how many samples it holds: 8 MiB."""

Span = tuple[int, int]
"""First sample, and the one after the last."""


@dataclass(frozen=True)
class Unit:
    """A piece of work: its results are one file for each want.

    Attributes:
        number: its place in the run.
        spans: its samples; for results of pairs, those of the first and of the second of a pair.
        size: samples in a span that is full.
    """

    number: int
    spans: tuple[Span, ...]
    size: int

    @property
    def mirrored(self) -> bool:
        """Whether its results are those of other pairs too, the first and the second exchanged."""
        return len(self.spans) == 2 and self.spans[0] != self.spans[1]

    def index(self, spans: tuple[Span, ...], rank: int) -> tuple[tuple[slice, ...], tuple[int, ...]]:
        """(where in an array of `rank` its results belong, the same counted in files), the spans in a given order."""
        where, file = [slice(None)] * rank, [0] * rank
        for axis, (begin, end) in zip((0, rank // 2), spans, strict=False):
            where[axis], file[axis] = slice(begin, end), begin // self.size
        return tuple(where), tuple(file)

    def inside(self, rank: int) -> tuple[slice, ...]:
        """Where in its results of `rank` those of its samples are, and not those of what it was filled up with."""
        where = [slice(None)] * rank
        for axis, (begin, end) in zip((0, rank // 2), self.spans, strict=False):
            where[axis] = slice(end - begin)
        return tuple(where)


def units(samples: int, size: int | None, pair_size: int | None) -> Iterator[Unit]:
    """All units of a run: those of single samples, and those of pairs, each pair once; None: there are none."""
    number = itertools.count()
    spans = lambda size: [(k, min(k + size, samples)) for k in range(0, samples, size)]
    if size is not None:
        yield from (Unit(next(number), (span,), size) for span in spans(size))
    if pair_size is not None:
        for pair in itertools.combinations_with_replacement(spans(pair_size), 2):
            yield Unit(next(number), pair, pair_size)


def unit_size(each: int, samples: int, asked: int | None, devices: int, limit: int) -> int:
    """Samples in a unit of single samples that take `each` bytes: about `limit`, and all units about equally full."""
    if asked is None:
        count = math.ceil(samples / max(limit // each, 1))
        asked = math.ceil(samples / count)
        if asked > 16:  # an even number divides into the chunks of a shard
            asked = 16 * math.ceil(asked / 16)
    return devices * math.ceil(min(asked, samples) / devices)


def pair_size(each: int, samples: int, asked: int | None, devices: int, limit: int) -> int:
    """Samples on either side of a unit of pairs of which each pair takes `each` bytes."""
    return unit_size(1, samples, asked, devices, max(math.isqrt(limit // each), 1))


def axes(
    results: Mapping[str, jax.ShapeDtypeStruct],
    x: tuple[int, ...],
    features: Sequence[str] | None,
    outputs: Sequence[str] | None,
) -> tuple[dict[str, tuple[str, ...]], dict[str, list[str]]]:
    """(want -> names of its axes, axis -> names along it), the latter for the axes that some array has."""
    y = x  # that is what a divergence needs
    for want, array in results.items():
        if want != "divergence":
            y = array.shape[1 : 1 + output_rank(want, len(array.shape), len(x))]
    dimensions = {want: dimension_names(want, len(y), len(x)) for want in results}
    used = {axis for names in dimensions.values() for axis in names}
    names: dict[str, list[str]] = {}
    for option, given, letter, shape, axes in (
        ("feature_names", features, "x", x, ("input", "input_2")),
        ("output_names", outputs, "y", y, ("output", "output_2")),
    ):
        if given is not None and (len(given),) != shape:
            raise OptionError(
                f"{option} has {len(given)} names, but {letter} has the shape {shape} for one sample; give one name "
                "for each entry of a vector, or none."
            )
        names |= {axis: [str(name) for name in given] for axis in axes if given is not None and axis in used}
    return dimensions, names


def filled(block: np.ndarray, size: int) -> np.ndarray:
    """A block that is not full, filled up with its last sample, so that one program serves all units."""
    missing = size - len(block)
    return np.concatenate([block, np.repeat(block[-1:], missing, axis=0)]) if missing else block


def of_all(shape: tuple[int, ...], want: str, samples: int) -> tuple[int, ...]:
    """The shape of the results of one sample, or of one pair, for all samples."""
    whole: list[Any] = list(shape)
    whole[0] = samples
    if want == "gram":
        whole[len(shape) // 2] = samples
    return tuple(whole)
