"""What can be typed: one class for each command, one field for each option; tyro makes the parser and the help."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from nablax._types import BY_PARAMETERS, OF_PAIRS
from nablax._types import WANTS as BY_INPUTS


class Wants(tuple[str, ...]):
    """Names of derivatives, as a type of its own.

    To check a default that is "int | None" or a tuple of literals, tyro imports typeguard, and --help waits for that.
    """

    __slots__ = ()


MaybeInt = Annotated[Optional[int], tyro.conf.arg(metavar="INT", help_behavior_hint="")]  # noqa: UP045
MaybePath = Annotated[Optional[Path], tyro.conf.arg(metavar="PATH", help_behavior_hint="")]  # noqa: UP045
MaybeText = Annotated[Optional[str], tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]  # noqa: UP045
Switch = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]


def _wants(*choices: str) -> PrimitiveConstructorSpec[Wants]:
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="WANT [WANT ...]",
        instance_from_str=Wants,
        is_instance=lambda value: isinstance(value, Wants),
        str_from_instance=list,
        choices=choices,
    )


ANY_WANT = _wants(*BY_INPUTS, *BY_PARAMETERS, *OF_PAIRS)
WANT_BY_INPUTS = _wants(*BY_INPUTS)

DESCRIPTION = """\
Derivatives of neural networks, sample by sample.

Examples:
  nablax demo
  nablax derive model.py:network --params params.npz --inputs X.npy --of jacobian hessian --out d.zarr
  nablax inspect d.zarr --plot d.png
  nablax explain model.py:network --params params.npz --inputs X.npy --of hessian
  nablax check model.py:network --params params.npz --inputs X.npy --of hessian

Exit codes:
  0    done                                 2    error, said in one line on stderr
  1    a check found a wrong derivative     130, 143    ended by Ctrl-C, SIGTERM
"""


@dataclass(frozen=True)
class _Any:
    """What all commands have in common."""

    debug: Switch = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class _Report(_Any):
    """What commands that print a report have in common."""

    json: Switch = False
    """Print the report as JSON."""


@dataclass(frozen=True)
class _OnData:
    """What commands on a model and its samples have in common."""

    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]] = tyro.MISSING
    """The model of one sample: FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION; or the name of a model of Flax NNX,
    Equinox, Keras or PyTorch. The file is code and is run."""
    inputs: Annotated[str, tyro.conf.arg(metavar="FILE")] = tyro.MISSING
    """Samples on axis 0: a .npy, .npz (FILE.npz:NAME), .zarr, .csv or .parquet file."""
    params: MaybePath = None
    """Parameters, a .npz file; names with "/" are nested. Without it the model is called with x alone."""
    precision: Literal["float32", "float64"] = "float32"
    """Compute in this precision, whatever that of the files is."""
    strategy: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """How to differentiate; see the documentation of nablax.jacobian."""
    chunk_size: MaybeInt = None
    """Samples that go through the model at once; chosen if not given."""
    verbose: Switch = False
    """Say on stderr what was read, where it runs, and what will be done."""


@dataclass(frozen=True)
class Derive(_Report, _OnData):
    """Derive every sample of a file and write the results to a zarr 3 group."""

    of: Annotated[Wants, ANY_WANT] = Wants(("jacobian",))  # noqa: RUF009
    """Which derivatives: value, jacobian, hessian, hessian_diagonal, laplacian, divergence; by the parameters
    parameter_jacobian, squared_norms, and gram, which is of all pairs of samples."""
    out: Path = Path("derivatives.zarr")
    """The store to write."""
    resume: Switch = False
    """Go on with the store of a run that was interrupted or killed; begin if there is none."""
    overwrite: Switch = False
    """Replace a store that exists."""
    on_nonfinite: Literal["error", "warn"] = "error"
    """End before results that are NaN or infinite are written, or write and count them."""
    memory: MaybeText = None
    """The most memory to take, such as 2GiB."""
    unit_size: MaybeInt = None
    """Samples that are read, derived and written at a time; chosen if not given."""
    devices: MaybeInt = None
    """How many devices, or cores of a processor as devices; the fastest number if not given."""
    compress: Switch = False
    """Compress with zstd: slower, and smaller only where many results are zero."""
    quiet: Switch = False
    """Show no progress bar."""
    distributed: Switch = False
    """Share the work with the other processes of this job, on a disk that all of them see. SLURM and MPI tell who they
    are; elsewhere give the next three."""
    coordinator: MaybeText = None
    """HOST:PORT of the first process."""
    processes: MaybeInt = None
    """How many processes there are."""
    process_id: MaybeInt = None
    """Which of them this one is, from 0."""


@dataclass(frozen=True)
class Explain(_Report, _OnData):
    """Say how derivatives would be computed and why: strategy, chunks, memory, the nodes of the model."""

    of: Annotated[Wants, WANT_BY_INPUTS] = Wants(("jacobian",))  # noqa: RUF009
    """Which derivatives: value, jacobian, hessian, hessian_diagonal, laplacian, divergence."""
    samples: int = 1024
    """How many samples the batch has; those of the file if it has fewer."""
    measure: Switch = False
    """Compile every strategy that applies, and time it."""


@dataclass(frozen=True)
class Check(_Report, _OnData):
    """Compare derivatives of a few samples with nested AD in float64 and with finite differences."""

    of: Annotated[Wants, WANT_BY_INPUTS] = Wants(("jacobian",))  # noqa: RUF009
    """Which derivatives: value, jacobian, hessian, hessian_diagonal, laplacian, divergence."""
    samples: int = 4
    """How many samples, spread over the file."""


@dataclass(frozen=True)
class Inspect(_Report):
    """Say what is in a store, whether it is complete, and between which numbers its results lie."""

    store: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="STORE")]] = tyro.MISSING
    """A store that derive wrote, or is writing."""
    plot: MaybePath = None
    """Draw histograms and mean derivatives to this picture."""


@dataclass(frozen=True)
class Demo(_Any):
    """Train a network on real data, derive it, and draw what drives its predictions."""

    out: Path = Path("demo-output")
    """Folder for the data, the store and the picture."""


@dataclass(frozen=True)
class Completion(_Any):
    """Print what lets a shell complete commands and options."""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "tcsh"]] = tyro.MISSING
    """The shell that reads it."""


EXAMPLES: dict[type, str] = {
    Derive: """\
  nablax derive model.py:network --params params.npz --inputs X.npy --of jacobian hessian --out d.zarr
  nablax derive model.py:network --inputs X.csv --of jacobian --precision float64 --out d.zarr
  nablax derive model.py:network --inputs X.npy --of laplacian --out d.zarr --memory 2GiB --resume""",
    Inspect: """\
  nablax inspect d.zarr
  nablax inspect d.zarr --plot d.png --json""",
    Explain: """\
  nablax explain model.py:network --params params.npz --inputs X.npy --of hessian
  nablax explain model.py:network --inputs X.npy --of laplacian --measure --json""",
    Check: """\
  nablax check model.py:network --params params.npz --inputs X.npy --of jacobian hessian
  nablax check model.py:network --inputs X.csv --of laplacian --samples 16 --json""",
    Demo: """\
  nablax demo --out demo-output""",
    Completion: """\
  nablax completion bash > ~/.local/share/bash-completion/completions/nablax
  nablax completion zsh > ~/.zfunc/_nablax""",
}


def command_type(asked: str) -> Any:
    """The union of all commands; the one that is asked for says more of itself."""

    def named(command: type) -> Any:
        name, text = command.__name__.lower(), inspect.getdoc(command) or ""
        if name == asked:
            text += f"\n\nExamples:\n{EXAMPLES[command]}"
        return Annotated[command, tyro.conf.subcommand(name, description=text)]

    return Union[tuple(map(named, EXAMPLES))]  # noqa: UP007
