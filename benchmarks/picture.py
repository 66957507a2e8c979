"""The grid as a picture: best peer time / nablax time, one square for each cell and want."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.verdict import Verdict

FULL_COLOUR = 8.0  # the ratio at which the colour ends, on both sides of 1
SHORT = {"jacobian": "Jacobian", "hessian": "Hessian", "hessian_diagonal": "diagonal", "laplacian": "Laplacian"}


def draw(document: dict[str, Any], verdicts: list[Verdict], path: Path) -> None:
    """Blue: nablax is faster; red: the peer named in the square is."""
    key = lambda v: (v.square["gradient"], v.square["want"])
    rows = list(dict.fromkeys(v.square["cell"] for v in verdicts))
    order = [(gradient, want) for gradient in (False, True) for want in SHORT]
    columns = [c for c in order if any(key(v) == c for v in verdicts)]
    figure, axes = plt.subplots(figsize=(2.6 + 1.45 * len(columns), 1.9 + 0.62 * len(rows)), layout="constrained")
    grid = [[math.nan] * len(columns) for _ in rows]
    for v in verdicts:
        i, j = rows.index(v.square["cell"]), columns.index(key(v))
        if v.ratio is not None:
            grid[i][j] = math.log2(v.ratio)
        write_square(axes, i, j, v)
    limit = math.log2(FULL_COLOUR)
    image = axes.imshow(grid, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_facecolor("0.85")
    labels = [("gradient\nthrough " if gradient else "") + SHORT[want] for gradient, want in columns]
    axes.set_xticks(range(len(columns)), labels, fontsize=9)
    sizes = {
        v.square["cell"]: f"{v.square['cell']}\nA{v.square['A']} C{v.square['C']} D{v.square['D']}" for v in verdicts
    }
    axes.set_yticks(range(len(rows)), [sizes[row] for row in rows], fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks([j - 0.5 for j in range(1, len(columns))], minor=True)
    axes.set_yticks([i - 0.5 for i in range(1, len(rows))], minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    ticks = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8]
    bar = figure.colorbar(image, ax=axes, ticks=[math.log2(t) for t in ticks], extend="both", shrink=0.9)
    bar.ax.set_yticklabels([f"{t:g}" for t in ticks], fontsize=8)
    bar.set_label("best peer time / nablax time", fontsize=9)
    figure.suptitle(caption(document), fontsize=8, color="0.3")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def write_square(axes: Any, i: int, j: int, v: Verdict) -> None:
    """The ratio, and below it the peer."""
    if v.ratio is None:
        text = "nablax failed" if v.auto is None else "no peer"
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color="0.2")
        return
    colour = "white" if abs(math.log2(v.ratio)) > 0.62 * math.log2(FULL_COLOUR) else "black"
    axes.text(j, i - 0.14, f"{v.ratio:.2f}", ha="center", va="center", fontsize=12, color=colour)
    axes.text(j, i + 0.28, v.best_peer["name"], ha="center", va="center", fontsize=6, color=colour)


def caption(document: dict[str, Any]) -> str:
    where = document["environment"]
    squares = document["squares"]
    versions = ", ".join(f"{name} {where['versions'][name]}" for name in ("jax", "folx", "torch"))
    commits = ", ".join(sorted({square["commit"] for square in squares}))
    dates = sorted(square["date"] for square in squares)
    return f"{', '.join(where['devices'])}: {where['processor']}; {versions}\ncommit {commits}, {dates[-1]}"
