"""What a run wrote, as a table: shapes, sizes, ranges, time and memory."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nablax._json import as_json


@dataclass(frozen=True)
class Row:
    """One array that was written.

    Attributes:
        name, shape, dtype: of the array.
        mebibytes: its size before compression.
        lowest, highest: of its finite entries, of their absolute values if they are complex; NaN if none is finite.
        nonfinite: entries that are NaN or infinite.
        first_nonfinite: the first samples that have some.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    mebibytes: float
    lowest: float
    highest: float
    nonfinite: int
    first_nonfinite: tuple[int, ...] = ()

    @property
    def where(self) -> str:
        """The first samples that are not finite, in words."""
        more = ", .." if len(self.first_nonfinite) == FIRST else ""
        return ", ".join(map(str, self.first_nonfinite)) + more


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
        peak_mebibytes: most resident memory of the process so far; 0 where the system does not say.
        units: pieces of work.
        units_kept: of these, complete before this run began.
        devices: that shared each unit.
        halved: samples at once after a device ran out of memory; empty if none did.
    """

    path: str
    rows: tuple[Row, ...]
    samples: int
    seconds: float
    compile_seconds: float
    microseconds: float
    peak_mebibytes: float
    units: int
    units_kept: int
    devices: int
    halved: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it: null for the range of a want of which nothing is finite."""
        return as_json(self)

    def __repr__(self) -> str:
        lines = table(self.rows)
        memory = "" if not self.peak_mebibytes else f"; peak memory {self.peak_mebibytes:.0f} MiB"
        lines += [f"{row.name} is not finite in samples {row.where}" for row in self.rows if row.nonfinite]
        if self.units_kept:
            lines.append(f"{self.units_kept} of {self.units} units were complete before, and were kept")
        if self.halved:
            at_once = " and ".join(map(str, self.halved))
            lines.append(f"a device ran out of memory: {at_once} samples went through the model at once from then on")
        on = f" on {self.devices} devices" if self.devices > 1 else ""
        lines.append(
            f"{self.samples} samples in {self.seconds:.1f} s{on}: {self.compile_seconds:.1f} s to trace and compile, "
            f"then {self.microseconds:.3g} microseconds a sample{memory}"
        )
        lines.append(f"written to {self.path}")
        return "\n".join(lines)


def table(rows: Iterable[Row]) -> list[str]:
    """The lines of a table of arrays."""
    head = ("want", "shape", "dtype", "MiB", "min", "max", "not finite")
    body = [
        (row.name, "x".join(map(str, row.shape)), row.dtype, f"{row.mebibytes:.3g}")
        + (_number(row.lowest), _number(row.highest), str(row.nonfinite))
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (head, *body)]


Statistics = dict[str, Any]
"""lowest, highest (None: nothing is finite), nonfinite and first_nonfinite of an array, as JSON has them."""

FIRST = 5
"""How many samples that are not finite are named."""


def statistics(array: np.ndarray, first_sample: int, weight: int = 1) -> Statistics:
    """Of a piece of an array that begins with a given sample; each entry counts `weight` times."""
    values = np.abs(array) if array.dtype.kind == "c" else array
    lowest, highest = float(values.min()), float(values.max())
    if math.isfinite(lowest) and math.isfinite(highest):
        return {"lowest": lowest, "highest": highest, "nonfinite": 0, "first_nonfinite": []}
    finite = np.isfinite(values)
    where = np.flatnonzero(~finite.reshape(len(values), -1).all(1))[:FIRST] + first_sample
    some = bool(finite.any())
    return {
        "lowest": float(np.min(values, where=finite, initial=np.inf)) if some else None,
        "highest": float(np.max(values, where=finite, initial=-np.inf)) if some else None,
        "nonfinite": weight * int(values.size - finite.sum()),
        "first_nonfinite": where.tolist(),
    }


def merged(pieces: Iterable[Statistics]) -> Statistics:
    """Statistics of a whole from those of its pieces."""
    pieces = list(pieces)
    some = [piece for piece in pieces if piece["lowest"] is not None]
    return {
        "lowest": min((piece["lowest"] for piece in some), default=None),
        "highest": max((piece["highest"] for piece in some), default=None),
        "nonfinite": sum(piece["nonfinite"] for piece in pieces),
        "first_nonfinite": sorted({k for piece in pieces for k in piece["first_nonfinite"]})[:FIRST],
    }


def row_of(name: str, array: Any, found: Statistics) -> Row:
    """The row of an array of which shape, dtype and statistics are known."""
    size = math.prod(array.shape) * np.dtype(array.dtype).itemsize / 2**20
    lowest, highest = (math.nan if found[key] is None else found[key] for key in ("lowest", "highest"))
    first = tuple(found["first_nonfinite"])
    return Row(name, array.shape, str(np.dtype(array.dtype)), size, lowest, highest, found["nonfinite"], first)


def peak_bytes() -> int:
    """Most resident memory of this process so far; 0 where the system does not say.

    Linux counts KiB, macOS bytes, Windows has no such call.
    """
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4g}"
