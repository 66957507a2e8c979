"""The command line. JAX and zarr are imported when a command runs, so that ``--help`` answers at once."""

from __future__ import annotations

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

from nablax._errors import DataError, NablaxError


class Wants(tuple[str, ...]):
    """Names of derivatives, as a type of its own.

    To check a default that is "int | None" or a tuple of literals, tyro imports typeguard, and --help waits for that.
    """

    __slots__ = ()


MaybeInt = Optional[int]  # noqa: UP045
MaybePath = Optional[Path]  # noqa: UP045
WANTS_ARGUMENT = PrimitiveConstructorSpec(
    nargs="*",
    metavar="WANT [WANT ...]",
    instance_from_str=Wants,
    is_instance=lambda value: isinstance(value, Wants),
    str_from_instance=list,
    choices=("value", "jacobian", "hessian", "hessian_diagonal", "laplacian", "divergence"),
)

EXAMPLES = """\
Derivatives of neural networks, sample by sample.

Examples:
  nablax demo
  nablax derive model.py:network --params params.npz --inputs X.npy --of jacobian hessian --out d.zarr
  nablax derive model.py:network --params params.npz --inputs X.csv --of jacobian --out d.zarr --precision float64
  nablax check model.py:network --params params.npz --inputs X.npy --of hessian
"""


@dataclass(frozen=True)
class _OnData:
    """What derive and check have in common."""

    model: tyro.conf.Positional[str]
    """The model of one sample: FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION. The file is code and is run."""
    inputs: str
    """Samples on axis 0: a .npy, .npz (FILE.npz:NAME) or .csv file."""
    params: MaybePath = None
    """Parameters, a .npz file; names with "/" are nested. Without it the model is called with x alone."""
    of: Annotated[Wants, WANTS_ARGUMENT] = Wants(("jacobian",))  # noqa: RUF009
    """Which derivatives: value, jacobian, hessian, hessian_diagonal, laplacian, divergence."""
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

    out: Path = Path("derivatives.zarr")
    """The store to write."""
    unit_size: MaybeInt = None
    """Samples that are read, derived and written at a time; chosen if not given."""
    overwrite: bool = False
    """Replace a store that exists."""
    quiet: bool = False
    """Show no progress bar."""


@dataclass(frozen=True)
class Check(_OnData):
    """Compare derivatives of a few samples with nested AD in float64 and with finite differences."""

    samples: int = 4
    """How many samples, spread over the file."""


@dataclass(frozen=True)
class Demo:
    """Train a network on real data, derive it, and draw what drives its predictions."""

    out: Path = Path("demo-output")
    """Folder for the data, the store and the picture."""
    debug: bool = False
    """Show the traceback of an error."""


Command = (
    Annotated[Derive, tyro.conf.subcommand("derive")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for a check that failed, 2 for an error of the user."""
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
            return {Derive: _derive, Check: _check, Demo: _demo}[type(command)](command)
    except (NablaxError, OSError) as error:
        if command.debug:
            raise
        print(f"nablax: {type(error).__name__}: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if command.debug:
            raise
        print("nablax: interrupted; a store that was being written is not complete.", file=sys.stderr)
        return 130


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"nablax: {category.__name__}: {_one_line(message)}", file=sys.stderr)


def _one_line(message: object) -> str:
    return " ".join(line.strip() for line in str(message).splitlines() if line.strip())


def _derive(command: Derive) -> int:
    model, params, inputs = _load(command)
    from nablax.store import run
    from nablax.store.samples import Samples

    report = run(
        model,
        command.of,
        Samples(inputs.array, command.precision),  # pyright: ignore[reportArgumentType]
        command.out,
        params=params,
        unit_size=command.unit_size,
        chunk_size="auto" if command.chunk_size is None else command.chunk_size,
        strategy=command.strategy,
        feature_names=inputs.names,
        overwrite=command.overwrite,
        progress=not command.quiet,
        attributes={"model": command.model, "precision": command.precision},
    )
    print(report)
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


def _load(command: _OnData) -> tuple[Any, Any, Any]:
    """(model, params or None, inputs) of a command; floating point parameters in its precision."""
    from nablax.store import load_parameters, read_inputs

    inputs = read_inputs(command.inputs)  # first: the cheapest to be wrong
    params = None if command.params is None else load_parameters(command.params)
    import jax

    jax.config.update("jax_enable_x64", command.precision == "float64")
    params = jax.tree.map(lambda a: a.astype(command.precision) if a.dtype.kind == "f" else a, params)
    return _load_model(command.model), params, inputs


def _load_model(spec: str) -> Any:
    """The function that FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION names."""
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise DataError(f"the model {spec!r} names no function; write FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION.")
    if place.endswith(".py") and not Path(place).is_file():
        raise DataError(f"{place}: there is no such file.")
    try:
        module = _run_file(Path(place)) if place.endswith(".py") else _import(place)
    except (Exception, SystemExit) as error:
        raise DataError(f"{place}: {type(error).__name__} was raised when it was imported ({error}).") from error
    model = getattr(module, name, None)
    if not callable(model):
        own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        functions = [n for n in own if not n.startswith("_")]
        raise DataError(f"{place}: it has no function {name!r}; it has {', '.join(functions) or 'none'}.")
    return model


def _run_file(path: Path) -> Any:
    """The module in a file, which can import its neighbours as if Python had been started with it."""
    from importlib import util

    found = util.spec_from_file_location(f"nablax_model_{path.stem}", path)
    assert found is not None
    assert found.loader is not None
    module = util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses look their module up there
    sys.path.insert(0, str(path.resolve().parent))
    found.loader.exec_module(module)
    return module


def _import(name: str) -> Any:
    """A module by name, from the working folder too: an installed command does not look there by itself."""
    import importlib

    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main())
