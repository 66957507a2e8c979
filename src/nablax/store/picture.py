"""One picture of a store: how the derivatives are distributed, and their means over the samples."""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nablax._errors import DataError
from nablax._heat import BLUE, FEW, Heat, labels
from nablax.store.means import Measured, measure, pieces_of_pairs, pieces_of_samples
from nablax.store.report import Row
from nablax.store.summary import StoreSummary, inspect_store
from nablax.store.zarr_inputs import StoredRows

COLUMNS = 3
LABELLED, LABELLED_OUTPUTS = 30, 8
"""Up to so many features and outputs have a label each."""

SEPARATE = 4
"""Hessians of up to so many outputs are drawn one by one, of more their sum."""

PAIRS = 64
"""Samples whose Gram matrix is drawn."""

UNITS = {
    "value": "y",
    "jacobian": "y / x",
    "divergence": "y / x",
    "hessian": "y / x²",
    "hessian_diagonal": "y / x²",
    "laplacian": "y / x²",
    "parameter_jacobian": "y / p",
    "squared_norms": "y² / p²",
    "gram": "y² / p²",
}
"""x, y and p are the units of an input, an output and a parameter."""

MEANS = {"jacobian": "absolute", "hessian": "value", "hessian_diagonal": "value"}
"""What is averaged over the samples."""

Panel = Callable[[Any], None]
"""Draws on the axes that it is given."""


def plot_store(path: str | Path, out: str | Path) -> Path:
    """Draw a store: a histogram of each want, and means of the Jacobian and the Hessian over the samples.

    The results are read piece by piece. Of a store that is not complete, the samples that are there are drawn.

    Args:
        path: of the store.
        out: the picture, in the format that its ending says, such as .png, .pdf or .svg.

    Returns:
        The path of the picture.

    Raises:
        DataError: see `inspect_store`; nothing is complete yet; matplotlib is not installed; the picture cannot be
            written.

    Cost:
        The results are read once; memory for a piece of them.

    Example:
        >>> import jax.numpy as jnp, numpy as np, tempfile
        >>> from nablax import store
        >>> folder, X = tempfile.TemporaryDirectory(), np.eye(100, 3, dtype=np.float32)
        >>> _ = store.run(lambda x: jnp.sum(x**3), ["jacobian"], X, f"{folder.name}/d.zarr", progress=False)
        >>> store.plot_store(f"{folder.name}/d.zarr", f"{folder.name}/d.png").name
        'd.png'
    """
    summary = inspect_store(path)
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise DataError(f'{out}: pictures are drawn by matplotlib: pip install "nablax[all]".') from error
    if not summary.units_complete:
        raise DataError(f"{path}: no unit of the store is complete yet, so there is nothing to draw.")
    panels = list(_panels(summary))
    columns = min(len(panels), COLUMNS)
    lines = math.ceil(len(panels) / columns)
    many = FEW < math.prod(summary.inputs[1:]) <= LABELLED
    width, height = (7.0, 6.2) if many else (5.6, 4.6)  # of a panel, in inches
    # A Figure of its own, not pyplot's: needs no display and leaves no global state behind.
    figure = Figure((width * columns, height * lines + 0.9), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        panel(axis)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(_title(summary))
    figure.supxlabel(_caption(summary, 85 * columns), fontsize=9)
    try:
        figure.savefig(out, dpi=110)
    except (OSError, ValueError) as error:  # ValueError: an ending that matplotlib does not know
        why = str(error).partition(" (")[0]  # a list of all formats follows
        raise DataError(f"{out}: the picture cannot be written ({why}); give another path, such as d.png.") from error
    return Path(out)


def _panels(summary: StoreSummary) -> Iterator[Panel]:
    """All panels of a picture; each want is read once."""
    import zarr

    group = zarr.open_group(summary.path, mode="r")
    for row in summary.rows:
        array = StoredRows(Path(summary.path), group[row.name])
        pairs = "sample_2" in summary.axes[row.name]
        pieces = pieces_of_pairs(array) if pairs else pieces_of_samples(array, summary.spans)
        found = measure(pieces, math.prod(row.shape), row.lowest, row.highest, MEANS.get(row.name, ""))
        yield functools.partial(_histogram, row=row, found=found)
        if pairs:
            yield _pairs(summary, row, array).draw
        if found.mean is not None:
            yield from _means(summary, row, found.mean)


def _histogram(axis: Any, row: Row, found: Measured) -> None:
    """Numbers of entries, on a logarithmic scale."""
    from matplotlib.ticker import NullFormatter

    name, absolute = row.name.replace("_", " "), row.dtype.startswith("complex")
    axis.set_title(name + (f"\n{row.nonfinite} not finite" if row.nonfinite else ""))
    axis.set_xlabel(f"{'absolute value' if absolute else 'value'} ({UNITS[row.name]})")
    axis.set_ylabel("entries")
    if not found.counts.any():
        axis.text(0.5, 0.5, "nothing is finite", transform=axis.transAxes, ha="center")
        axis.set(xticks=(), yticks=())
        return
    axis.stairs(found.counts, found.edges, fill=True, color=BLUE)
    axis.set_yscale("log")
    axis.set_ylim(0.7, max(2 * found.counts.max(), 12))  # a single entry is seen, and two powers of ten are labelled
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
    axis.locator_params(axis="x", nbins=6)


def _means(summary: StoreSummary, row: Row, mean: np.ndarray) -> Iterator[Panel]:
    """Heat maps of a mean over the samples, all axes of y made one, and all axes of x."""
    axes = summary.axes[row.name][1:]
    A = math.prod(n for n, axis in zip(mean.shape, axes, strict=True) if axis.startswith("output"))
    C = math.prod(n for n, axis in zip(mean.shape, axes, strict=True) if axis.startswith("input") and axis[-2:] != "_2")
    outputs, named = labels(summary.names.get("output"), A, LABELLED_OUTPUTS), "output" in summary.names
    inputs = labels(summary.names.get("input"), C, LABELLED)
    name, absolute = row.name.replace("_", " "), _is_absolute(row)
    words = f"mean |{name}|" if absolute else f"mean {name}"
    heat = functools.partial(Heat, columns=inputs, column="input", signed=not absolute, unit=UNITS[row.name])
    if row.name != "hessian":
        yield heat(mean.reshape(A, C), words, rows=outputs, row="output").draw
    elif A > SEPARATE:
        total = mean.reshape(A, C, C).sum(axis=0)
        yield heat(total, f"{words},\nsum over {A} outputs", rows=inputs, row="input").draw
    else:
        which = [f"\nof {label if named else f'output {label}'}" for label in outputs or ()] if A > 1 else [""]
        for k, values in enumerate(mean.reshape(A, C, C)):
            yield heat(values, words + which[k], rows=inputs, row="input").draw


def _pairs(summary: StoreSummary, row: Row, array: StoredRows) -> Heat:
    """The Gram matrix of the first samples, summed over the outputs."""
    half, count = len(array.shape) // 2, min(array.shape[0], PAIRS)
    index: list[Any] = [slice(None)] * (2 * half)
    index[0] = index[half] = slice(0, count)
    block = array[tuple(index)]
    A = math.prod(block.shape[1:half])
    values = np.einsum("dafa->df", block.reshape(count, A, count, A))
    title = f"gram, samples 0 to {count - 1}" + (f",\nsum over {A} outputs" if A > 1 else "")
    if complex_ := np.iscomplexobj(values):
        values = np.abs(values)
    return Heat(values, title, None, "sample", not complex_, UNITS[row.name], None, "sample")


def _is_absolute(row: Row) -> bool:
    return MEANS.get(row.name) == "absolute" or row.dtype.startswith("complex")


def _title(summary: StoreSummary) -> str:
    there = (
        f"all {summary.inputs[0]} samples" if summary.complete else f"{summary.samples} of {summary.inputs[0]} samples"
    )
    return textwrap.fill(f"Derivatives of {summary.model}, {there}", 70)


def _caption(summary: StoreSummary, width: int) -> str:
    units = ", ".join(f"{row.name.replace('_', ' ')} in {UNITS[row.name]}" for row in summary.rows)
    used = "".join(UNITS[row.name] for row in summary.rows)
    letters = {"x": "that of an input", "y": "that of an output", "p": "that of a parameter"}
    where = " and ".join(f"{letter} is {meaning}" for letter, meaning in letters.items() if letter in used)
    text = f"Units: {units}, where {where}."
    if any(row.nonfinite for row in summary.rows):
        text += " Entries that are not finite are left out."
    if not summary.complete:
        text += f" The store is not complete: {summary.units_complete} of {summary.units} units are there."
    return textwrap.fill(text, width)
