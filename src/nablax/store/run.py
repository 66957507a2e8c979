"""Derive a data set unit by unit, and write each unit before the next one is read."""

from __future__ import annotations

import datetime
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import nablax
from nablax._errors import DataError, OptionError
from nablax._types import Model, PyTree
from nablax.store.zarr_store import create, dimension_names, finish

UNIT_BYTES = 2**25
"""Results of one unit, if the caller does not say how many samples it holds: 32 MiB."""


@dataclass(frozen=True)
class Row:
    """One array that was written.

    Attributes:
        name, shape, dtype: of the array.
        mebibytes: its size before compression.
        lowest, highest: of its finite entries; of the absolute values for complex ones.
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
        seconds: wall time of the run, compilation included.
        microseconds: a sample, compilation not included.
        peak_mebibytes: most resident memory of the process so far.
    """

    path: str
    rows: tuple[Row, ...]
    samples: int
    seconds: float
    microseconds: float
    peak_mebibytes: float

    def __str__(self) -> str:
        head = ("want", "shape", "dtype", "MiB", "min", "max", "not finite")
        body = [
            (
                r.name,
                "x".join(map(str, r.shape)),
                r.dtype,
                f"{r.mebibytes:.1f}",
                f"{r.lowest:.4g}",
                f"{r.highest:.4g}",
                str(r.nonfinite),
            )
            for r in self.rows
        ]
        widths = [max(len(line[k]) for line in (head, *body)) for k in range(len(head))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in (head, *body)
        ]
        return "\n".join(
            [
                *lines,
                (
                    f"{self.samples} samples in {self.seconds:.1f} s, {self.microseconds:.1f} microseconds each after "
                    f"compiling; "
                    f"peak memory {self.peak_mebibytes:.0f} MiB; written to {self.path}"
                ),
            ]
        )


def run(
    model: Model,
    wants: Sequence[str],
    X: np.ndarray,
    out: str | Path,
    *,
    params: PyTree = None,
    unit_size: int | None = None,
    chunk_size: int | str | None = "auto",
    strategy: str = "auto",
    feature_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
    attributes: Mapping[str, Any] | None = None,
) -> RunReport:
    """Derive all samples of `X` and write the results to a zarr 3 group, in memory that does not grow with D.

    Args:
        model: ``model(params, x) -> y`` for one sample, or ``model(x)`` if `params` is None; y is one array.
        wants: see `nablax.derivatives`.
        X: (D, ...), the samples; may be memory-mapped.
        out: folder of the store.
        params: parameters of the model.
        unit_size: samples that are read, derived and written at a time, one chunk of the store; None: about 32 MiB of
            results.
        chunk_size: see `nablax.jacobian`; at most a unit.
        strategy: see `nablax.jacobian`.
        feature_names: names along the axis "input", if x is a vector.
        output_names: names along the axis "output", if y is a vector.
        overwrite: replace a store that exists.
        progress: show a bar on stderr.
        attributes: more attributes for the group, such as where the model came from.

    Returns:
        A `RunReport`.

    Raises:
        nablax.NablaxError: see `nablax.errors`; nothing that was not finished is marked as complete.
    """
    wants = list(dict.fromkeys(wants))
    if unit_size is not None and (isinstance(unit_size, bool) or not isinstance(unit_size, int) or unit_size < 1):
        raise OptionError(f"unit_size={unit_size!r} must be a positive int, or None.")
    path, samples, start = Path(out), len(X), time.perf_counter()
    transformed = nablax.derivatives(model, *wants, chunk_size=chunk_size, strategy=strategy)
    derive = transformed if params is None else lambda block: transformed(params, block)
    unit, shapes, output_rank = _unit(derive, model, params, X, unit_size)
    dimensions = {want: dimension_names(want, output_rank, X.ndim - 1) for want in shapes}
    names = _axis_names(shapes, dimensions, feature_names, output_names)
    described = _attributes(model, wants, strategy, X, attributes)
    group = create(path, shapes, samples, unit, dimensions, names, described, overwrite)
    statistics = {want: _Statistics() for want in shapes}
    first = 0.0
    with tqdm(total=samples, unit="sample", disable=not progress, file=sys.stderr) as bar:
        for begin in range(0, samples, unit):
            block = np.asarray(X[begin : begin + unit])
            count = len(block)
            if count < unit:  # filled up, so that only one program is compiled
                block = np.concatenate([block, np.repeat(block[-1:], unit - count, axis=0)])
            results = {want: np.asarray(array)[:count] for want, array in derive(block).items()}
            first = first or time.perf_counter() - start
            try:
                for want, array in results.items():
                    group[want][begin : begin + count] = array  # pyright: ignore[reportArgumentType, reportIndexIssue]
                    statistics[want].add(array)
            except OSError as error:
                raise DataError(f"{path}: writing failed after {begin} of {samples} samples ({error}).") from error
            bar.update(count)
    finish(group, path)
    seconds = time.perf_counter() - start
    after = samples - min(unit, samples)
    each = (seconds - first) / after if after else seconds / samples
    rows = tuple(statistics[want].row(want, (samples, *shapes[want].shape[1:]), shapes[want].dtype) for want in wants)
    return RunReport(str(path), rows, samples, seconds, 1e6 * each, _peak_mebibytes())


def _unit(
    derive: Callable[[Any], dict[str, Any]], model: Model, params: PyTree, X: np.ndarray, unit_size: int | None
) -> tuple[int, dict[str, jax.ShapeDtypeStruct], int]:
    """(samples in a unit, shapes of its results, rank of the output)."""
    dtype = jax.dtypes.canonicalize_dtype(X.dtype)
    one = jax.eval_shape(derive, jax.ShapeDtypeStruct((1, *X.shape[1:]), dtype))
    if any(not hasattr(shape, "dtype") for shape in one.values()):
        raise DataError(
            "the model returns several arrays; the store takes a model that returns one array for a sample."
        )
    each = sum(shape.size * shape.dtype.itemsize for shape in one.values())
    unit = min(unit_size or max(UNIT_BYTES // max(each, 1), 1), len(X))
    shapes = {w: jax.ShapeDtypeStruct((unit, *s.shape[1:]), s.dtype) for w, s in one.items()}
    x = jax.ShapeDtypeStruct(X.shape[1:], dtype)
    y = jax.eval_shape(model, x) if params is None else jax.eval_shape(model, params, x)
    return unit, shapes, len(y.shape)


def _axis_names(
    shapes: Mapping[str, Any],
    dimensions: Mapping[str, tuple[str, ...]],
    features: Sequence[str] | None,
    outputs: Sequence[str] | None,
) -> dict[str, list[str]]:
    """Axis -> names along it, for the axes that some array has."""
    names: dict[str, list[str]] = {}
    for option, given, axes in (
        ("feature_names", features, ("input", "input_2")),
        ("output_names", outputs, ("output",)),
    ):
        for want, axis in ((w, a) for w, dims in dimensions.items() for a in dims if given is not None and a in axes):
            length = shapes[want].shape[dimensions[want].index(axis)]
            if given is not None and len(given) != length:
                raise OptionError(
                    f"{option} has {len(given)} names, but the axis has {length} entries; name each of them."
                )
            names[axis] = list(given or ())
    return names


def _attributes(
    model: Model, wants: list[str], strategy: str, X: np.ndarray, more: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "model": getattr(model, "__qualname__", type(model).__name__),
        "wants": wants,
        "strategy": strategy,
        "inputs": {"shape": list(X.shape), "dtype": str(X.dtype)},
        "versions": {"nablax": nablax.__version__, "jax": jax.__version__, "python": platform.python_version()},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **(more or {}),
    }


class _Statistics:
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
        return Row(name, shape, str(np.dtype(dtype)), size, self.lowest, self.highest, self.nonfinite)


def _peak_mebibytes() -> float:
    """Most resident memory of this process; Linux counts KiB, macOS bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
