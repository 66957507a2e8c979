"""docs/conformance.md: written from findings, and read again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax

from conformance import judge
from conformance.calls import LAYERS_OF_FOLX, Case
from conformance.judge import Finding

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"

MEANING = {
    judge.SWEEP: "right by both sweeps (by `forward` alone where there is a while_loop)",
    judge.OPAQUE: "the same; the primitives named are differentiated by their own rules, only less fast",
    judge.NESTED: "right by nested AD, which nablax chooses where no sweep can serve",
    judge.FLAT: "right: the derivative is zero, the function piecewise constant",
    judge.AMBIGUOUS: "the rule of JAX is no derivative of any function (a phase is free); see below",
    judge.ONCE: "Jacobian right; for second derivatives an error with a name",
    judge.NEVER: "an error with a name, but for the two that only fail when JAX compiles them",
    judge.INTEGER: "integers, booleans or text come out",
    judge.EXCLUDED: "no array goes in, or it needs what a CPU has not",
    judge.WRONG: "other numbers than nested AD",
    judge.RAISES: "an error, where nested AD has none",
}
RIGHT = (judge.SWEEP, judge.OPAQUE, judge.NESTED, judge.FLAT)
SAME = "same function"

HEAD = """# Conformance

Does nablax give the derivatives that nested AD gives, for every public function of JAX that takes an array? This page
is written by `docs/make_conformance_table.py`; JAX {version}, float64, CPU.

A function f is called as stated, with arrays that all depend on x by smooth maps of their own, tanh(W x + b) moved into
the domain of f, so that first and second derivatives of what f is given matter. The letters stand for vectors (v, w,
y; p, q positive; u in (0, 1); g above 1), numbers (s, t), matrices (m, n not square; a, d invertible; h positive
definite; l triangular), arrays of rank three (T, U), complex ones (c, e; ca, ch), and constants (i, b, rows, at):
`tests/conformance/arguments.py`.

For three samples, Jacobian, Hessian, its diagonal and its trace are computed by `forward`, by `adjoint`, and by
whatever "auto" chooses beyond them, and compared with `jax.jacfwd(jax.jacrev(f))` of one sample after the other, or
`jax.jacfwd(jax.jacfwd(f))` where that fails or gives NaN. The error is the largest difference relative to the largest
entry; above 1e-9, or with a NaN in another place, the outcome would be "wrong". A function that computes in float32
inside is held to ten times the asymmetry of the Hessian that JAX computes.

"""

NOTES = """
Where the Hessian of JAX is not symmetric, no Hessian exists: eigenvectors of a complex matrix are known up to a phase,
and the rule of JAX moves the phase along with x in a way that depends on the path. What does not depend on the phase
has a Hessian, and it is right here too: `jnp.abs(f(ch)[1])`.

The last table holds the layers that the tests of [folx](https://github.com/microsoft/folx) put through its forward
Laplacian, written anew. Not covered: its arrays of sparse Jacobians, hand-written Hessians and Pallas kernels, with no
counterpart here.
"""

Rows = dict[str, list[Finding] | str]
"""`module.name` -> its findings, or the name of the function that it is the same as."""


def text(cases: Sequence[Case], rows: Mapping[str, list[Finding] | str]) -> str:
    """The whole page."""
    parts = [HEAD.format(version=jax.__version__), summary(rows, len(cases) - len(rows)), NOTES]
    for module in dict.fromkeys(case.module for case in cases):
        title = "Layers of the tests of folx" if module == LAYERS_OF_FOLX else module
        parts.append(f"\n## {title}\n\n| function | call | outcome | | error |\n|---|---|---|---|---|\n")
        for case in cases:
            if case.module == module and repr(case) in rows:
                parts += lines(case.name, rows[repr(case)])
    return "".join(parts)


def summary(rows: Mapping[str, list[Finding] | str], unlisted: int) -> str:
    """The counts: a function with several calls counts as its worst."""
    order = list(MEANING)
    worst = Counter(
        SAME if isinstance(found, str) else max((f.outcome for f in found), key=order.index)
        for name, found in rows.items()
        if not name.startswith(LAYERS_OF_FOLX)
    )
    calls = Counter(f.outcome for found in rows.values() if not isinstance(found, str) for f in found)
    able = sum(calls[outcome] for outcome in RIGHT)
    failed = calls[judge.WRONG] + calls[judge.RAISES]
    lead = (
        f"{sum(worst.values())} public functions, {len(rows) - sum(worst.values())} layers, {sum(calls.values())} "
        "calls. "
        f"Nested AD differentiates {able + failed} of them twice; **{able} are right here too, {failed} are not**.\n\n"
    )
    table = [f"| {o} | {worst[o]} | {calls[o]} | {MEANING[o]} |\n" for o in order]
    same = f"| {SAME} | {worst[SAME]} | | under another name |\n"
    rest = f"| not listed | {unlisted} | | not computed yet: `docs/make_conformance_table.py --missing` |\n"
    head = "| outcome | functions | calls | |\n|---|---|---|---|\n"
    return "".join([lead, head, *table, same, rest if unlisted else ""])


def lines(name: str, found: list[Finding] | str) -> Iterable[str]:
    """The rows of one function."""
    if isinstance(found, str):
        yield f"| `{name}` | | {SAME} | `{found}` | |\n"
        return
    for f in found:
        call = f.call if f.outcome == judge.EXCLUDED else f"`{f.call}`"
        error = "" if f.error is None else f"{f.error:.0e}"
        yield f"| `{name}` | {escape(call)} | {f.outcome} | {escape(f.detail)} | {error} |\n"


def escape(cell: str) -> str:
    return cell.replace("|", "\\|")


ROW = re.compile(r"^\| `(?P<name>.*?)` \|(?P<call>.*?)\| (?P<outcome>[^|]+) \|(?P<detail>.*?)\|(?P<error>[^|]*)\|$")


def read() -> tuple[str, Rows]:
    """(version of JAX, the rows) of the page as it is."""
    version, module, rows = "", "", {}
    for line in PAGE.read_text().splitlines():
        if found := re.search(r"; JAX (\S+), float64", line):
            version = found[1]
        elif line.startswith("## "):
            module = LAYERS_OF_FOLX if "folx" in line else line[3:]
        elif module and (row := ROW.match(line)):
            cells = {name: cell.replace("\\|", "|").strip() for name, cell in row.groupdict().items()}
            key = f"{module}.{cells['name']}"
            if cells["outcome"] == SAME:
                rows[key] = cells["detail"].strip("`")
            else:
                error = float(cells["error"]) if cells["error"] else None
                finding = Finding(cells["call"].strip("`"), cells["outcome"], cells["detail"], error)
                rows.setdefault(key, []).append(finding)
    return version, rows


def unlisted(cases: Sequence[Case], rows: Rows) -> list[str]:
    """The functions that the page does not list."""
    return [repr(case) for case in cases if repr(case) not in rows]


def stale(cases: Sequence[Case], rows: Rows) -> list[str]:
    """What the page says otherwise than the tables: found without computing anything."""
    found = [f"{name} is gone" for name in set(rows) - {repr(case) for case in cases}]
    for case in cases:
        listed = rows.get(repr(case), "")
        if not isinstance(listed, str) and case.calls:
            calls = [case.calls] if isinstance(case.calls, str) else list(case.calls)
            if [call.strip("<>") for call in calls] != [f.call for f in listed]:
                found.append(f"{case} is called in another way now")
    return sorted(found)
