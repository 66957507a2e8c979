"""Read samples from an array of a zarr store, version 2 or 3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nablax._errors import DataError, first_line
from nablax.store.inputs import choose_array


class StoredRows:
    """An array of a zarr store: a slice of it is read when it is asked for, and what is damaged is named.

    Attributes:
        shape, dtype: of the array.
        chunks: the smallest part of it that can be read.
    """

    def __init__(self, path: Path, array: Any) -> None:
        self._path, self._array = path, array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        self.chunks: tuple[int, ...] = tuple(array.chunks)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        try:
            return np.asarray(self._array[index])
        except Exception as error:  # a damaged chunk raises whatever its codec runs into
            raise DataError(
                f"{self._path}: samples of the store cannot be read ({first_line(error)}); a file of it is damaged. "
                "Write or copy it again."
            ) from error


def open_zarr(path: Path, name: str = "") -> StoredRows:
    """The array at a path, or one of those in the group there, chosen as in a .npz file."""
    try:
        import zarr
    except ImportError as error:
        raise DataError(
            f'{path}: zarr stores are read by zarr, which is not installed: pip install "nablax[cli]".'
        ) from error
    if not path.is_dir():
        raise DataError(f"{path}: there is no such store; a zarr store is a folder.")
    try:
        found: Any = zarr.open(str(path), mode="r")
        if isinstance(found, zarr.Group):
            if found.attrs.get("complete") is False:
                raise DataError(
                    f"{path}: the store is not complete, and NaN stands for what was not written; go on writing it "
                    "(--resume)."
                )
            found = found[choose_array(path, sorted(_arrays(found)), name)]
        elif name:
            raise DataError(f"{path}: the store is an array and holds none named {name!r}; leave the name out.")
        if _is_pickled(found):
            raise ValueError("it holds pickled Python objects, which are never loaded because that can run code")
    except DataError:
        raise
    except Exception as error:  # damaged metadata raises whatever zarr runs into
        raise DataError(
            f"{path}: the folder is no zarr store, or a damaged one ({first_line(error)}); write or copy it again."
        ) from error
    return StoredRows(path, found)


def _arrays(group: Any) -> list[str]:
    """Paths of the arrays of a group and of the groups in it; texts, such as names along an axis, are no samples."""
    members = group.members(max_depth=None)
    return [name for name, member in members if hasattr(member, "dtype") and member.dtype.kind not in "TUS"]


def _is_pickled(array: Any) -> bool:
    """Whether a codec of an array would unpickle: version 2 has one that can stand before any dtype."""
    metadata = array.metadata.to_dict()
    return any("pickle" in str(metadata.get(key)).lower() for key in ("filters", "compressor", "codecs"))
