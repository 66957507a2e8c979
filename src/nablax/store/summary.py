"""What a store holds and how far it is, read from its metadata."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from nablax._errors import DataError
from nablax._json import as_json
from nablax.store.records import Records
from nablax.store.report import Row, merged, row_of, table

SPANS = 4
"""How many spans of samples are printed."""

PROGRAMS = ("nablax", "jax", "numpy", "python")


@dataclass(frozen=True)
class StoreSummary:
    """A store of derivatives, complete or not; print it for a table.

    Attributes:
        path: of the store.
        model: that was derived.
        inputs, dtype: shape and dtype of the samples.
        rows: shape, size and statistics of each want; of an incomplete store, statistics of what is there.
        axes: want -> names of its axes.
        names: axis -> names along it, where there are some.
        complete: whether all results are there.
        units, units_complete: pieces of work, and how many of them are complete.
        spans: (first sample, the one after the last) of the samples whose results are there.
        strategy, device, created, versions: how, where, when and by what it was written.
    """

    path: str
    model: str
    inputs: tuple[int, ...]
    dtype: str
    rows: tuple[Row, ...]
    axes: dict[str, tuple[str, ...]]
    names: dict[str, tuple[str, ...]]
    complete: bool
    units: int
    units_complete: int
    spans: tuple[tuple[int, int], ...]
    strategy: str
    device: str
    created: str
    versions: dict[str, str]

    @property
    def samples(self) -> int:
        """How many samples have their results."""
        return sum(end - begin for begin, end in self.spans)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it: null for the range of a want of which nothing is finite."""
        return as_json(self)

    def __repr__(self) -> str:
        used = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return "\n".join(
            [
                f"{self.path}: derivatives of {self.model} for samples {_shape(self.inputs)} in {self.dtype}",
                *table(self.rows),
                *[
                    f"{row.name} is not finite in samples {row.where}: look at these samples and at the model there "
                    "(nablax check), or derive in --precision float64"
                    for row in self.rows
                    if row.nonfinite
                ],
                self._progress(),
                f"strategy {self.strategy}, on {self.device}, {self.created}, {used}",
            ]
        )

    def _progress(self) -> str:
        if self.complete:
            return f"complete: all of {self.units} units"
        there = [f"{begin} to {end - 1}" for begin, end in self.spans[:SPANS]]
        more = ", .." if len(self.spans) > SPANS else ""
        samples = f" (samples {', '.join(there)}{more}: {self.samples} of {self.inputs[0]})" if there else ""
        return (
            f"not complete: {self.units_complete} of {self.units} units are there{samples}; give the command that "
            "began it once more, with --resume, to go on"
        )


def inspect_store(path: str | Path) -> StoreSummary:
    """What is in a store that `nablax.store.run` wrote or is writing; no results are read.

    Raises:
        DataError: there is no store, one of something else, or a damaged one.

    Cost:
        Small files of metadata are read, whatever D is.

    Example:
        >>> import jax.numpy as jnp, numpy as np, tempfile
        >>> from nablax import store
        >>> folder, X = tempfile.TemporaryDirectory(), np.ones((100, 3), np.float32)
        >>> _ = store.run(lambda x: jnp.sum(x**3), ["laplacian"], X, f"{folder.name}/d.zarr", progress=False)
        >>> found = store.inspect_store(f"{folder.name}/d.zarr")
        >>> found.complete, found.samples, found.axes, found.rows[0].highest
        (True, 100, {'laplacian': ('sample',)}, 18.0)
    """
    import zarr

    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: there is no such store; give the folder that derive wrote (--out).")
    try:
        group = zarr.open(str(path), mode="r")
        if not isinstance(group, zarr.Group):
            raise TypeError("it is a single array")
        return _summary(path, group)
    except Exception as error:  # damaged metadata raises whatever zarr, json or this file run into
        why = f"{error} is missing" if isinstance(error, KeyError) else (str(error).splitlines() or [repr(error)])[0]
        raise DataError(
            f"{path}: it is no store of derivatives, or a damaged one ({why}); give the folder that derive wrote "
            "(--out), or write it again."
        ) from error


def _summary(path: Path, group: Any) -> StoreSummary:
    found = dict(group.attrs)
    complete, results, identity = found["complete"], found["results"], found.get("identity", {})
    records = [] if complete else Records(path).read()
    pieces = [found["statistics"]] if complete else [record["statistics"] for record in records]
    rows = []
    for want in found["wants"]:
        array, described = group[want], SimpleNamespace(**results[want])
        described.shape = tuple(described.shape)
        if (array.shape, array.dtype) != (described.shape, np.dtype(described.dtype)):
            raise ValueError(f"the array {want} is not what the attributes say")
        if complete:
            _check_files(path, want, array)
        rows.append(row_of(want, described, merged(piece[want] for piece in pieces if want in piece)))
    # A unit of pairs completes no sample.
    axes = {want: tuple(results[want]["axes"]) for want in found["wants"]}
    spans = [tuple(r["samples"]) for r in records if any("sample_2" not in axes[want] for want in r["statistics"])]
    inputs = tuple(found["inputs"]["shape"])
    return StoreSummary(
        str(path),
        found["model"],
        inputs,
        found["inputs"]["dtype"],
        tuple(rows),
        axes,
        {axis: tuple(map(str, group[axis][:])) for axis in ("input", "output") if axis in group},
        complete,
        found["units"],
        found["units"] if complete else len(records),
        ((0, inputs[0]),) if complete else _joined(spans),
        str(found["strategy"]),
        found["device"],
        found["created"],
        found.get("versions", {program: identity[program] for program in PROGRAMS if program in identity}),
    )


def _check_files(path: Path, want: str, array: Any) -> None:
    """Raise ValueError if files of results were lost: zarr would read NaN in their place."""
    file = array.shards or array.chunks
    expected = math.prod(-(-n // size) for n, size in zip(array.shape, file, strict=True))
    there = sum(1 for entry in (path / want / "c").rglob("*") if entry.is_file())
    if there < expected:
        raise ValueError(f"{expected - there} of {expected} files of {want} are missing")


def _joined(spans: list[Any]) -> tuple[tuple[int, int], ...]:
    """Spans of samples in their order, those that touch made one."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            begin, end = joined[-1][0], max(end, joined.pop()[1])
        joined.append((begin, end))
    return tuple(joined)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
