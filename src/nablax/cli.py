"""The command line. JAX and zarr are imported when a command runs, so that ``--help`` answers at once."""

from __future__ import annotations

import contextlib
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

try:
    import tyro
    from tyro.constructors import PrimitiveConstructorSpec
except ImportError:  # the library itself does not need it
    sys.exit('The command line needs the extra "cli": pip install "nablax[cli]"')

from nablax._errors import NablaxError, OptionError


class Wants(tuple[str, ...]):
    """Names of derivatives, as a type of its own.

    To check a default that is "int | None" or a tuple of literals, tyro imports typeguard, and --help waits for that.
    """

    __slots__ = ()


MaybeInt = Optional[int]  # noqa: UP045
MaybePath = Optional[Path]  # noqa: UP045
MaybeText = Optional[str]  # noqa: UP045
BY_INPUTS = ("value", "jacobian", "hessian", "hessian_diagonal", "laplacian", "divergence")
BY_PARAMETERS = ("parameter_jacobian", "squared_norms", "gram")


def _wants(*choices: str) -> PrimitiveConstructorSpec:
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="WANT [WANT ...]",
        instance_from_str=Wants,
        is_instance=lambda value: isinstance(value, Wants),
        str_from_instance=list,
        choices=choices,
    )


EXAMPLES = """\
Derivatives of neural networks, sample by sample.

Examples:
  nablax demo
  nablax derive model.py:network --params params.npz --inputs X.npy --of jacobian hessian --out d.zarr
  nablax derive model.py:network --params params.npz --inputs X.csv --of jacobian --out d.zarr --precision float64
  nablax derive model.py:network --params params.npz --inputs X.npy --out d.zarr --memory 2GiB --resume
  nablax inspect d.zarr --plot d.png
  nablax check model.py:network --params params.npz --inputs X.npy --of hessian
"""


@dataclass(frozen=True)
class _OnData:
    """What derive and check have in common."""

    model: tyro.conf.Positional[str]
    """The model of one sample: FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION; or the name of a model of Flax NNX,
    Equinox, Keras or PyTorch. The file is code and is run."""
    inputs: str
    """Samples on axis 0: a .npy, .npz (FILE.npz:NAME), .zarr, .csv or .parquet file."""
    params: MaybePath = None
    """Parameters, a .npz file; names with "/" are nested. Without it the model is called with x alone."""
    precision: Literal["float32", "float64"] = "float32"
    """Compute in this precision, whatever that of the files is."""
    strategy: str = "auto"
    """How to differentiate; see the documentation of nablax.jacobian."""
    chunk_size: MaybeInt = None
    """Samples that go through the model at once; chosen if not given."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Derive(_OnData):
    """Derive every sample of a file and write the results to a zarr 3 group."""

    of: Annotated[Wants, _wants(*BY_INPUTS, *BY_PARAMETERS)] = Wants(("jacobian",))  # noqa: RUF009
    """Which derivatives; the last three are by the parameters, gram is of all pairs of samples."""
    out: Path = Path("derivatives.zarr")
    """The store to write."""
    resume: bool = False
    """Go on with the store of a run that was interrupted or killed; begin if there is none."""
    overwrite: bool = False
    """Replace a store that exists."""
    on_nonfinite: Literal["error", "warn"] = "error"
    """End before results that are NaN or infinite are written, or write and count them."""
    memory: MaybeText = None
    """The most memory to take, such as 2GiB."""
    unit_size: MaybeInt = None
    """Samples that are read, derived and written at a time; chosen if not given."""
    devices: MaybeInt = None
    """How many devices, or cores of a processor as devices; the fastest number if not given."""
    compress: bool = False
    """Compress with zstd: slower, and smaller only where many results are zero."""
    quiet: bool = False
    """Show no progress bar."""
    distributed: bool = False
    """Share the work with the other processes of this job, on a disk that all of them see. SLURM and MPI tell who they
    are; elsewhere give the next three."""
    coordinator: MaybeText = None
    """HOST:PORT of the first process."""
    processes: MaybeInt = None
    """How many processes there are."""
    process_id: MaybeInt = None
    """Which of them this one is, from 0."""


@dataclass(frozen=True)
class Check(_OnData):
    """Compare derivatives of a few samples with nested AD in float64 and with finite differences."""

    of: Annotated[Wants, _wants(*BY_INPUTS)] = Wants(("jacobian",))  # noqa: RUF009
    """Which derivatives."""
    samples: int = 4
    """How many samples, spread over the file."""


@dataclass(frozen=True)
class Inspect:
    """Say what is in a store, whether it is complete, and between which numbers its results lie."""

    store: tyro.conf.Positional[Path]
    """A store that derive wrote, or is writing."""
    plot: MaybePath = None
    """Draw histograms and mean derivatives to this picture."""
    json: bool = False
    """Print JSON."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Demo:
    """Train a network on real data, derive it, and draw what drives its predictions."""

    out: Path = Path("demo-output")
    """Folder for the data, the store and the picture."""
    debug: bool = False
    """Show the traceback of an error."""


Command = (
    Annotated[Derive, tyro.conf.subcommand("derive")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for a check that failed, 2 for an error of the user, 130 after Ctrl-C
    and 143 after SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        from nablax._version import __version__

        print(f"nablax {__version__}")
        return 0
    command: Any = tyro.cli(  # pyright: ignore
        Command, args=arguments, prog="nablax", description=EXAMPLES, config=(tyro.conf.FlagCreatePairsOff,)
    )
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return {Derive: _derive, Inspect: _inspect, Check: _check, Demo: _demo}[type(command)](command)
    except (NablaxError, OSError) as error:
        if command.debug:
            raise
        print(f"nablax: {type(error).__name__}: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        if command.debug:
            raise
        print(f"nablax: {interrupt if interrupt.args else 'interrupted.'}", file=sys.stderr)
        return 128 + getattr(interrupt, "number", 2)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"nablax: {category.__name__}: {_one_line(message)}", file=sys.stderr)


def _one_line(message: object) -> str:
    return " ".join(line.strip() for line in str(message).splitlines() if line.strip())


def _derive(command: Derive) -> int:
    _divide_processor(command)
    model, params, inputs = _load(
        command, scratch=next(path for path in command.out.absolute().parents if path.is_dir())
    )
    import jax

    from nablax.store import run
    from nablax.store.samples import Samples

    first = jax.process_index() == 0
    report = run(
        model,
        command.of,
        Samples(inputs.array, command.precision),  # pyright: ignore[reportArgumentType]
        command.out,
        params=params,
        unit_size=command.unit_size,
        chunk_size="auto" if command.chunk_size is None else command.chunk_size,
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
        print(report)
    return 0


def _divide_processor(command: Derive) -> None:
    """Prepare JAX for several processes, and for a processor of which every core is a device: it must be told before
    it looks for devices.
    """
    import os

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
    import json

    from nablax.store import inspect_store, plot_store

    summary = inspect_store(command.store)
    print(json.dumps(summary.to_dict(), indent=2) if command.json else summary)
    if command.plot is not None:
        plot_store(command.store, command.plot)
        print(f"drawn to {command.plot}", file=sys.stderr)
    return 0


def _check(command: Check) -> int:
    model, params, inputs = _load(command)
    import numpy as np

    import nablax

    chunk_size = "auto" if command.chunk_size is None else command.chunk_size
    checked = nablax.check(
        model, *command.of, samples=command.samples, strategy=command.strategy, chunk_size=chunk_size
    )
    # Only these are read: the file may be larger than the memory.
    last = len(inputs.array) - 1
    chosen = np.unique(np.linspace(0, last, min(command.samples, last + 1)).round().astype(int))
    X = inputs.array[chosen].astype(command.precision)
    report = checked(X) if params is None else checked(params, X)
    found = tuple(replace(c, worst_sample=int(chosen[c.worst_sample])) for c in report.comparisons)
    print(replace(report, comparisons=found))
    return 0 if report.passed else 1


def _demo(command: Demo) -> int:
    from nablax._demo import main as demo

    demo(command.out)
    return 0


def _load(command: _OnData, scratch: Path | None = None) -> tuple[Any, Any, Any]:
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


if __name__ == "__main__":
    sys.exit(main())
