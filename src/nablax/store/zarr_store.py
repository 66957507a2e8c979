"""The zarr 3 group that holds derivatives: one array a want, samples first, axes named."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from nablax._errors import DataError

INPUT_AXES = {"value": 0, "jacobian": 1, "hessian": 2, "hessian_diagonal": 1, "laplacian": 0, "divergence": 0}


def dimension_names(want: str, output_rank: int, input_rank: int) -> tuple[str, ...]:
    """Names of the axes of one want: sample, output, input, input_2; numbered where x or y have several axes."""

    def axes(name: str, rank: int, again: str = "") -> list[str]:
        return [name + again] if rank == 1 else [f"{name}{k}{again}" for k in range(rank)]

    outputs = [] if want == "divergence" else axes("output", output_rank)
    inputs = [name for again in ("", "_2")[: INPUT_AXES[want]] for name in axes("input", input_rank, again)]
    return ("sample", *outputs, *inputs)


def create(
    path: Path,
    shapes: Mapping[str, Any],
    samples: int,
    unit: int,
    dimensions: Mapping[str, tuple[str, ...]],
    names: Mapping[str, Sequence[str]],
    attributes: Mapping[str, Any],
    overwrite: bool,
) -> zarr.Group:
    """Create the group with one empty array a want and the names of the axes that have them.

    Args:
        path: folder of the store.
        shapes: want -> something with the shape (unit, ...) and dtype of its results.
        samples: D.
        unit: samples in one chunk of the store.
        dimensions: want -> names of its axes.
        names: axis -> names along it.
        attributes: of the group.
        overwrite: whether a store that exists is replaced.

    Raises:
        DataError: the path exists, or cannot be written.
    """
    if path.exists() and not overwrite:
        raise DataError(
            f"{path}: it exists already; remove it, give another path, or ask to overwrite it (--overwrite)."
        )
    if path.exists() and not (path / "zarr.json").is_file() and (path.is_file() or any(path.iterdir())):
        raise DataError(f"{path}: it exists and is no zarr group; it is not overwritten. Give another path.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        group = zarr.create_group(str(path), overwrite=overwrite, attributes={**attributes, "complete": False})
        for want, shape in shapes.items():
            nan = complex(np.nan, np.nan) if np.dtype(shape.dtype).kind == "c" else np.nan
            group.create_array(
                want,
                shape=(samples, *shape.shape[1:]),
                chunks=(unit, *shape.shape[1:]),
                dtype=np.dtype(shape.dtype),
                fill_value=nan,
                dimension_names=dimensions[want],
                # A chunk of zeros is a result, not an absence: NaN marks what was never written.
                config={"write_empty_chunks": True},
            )
        for axis, labels in names.items():
            array = group.create_array(axis, shape=(len(labels),), dtype=str, dimension_names=(axis,))
            array[:] = np.array(list(labels), dtype=object)
    except OSError as error:
        raise DataError(f"{path}: the store cannot be written ({error}).") from error
    return group


def finish(group: zarr.Group, path: Path) -> None:
    """Mark the group as complete, and gather its metadata in one file so that it opens fast."""
    group.attrs["complete"] = True
    with warnings.catch_warnings():
        # Zarr warns that consolidated metadata is an extension of the format; xarray looks for it.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(path))
