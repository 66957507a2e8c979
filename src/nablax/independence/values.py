"""What is known of a value of a batch-wise model: whether, and along which axis, it belongs to samples.

A value is *Shared* (the same for every sample and every number of samples), *Samples* (one slice for each sample,
computed from that sample alone), or one of a few special cases. *Mixed* is a value of which that cannot be said, with
the reason; it is an error only where an output needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reason:
    """Why samples mix, or why nothing is known.

    Attributes:
        operation: the name of the primitive.
        text: what it does, as the end of a sentence that starts with its name.
        line: of the user's program, ``file:line``, or empty.
        proven: whether samples mix for certain, rather than may mix.
    """

    operation: str
    text: str
    line: str
    proven: bool = True


@dataclass(frozen=True)
class Shared:
    """The same for all samples, whatever their number."""


@dataclass(frozen=True)
class Samples:
    """Slice d along `axis` is a function of sample d and of what is shared: the same function for every d and D.

    The axis may have been merged with others: entry ``(o * D + d) * inner + i`` belongs to sample d, for o < outer and
    i < inner.

    Attributes:
        false: the value is False everywhere; a choice by it is no choice.
    """

    axis: int
    outer: int = 1
    inner: int = 1
    false: bool = field(default=False, compare=False)

    def at(self, axis: int) -> Samples:
        """The same samples on another axis."""
        return Samples(axis, self.outer, self.inner)

    @property
    def layout(self) -> tuple[int, int]:
        """(outer, inner)."""
        return self.outer, self.inner


@dataclass(frozen=True)
class Current:
    """Inside a loop over the samples: a function of the one sample of this step. `loop` tells loops apart."""

    loop: int


@dataclass(frozen=True)
class Size:
    """The same for all samples, but dependent on their number D."""


@dataclass(frozen=True)
class Own:
    """Integers: entry d along `axis` is d itself, whatever the other axes; an index into the own sample."""

    axis: int
    reason: Reason


@dataclass(frozen=True)
class Columns:
    """Vectors of indices along the last axis, whose entries in `own` are d for sample d; the others are Samples."""

    axis: int
    own: frozenset[int]
    reason: Reason


@dataclass(frozen=True)
class Mixed:
    """It may depend on several samples, on their order, or in a special way on their number."""

    reason: Reason


Value = Shared | Samples | Current | Size | Own | Columns | Mixed

SHARED, SIZE = Shared(), Size()


def plain(value: Value) -> Value:
    """A value without what only indexing has a use for; the number of a sample by itself is its position."""
    if isinstance(value, Own | Columns):
        return Mixed(value.reason)
    return value.at(value.axis) if isinstance(value, Samples) else value


def join(a: Value, b: Value, differ: Mixed) -> Value:
    """What is known of a value that is one of two; `differ` where they have nothing in common."""
    a, b = plain(a), plain(b)
    for value, other in ((a, b), (b, a)):
        if value == other or isinstance(value, Mixed):
            return value
        if isinstance(other, Shared) and isinstance(value, Current | Size):
            return value
    return differ
