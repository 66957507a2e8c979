"""What the derivatives say about the network: tables of drivers, interactions and uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import zarr

from nablax._demo.training import Patients


@dataclass(frozen=True)
class Derivatives:
    """The arrays of the store; output 0 is the mean, output 1 the log-variance."""

    value: np.ndarray  # (D, 2)
    jacobian: np.ndarray  # (D, 2, C)
    hessian: np.ndarray  # (D, 2, C, C)
    hessian_diagonal: np.ndarray  # (D, 2, C)

    @classmethod
    def read(cls, path) -> Derivatives:
        """Reads the zarr group that `nablax.store.run` wrote."""
        group = zarr.open_group(str(path), mode="r")
        return cls(**{name: np.asarray(group[name]) for name in cls.__annotations__})

    @property
    def sigma(self) -> np.ndarray:
        """Predicted standard deviation of the progression, (D,)."""
        return np.exp(0.5 * self.value[:, 1])

    @property
    def sigma_change(self) -> np.ndarray:
        """(dsigma/dx) / sigma = 1/2 dlog(sigma^2)/dx, as a fraction per standard deviation of the feature, (D, C)."""
        return 0.5 * self.jacobian[:, 1]


def print_quality(quality: dict[str, float], patients: Patients) -> None:
    """The network beside two yardsticks, on patients that none of them has seen."""
    test = int(patients.test.sum())
    print(f"  on {test} patients that were not used for training (trained on {len(patients.y) - test}):")
    print(f"  {'':34s}{'R2':>8s}{'neg. log-likelihood':>22s}")
    for label, key in (("network", ""), ("linear regression", "_linear"), ("constant", "_constant")):
        print(f"  {label:34s}{quality['r2' + key]:8.2f}{quality['nll' + key]:22.3f}")
    print(
        f"  {quality['within_1_sigma']:.0%} of them lie within 1 predicted sigma of the prediction (68% expected), "
        f"{quality['within_2_sigma']:.0%} within 2 (95%)"
    )


def print_drivers(d: Derivatives, names: list[str]) -> None:
    """Which features move the prediction: the Jacobian of the mean."""
    J = d.jacobian[:, 0]
    print("  dmean/dx in units of disease progression (25 to 346) per standard deviation of the feature")
    print(f"  {'feature':20s}{'mean |J|':>10s}{'mean J':>10s}{'10% .. 90% of patients':>26s}   same sign in")
    for c in np.argsort(-np.abs(J).mean(0)):
        low, high = np.quantile(J[:, c], [0.1, 0.9])
        same = np.mean(np.sign(J[:, c]) == np.sign(J[:, c].mean()))
        span = f"{low:+.1f} .. {high:+.1f}"
        print(f"  {names[c]:20s}{np.abs(J[:, c]).mean():10.1f}{J[:, c].mean():+10.1f}{span:>26s}{same:11.0%}")


def print_interactions(d: Derivatives, names: list[str], rows: int = 6) -> None:
    """Which pairs of features act together (Hessian of the mean), which feature acts non-linearly (its diagonal)."""
    H = d.hessian[:, 0]
    pairs = [(c, e) for c in range(H.shape[1]) for e in range(c)]
    pairs.sort(key=lambda pair: -np.abs(H[:, pair[0], pair[1]]).mean())
    print(f"  d2mean/dx1 dx2 in progression per (standard deviation)^2, the {rows} largest of {len(pairs)} pairs")
    print(f"  {'pair':40s}{'mean |H|':>10s}{'mean H':>10s}")
    for c, e in pairs[:rows]:
        pair = f"{names[e]} x {names[c]}"
        print(f"  {pair:40s}{np.abs(H[:, c, e]).mean():10.2f}{H[:, c, e].mean():+10.2f}")
    diagonal = d.hessian_diagonal[:, 0]
    bent = int(np.argmax(np.abs(diagonal).mean(0)))
    print(f"  most curved in one feature: {names[bent]}, mean d2mean/dx2 = {diagonal[:, bent].mean():+.2f}")


def print_uncertainty(d: Derivatives, names: list[str], rows: int = 4) -> None:
    """Where the network is unsure, and which features make it so: the Jacobian of the log-variance."""
    low, middle, high = np.quantile(d.sigma, [0.1, 0.5, 0.9])
    print(f"  predicted sigma of the progression: median {middle:.0f}, 10% .. 90% of patients {low:.0f} .. {high:.0f}")
    change = d.sigma_change
    print("  change of sigma per standard deviation of the feature, mean over patients:")
    for c in np.argsort(-np.abs(change.mean(0)))[:rows]:
        print(f"  {names[c]:20s}{change[:, c].mean():+10.1%}")
    order = np.argsort(d.sigma)
    sure, unsure = d.value[order[:44], 0].mean(), d.value[order[-44:], 0].mean()
    print(f"  the 44 surest predictions have a mean of {sure:.0f}, the 44 least sure one of {unsure:.0f}")
