"""What each command does, from its options to its exit code."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from nablax._errors import OptionError
from nablax._types import WANTS
from nablax.cli.options import Check, Demo, Derive, Explain, Inspect


def run(command: Any) -> int:
    """Do it; returns the exit code."""
    return {Derive: _derive, Inspect: _inspect, Explain: _explain, Check: _check, Demo: _demo}[type(command)](command)


def _derive(command: Derive) -> int:
    _divide_processor(command)
    model, params, inputs = _load(
        command, scratch=next(path for path in command.out.absolute().parents if path.is_dir())
    )
    import jax

    from nablax.store import run
    from nablax.store.samples import Samples

    first = jax.process_index() == 0
    if first and command.verbose:
        _say_what_will_be_done(command, model, params, inputs)
    report = run(
        model,
        command.of,
        Samples(inputs.array, command.precision),  # pyright: ignore[reportArgumentType]
        command.out,
        params=params,
        unit_size=command.unit_size,
        chunk_size=_chunk_size(command),
        strategy=command.strategy,
        memory_budget=command.memory,
        devices=command.devices,
        feature_names=inputs.names,
        overwrite=command.overwrite,
        resume=command.resume,
        on_nonfinite=command.on_nonfinite,
        compress=command.compress,
        progress=first and not command.quiet,
        attributes={"model": command.model, "precision": command.precision},
    )
    if first:
        _print(command, report)
    return 0


def _divide_processor(command: Derive) -> None:
    """Prepare JAX for several processes, and for a processor of which every core is a device: it must be told before
    it looks for devices.
    """
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if getattr(jax.config, "jax_num_cpu_devices", -1) < 1 and "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):  # JAX is in use already: main was called by a program
            jax.config.update("jax_num_cpu_devices", command.devices or cores)
    if command.distributed:
        jax.distributed.initialize(command.coordinator, command.processes, command.process_id)
    elif given := [name for name in ("coordinator", "processes", "process_id") if getattr(command, name) is not None]:
        raise OptionError(f"--{given[0].replace('_', '-')} is for --distributed, which is not given; add it.")


def _inspect(command: Inspect) -> int:
    from nablax.store import inspect_store, plot_store

    _print(command, inspect_store(command.store))
    if command.plot is not None:
        plot_store(command.store, command.plot)
        print(f"drawn to {command.plot}", file=sys.stderr)
    return 0


def _explain(command: Explain) -> int:
    model, params, inputs = _load(command)
    if command.verbose:
        _say_what_was_read(command, params, inputs)
    _print(command, _explained(command, command.of, model, params, inputs, command.samples, command.measure))
    return 0


def _check(command: Check) -> int:
    model, params, inputs = _load(command)
    import numpy as np

    import nablax

    if command.verbose:
        _say_what_will_be_done(command, model, params, inputs)
    checked = nablax.check(
        model, *command.of, samples=command.samples, strategy=command.strategy, chunk_size=_chunk_size(command)
    )
    # Only these are read: the file may be larger than the memory.
    last = len(inputs.array) - 1
    chosen = np.unique(np.linspace(0, last, min(command.samples, last + 1)).round().astype(int))
    X = inputs.array[chosen].astype(command.precision)
    report = checked(X) if params is None else checked(params, X)
    found = tuple(replace(c, worst_sample=int(chosen[c.worst_sample])) for c in report.comparisons)
    _print(command, replace(report, comparisons=found))
    return 0 if report.passed else 1


def _demo(command: Demo) -> int:
    from nablax._demo import main as demo

    demo(command.out)
    return 0


def _print(command: Any, report: Any) -> None:
    print(json.dumps(report.to_dict(), indent=2) if command.json else report)


def _chunk_size(command: Any) -> int | str:
    return "auto" if command.chunk_size is None else command.chunk_size


def _explained(
    command: Any, wants: tuple[str, ...], model: Any, params: Any, inputs: Any, samples: int, measure: bool = False
) -> Any:
    """The explanation for a batch of so many samples of the file."""
    import jax

    import nablax

    shape = (max(0, min(samples, len(inputs.array))), *inputs.array.shape[1:])
    X = (
        inputs.array[: shape[0]].astype(command.precision)
        if measure
        else jax.ShapeDtypeStruct(shape, command.precision)
    )
    explained = nablax.explain(
        model, *wants, strategy=command.strategy, chunk_size=_chunk_size(command), measure=measure
    )
    return explained(X) if params is None else explained(params, X)


def _say_what_will_be_done(command: Any, model: Any, params: Any, inputs: Any) -> None:
    """The plan of the wants by inputs, for a batch of 1024 samples."""
    _say_what_was_read(command, params, inputs)
    if wants := tuple(want for want in command.of if want in WANTS):
        print(_explained(command, wants, model, params, inputs, 1024), file=sys.stderr)


def _say_what_was_read(command: Any, params: Any, inputs: Any) -> None:
    import jax

    from nablax._version import __version__

    device, count = jax.devices()[0].device_kind, jax.device_count()
    read = f"{command.inputs}: {'x'.join(map(str, inputs.array.shape))}, {inputs.array.dtype}"
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(
        f"nablax {__version__}, jax {jax.__version__}, {count} x {device}\n"
        f"{read}; {size} parameters; computed in {command.precision}",
        file=sys.stderr,
    )


def _load(command: Any, scratch: Path | None = None) -> tuple[Any, Any, Any]:
    """(model, params or None, inputs) of a command; floating point parameters in its precision.

    Inputs that cannot be read from anywhere are copied to the folder `scratch`.
    """
    from nablax._model_file import load_model
    from nablax.store import load_parameters, read_inputs

    inputs = read_inputs(command.inputs, scratch)  # first: the cheapest to be wrong
    params = None if command.params is None else load_parameters(command.params)
    import jax

    jax.config.update("jax_enable_x64", command.precision == "float64")
    model = load_model(command.model)
    from nablax.models import from_model, library_of

    if library := library_of(model):
        if params is not None:
            raise OptionError(
                f"--params was given, but {command.model} is a model of {library}, with its own parameters. Leave it "
                "out; or write a function of params and x that calls the model."
            )
        params, model = from_model(model)
    params = jax.tree.map(lambda a: a.astype(command.precision) if a.dtype.kind == "f" else a, params)
    return model, params, inputs
