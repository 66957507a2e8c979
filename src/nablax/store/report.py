"""What a run wrote, as a table: shapes, sizes, ranges, time and memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """One array that was written.

    Attributes:
        name, shape, dtype: of the array.
        mebibytes: its size before compression.
        lowest, highest: of its finite entries, of their absolute values if they are complex; NaN if none is finite.
        nonfinite: entries that are NaN or infinite.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    mebibytes: float
    lowest: float
    highest: float
    nonfinite: int


@dataclass(frozen=True)
class RunReport:
    """What `run` wrote, how long it took and how much memory it used; print it for a table.

    Attributes:
        path: of the store.
        rows: one a want.
        samples: D.
        seconds: wall time of the run.
        compile_seconds: of these, until the first sample was read.
        microseconds: a sample, compiling not included: read, derived and written.
        peak_mebibytes: most resident memory of the process so far; None where the system does not say.
    """

    path: str
    rows: tuple[Row, ...]
    samples: int
    seconds: float
    compile_seconds: float
    microseconds: float
    peak_mebibytes: float | None

    def __str__(self) -> str:
        head = ("want", "shape", "dtype", "MiB", "min", "max", "not finite")
        body = [
            (
                row.name,
                "x".join(map(str, row.shape)),
                row.dtype,
                f"{row.mebibytes:.3g}",
                _number(row.lowest),
                _number(row.highest),
                str(row.nonfinite),
            )
            for row in self.rows
        ]
        widths = [max(len(line[k]) for line in (head, *body)) for k in range(len(head))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in (head, *body)]
        memory = "" if self.peak_mebibytes is None else f"; peak memory {self.peak_mebibytes:.0f} MiB"
        lines.append(
            f"{self.samples} samples in {self.seconds:.1f} s: {self.compile_seconds:.1f} s to trace and compile, then "
            f"{self.microseconds:.3g} microseconds a sample{memory}"
        )
        lines.append(f"written to {self.path}")
        return "\n".join(lines)


class Statistics:
    """Smallest, largest and non-finite entries of an array that comes in pieces."""

    def __init__(self) -> None:
        self.lowest, self.highest, self.nonfinite = np.inf, -np.inf, 0

    def add(self, array: np.ndarray) -> None:
        values = np.abs(array) if array.dtype.kind == "c" else array
        finite = np.isfinite(values)
        self.nonfinite += int(values.size - finite.sum())
        self.lowest = min(self.lowest, float(np.min(values, where=finite, initial=np.inf)))
        self.highest = max(self.highest, float(np.max(values, where=finite, initial=-np.inf)))

    def row(self, name: str, shape: tuple[int, ...], dtype: Any) -> Row:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize / 2**20
        lowest, highest = (self.lowest, self.highest) if self.lowest <= self.highest else (np.nan, np.nan)
        return Row(name, shape, str(np.dtype(dtype)), size, lowest, highest, self.nonfinite)


def peak_mebibytes() -> float | None:
    """Most resident memory of this process; Linux counts KiB, macOS bytes, Windows has no such call."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4g}"
