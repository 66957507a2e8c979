"""The grid as Markdown: conditions, targets, one line a square, and all contenders of each square."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.cells import CELLS
from benchmarks.verdict import AUTO, WANTS, Target, Verdict, column, judge, targets


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    line = lambda cells: "| " + " | ".join(cells) + " |"
    return [line(head), line(["---"] * len(head)), *map(line, rows), ""]


def milliseconds(entry: dict[str, Any] | None, key: str = "seconds") -> str:
    if not entry or entry.get(key) is None:
        return ""
    value = 1e3 * entry[key]
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def megabytes(entry: dict[str, Any] | None) -> str:
    return f"{entry['temp_bytes'] / 2**20:.3g}" if entry and entry.get("temp_bytes") is not None else ""


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def conditions(document: dict[str, Any]) -> list[str]:
    """Device, versions, commit, dates and the load of the machine."""
    squares, where = document["squares"], document["environment"]
    seen = lambda key: sorted({square[key] for square in squares})
    loads = [load for square in squares for load in square["load"]]
    dates = seen("date")
    quick = ["**Quick run, few samples and two rounds: the numbers mean nothing.**", ""]
    return quick * any(seen("quick")) + [
        f"- device: {', '.join(where['devices'])}; {where['processor']}",
        f"- versions: {', '.join(f'{name} {version}' for name, version in where['versions'].items())}",
        f"- commit: {', '.join(seen('commit'))} (+: with changes on top); {dates[0]} to {dates[-1]}",
        f"- load of the machine, one-minute average before and after each square: {min(loads):.1f} to {max(loads):.1f}",
        "",
    ]


def promises(lines: list[Target]) -> list[str]:
    said = {True: "met", False: "**missed**", None: "not run"}
    rows = [[t.what, t.bar, t.found, said[t.met]] for t in lines]
    text = table(["target", "bar", "worst found", ""], rows)
    for target in lines:
        if target.misses:
            text += [f"Misses, {target.what}: {'; '.join(target.misses)}.", ""]
    return text


def overview(verdicts: list[Verdict]) -> list[str]:
    head = (
        "cell,want,nablax ms,best peer,its ms,ratio,memory MiB,peer's MiB,compile ms,trace ms,"
        "best own strategy,auto / best own"
    )
    rows = []
    for v in verdicts:
        name = lambda entry: entry["name"].removeprefix("nablax:") if entry else ""
        rows.append(
            [
                v.square["cell"],
                column(v.square),
                milliseconds(v.auto),
                name(v.best_peer),
                milliseconds(v.best_peer),
                number(v.ratio),
                megabytes(v.auto),
                megabytes(v.best_peer),
                milliseconds(v.auto, "compile_s"),
                milliseconds(v.auto, "trace_s"),
                name(v.best_own),
                number(v.planner),
            ]
        )
    return table(head.split(","), rows)


def details(square: dict[str, Any]) -> list[str]:
    """Every contender of one square, fastest first; the failures with their reasons."""
    ran = sorted((e for e in square["contenders"] if "seconds" in e), key=lambda e: e["seconds"])
    rows = [
        [
            e["name"],
            milliseconds(e),
            megabytes(e),
            f"{e['error']:.1e}",
            milliseconds(e, "compile_s"),
            milliseconds(e, "trace_s"),
            str(e["runs"]),
        ]
        for e in ran
    ]
    size = f"A={square['A']}, C={square['C']}, D={square['D']}, {square['about']}"
    text = [f"### {square['cell']}: {column(square)}", "", size, ""]
    text += table(["contender", "ms", "memory MiB", "error", "compile ms", "trace ms", "runs"], rows)
    for entry in square["contenders"]:
        if entry["status"] == "wrong":
            text.append(f"- {entry['name']}: **wrong numbers**, relative error {entry['error']:.1e}")
        elif entry["status"] == "failed":
            text.append(f"- {entry['name']}: {entry['reason'].replace('|', '/')}")
    return [*text, ""]


def write_report(document: dict[str, Any], out: Path) -> str:
    """Write NAME.md and NAME.png beside NAME.json; returns the summary for the terminal."""
    names = [c.name for c in CELLS]
    place = lambda square: (names.index(square["cell"]), square["gradient"], WANTS.index(square["want"]))
    squares = sorted(document["squares"], key=place)
    verdicts = [judge(square) for square in squares]
    summary = conditions(document)
    if any(v.auto for v in verdicts):
        from benchmarks.picture import draw

        summary += promises(targets(verdicts))
        draw(document, verdicts, out.with_suffix(".png"))
    text = [
        "# Benchmark grid",
        "",
        "Medians, with the order of the contenders alternated. ratio = time of the best peer / time of nablax: above 1",
        f"nablax is faster. nablax is `{AUTO}`, the planner's choice. Errors are relative to the plain formulation in",
        "float64. Memory is the temporary memory of the compiled program, without arguments and results; torch on a",
        "CPU does not tell its own. The compile time of torch is its first run.",
        "",
        *summary,
        "## Squares",
        "",
        *overview(verdicts),
        "## Contenders",
        "",
    ]
    for square in squares:
        text += details(square)
    out.with_suffix(".md").write_text("\n".join(text).rstrip() + "\n")
    return "\n".join(summary)
