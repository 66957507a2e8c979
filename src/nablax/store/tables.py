"""Read tables of numbers, .csv and .parquet, piece by piece into a temporary file that is memory-mapped then."""

from __future__ import annotations

import contextlib
import csv
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nablax._errors import DataError

PIECE = 2**20
"""Characters of a .csv file, or bytes of numbers of a .parquet file, that are converted at a time."""

EXACT = 2**53
"""Integers up to here are float64 numbers, and not all beyond."""

Names = tuple[str, ...] | None


class Spool:
    """Rows of numbers in a temporary file without a name: the system removes it with this process, even a killed one.

    Attributes:
        path: of the table, for messages.
        folder: of the temporary file; None: that of `tempfile`. Where it lies in memory (a tmpfs), so do the rows.
    """

    def __init__(self, path: Path, folder: str | Path | None) -> None:
        self._path, self._folder = path, folder or tempfile.gettempdir()
        with self._writing():
            self._file: Any = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  # closed by __exit__

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()  # what is mapped stays until the map goes

    def append(self, rows: np.ndarray) -> None:
        with self._writing():
            self._file.write(rows.tobytes())

    def finish(self, width: int, dtype: np.dtype) -> np.memmap:
        """All rows, for reading."""
        size = self._file.tell()
        if not size:
            raise DataError(f"{self._path}: the file holds no rows of numbers.")
        with self._writing():
            self._file.flush()
            return np.memmap(self._file, dtype, "r", shape=(size // (width * dtype.itemsize), width))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self._path}: its numbers cannot be copied to a temporary file in {self._folder} "
                f"({error.strerror}); give a folder with enough space for them (scratch, or the environment variable "
                "TMPDIR)."
            ) from error


def read_csv(path: Path, scratch: str | Path | None = None) -> tuple[np.memmap, Names]:
    """(D, C) in float64, and the names of the columns if the first row that is not empty holds no number."""
    with _as_text(path) as file, Spool(path, scratch) as spool:
        lines = file.readlines(PIECE)
        table = _Table(path, file, *_first_row(lines, file))
        lines = lines[table.header_lines :] or file.readlines(PIECE)
        while lines:
            spool.append(table.convert(lines))
            lines = file.readlines(PIECE)
        return spool.finish(table.width, np.dtype(np.float64)), table.names


class _Table:
    """What is known of a .csv file while it is read: its first row, and how many rows came before."""

    def __init__(self, path: Path, file: Any, first: list[str], number: int, lines: int) -> None:
        self._path, self._file, self.width = path, file, len(first)
        header = all(cell.strip() and not _is_number(cell) for cell in first)
        self.names = tuple(cell.strip() for cell in first) if header and first else None
        self.header_lines = lines if header else 0
        self._rows = number if header else 0

    def convert(self, lines: list[str]) -> np.ndarray:
        """The numbers in some lines, or `DataError`."""
        if lines[-1].count('"') % 2:  # the row goes on behind these lines, and NumPy would end it here
            return self._convert_slowly(lines)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # empty lines only
            with contextlib.suppress(ValueError):
                numbers = np.loadtxt(lines, np.float64, comments=None, delimiter=",", quotechar='"', ndmin=2)
                if not numbers.size or numbers.shape[1] == self.width:
                    self._rows += len(lines)
                    return numbers
        return self._convert_slowly(lines)

    def _convert_slowly(self, lines: list[str]) -> np.ndarray:
        """As `convert`, cell by cell: finds the one that is at fault, or numbers that only Python can read."""
        values, count = [], len(lines)
        reader = csv.reader(_longer(lines, self._file))
        try:
            for row in reader:
                self._rows += 1
                if row:
                    values.append(self._numbers(row))
                if reader.line_num >= count:
                    break
        except csv.Error as error:
            raise DataError(
                f"{self._path}: row {self._rows + 1} cannot be split into columns ({error}); a quotation mark may be "
                "missing there."
            ) from error
        return np.array(values).reshape(len(values), self.width)

    def _numbers(self, row: list[str]) -> list[float]:
        if len(row) != self.width:
            raise DataError(
                f"{self._path}: row {self._rows} has {len(row)} columns; {self.width} are expected, as in the first "
                "row."
            )
        for column, cell in enumerate(row):
            if not _is_number(cell):
                place = _place(self._rows, column, self.names)
                raise DataError(f"{self._path}: {place} holds {_short(cell)}, {_advice(cell, self._rows)}")
        return [float(cell) for cell in row]


def _first_row(lines: list[str], file: Any) -> tuple[list[str], int, int]:
    """(cells of the first row that is not empty, its number, lines up to its end)."""
    reader = csv.reader(_longer(lines, file))
    for number, row in enumerate(reader, start=1):
        if row:
            return row, number, reader.line_num
    return [], 0, 0


def _longer(lines: list[str], file: Any) -> Iterator[str]:
    """The lines, and those of the file behind them for a reader that goes on: a row may have several lines."""
    yield from tuple(lines)
    for line in file:
        lines.append(line)
        yield line


@contextlib.contextmanager
def _as_text(path: Path) -> Iterator[Any]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield file
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the file cannot be read as text ({error}).") from error


def _place(row: int, column: int, names: Names) -> str:
    return f"row {row}, column {column + 1}" + (f" ({names[column]})" if names else "")


def _short(cell: str) -> str:
    return repr(cell) if len(cell) <= 40 else f"{cell[:40]!r}..."


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


def read_parquet(path: Path, scratch: str | Path | None = None) -> tuple[np.memmap, Names]:
    """(D, C) in the type of the columns, float64 where there are integers, and the names of the columns.

    What pandas wrote as the index of its table is no column. A single column of lists of one length is a vector, and
    has no names.
    """
    with _as_parquet(path) as file, Spool(path, scratch) as spool:
        layout = _layout(path, file.schema_arrow)
        begin, rows = 0, max(PIECE // (8 * max(layout.width, 1)), 1)
        # Threads, one for each column, read no faster, and keep memory of their own: up to half a large table's.
        for batch in file.iter_batches(rows, use_threads=False):
            spool.append(layout.block(batch, begin))
            begin += batch.num_rows
        return spool.finish(layout.width, layout.dtype), layout.names


@dataclass(frozen=True)
class _Layout:
    """How the columns of a .parquet file become one array: those that are kept, and what it is."""

    path: Path
    columns: tuple[int, ...]
    width: int
    dtype: np.dtype
    names: Names

    def block(self, batch: Any, begin: int) -> np.ndarray:
        """The numbers of a batch whose first row is number `begin`, counted from 0."""
        columns = [batch.column(k) for k in self.columns]
        if self.names is None:
            self._check(columns[0], lambda k: _place(begin + k + 1, 0, None))
            entries = columns[0].flatten()
            place = lambda k: f"row {begin + k // self.width + 1}, entry {k % self.width + 1}"
            return self._check(entries, place).astype(self.dtype).reshape(-1, self.width)
        block = np.empty((batch.num_rows, self.width), self.dtype)
        for k, column in enumerate(columns):
            block[:, k] = self._check(column, lambda row, k=k: _place(begin + row + 1, k, self.names))
        return block

    def _check(self, column: Any, place: Callable[[int], str]) -> np.ndarray:
        """The values of a column that can be converted; `place` names the one of an index."""
        if column.null_count:
            first = int(np.argmax(np.asarray(column.is_null())))
            raise DataError(f"{self.path}: {place(first)} is empty (null); fill it, or leave that row or column out.")
        values = column.to_numpy(zero_copy_only=False)
        if values.dtype.kind in "iu":
            large = (values > EXACT) | (values < -EXACT)
            if large.any():
                first = int(np.argmax(large))
                raise DataError(
                    f"{self.path}: {place(first)} holds {values[first]}, and integers beyond 2**53 are not exact in "
                    "float64; leave that column out, or save it as floating point."
                )
        return values


def _layout(path: Path, schema: Any) -> _Layout:
    """The layout for a schema, or `DataError` for a column that holds no numbers."""
    from pyarrow import types

    index = [name for name in (schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(name, str)]
    columns = tuple(k for k, name in enumerate(schema.names) if name not in index)
    kinds = [schema.field(k).type for k in columns]
    width, names = len(columns), tuple(schema.names[k] for k in columns)
    if width == 1 and types.is_fixed_size_list(kinds[0]):
        width, names, kinds = kinds[0].list_size, None, [kinds[0].value_type]
    for k, kind in zip(columns, kinds, strict=True):
        if not types.is_floating(kind) and not types.is_integer(kind):
            raise DataError(
                f"{path}: column {k + 1} ({schema.names[k]}) holds values of type {kind}, which are no numbers; leave "
                "it out, or encode it in numbers."
            )
    numbers = [np.dtype(kind.to_pandas_dtype()) for kind in kinds]
    floating = numbers and all(dtype.kind == "f" for dtype in numbers)
    return _Layout(path, columns, width, np.result_type(*numbers) if floating else np.dtype(np.float64), names)


@contextlib.contextmanager
def _as_parquet(path: Path) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f'{path}: .parquet files are read by pyarrow, which is not installed: pip install "nablax[parquet]", or '
            "save the table as .csv or .npy."
        ) from error
    try:
        # Otherwise all columns of a row group are read before its first row.
        with pyarrow.parquet.ParquetFile(path, buffer_size=2**16, pre_buffer=False) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: the file is damaged, cut off, or no Parquet file ({str(error).splitlines()[0]}); write or copy "
            "it again."
        ) from error
