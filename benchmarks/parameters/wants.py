"""What is computed, for how many samples, and which part of a result is compared with the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.parameters.models import MODELS, OUTPUTS

ABOUT = {
    "gram": "J J^T, the empirical neural tangent kernel, (D, A, D, A)",
    "squared_norms": "the squared norm of every row of J, (D, A)",
    "dense": "J as one array (D, A, B)",
    "tree": "J as a tree like the parameters",
    "fisher_diagonal": "the sum of the squares of every column of J",
    "clipped_mean": "the mean of the gradients of a squared error, each clipped to the median of their norms",
    "matvec": "J v",
    "rmatvec": "J^T w",
}
WANTS = tuple(ABOUT)
SAMPLES = {
    "mlp": {"gram": 512} | dict.fromkeys(WANTS[1:], 1024),
    "conv": {"gram": 256} | dict.fromkeys(WANTS[1:], 1024),
    "attention": {"gram": 128} | dict.fromkeys(WANTS[1:], 256),
}
OF_ALL_SAMPLES = ("dense", "tree")  # as large as J: for the MLP only
COMPARED_ROWS = 16

SCAN_MODEL, SCAN_OUTPUTS = "mlp", 4
SCAN = {"gram": 4.0, "squared_norms": 2.0}  # want -> how the cost grows at most when D doubles
SCAN_SAMPLES = (16, 32, 64, 128, 256, 512, 1024, 2048)


def squares(models: Sequence[str], wants: Sequence[str]) -> list[tuple[str, int, str]]:
    """(model, A, want) of the table."""
    return [
        (model, A, want)
        for model in MODELS
        for want in WANTS
        for A in OUTPUTS
        if model in models and want in wants and (model == "mlp" or want not in OF_ALL_SAMPLES)
    ]


def rows(D: int) -> np.ndarray:
    """The samples whose part of a large result is compared."""
    return np.unique(np.linspace(0, D - 1, COMPARED_ROWS).astype(int))


def compared(want: str, leaves: Sequence[Any]) -> list[np.ndarray]:
    """The part of the leaves of a result that is compared."""
    if want in ("gram", *OF_ALL_SAMPLES):
        return [np.asarray(leaf)[rows(len(leaf))] for leaf in leaves]
    return [np.asarray(leaf) for leaf in leaves]
