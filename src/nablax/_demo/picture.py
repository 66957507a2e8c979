"""One picture of the demo's results: what drives the prediction, what interacts, how sure it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from nablax._demo.report import Derivatives
from nablax._demo.training import Patients

BLUE, RED, GREY = "#2166ac", "#b2182b", "#666666"


def draw(path: Path, d: Derivatives, patients: Patients) -> None:
    """Writes the picture with four panels."""
    # A Figure of its own, not pyplot's: needs no display and leaves no global state behind.
    figure = Figure(figsize=(13, 10.5), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    axes = figure.subplots(2, 2)
    drivers(axes[0, 0], d, patients)
    interactions(axes[0, 1], d, patients)
    predictions(axes[1, 0], d, patients)
    uncertainty(axes[1, 1], d, patients)
    figure.suptitle(
        f"What a network learned about diabetes: derivatives for each of {len(patients.y)} patients", fontsize=15
    )
    figure.savefig(path, dpi=110)


def drivers(axis, d: Derivatives, patients: Patients) -> None:
    """One dot a patient: the Jacobian of the mean, coloured by the value of the feature."""
    J = d.jacobian[:, 0]
    dots = strips(axis, J, patients, order=np.argsort(np.abs(J).mean(0)))
    axis.set_title("What drives the prediction? (Jacobian)")
    axis.set_xlabel("change of predicted progression\nper standard deviation of the feature (bar: mean)")
    bar = axis.figure.colorbar(dots, ax=axis, pad=0.01, aspect=40)
    bar.set_label("value of the feature (standard deviations)")


def uncertainty(axis, d: Derivatives, patients: Patients) -> None:
    """One dot a patient: the relative change of sigma."""
    change = 100 * d.sigma_change
    dots = strips(axis, change, patients, order=np.argsort(np.abs(change.mean(0))))
    axis.set_title("What makes it uncertain? (Jacobian of the log-variance)")
    axis.set_xlabel("change of the predicted standard deviation, %\nper standard deviation of the feature (bar: mean)")
    bar = axis.figure.colorbar(dots, ax=axis, pad=0.01, aspect=40)
    bar.set_label("value of the feature (standard deviations)")


def strips(axis, values: np.ndarray, patients: Patients, order: np.ndarray):
    """Draws values (D, C) as a row of dots per feature and its mean as a line; the last of order is on top."""
    jitter = np.random.default_rng(0).uniform(-0.3, 0.3, len(values))
    for row, c in enumerate(order):
        dots = axis.scatter(
            values[:, c], row + jitter, c=patients.X[:, c], s=7, cmap="coolwarm", vmin=-2, vmax=2, linewidths=0
        )
        axis.plot([values[:, c].mean()] * 2, [row - 0.38, row + 0.38], color="black", linewidth=1.6)
    axis.axvline(0, color=GREY, linewidth=0.8)
    axis.set_yticks(range(len(order)), [patients.names[c] for c in order])
    axis.set_ylim(-0.6, len(order) - 0.4)
    return dots


def interactions(axis, d: Derivatives, patients: Patients) -> None:
    """Mean |Hessian| of the mean; the diagonal (curvature in one feature) is shown too."""
    H = np.abs(d.hessian[:, 0]).mean(0)
    image = axis.imshow(H, cmap="Purples", vmin=0)
    dark = 0.6 * H.max()
    for c, e in np.ndindex(*H.shape):
        axis.text(e, c, f"{H[c, e]:.1f}", ha="center", va="center", fontsize=8, color="w" if H[c, e] > dark else "k")
    axis.set_xticks(range(len(H)), patients.names, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(H)), patients.names)
    axis.set_title("What interacts? (Hessian, mean of |H| over patients)")
    bar = axis.figure.colorbar(image, ax=axis, pad=0.01, aspect=40)
    bar.set_label("progression per (standard deviation)²")


def predictions(axis, d: Derivatives, patients: Patients) -> None:
    """Observed against predicted, for patients that were not used for training, with one sigma."""
    test = patients.test
    mean, sigma, y = d.value[test, 0], d.sigma[test], patients.y[test]
    outside = np.abs(y - mean) > 2 * sigma
    bars = {"fmt": "o", "markersize": 4, "linewidth": 0.8}
    for which, color, label in ((~outside, BLUE, "within 2 sigma"), (outside, RED, "further away")):
        axis.errorbar(y[which], mean[which], yerr=sigma[which], color=color, label=label, **bars)
    ends = [min(y.min(), mean.min()) - 10, max(y.max(), mean.max()) + 10]
    axis.plot(ends, ends, color=GREY, linewidth=1, zorder=0, label="prediction = observation")
    axis.set_title(f"How good and how sure? ({test.sum()} patients not used for training)")
    axis.set_xlabel("observed disease progression after one year")
    axis.set_ylabel("predicted, ± predicted standard deviation")
    axis.set_ylim(top=(mean + sigma).max() + 75)  # room for the legend above the bars
    axis.legend(loc="upper left", frameon=False)
