"""Matrices and functions of two inputs as images, with labels that can be read, for `nablax.plot` and for stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nablax._errors import OptionError

BLUE, RED = "#2166ac", "#b2182b"
LONG = 16
"""Letters of a label."""

FEW = 12
"""So many labels are large."""

ARROWS = 20
"""So many arrows in a row do not overlap."""


@dataclass(frozen=True, eq=False)
class Heat:
    """A matrix as an image.

    Attributes:
        values: NaN is left white.
        title: above it.
        columns, column: labels of the columns, None if they are too many, and what they are.
        signed: whether zero is the middle of the colours, or one end.
        unit: of the values.
        rows, row: as columns and column.
    """

    values: np.ndarray
    title: str
    columns: list[str] | None
    column: str
    signed: bool
    unit: str
    rows: list[str] | None
    row: str

    def draw(self, axis: Any) -> None:
        """Draw it on some axes."""
        largest = float(np.max(np.abs(self.values), where=np.isfinite(self.values), initial=0.0)) or 1.0
        image = axis.imshow(
            self.values,
            cmap="RdBu_r" if self.signed else "Purples",
            vmin=-largest if self.signed else 0,
            vmax=largest,
            aspect="equal" if self.row == self.column else "auto",
            interpolation="nearest",
        )
        if self.columns:
            axis.set_xticks(range(len(self.columns)), self.columns, **_size(self.columns), **_turned(self.columns))
        if self.rows:
            axis.set_yticks(range(len(self.rows)), self.rows, **_size(self.rows))
        for one, labels in ((axis.xaxis, self.columns), (axis.yaxis, self.rows)):
            if not labels:
                one.get_major_locator().set_params(integer=True)
        axis.set_title(self.title)
        axis.set_xlabel(self.column)
        axis.set_ylabel(self.row)
        bar = axis.figure.colorbar(image, ax=axis, pad=0.02, aspect=40)
        bar.set_label(self.unit)


def labels(names: Sequence[str] | None, count: int, most: int) -> list[str] | None:
    """What the rows or columns of an image are called: their names or numbers; None if they are too many."""
    if count > most:
        return None
    if names is None or len(names) != count:
        return [str(k) for k in range(count)]
    # Either end of a long name may be what tells it from others; where neither is, its number does.
    short = [name if len(name) <= LONG else f"{name[: LONG // 2]}…{name[-LONG // 2 + 1 :]}" for name in names]
    return [name if short.count(name) == 1 else f"{k}: {name}" for k, name in enumerate(short)]


def of_samples(
    values: np.ndarray, sample: int | None, name: str, unit: str, absolute: bool
) -> tuple[np.ndarray, bool, str, str]:
    """(values of one sample or the mean over all, whether they have a sign, title, unit)."""
    modulus = np.iscomplexobj(values)
    if sample is not None:
        if not -len(values) <= sample < len(values):
            raise OptionError(f"sample={sample} is none of the {len(values)} samples.")
        one, called = values[sample], f"|{name}|" if modulus else name
        title = f"{called} of sample {sample % len(values)}{not_finite(one)}"
        return np.abs(one) if modulus else one, not modulus, title, unit
    absolute = absolute or modulus
    finite = np.where(np.isfinite(values), np.abs(values) if absolute else values, np.nan)
    counts = np.isfinite(values).sum(axis=0)
    mean = np.where(counts, np.nansum(finite, axis=0) / np.maximum(counts, 1), np.nan)
    words = f"mean |{name}|" if absolute else f"mean {name}"
    return mean, not absolute, f"{words} over {len(values)} samples{not_finite(values)}", unit


def not_finite(values: np.ndarray) -> str:
    """A line for a title, if there is something to say."""
    lost = values.size - int(np.isfinite(values).sum())
    return f"\n{lost} not finite" if lost else ""


def surface(ax: Any, X: np.ndarray, heights: np.ndarray) -> Any:
    """Colours at points: an image on a grid, else triangles between those that are finite."""
    largest = float(np.max(np.abs(heights), where=np.isfinite(heights), initial=0.0)) or 1.0
    signed = bool((heights < 0).any())
    colours = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest} if signed else {"cmap": "viridis"}
    (a, row), (b, column) = (np.unique(X[:, c], return_inverse=True) for c in (0, 1))
    if len(a) * len(b) == len(X) and len(np.unique(row * len(b) + column)) == len(X):
        image = np.empty((len(b), len(a)))
        image[column, row] = heights
        return ax.pcolormesh(a, b, image, shading="nearest", **colours)
    there = np.isfinite(heights)
    try:
        return ax.tripcolor(*X[there].T, heights[there], shading="gouraud", **colours)
    except (ValueError, RuntimeError) as error:
        raise OptionError(
            f"{there.sum()} of {len(X)} points have a finite value, and they span no triangle; give at least three "
            "that are not on one line."
        ) from error


def spread(X: np.ndarray) -> np.ndarray:
    """Numbers of points with room for an arrow each: at most one in each cell of a raster."""
    if len(X) <= ARROWS**2:
        return np.arange(len(X))
    width = np.ptp(X, axis=0)
    cells = np.floor((X - X.min(axis=0)) / np.where(width > 0, width, 1.0) * (ARROWS - 1e-6))
    return np.unique(cells, axis=0, return_index=True)[1]


def _size(labels: list[str]) -> dict[str, Any]:
    return {"fontsize": 7 if len(labels) > FEW else 9}


def _turned(labels: list[str]) -> dict[str, Any]:
    """How labels below an image do not run into each other."""
    if max(map(len, labels)) <= 2:
        return {}
    if len(labels) > FEW:
        return {"rotation": 90}
    return {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
