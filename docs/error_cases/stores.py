"""Runs that write a store, and what keeps them from it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np

from error_cases import Case

F = np.linspace(0, 1, 24, dtype=np.float32).reshape(8, 3)
OPTIONS = {"unit_size": 4, "devices": 1, "progress": False}


class PowerCut:
    """Samples of which only the first half can be read."""

    shape, dtype, ndim = F.shape, F.dtype, F.ndim

    def __len__(self) -> int:
        return len(F)

    def __getitem__(self, index: slice) -> np.ndarray:
        if index.start == 4:
            raise ConnectionError
        return F[index]


def prepare(folder: Path) -> None:
    """Writes a store of which half is there, and one of somebody else."""
    import zarr

    from nablax import store

    with contextlib.suppress(ConnectionError), contextlib.chdir(folder):
        store.run(jax.numpy.tanh, ["jacobian"], PowerCut(), "half.zarr", **OPTIONS)  # pyright: ignore[reportArgumentType]
    zarr.create_group(str(folder / "other.zarr"))


@contextlib.contextmanager
def _memory_in_use(mebibytes: int) -> Iterator[None]:
    with mock.patch("nablax.store.job.peak_bytes", return_value=mebibytes * 2**20):
        yield


@contextlib.contextmanager
def _room(left: int) -> Iterator[None]:
    with mock.patch("shutil.disk_usage", return_value=SimpleNamespace(free=left)):
        yield


@contextlib.contextmanager
def _full_device() -> Iterator[None]:
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8.00GiB.")
    with mock.patch("nablax.store.job.Program._compile", return_value=mock.Mock(side_effect=error)):
        yield


def names(folder: Path) -> dict:
    """What the code of these cases uses besides the rest."""
    return {
        "memory_in_use": _memory_in_use,
        "room": _room,
        "full_device": _full_device,
        "quiet": OPTIONS,
    }


CASES = [
    Case(
        'store.run(jnp.tanh, ["jacobian", "curl"], F, "e.zarr")',
        "There is no such derivative.",
        "Use the names in the message.",
    ),
    Case(
        'store.run(jnp.tanh, ["gram"], F, "e.zarr")',
        "Derivatives by parameters were asked of a model without parameters.",
        "Give params= (--params), and a model that takes them first.",
    ),
    Case(
        'store.run(jnp.tanh, ["value"], F, "e.zarr", unit_size=0)',
        "Another number of samples in a unit.",
        "Give a positive int, or leave it to nablax.",
    ),
    Case(
        'store.run(jnp.tanh, ["value"], F, "e.zarr", overwrite=True, resume=True)',
        "A store cannot be replaced and gone on with.",
        "Give one of the two.",
    ),
    Case(
        'store.run(jnp.tanh, ["value"], F, "e.zarr", on_nonfinite="ignore")',
        "Another text.",
        'Give "error", or "warn" to write and count them.',
    ),
    Case(
        'store.run(jnp.tanh, ["value"], F, "e.zarr", devices=99)',
        "There are fewer devices.",
        "Give fewer; on a processor, set jax_num_cpu_devices before JAX is used.",
    ),
    Case(
        'derive("model.py:network --inputs X.npy --processes 2")',
        "Options of a run of several processes, which is not asked for.",
        "Add --distributed.",
    ),
    Case(
        'store.run(jnp.tanh, ["value"], F[:0], "e.zarr")',
        "There are no samples.",
        "Give at least one.",
    ),
    Case(
        'store.run(jnp.tanh, ["jacobian"], F + 1, "half.zarr", resume=True, **quiet)',
        "The store belongs to a run with another model, parameters, samples, options or versions.",
        "Resume with what that run had, or write to another path.",
    ),
    Case(
        'store.run(jnp.tanh, ["jacobian"], F, "other.zarr", resume=True)',
        "What is there was not written by nablax.",
        "Give another path.",
    ),
    Case(
        'store.run(jnp.log, ["jacobian"], F, "n.zarr", **quiet)',
        "A result is NaN or infinite.",
        "Look at the model at these samples; keep such results with on_nonfinite='warn' (--on-nonfinite warn).",
    ),
    Case(
        'with room(left=100): store.run(jnp.tanh, ["jacobian"], F, "e.zarr", **quiet)',
        "The disk has too little room for the results.",
        "Make room, write elsewhere, or ask for less.",
    ),
    Case(
        'with memory_in_use(300): store.run(jnp.tanh, ["value"], F, "e.zarr", memory_budget="256MiB")',
        "The process needs more memory than the budget before it computes anything.",
        "Give a larger budget.",
    ),
    Case(
        "with memory_in_use(300): store.run(jnp.tanh, ['hessian'], np.tile(F, (100, 40)), 'e.zarr', unit_size=800, "
        "memory_budget='500MiB')",
        "Units of the size that was asked for do not fit into the budget.",
        "Leave unit_size to nablax, or give a larger budget.",
    ),
    Case(
        'with full_device(): store.run(jnp.tanh, ["value"], F, "f.zarr", **quiet)',
        "The device has too little memory even for one sample at a time.",
        "Ask for less, or use a device with more memory.",
    ),
]
