"""Read the samples of a file, of whatever kind, without having all of them in memory. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import math
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nablax._errors import DataError
from nablax.store.samples import Samples

DIGEST_BYTES, DIGEST_PIECES = 2**26, 1024
"""`digest` reads at most so much of an array, in so many pieces if it is larger."""


class Rows(Protocol):
    """What holds samples: an array, or something that reads a slice of it when it is asked."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class Inputs:
    """The samples of a file.

    Attributes:
        array: (D, ...); a slice of it is a NumPy array. In memory as a whole for a .npz file only.
        names: names of the features, from the header of a .csv file or the columns of a .parquet file.
    """

    array: Rows
    names: tuple[str, ...] | None = None


def read_inputs(path: str | Path, scratch: str | Path | None = None) -> Inputs:
    """Read the samples of a file: axis 0 counts them.

    Args:
        path: by its ending:

            - .npy: memory-mapped;
            - .npz: a single array or one named X; ``data.npz:name`` names another;
            - .zarr: an array, version 2 or 3, that is read piece by piece; in a group as in a .npz file;
            - .csv: rows of numbers; a first row without a number is a header of feature names;
            - .parquet: columns of numbers and their names.
        scratch: folder for the numbers of a .csv or .parquet file, which are copied to a temporary file that needs 8
            bytes for each and is gone with this process; None: that of `tempfile`.

    Raises:
        DataError: the file is missing, damaged, pickled, of another kind, or holds no numbers.
    """
    path, name = _split(str(path))
    match path.suffix.lower():
        case ".csv" | ".parquet" as kind:
            from nablax.store import tables

            check_file(path)
            return Inputs(*(tables.read_csv if kind == ".csv" else tables.read_parquet)(path, scratch))
        case ".npy" | ".npz":
            found = open_numpy(path, lambda names: [choose_array(path, names, name)])
            samples: Rows = found if isinstance(found, np.ndarray) else next(iter(found.values()))
        case ".zarr":
            from nablax.store.zarr_inputs import open_zarr

            samples = open_zarr(path, name)
        case other:
            raise DataError(
                f"{path}: files of kind {other or '(none)'!r} are not read; give a .npy, .npz, .zarr, .csv or .parquet "
                "file."
            )
    if not samples.shape or samples.shape[0] == 0:
        raise DataError(f"{path}: the array has shape {samples.shape}; axis 0 must count at least one sample.")
    if samples.dtype.kind != "f":
        raise DataError(
            f"{path}: the inputs have dtype {samples.dtype}; derivatives need real floating point numbers. Convert "
            f"the file, for example {_conversion(samples.dtype)}."
        )
    return Inputs(samples)


def digest(array: Any) -> str:
    """A short text that differs for other shapes, dtypes or contents: 32 digits of BLAKE2b.

    Of all of the content up to 64 MiB. Of a larger array, 1024 pieces are read that are evenly spread over axis 0, the
    first and last samples among them, 64 MiB together unless these two are larger; a change elsewhere is not seen. The
    order of bytes in a number does not count. 1 MiB is in memory at a time, or a sample, or a chunk of a zarr array.
    """
    samples = Samples(array)
    found = hashlib.blake2b(f"{list(samples.shape)} {samples.dtype.name}".encode(), digest_size=16)
    for piece in _pieces(samples.shape, samples.dtype.itemsize, getattr(array, "chunks", None)):
        found.update(samples[piece].tobytes())
    return found.hexdigest()


def _pieces(shape: tuple[int, ...], itemsize: int, chunks: tuple[int, ...] | None) -> list[Any]:
    """The slices of axis 0 that `digest` reads."""
    if not shape:
        return [...]
    each, count = max(math.prod(shape[1:]) * itemsize, 1), shape[0]
    stored = chunks[0] if chunks else 1  # less than that cannot be read
    if each * count <= DIGEST_BYTES:
        step = max(2**20 // each, stored)
        return [slice(begin, begin + step) for begin in range(0, count, step)]
    size = min(max(DIGEST_BYTES // DIGEST_PIECES // each, stored), count)
    pieces = max(min(DIGEST_PIECES, DIGEST_BYTES // (size * each)), 2)
    begins = (k * (count - size) // (pieces - 1) for k in range(pieces))
    return [slice(begin, begin + size) for begin in begins]


def check_file(path: Path) -> None:
    """Raise `DataError` unless there is a file that can be opened."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
            return
        problem = "it is a folder; name a file in it." if stat.S_ISDIR(mode) else "it is no file; copy it into one."
    except (FileNotFoundError, NotADirectoryError):
        problem = "there is no such file."
    except (OSError, ValueError) as error:
        problem = f"it cannot be opened ({error}); check the name, and who may read it."
    raise DataError(f"{path}: {problem}")


def open_numpy(
    path: Path, choose: Callable[[list[str]], list[str]] = lambda names: names
) -> np.ndarray | dict[str, np.ndarray]:
    """The array of a .npy file, memory-mapped, or those arrays of a .npz file by name that `choose` selects."""
    check_file(path)
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        if magic.startswith(b"PK"):
            with np.load(path, allow_pickle=False) as archive:
                found = {name: archive[name] for name in choose(archive.files)}
            if not all(isinstance(array, np.ndarray) for array in found.values()):
                raise ValueError("a member of the archive is no array")  # NumPy returns it as bytes
            return found
        if magic and magic != b"\x93NUMPY":  # NumPy takes any other file for a pickle
            raise ValueError("a pickle" if magic.startswith(b"\x80") else "it begins like no file of NumPy")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # a damaged header or archive raises whatever NumPy runs into
        text = str(error)
        if any(words in text for words in ("a pickle", "allow_pickle", "Python objects")):
            raise DataError(
                f"{path}: the file holds pickled Python objects, which are never loaded because that can run code. "
                "Save plain numeric arrays with np.save or np.savez."
            ) from error
        raise DataError(
            f"{path}: the file is damaged, cut off, or no NumPy file ({text.splitlines()[0] if text else error!r}); "
            "write or copy it again."
        ) from error


def choose_array(path: Path, names: list[str], name: str) -> str:
    """Which of several arrays is read: the one asked for, the only one, or X."""
    wanted = name or ("X" if "X" in names else "")
    if wanted in names:
        return wanted
    if not name and len(names) == 1:
        return names[0]
    raise DataError(
        f"{path}: it holds the arrays {', '.join(names) or '(none)'}"
        + (f", but none named {name!r}" if name else "")
        + f"; name one of them as {path}:NAME, or call it X."
    )


def _split(path: str) -> tuple[Path, str]:
    """The file, and the array in it that ``FILE.npz:NAME`` or ``FILE.zarr:NAME`` names."""
    for ending in (".npz", ".zarr"):
        file, colon, name = path.partition(f"{ending}:")
        if colon:
            return Path(file + ending), name
    return Path(path), ""


def _conversion(dtype: np.dtype) -> str:
    if dtype.kind == "c":
        return 'np.save("X.npy", np.concatenate([X.real, X.imag], axis=1))'
    return 'np.save("X.npy", X.astype("float32"))'
