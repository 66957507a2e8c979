"""Read inputs from .npy, .npz and .csv files. Nothing is ever unpickled."""

from __future__ import annotations

import csv
import zipfile
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
            another), or a .csv file of numbers with or without a header of feature names.

    Raises:
        DataError: the file is missing, damaged, pickled, of another kind, or holds no numbers.
    """
    file, _, name = str(path).partition(".npz:")
    if name:
        path = file + ".npz"
    path = Path(path)
    match path.suffix.lower():
        case ".csv":
            return _read_csv(path)
        case ".npy" | ".npz":
            array = open_numpy(path)
        case other:
            raise DataError(
                f"{path}: files of kind {other or '(none)'!r} are not read; give a .npy, .npz or .csv file."
            )
    if not isinstance(array, np.ndarray):
        array = _choose(path, array, name)
    if array.ndim == 0 or array.shape[0] == 0:
        raise DataError(f"{path}: the array has shape {array.shape}; axis 0 must count at least one sample.")
    if array.dtype.kind != "f":
        raise DataError(
            f"{path}: the inputs have dtype {array.dtype}; derivatives need real floating point numbers. Convert "
            f"the file, for example "
            'np.save("X.npy", X.astype("float32")).'
        )
    return Inputs(array)


def open_numpy(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array of a .npy file, memory-mapped, or the arrays of a .npz file by name."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    try:
        if zipfile.is_zipfile(path):
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        text = str(error)
        if "pickle" in text.lower() or "object" in text.lower():
            raise DataError(
                f"{path}: the file holds pickled Python objects, which are never loaded because that can run code. "
                "Save plain numeric arrays with np.save or np.savez."
            ) from error
        raise DataError(
            f"{path}: the file is damaged or no NumPy file ({text.splitlines()[0] if text else error!r})."
        ) from error


def _choose(path: Path, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    wanted = name or ("X" if "X" in arrays else "")
    if wanted in arrays:
        return arrays[wanted]
    if not name and len(arrays) == 1:
        return next(iter(arrays.values()))
    raise DataError(
        f"{path}: it holds the arrays {', '.join(arrays) or '(none)'}"
        + (f", but none named {name!r}" if name else "")
        + f"; name one of them as {path}:NAME, or call it X."
    )


def _read_csv(path: Path) -> Inputs:
    """Numbers in rows; a first row that is no numbers is the header."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if row]
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the file cannot be read as text ({error}).") from error
    names = None
    if rows and not all(_is_number(cell) for cell in rows[0][1]):
        names = tuple(cell.strip() for cell in rows.pop(0)[1])
    if not rows:
        raise DataError(f"{path}: the file holds no rows of numbers.")
    width = len(names or rows[0][1])
    values = np.empty((len(rows), width))
    for place, (number, row) in enumerate(rows):
        if len(row) != width:
            raise DataError(f"{path}: row {number} has {len(row)} columns; {width} are expected, as in the first row.")
        for column, cell in enumerate(row):
            if not _is_number(cell):
                called = f" ({names[column]})" if names else ""
                raise DataError(
                    f"{path}: row {number}, column {column + 1}{called} holds {cell!r}, which is not a number."
                )
            values[place, column] = float(cell)
    return Inputs(values, names)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
