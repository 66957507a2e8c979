"""The results as Markdown: conditions, targets, one line a square, the scan over D, all contenders of each square."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.parameters import models, wants
from benchmarks.parameters.serve import YARDSTICK
from benchmarks.parameters.verdict import MiB, Square, best, ours, ratio, targets
from benchmarks.report import milliseconds, number, table

Entry = dict[str, Any]
INTRODUCTION = """\
Medians of runs whose order is alternated, float32; of contenders twenty times behind, one run. ratio = time of the
fastest peer / time of nablax: above 1 nablax is faster. Errors are relative to the Jacobian of jax.jacrev in float64;
a contender with wrong numbers is not timed. peak is how far one run lifts the resident memory of a process of its own,
the result included; it is measured for nablax, for the plain formulation and for the fastest of each family. temporary
and result are bytes of the compiled program, as JAX reports them. The time of a first run stands for the compile time
of torch. neural-tangents runs with the JAX of 2023 that it needs; all other JAX contenders share one version. All
start from parameters and samples: nothing is prepared."""


def mebibytes(entry: Entry | None, key: str) -> str:
    return f"{entry[key] / MiB:.3g}" if entry and entry.get(key) is not None else ""


def versions(squares: list[Square]) -> str:
    """The versions by worker, as the workers reported them."""
    found: dict[str, dict[str, str]] = {}
    for square in squares:
        for module, packages in square["versions"].items():
            found.setdefault(module.removesuffix("_worker"), {}).update(packages)
    said = lambda packages: ", ".join(f"{name} {version}" for name, version in packages.items())
    return "; ".join(f"{module}: {said(packages)}" for module, packages in found.items() if packages)


def conditions(document: dict[str, Any]) -> list[str]:
    squares, where = document["squares"], document["environment"]
    loads = [load for square in squares for load in square["load"]]
    dates = sorted(square["date"] for square in squares)
    commits = sorted({square["commit"] for square in squares})
    quick = ["**Quick run, few samples and two rounds: the numbers mean nothing.**", ""]
    return quick * any(square["quick"] for square in squares) + [
        f"- device: {', '.join(where['devices'])}; {where['processor']}",
        f"- versions: {versions(squares)}",
        f"- commit: {', '.join(commits)} (+: with changes on top); {dates[0]} to {dates[-1]}",
        f"- load of the machine, one-minute average before and after each square: {min(loads):.1f} to {max(loads):.1f}",
        "",
    ]


def promises(squares: list[Square]) -> list[str]:
    said = {True: "met", False: "**missed**", None: "not run"}
    return table(["target", "bar", "found", ""], [[t.what, t.bar, t.found, said[t.met]] for t in targets(squares)])


def overview(squares: list[Square]) -> list[str]:
    head = "network,A,D,B,want,nablax ms,fastest peer,its ms,ratio,peak MiB,peer's MiB,compile ms"
    rows = []
    for s in squares:
        mine, peer = ours(s), best(s)
        rows.append(
            [s["model"], str(s["A"]), str(s["D"]), str(s["B"]), s["want"], milliseconds(mine)]
            + [peer["name"] if peer else "", milliseconds(peer), number(ratio(peer, mine))]
            + [mebibytes(mine, "peak_bytes"), mebibytes(peer, "peak_bytes"), milliseconds(mine, "compile_s")]
        )
    return table(head.split(","), rows)


def scan(squares: list[Square]) -> list[str]:
    """One line for each D: nablax, the formed Jacobian, the fastest peer."""
    rows = []
    for s in squares:
        mine, formed, peer = ours(s), best(s, "jax jacrev"), best(s)
        rows.append(
            [s["want"], str(s["D"]), milliseconds(mine), milliseconds(formed), number(ratio(formed, mine))]
            + [peer["name"] if peer else "", milliseconds(peer), number(ratio(peer, mine))]
        )
    head = "want,D,nablax ms,formed in JAX ms,ratio,fastest peer,its ms,ratio"
    return table(head.split(","), rows)


def details(s: Square) -> list[str]:
    """Every contender of one square, fastest first; the failures with their reasons."""
    ran = sorted((e for e in s["contenders"] if "seconds" in e), key=lambda e: e["seconds"])
    rows = [
        [e["name"], milliseconds(e)]
        + [mebibytes(e, key) for key in ("peak_bytes", "temp_bytes", "output_bytes")]
        + ["" if e["family"] == YARDSTICK else f"{e['error']:.1e}", milliseconds(e, "compile_s"), str(e["runs"])]
        for e in ran
    ]
    text = [f"### {s['model']}, A = {s['A']}, D = {s['D']}: {s['want']}", ""]
    head = ["contender", "ms", "peak MiB", "temporary MiB", "result MiB", "error", "compile ms", "runs"]
    text += table(head, rows)
    for e in s["contenders"]:
        if e["status"] == "wrong":
            text.append(f"- {e['name']}: **wrong numbers**, relative error {e['error']:.1e}")
        elif e["status"] == "failed":
            text.append(f"- {e['name']}: {e['reason'].replace('|', '/')}")
    return text if text[-1] == "" else [*text, ""]


def in_order(squares: list[Square]) -> list[Square]:
    key = lambda s: (models.MODELS.index(s["model"]), wants.WANTS.index(s["want"]), s["A"], s["D"])
    return sorted(squares, key=key)


def write_report(document: dict[str, Any], out: Path) -> str:
    """Write NAME.md and NAME.png beside NAME.json; returns the summary for the terminal."""
    if not document["squares"]:
        return "nothing was run"
    rest = in_order([s for s in document["squares"] if not s["scan"]])
    scanned = in_order([s for s in document["squares"] if s["scan"]])
    summary = [*conditions(document), *promises(document["squares"])]
    text = ["# Derivatives by parameters", "", INTRODUCTION, ""]
    text += [f"- {name}: {about}" for name, about in (models.ABOUT | wants.ABOUT).items()]
    text += ["", *summary, "## Squares", "", *overview(rest)]
    if scanned:
        from benchmarks.parameters.picture import draw

        draw(scanned, conditions(document), out.with_suffix(".png"))
        text += [f"## Time against D, {wants.SCAN_MODEL}, A = {wants.SCAN_OUTPUTS}", "", f"![]({out.name}.png)", ""]
        text += scan(scanned)
    text += ["## Contenders", ""]
    for square in rest:
        text += details(square)
    out.with_suffix(".md").write_text("\n".join(text).rstrip() + "\n")
    return "\n".join(summary)
