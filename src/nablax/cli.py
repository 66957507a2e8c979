"""The command line. JAX and zarr are imported when a command runs, so that ``--help`` answers at once."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

try:
    import tyro
except ImportError:  # the library itself does not need it
    sys.exit('The command line needs the extra "cli": pip install "nablax[cli]"')

from nablax._errors import DataError, NablaxError
from nablax._version import __version__

Want = Literal["value", "jacobian", "hessian", "hessian_diagonal", "laplacian", "divergence"]

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
    params: Path | None = None
    """Parameters, a .npz file; names with "/" are nested. Without it the model is called with x alone."""
    of: tuple[Want, ...] = ("jacobian",)
    """Which derivatives."""
    precision: Literal["float32", "float64"] = "float32"
    """Compute in this precision."""
    strategy: str = "auto"
    """How to differentiate; see the documentation of nablax.jacobian."""
    chunk_size: int | None = None
    """Samples that go through the model at once; chosen if not given."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Derive(_OnData):
    """Derive every sample of a file and write the results to a zarr 3 group."""

    out: Path = Path("derivatives.zarr")
    """The store to write."""
    unit_size: int | None = None
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
        print(f"nablax {__version__}")
        return 0
    command: Any = tyro.cli(Command, args=arguments, prog="nablax", description=EXAMPLES)  # pyright: ignore
    try:
        return {Derive: _derive, Check: _check, Demo: _demo}[type(command)](command)
    except NablaxError as error:
        if command.debug:
            raise
        print(f"nablax: {type(error).__name__}: {error}", file=sys.stderr)
        return 2


def _derive(command: Derive) -> int:
    model, params, inputs = _load(command)
    from nablax.store import run

    report = run(
        model,
        command.of,
        inputs.array,
        command.out,
        params=params,
        unit_size=command.unit_size,
        chunk_size=command.chunk_size or "auto",
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
    import nablax

    checked = nablax.check(
        model, *command.of, samples=command.samples, strategy=command.strategy, chunk_size=command.chunk_size or "auto"
    )
    report = checked(inputs.array) if params is None else checked(params, inputs.array)
    print(report)
    return 0 if report.passed else 1


def _demo(command: Demo) -> int:
    from nablax._demo import main as demo

    demo(command.out)
    return 0


def _load(command: _OnData) -> tuple[Any, Any, Any]:
    """(model, params or None, inputs) of a command, in its precision."""
    from nablax.store import Inputs, load_parameters, read_inputs

    inputs = read_inputs(command.inputs)  # first: the cheapest to be wrong
    params = None if command.params is None else load_parameters(command.params)
    import jax

    jax.config.update("jax_enable_x64", command.precision == "float64")
    array = inputs.array if inputs.array.dtype == command.precision else _Cast(inputs.array, command.precision)
    params = jax.tree.map(lambda a: a.astype(command.precision) if a.dtype.kind == "f" else a, params)
    return _load_model(command.model), params, Inputs(array, inputs.names)  # pyright: ignore[reportArgumentType]


class _Cast:
    """An array that is converted piece by piece as it is read, so that it need not fit the memory."""

    def __init__(self, array: Any, dtype: str) -> None:
        import numpy as np

        self.array, self.dtype, self.shape, self.ndim = array, np.dtype(dtype), array.shape, array.ndim

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any) -> Any:
        return self.array[index].astype(self.dtype)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array.astype(dtype or self.dtype)


def _load_model(spec: str) -> Any:
    """The function that FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION names."""
    import importlib
    import importlib.util

    place, colon, name = spec.rpartition(":")
    if not colon or not name:
        raise DataError(f"the model {spec!r} names no function; write FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION.")
    try:
        if place.endswith(".py"):
            if not Path(place).is_file():
                raise DataError(f"{place}: there is no such file.")
            found = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert found is not None
            assert found.loader is not None
            module = importlib.util.module_from_spec(found)
            sys.path.insert(0, str(Path(place).resolve().parent))  # so that the file can import its neighbours
            found.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except NablaxError:
        raise
    except Exception as error:
        raise DataError(f"{place}: the file raised {type(error).__name__} when it was imported ({error}).") from error
    model = getattr(module, name, None)
    if not callable(model):
        functions = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise DataError(f"{place}: it has no function {name!r}; it has {', '.join(functions) or 'none'}.")
    return model


if __name__ == "__main__":
    sys.exit(main())
