"""Derive a data set unit by unit, and write each unit before the next one is read."""

from __future__ import annotations

import collections
import datetime
import functools
import math
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import nablax
from nablax._cache import join_model, split_model
from nablax._errors import DataError, OptionError
from nablax._types import INPUT_AXES, Model, PyTree
from nablax.store.report import RunReport, Statistics, peak_mebibytes
from nablax.store.samples import Samples
from nablax.store.zarr_store import check_free, create, dimension_names, finish

UNIT_BYTES = 2**23
"""Inputs and results of one unit, if the caller does not say how many samples it holds: 8 MiB."""


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
        unit_size: samples that are read, derived and written at a time, one file of the store for each want; None:
            about 8 MiB of inputs and results.
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
        nablax.NablaxError: see `nablax.errors`. Nothing is written before the model has been traced, and the attribute
            ``complete`` of a store is false until its last sample is written.
    """
    start = time.perf_counter()
    path, wants, samples = Path(out), list(dict.fromkeys(wants)), Samples(X, jax.dtypes.canonicalize_dtype(X.dtype))
    if unit_size is not None and (isinstance(unit_size, bool) or not isinstance(unit_size, int) or unit_size < 1):
        raise OptionError(f"unit_size={unit_size!r} must be a positive int, or None.")
    check_free(path, overwrite)

    transform = functools.partial(nablax.derivatives, chunk_size=chunk_size, strategy=strategy)
    arguments = () if params is None else (params,)
    results = _results(transform(model, *wants), wants, arguments, samples)
    dimensions, names = _axes(results, samples.shape[1:], feature_names, output_names)
    unit = _unit_size(results, samples, unit_size)
    derive = _compile(
        lambda model: transform(model, *wants), model, arguments, (unit, *samples.shape[1:]), samples.dtype
    )

    described = _attributes(model, strategy, samples, results, dimensions, unit) | dict(attributes or {})
    group, arrays = create(path, results, unit, dimensions, names, described, overwrite)
    compiled = time.perf_counter()
    statistics = _stream(derive, samples, unit, arrays, path, progress)
    finish(group, path)
    end, D = time.perf_counter(), samples.shape[0]
    rows = tuple(statistics[want].row(want, results[want].shape, results[want].dtype) for want in wants)
    return RunReport(str(path), rows, D, end - start, compiled - start, 1e6 * (end - compiled) / D, peak_mebibytes())


def _stream(
    derive: Callable[[np.ndarray], dict[str, jax.Array]],
    X: Samples,
    unit: int,
    arrays: Mapping[str, Any],
    path: Path,
    progress: bool,
) -> Mapping[str, Statistics]:
    """Read, derive and write all units."""
    statistics, samples = collections.defaultdict(Statistics), X.shape[0]
    with tqdm(total=samples, unit="sample", disable=not progress, file=sys.stderr) as bar:
        for begin in range(0, samples, unit):
            block = X[begin : begin + unit]
            count = len(block)
            if count < unit:  # filled up, so that one program serves all units
                block = np.concatenate([block, np.repeat(block[-1:], unit - count, axis=0)])
            found = {want: np.asarray(result)[:count] for want, result in derive(block).items()}
            try:
                for want, array in arrays.items():
                    array[begin : begin + count] = found[want]
                    statistics[want].add(found[want])
            except OSError as error:
                raise DataError(
                    f"{path}: writing failed after {begin} of {samples} samples ({error}); make room and run it again, "
                    "overwriting what was written (--overwrite)."
                ) from error
            bar.update(count)
    return statistics


def _results(
    transformed: Callable[..., dict[str, Any]], wants: list[str], arguments: tuple[PyTree, ...], X: Samples
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of all results, found without computing one."""
    # The parameters are no argument of eval_shape: what is wrong with them is then said by nablax and not by JAX.
    results = jax.eval_shape(functools.partial(transformed, *arguments), jax.ShapeDtypeStruct(X.shape, X.dtype))
    if any(not hasattr(result, "dtype") for result in results.values()):
        raise DataError(
            "the model returns several arrays; the store takes a model that returns one array for a sample."
        )
    return {want: results[want] for want in wants}


def _compile(
    transform: Callable[[Model], Callable[..., Any]],
    model: Model,
    arguments: tuple[PyTree, ...],
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> Callable[[np.ndarray], dict[str, jax.Array]]:
    """The one program that every unit goes through."""
    arrays, rest = split_model(model)  # the arrays in a model are arguments of the program, and no constants in it

    def program(arrays: list[Any], arguments: tuple[PyTree, ...], block: jax.Array) -> dict[str, jax.Array]:
        return transform(join_model(arrays, rest))(*arguments, block)

    arrays, arguments = jax.tree.map(jax.numpy.asarray, (arrays, arguments))  # on the device, once for all units
    compiled = jax.jit(program).lower(arrays, arguments, jax.ShapeDtypeStruct(shape, dtype)).compile()
    return lambda block: compiled(arrays, arguments, block)


def _unit_size(results: Mapping[str, jax.ShapeDtypeStruct], X: Samples, asked: int | None) -> int:
    """Samples in a unit: as many as `UNIT_BYTES` hold, and all units about as full as the others."""
    samples = X.shape[0]
    if asked is not None:
        return min(asked, samples)
    each = sum(math.prod(array.shape[1:]) * array.dtype.itemsize for array in (X, *results.values()))
    units = math.ceil(samples / max(UNIT_BYTES // each, 1))
    unit = math.ceil(samples / units)
    return unit if unit <= 16 else 16 * math.ceil(unit / 16)  # an even number divides into the chunks of a shard


def _axes(
    results: Mapping[str, jax.ShapeDtypeStruct],
    x: tuple[int, ...],
    features: Sequence[str] | None,
    outputs: Sequence[str] | None,
) -> tuple[dict[str, tuple[str, ...]], dict[str, list[str]]]:
    """(want -> names of its axes, axis -> names along it), the latter for the axes that some array has."""
    y = x  # that is what a divergence needs
    for want, array in results.items():
        if want != "divergence":
            y = array.shape[1 : len(array.shape) - INPUT_AXES[want] * len(x)]
    dimensions = {want: dimension_names(want, len(y), len(x)) for want in results}
    used = {axis for axes in dimensions.values() for axis in axes}
    names: dict[str, list[str]] = {}
    for option, given, letter, shape, axes in (
        ("feature_names", features, "x", x, ("input", "input_2")),
        ("output_names", outputs, "y", y, ("output",)),
    ):
        if given is not None and (len(given),) != shape:
            raise OptionError(
                f"{option} has {len(given)} names, but {letter} has the shape {shape} for one sample; give one name "
                "for each entry of a vector, or none."
            )
        names |= {axis: [str(name) for name in given] for axis in axes if given is not None and axis in used}
    return dimensions, names


def _attributes(
    model: Model,
    strategy: str,
    X: Samples,
    results: Mapping[str, jax.ShapeDtypeStruct],
    dimensions: Mapping[str, tuple[str, ...]],
    unit: int,
) -> dict[str, Any]:
    return {
        "model": getattr(model, "__qualname__", type(model).__name__),
        "wants": list(results),
        "strategy": strategy,
        "inputs": {"shape": list(X.shape), "dtype": str(X.dtype)},
        "results": {
            want: {"shape": list(array.shape), "dtype": str(array.dtype), "axes": list(dimensions[want])}
            for want, array in results.items()
        },
        "unit_size": unit,
        "versions": {"nablax": nablax.__version__, "jax": jax.__version__, "python": platform.python_version()},
        "device": jax.default_backend(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
