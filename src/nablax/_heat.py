"""Matrices as images, with labels that can be read; drawn by `nablax.plot` and for stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BLUE, RED = "#2166ac", "#b2182b"
LONG = 16
"""Letters of a label."""

FEW = 12
"""So many labels are large."""


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
    # Either end of a long name may be what tells it from others.
    return [name if len(name) <= LONG else f"{name[: LONG // 2]}…{name[-LONG // 2 + 1 :]}" for name in names]


def _size(labels: list[str]) -> dict[str, Any]:
    return {"fontsize": 7 if len(labels) > FEW else 9}


def _turned(labels: list[str]) -> dict[str, Any]:
    """How labels below an image do not run into each other."""
    if max(map(len, labels)) <= 2:
        return {}
    if len(labels) > FEW:
        return {"rotation": 90}
    return {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
