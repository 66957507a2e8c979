"""Read inputs from .npy, .npz and .csv files. Nothing is ever unpickled."""

from __future__ import annotations

import array
import csv
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nablax._errors import DataError


@dataclass(frozen=True, eq=False)
class Inputs:
    """The samples of a file.

    Attributes:
        array: (D, ...), memory-mapped where the file allows it.
        names: names of the features, from the header of a .csv.
    """

    array: np.ndarray
    names: tuple[str, ...] | None = None


def read_inputs(path: str | Path) -> Inputs:
    """Read the samples of a file: axis 0 counts them.

    Args:
        path: a .npy file (memory-mapped), a .npz file with a single array or one named X (``data.npz:name`` names
            another), or a .csv file of numbers. A first row of a .csv file without a number is a header of feature
            names.

    Raises:
        DataError: the file is missing, damaged, pickled, of another kind, or holds no numbers.
    """
    file, colon, name = str(path).partition(".npz:")
    path = Path(file + ".npz" if colon else path)
    match path.suffix.lower():
        case ".csv":
            return _read_csv(path)
        case ".npy" | ".npz":
            samples = open_numpy(path, lambda names: [_choose(path, names, name)])
        case other:
            raise DataError(
                f"{path}: files of kind {other or '(none)'!r} are not read; give a .npy, .npz or .csv file."
            )
    if not isinstance(samples, np.ndarray):
        (samples,) = samples.values()
    if samples.ndim == 0 or samples.shape[0] == 0:
        raise DataError(f"{path}: the array has shape {samples.shape}; axis 0 must count at least one sample.")
    if samples.dtype.kind != "f":
        raise DataError(
            f"{path}: the inputs have dtype {samples.dtype}; derivatives need real floating point numbers. Convert "
            'the file, for example np.save("X.npy", X.astype("float32")).'
        )
    return Inputs(samples)


def open_numpy(
    path: Path, choose: Callable[[list[str]], list[str]] = lambda names: names
) -> np.ndarray | dict[str, np.ndarray]:
    """The array of a .npy file, memory-mapped, or those arrays of a .npz file by name that `choose` selects."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        if magic.startswith(b"PK"):
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in choose(archive.files)}
        if magic and magic != b"\x93NUMPY":  # NumPy takes any other file for a pickle
            raise ValueError("a pickle" if magic.startswith(b"\x80") else "it begins like no file of NumPy")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        text = str(error)
        if "pickle" in text.lower() or "object" in text.lower():
            raise DataError(
                f"{path}: the file holds pickled Python objects, which are never loaded because that can run code. "
                "Save plain numeric arrays with np.save or np.savez."
            ) from error
        raise DataError(
            f"{path}: the file is damaged, cut off, or no NumPy file ({text.splitlines()[0] if text else error!r}); "
            "write or copy it again."
        ) from error


def _choose(path: Path, names: list[str], name: str) -> str:
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


def _read_csv(path: Path) -> Inputs:
    """Numbers in rows, read one by one, so that a large file needs the memory of its numbers only."""
    names: tuple[str, ...] | None = None
    values, width, count = array.array("d"), 0, 0
    for number, row in _rows(path):
        if not width:
            width = len(row)
            if all(cell.strip() and not _is_number(cell) for cell in row):
                names = tuple(cell.strip() for cell in row)
                continue
        if len(row) != width:
            raise DataError(f"{path}: row {number} has {len(row)} columns; {width} are expected, as in the first row.")
        for column, cell in enumerate(row):
            if not _is_number(cell):
                raise DataError(f"{path}: {_where(number, column, names)} holds {cell!r}, {_advice(cell, number)}")
            values.append(float(cell))
        count += 1
    if not count:
        raise DataError(f"{path}: the file holds no rows of numbers.")
    return Inputs(np.frombuffer(values, dtype=np.float64).reshape(count, width), names)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(its number in the file, its cells) of every row that is not empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from ((number, row) for number, row in enumerate(csv.reader(file), start=1) if row)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the file cannot be read as text ({error}).") from error


def _where(number: int, column: int, names: tuple[str, ...] | None) -> str:
    return f"row {number}, column {column + 1}" + (f" ({names[column]})" if names else "")


def _advice(cell: str, number: int) -> str:
    if ";" in cell or "\t" in cell:
        return "which is not a number; columns must be separated by commas."
    if number == 1:
        return "which is not a number; a header must name every column, and none of them with a number."
    return "which is not a number."


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python reads 1_000 as a number; no other program does
