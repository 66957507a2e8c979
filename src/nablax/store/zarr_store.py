"""The zarr 3 group that holds derivatives: one array a want, samples first, axes named."""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from nablax._errors import DataError
from nablax.planning.memory import readable
from nablax.store.layout import Unit
from nablax.store.records import FOLDER, Records, sync

CHUNK_BYTES = 2**23
"""What has to be read for one sample, at most: 8 MiB. Smaller chunks cost more time to write than they save."""


class Target:
    """A store that is being written.

    Attributes:
        path: of its folder.
        attributes: of the group, as they are on disk.
        records: which units are complete.
    """

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        self.records: Records = Records(path)
        self._group = zarr.open_group(str(path), mode="r+")
        self.attributes: dict[str, Any] = dict(self._group.attrs)
        # Whether empty chunks are written is not stored with an array.
        self._arrays = {
            want: self._array(want).with_config({"write_empty_chunks": True, "order": "C"})
            for want in self.attributes["results"]
        }

    def write(self, unit: Unit, results: Mapping[str, np.ndarray], record: dict[str, Any]) -> None:
        """Write the results of a unit, and then that it is complete."""
        files = []
        for want, found in results.items():
            files.append(self._write(want, unit, unit.spans, found))
            if unit.mirrored:
                half = found.ndim // 2
                turned = np.moveaxis(found, range(half, found.ndim), range(half)).conj()
                files.append(self._write(want, unit, unit.spans[::-1], turned))
        self.records.add(unit.number, record, files)

    def finish(self, attributes: Mapping[str, Any]) -> None:
        """Mark the group as complete, and gather its metadata in one file so that it opens fast."""
        self._group.attrs.update({**attributes, "complete": True})
        with warnings.catch_warnings():
            # Zarr warns that consolidated metadata is an extension of the format; xarray looks for it.
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(str(self.path))
        sync(self.path / "zarr.json")
        self.records.remove()

    def _write(self, want: str, unit: Unit, spans: Any, found: np.ndarray) -> Path:
        array = self._arrays[want]
        where, file = unit.index(spans, found.ndim)
        array[where] = found
        return self.path / want / array.metadata.encode_chunk_key(file)

    def _array(self, want: str) -> zarr.Array:
        array = self._group[want]
        assert isinstance(array, zarr.Array)
        return array


def check_free(path: Path, overwrite: bool) -> None:
    """Raise `DataError` if something is at `path` that is not to be replaced."""
    if path.exists() and not overwrite:
        raise DataError(
            f"{path}: it exists already; remove it, give another path, ask to overwrite it (--overwrite), or, if it is "
            "the store of a run that did not end, to resume that (--resume)."
        )
    if path.exists() and not (path / "zarr.json").is_file() and (path.is_file() or any(path.iterdir())):
        raise DataError(f"{path}: it exists and is no zarr group; it is not overwritten. Give another path.")


def check_room(path: Path, size: int) -> None:
    """Raise `DataError` if the disk has no room for `size` bytes."""
    folder = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{path}: the results take {readable(size)}, and the disk has {readable(free)} left; make room, write to "
            "another disk, or ask for less."
        )


def create(
    path: Path,
    results: Mapping[str, Any],
    sizes: Mapping[str, int],
    dimensions: Mapping[str, tuple[str, ...]],
    names: Mapping[str, Sequence[str]],
    attributes: Mapping[str, Any],
    compress: bool,
) -> Target:
    """Create the group with one empty array a want and the names of the axes that have them, all of it or nothing.

    Args:
        path: folder of the store; a store that is there is replaced.
        results: want -> something with the shape (D, ...) and dtype of its array.
        sizes: want -> samples that are written at a time, one file.
        dimensions: want -> names of its axes.
        names: axis -> names along it.
        attributes: of the group.
        compress: whether with zstd.

    Raises:
        DataError: the path cannot be written.
    """
    new = path.with_name(f".{path.name}.creating")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(new, ignore_errors=True)
        group = zarr.create_group(str(new), attributes={**attributes, "complete": False})
        for want, array in results.items():
            dtype, unit = np.dtype(array.dtype), sizes[want]
            sample_axes = (0, len(array.shape) // 2) if want == "gram" else (0,)
            file = tuple(unit if axis in sample_axes else n for axis, n in enumerate(array.shape))
            chunk = (_chunk(unit, math.prod(file[1:]) * dtype.itemsize), *file[1:])
            group.create_array(
                want,
                shape=array.shape,
                # A shard is a file, written at once; a chunk is the smallest part of it that can be read.
                chunks=chunk,
                shards=None if chunk == file else file,
                dtype=dtype,
                # A chunk of zeros is a result, not an absence: NaN marks what was never written.
                fill_value=complex(np.nan, np.nan) if dtype.kind == "c" else np.nan,
                compressors="auto" if compress else None,
                dimension_names=dimensions[want],
            )
        for axis, labels in names.items():
            coordinate = group.create_array(axis, shape=(len(labels),), dtype=str, dimension_names=(axis,))
            coordinate[:] = np.array(list(labels), dtype=object)
        (new / FOLDER).mkdir()
        if path.exists():
            shutil.rmtree(path)
        os.replace(new, path)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise DataError(f"{path}: the store cannot be written ({error}).") from error
    return Target(path)


def find(path: Path) -> Target | None:
    """The store at `path` that a run did not complete, or None if there is none.

    Raises:
        DataError: there is something else.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    try:
        return Target(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: it exists and is no store of nablax that a run could resume ({error}); give another path, or "
            "remove it."
        ) from error


def _chunk(unit: int, each: int) -> int:
    """Samples in a chunk: a shard is halved as long as it can be and its chunks are too large."""
    chunk = unit
    while chunk % 2 == 0 and chunk * each > CHUNK_BYTES:
        chunk //= 2
    return chunk
