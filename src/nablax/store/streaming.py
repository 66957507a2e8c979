"""Derive a data set unit by unit: read, compute and write at the same time, in bounded memory, to go on when killed."""

from __future__ import annotations

import datetime
import functools
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from nablax._errors import DataError, NonFiniteError, OptionError
from nablax._options import checked_model
from nablax._types import BY_PARAMETERS, OF_PAIRS, Model, PyTree
from nablax.planning.memory import bytes_of
from nablax.store.identity import differences
from nablax.store.interrupts import Interrupts, RunInterrupted, noticed
from nablax.store.job import WANTS, Budget, Job, Layout, Programs
from nablax.store.layout import Unit
from nablax.store.pipeline import stream
from nablax.store.report import RunReport, Statistics, merged, peak_bytes, row_of, statistics
from nablax.store.samples import Samples
from nablax.store.zarr_store import Target, check_free, check_room, create, find


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
    table: Any = None,
    memory_budget: int | str | None = None,
    devices: int | None = None,
    feature_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    on_nonfinite: str = "error",
    compress: bool = False,
    progress: bool = True,
    attributes: Mapping[str, Any] | None = None,
) -> RunReport:
    """Derive all samples of `X` and write the results to a zarr 3 group, in memory that does not grow with D.

    The work is cut into units: some samples, or, for results of pairs of samples, some pairs. A unit that is complete
    is on the disk for good; a run that was killed goes on after it with ``resume=True``, and its results are those of
    a run without interruption, bit for bit. Ctrl-C and SIGTERM let the units in work be completed.

    In a program of several processes (``jax.distributed.initialize``) each process derives its share of the units with
    its own devices, and all write to one store, on a disk that they share.

    Args:
        model: ``model(params, x) -> y`` for one sample, or ``model(x)`` if `params` is None; y is one array.
        wants: of every sample, the names of `nablax.derivatives`, and, of what `nablax.parameter_jacobian` gives,
            "parameter_jacobian" (D, A, B) and "squared_norms" (D, A); of every pair, "gram" (D, A, D, A).
        X: (D, ...), the samples; may be memory-mapped.
        out: folder of the store.
        params: parameters of the model.
        unit_size: samples that are read, derived and written at a time, one file of the store for each want; None:
            about 8 MiB of inputs and results.
        chunk_size: see `nablax.jacobian`; at most a unit.
        strategy: see `nablax.jacobian`.
        table: see `nablax.jacobian`.
        memory_budget: bytes that the process may take at its peak, an int or a string such as "2GiB"; None: no bound.
        devices: how many devices of this process to use; None: all, but of a processor that was divided into several
            as many as are fastest.
        feature_names: names along the axis "input", if x is a vector.
        output_names: names along the axis "output", if y is a vector.
        overwrite: replace a store that exists.
        resume: go on with a store that exists, of a run with the same model, parameters, samples, wants, options and
            versions; begin one if there is none.
        on_nonfinite: "error": end the run before results that are NaN or infinite are written; "warn": write and count
            them.
        compress: with zstd. Derivatives are nearly as large compressed, unless many of them are zero, and take several
            times as long to write.
        progress: show a bar on stderr.
        attributes: more attributes for the group, such as where the model came from.

    Returns:
        A `RunReport`.

    Raises:
        nablax.NablaxError: see `nablax.errors`. Nothing is written before the model has been traced, and the attribute
            ``complete`` of a store is false until its last unit is written.
        RunInterrupted: after Ctrl-C or SIGTERM; a KeyboardInterrupt.

    Cost:
        That of the derivatives, which are computed while the units before are written; memory of a few units.

    Example:
        >>> import jax.numpy as jnp, numpy as np, tempfile
        >>> from nablax import store
        >>> folder, model = tempfile.TemporaryDirectory(), lambda M, x: jnp.tanh(M @ x)
        >>> X, M = np.ones((100, 3), np.float32), np.ones((2, 3), np.float32)
        >>> report = store.run(model, ["jacobian"], X, f"{folder.name}/d.zarr", params=M, progress=False)
        >>> store.inspect_store(f"{folder.name}/d.zarr").complete
        True
    """
    start = time.perf_counter()
    checked_model("store.run", model)
    names = _checked_wants(wants, params)
    _check_options(unit_size, overwrite, resume, on_nonfinite)
    samples = Samples(X, jax.dtypes.canonicalize_dtype(X.dtype))
    arguments = () if params is None else (params,)
    job = Job(model, arguments, names, samples, {"strategy": strategy, "table": table}, chunk_size)
    budget = None if memory_budget is None else Budget(bytes_of(memory_budget))

    def begin(path: Path) -> tuple[Target, Programs]:
        if resume and (target := find(path)) is not None:
            return target, job.programs(_taken_over(target, job, unit_size, devices))
        check_free(path, overwrite)
        check_room(path, job.bytes)
        labels = job.axes(feature_names, output_names)
        programs = job.planned(unit_size, devices, budget)
        described = _attributes(job, programs.layout, labels[0]) | {"compress": compress} | dict(attributes or {})
        sizes = {want: programs.layout.size(want) for want in names}
        return create(path, job.results, sizes, *labels, described, compress), programs

    target, programs = _together(Path(out), job, begin)
    compiled = time.perf_counter()
    kept, computed = _work(job, programs, target, on_nonfinite, progress)
    found = _finished(target, names)
    end = time.perf_counter()
    report = _report(job, programs, target, found, kept, (start, compiled, end), computed)
    if bad := [f"{row.nonfinite} in {row.name}, from samples {row.where}" for row in report.rows if row.nonfinite]:
        warnings.warn(f"{out}: entries are NaN or infinite: {'; '.join(bad)}.", RuntimeWarning, stacklevel=2)
    return report


# -------------------------------------------------------------------------------------------------------- before it


def _checked_wants(wants: Sequence[str], params: PyTree) -> tuple[str, ...]:
    if isinstance(wants, str) or not wants or any(want not in WANTS for want in wants):
        raise OptionError(f"wants={wants!r} must be a list of at least one of {', '.join(WANTS)}.")
    by_parameters = [want for want in wants if want in (*BY_PARAMETERS, *OF_PAIRS)]
    if params is None and by_parameters:
        raise OptionError(
            f"{', '.join(by_parameters)}: these are derivatives by parameters, and there are none; give params= "
            "(--params), and a model that takes them first."
        )
    return tuple(dict.fromkeys(wants))


def _check_options(unit_size: int | None, overwrite: bool, resume: bool, on_nonfinite: str) -> None:
    if unit_size is not None and (isinstance(unit_size, bool) or not isinstance(unit_size, int) or unit_size < 1):
        raise OptionError(f"unit_size={unit_size!r} must be a positive int, or None.")
    if overwrite and resume:
        raise OptionError("overwrite=True and resume=True exclude each other: give one of them, or none.")
    if on_nonfinite not in ("error", "warn"):
        raise OptionError(f'on_nonfinite={on_nonfinite!r} must be "error" or "warn".')


def _attributes(job: Job, layout: Layout, dimensions: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    return {
        "model": getattr(job.model, "__qualname__", type(job.model).__name__),
        "wants": list(job.wants),
        "strategy": job.options["strategy"],
        "inputs": {"shape": list(job.samples.shape), "dtype": str(job.samples.dtype)},
        "results": {
            want: {"shape": list(array.shape), "dtype": str(array.dtype), "axes": list(dimensions[want])}
            for want, array in job.results.items()
        },
        "units": sum(1 for _ in job.units(layout)),
        "unit_size": layout.unit_size or layout.pair_size,
        "layout": asdict(layout),
        "identity": job.identity(),
        "device": jax.default_backend(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _layout(target: Target) -> Layout:
    return Layout(**target.attributes["layout"])


def _taken_over(target: Target, job: Job, unit_size: int | None, devices: int | None) -> Layout:
    """The layout of the run that the store belongs to.

    Raises:
        DataError: it is another run than this one.
    """
    layout = _layout(target)
    there = {**target.attributes["identity"], "unit_size": target.attributes["unit_size"], "devices": layout.devices}
    asked = {"unit_size": None if unit_size is None else job.size_of_unit(unit_size, layout)}
    asked |= {"devices": devices}
    here = {**job.identity(), **{key: there[key] if value is None else value for key, value in asked.items()}}
    if different := differences(there, here):
        raise DataError(
            f"{target.path}: it belongs to another run ({different}), whose results must not be mixed with those of "
            "this one; resume with what that run had, write to another path, or replace it (--overwrite)."
        )
    return layout


def _together(path: Path, job: Job, begin: Callable[[Path], tuple[Target, Programs]]) -> tuple[Target, Programs]:
    """The store and the compiled programs. The first process begins; the others join when the store is there."""
    if jax.process_index() == 0:
        target, programs = begin(path)
        if not target.attributes["complete"]:
            target.records.start()
        _meet("nablax: the store is there")
        return target, programs
    _meet("nablax: the store is there")
    target = Target(path)
    return target, job.programs(_layout(target))


def _meet(name: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


# ---------------------------------------------------------------------------------------------------------- the work


def _work(job: Job, programs: Programs, target: Target, on_nonfinite: str, progress: bool) -> tuple[int, int]:
    """Derive the units of this process that are not complete; returns how many were, and how many it derived."""
    if target.attributes["complete"]:
        return target.attributes["units"], 0
    kept = target.records.numbers()
    mine = [unit for unit in job.units(programs.layout) if unit.number % jax.process_count() == jax.process_index()]
    todo = [unit for unit in mine if unit.number not in kept]
    samples = lambda units: sum(unit.spans[0][1] - unit.spans[0][0] for unit in units)
    of_samples = programs.layout.pair_size is None
    count = samples if of_samples else len
    with (
        noticed() as interrupts,
        tqdm(
            total=count(mine),
            initial=count(mine) - count(todo),
            unit="sample" if of_samples else "unit",
            disable=not progress,
            file=sys.stderr,
        ) as bar,
    ):
        write = functools.partial(_write, target, on_nonfinite)
        for unit in stream(_until(interrupts, todo), programs.read, programs, write):
            bar.update(count([unit]))
    if interrupts.number is not None:
        _interrupted(target, interrupts.number)
    return len(kept), len(todo)


def _until(interrupts: Interrupts, units: list[Unit]) -> Iterator[Unit]:
    """The units, until the run is asked to end."""
    for unit in units:
        if interrupts.number is not None:
            return
        yield unit


def _interrupted(target: Target, number: int) -> None:
    done, units = len(target.records.numbers()), target.attributes["units"]
    raise RunInterrupted(
        f"{signal.Signals(number).name}: {done} of {units} units are complete in {target.path}; give the same command "
        "with resume=True (--resume) to go on.",
        number,
    )


def _write(target: Target, on_nonfinite: str, unit: Unit, results: Mapping[str, jax.Array]) -> Unit:
    """Write the results of a unit and what is known of them."""
    found = {want: np.asarray(result)[unit.inside(result.ndim)] for want, result in results.items()}
    known = {want: statistics(array, unit.spans[0][0], 1 + unit.mirrored) for want, array in found.items()}
    if on_nonfinite == "error":
        _check_finite(target, known)
    try:
        target.write(unit, found, {"unit": unit.number, "samples": list(unit.spans[0]), "statistics": known})
    except OSError as error:
        raise DataError(
            f"{target.path}: writing unit {unit.number + 1} of {target.attributes['units']} failed ({error}); make "
            "room or repair the disk, and give the same command with resume=True (--resume): what is complete is kept."
        ) from error
    return unit


def _check_finite(target: Target, known: Mapping[str, Statistics]) -> None:
    if bad := {want: found for want, found in known.items() if found["nonfinite"]}:
        text = "; ".join(f"{found['nonfinite']} in {want}" for want, found in bad.items())
        first = sorted({k for found in bad.values() for k in found["first_nonfinite"]})
        raise NonFiniteError(
            f"entries are NaN or infinite ({text}), in samples {', '.join(map(str, first))} and maybe more. Look at "
            "the model and these samples (nablax.check helps), or keep such entries with on_nonfinite='warn' "
            f"(--on-nonfinite warn); resume=True (--resume) then goes on with {target.path}."
        )


# ---------------------------------------------------------------------------------------------------------- after it


def _finished(target: Target, wants: Sequence[str]) -> dict[str, Statistics]:
    """Statistics of all units. The first process waits for the others and completes the store."""
    if target.attributes["complete"]:
        return target.attributes["statistics"]
    if jax.process_index() == 0:
        while len(target.records.numbers()) < target.attributes["units"]:
            time.sleep(0.1)
    _meet("nablax: the units are complete")
    records = target.records.read()
    _meet("nablax: the records are read")
    of_all = [record["statistics"] for record in records]
    found = {want: merged(each[want] for each in of_all if want in each) for want in wants}
    if jax.process_index() == 0:
        target.finish({"statistics": found})
    return found


def _report(
    job: Job,
    programs: Programs,
    target: Target,
    found: Mapping[str, Statistics],
    kept: int,
    times: tuple[float, float, float],
    computed: int,
) -> RunReport:
    """The report of a run that started, was compiled and ended at given `times`."""
    (start, compiled, end), D, units = times, job.samples.shape[0], target.attributes["units"]
    return RunReport(
        path=str(target.path),
        rows=tuple(row_of(want, job.results[want], found[want]) for want in job.wants),
        samples=D,
        seconds=end - start,
        compile_seconds=compiled - start,
        microseconds=1e6 * (end - compiled) / D * units / computed if computed else 0.0,
        peak_mebibytes=peak_bytes() / 2**20,
        units=units,
        units_kept=kept,
        devices=programs.layout.devices,
        halved=tuple(programs.halved),
    )
