"""From the measured contenders of the squares to their figures and to the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.parameters.serve import YARDSTICK

Entry = dict[str, Any]
Square = dict[str, Any]
FORMED = "jax jacrev"  # the formulations that form the Jacobian begin so
WHOLE = "jax jacrev, leaf by leaf"  # for all samples at once
NOISE = 1.05  # "not slower" allows that much
MiB = 2**20


@dataclass(frozen=True)
class Target:
    """A line of the promise: what, the bar, the figure found, and whether it is met (None: not run)."""

    what: str
    bar: str
    found: str
    met: bool | None


def timed(square: Square | None, *prefixes: str) -> list[Entry]:
    """The right contenders whose names begin so, fastest first."""
    entries = square["contenders"] if square else []
    fitting = [e for e in entries if e["status"] == "ok" and "seconds" in e and e["name"].startswith(prefixes or ("",))]
    return sorted(fitting, key=lambda e: e["seconds"])


def named(square: Square | None, name: str) -> Entry | None:
    return next((e for e in timed(square, name) if e["name"] == name), None)


def ours(square: Square | None) -> Entry | None:
    return next(iter(timed(square, "nablax")), None)


def best(square: Square | None, *prefixes: str) -> Entry | None:
    """The fastest peer, of those whose names begin so."""
    return next((e for e in timed(square, *prefixes) if e["family"] not in ("nablax", YARDSTICK)), None)


def ratio(above: Entry | None, below: Entry | None) -> float | None:
    return above["seconds"] / below["seconds"] if above and below else None


def targets(squares: list[Square]) -> list[Target]:
    """The promises, for the sizes that they name; a quick run has other sizes and shows what it has."""
    of_mlp = {(s["want"], s["A"]): s for s in squares if s["model"] == "mlp" and not s["scan"]}

    def faster(want: str, A: int, what: str, bar: float, prefix: str, noise: float = 1.0) -> Target:
        """Time of the fastest contender whose name begins so / time of nablax is at least `bar`."""
        square = of_mlp.get((want, A))
        peer, mine = named(square, prefix) if prefix == WHOLE else best(square, prefix), ours(square)
        times, where = ratio(peer, mine), f"{place(want, A, square)}: {what}"
        if times is None:
            return Target(where, f"{bar:g} times", "", None)
        figure = f"{times:.2f} times ({said(mine)}; {peer['name']} {said(peer)})"
        return Target(where, f"{bar:g} times", figure, times * noise >= bar)

    lines = [
        faster("gram", 4, "faster than the contraction of dense Jacobians in JAX", 50, FORMED),
        faster("gram", 4, "faster than the structured derivatives of neural-tangents", 1.5, "nt structured"),
        small("gram", 4, of_mlp.get(("gram", 4)), 450),
        faster("gram", 1, "faster than NetKet", 50, "netket"),
    ]
    for A in (1, 4):
        lines.append(faster("squared_norms", A, "faster than forming the Jacobian", 40, WHOLE))
        lines.append(faster("squared_norms", A, "faster than forming it in chunks of samples", 40, WHOLE + " @"))
    lines += [clipping("clipped_mean", A, of_mlp.get(("clipped_mean", A)), 2.5) for A in (1, 4)]
    for want in ("dense", "tree"):
        lines.append(faster(want, 4, "not slower than jit(vmap(jacrev))", 1, FORMED, NOISE))
        lines.append(faster(want, 4, "not slower than torch.func", 1, "torch jacrev", NOISE))
    return lines


def place(want: str, A: int, square: Square | None) -> str:
    return f"{want}, mlp, A = {A}" + (f", D = {square['D']}" if square else "")


def said(entry: Entry) -> str:
    return f"{1e3 * entry['seconds']:.4g} ms"


def small(want: str, A: int, square: Square | None, mebibytes: float) -> Target:
    """The peak memory of nablax in a process of its own."""
    mine, where, bar = ours(square), f"{place(want, A, square)}: peak memory", f"{mebibytes:g} MiB"
    if not mine or "peak_bytes" not in mine:
        return Target(where, bar, "", None)
    peak = mine["peak_bytes"] / MiB
    return Target(where, bar, f"{peak:.0f} MiB", peak < mebibytes)


def clipping(want: str, A: int, square: Square | None, bar: float) -> Target:
    """The time of nablax / that of an ordinary gradient of the mean loss."""
    yardstick = next((e for e in timed(square) if e["family"] == YARDSTICK), None)
    mine, where = ours(square), f"{place(want, A, square)}: within this many ordinary gradients"
    times = ratio(mine, yardstick)
    if times is None:
        return Target(where, f"{bar:g}", "", None)
    return Target(where, f"{bar:g}", f"{times:.2f} ({said(mine)}; {said(yardstick)})", times <= bar)
