"""The zarr 3 group that holds derivatives: one array a want, samples first, axes named."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from nablax._errors import DataError
from nablax._types import INPUT_AXES

CHUNK_BYTES = 2**20
"""What has to be read for one sample, about: 1 MiB before compression."""


def dimension_names(want: str, output_rank: int, input_rank: int) -> tuple[str, ...]:
    """Names of the axes of one want: sample, output, input, input_2; numbered where x or y have several axes."""

    def axes(name: str, rank: int, again: str = "") -> list[str]:
        return [name + again] if rank == 1 else [f"{name}{k}{again}" for k in range(rank)]

    outputs = [] if want == "divergence" else axes("output", output_rank)
    inputs = [name for again in ("", "_2")[: INPUT_AXES[want]] for name in axes("input", input_rank, again)]
    return ("sample", *outputs, *inputs)


def check_free(path: Path, overwrite: bool) -> None:
    """Raise `DataError` if something is at `path` that is not to be replaced."""
    if path.exists() and not overwrite:
        raise DataError(
            f"{path}: it exists already; remove it, give another path, or ask to overwrite it (--overwrite)."
        )
    if path.exists() and not (path / "zarr.json").is_file() and (path.is_file() or any(path.iterdir())):
        raise DataError(f"{path}: it exists and is no zarr group; it is not overwritten. Give another path.")


def create(
    path: Path,
    results: Mapping[str, Any],
    unit: int,
    dimensions: Mapping[str, tuple[str, ...]],
    names: Mapping[str, Sequence[str]],
    attributes: Mapping[str, Any],
    overwrite: bool,
) -> tuple[zarr.Group, dict[str, zarr.Array]]:
    """Create the group with one empty array a want and the names of the axes that have them.

    Args:
        path: folder of the store.
        results: want -> something with the shape (D, ...) and dtype of its array.
        unit: samples that are written at a time, one file.
        dimensions: want -> names of its axes.
        names: axis -> names along it.
        attributes: of the group.
        overwrite: whether a store that exists is replaced.

    Returns:
        The group, and want -> its array. Write to these: that empty chunks are written is not stored with an array,
        and one that is opened again does not do it.

    Raises:
        DataError: the path cannot be written.
    """
    arrays: dict[str, zarr.Array] = {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        group = zarr.create_group(str(path), overwrite=overwrite, attributes={**attributes, "complete": False})
        for want, array in results.items():
            dtype, sample = np.dtype(array.dtype), array.shape[1:]
            chunk = _chunk(unit, math.prod(sample) * dtype.itemsize)
            arrays[want] = group.create_array(
                want,
                shape=array.shape,
                # A shard is a file, written at once; a chunk is the smallest part of it that can be read.
                chunks=(chunk, *sample),
                shards=None if chunk == unit else (unit, *sample),
                dtype=dtype,
                # A chunk of zeros is a result, not an absence: NaN marks what was never written.
                fill_value=complex(np.nan, np.nan) if dtype.kind == "c" else np.nan,
                dimension_names=dimensions[want],
                config={"write_empty_chunks": True},
            )
        for axis, labels in names.items():
            coordinate = group.create_array(axis, shape=(len(labels),), dtype=str, dimension_names=(axis,))
            coordinate[:] = np.array(list(labels), dtype=object)
    except OSError as error:
        raise DataError(f"{path}: the store cannot be written ({error}).") from error
    return group, arrays


def finish(group: zarr.Group, path: Path) -> None:
    """Mark the group as complete, and gather its metadata in one file so that it opens fast."""
    group.attrs["complete"] = True
    with warnings.catch_warnings():
        # Zarr warns that consolidated metadata is an extension of the format; xarray looks for it.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(path))


def _chunk(unit: int, each: int) -> int:
    """Samples in a chunk: a shard is halved as long as it can be and its chunks are too large."""
    chunk = unit
    while chunk % 2 == 0 and chunk * each > CHUNK_BYTES:
        chunk //= 2
    return chunk
