"""Time against the number of samples: nablax, the Jacobian formed in JAX, and the fastest peer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.parameters import models, wants
from benchmarks.parameters.verdict import FORMED, Entry, Square, best, ours

TITLES = {"gram": "gram: the tangent kernel", "squared_norms": "squared norms of all rows"}
LINES: list[tuple[str, str, str, Callable[[Square], Entry | None]]] = [
    ("nablax", "#1f4e9c", "o-", ours),
    ("Jacobian formed in JAX", "#b23a2e", "s-", lambda s: best(s, FORMED)),
    ("neural-tangents, structured", "#5a8f3c", "^-", lambda s: best(s, "nt structured")),
    ("fastest peer", "0.45", "x--", best),
]


def draw(squares: list[Square], conditions: list[str], path: Path) -> None:
    shown = list(dict.fromkeys(s["want"] for s in squares))
    figure, all_axes = plt.subplots(1, len(shown), figsize=(5.2 * len(shown), 4.6), layout="constrained", squeeze=False)
    for axes, want in zip(all_axes[0], shown, strict=True):
        of_want = [s for s in squares if s["want"] == want]
        for label, colour, style, pick in LINES:
            found = [(s["D"], 1e3 * entry["seconds"]) for s in of_want if (entry := pick(s))]
            if found:
                axes.plot(*zip(*found, strict=True), style, color=colour, label=label, markersize=5, linewidth=1.5)
        samples = [s["D"] for s in of_want]
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(samples, [str(D) for D in samples])
        axes.minorticks_off()
        axes.set_xlabel("samples D")
        axes.set_ylabel("ms")
        axes.set_title(TITLES.get(want, want), fontsize=11)
        axes.grid(True, color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    about = f"{wants.SCAN_MODEL}: {models.ABOUT[wants.SCAN_MODEL]}, A = {wants.SCAN_OUTPUTS}"
    said = [line.removeprefix("- ") for line in conditions if line.startswith(("- device", "- commit"))]
    figure.suptitle("\n".join([about, *said]), fontsize=8, color="0.3")
    figure.savefig(path, dpi=150)
    plt.close(figure)
