"""Mutation testing of the engine: ``python -m mutants [--count 200] [--seed 0]``, after ``make coverage``.

One place of `src/nablax/graph` or `src/nablax/strategies` is changed at a time, by the operators of Cosmic Ray, and the
tests that execute this line run until one fails: the mutant is killed. One that no test kills is printed: a test is
missing, or the change makes no difference. Each worker changes a copy of the repository.
"""

from __future__ import annotations

import argparse
import ast
import collections
import dataclasses
import difflib
import itertools
import json
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import coverage
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
FILES = sorted(path for room in ("graph", "strategies") for path in (ROOT / "src" / "nablax" / room).glob("*.py"))

SECONDS = 240
"""Tests of one mutant: the fastest come first, and a mutant that has survived so long counts as a survivor."""

ENDLESS = 4 * SECONDS
"""A mutant that makes a test run on is killed by this."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A changed file, and the lines that differ."""

    path: Path
    operator: str
    code: str
    lines: frozenset[int]

    @property
    def difference(self) -> str:
        before, after = self.path.read_text().splitlines(), self.code.splitlines()
        shown = [
            line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[:3] not in ("---", "+++")
        ]
        return "\n".join([f"{self.path.relative_to(ROOT)}: {self.operator}", *shown])


def drawn(count: int | None, seed: int) -> tuple[list[Mutant], int]:
    """Mutants in a random order, and how many places they are drawn from.

    A change that leaves the program as it is, because annotations are never evaluated, is none.
    """
    places = []
    for path in FILES:
        nodes = list(ast_nodes(get_ast(path.read_text())))
        for name in operator_names():
            if not get_operator(name).arguments():
                operator = get_operator(name)()
                changes = sum(len(list(operator.mutation_positions(node))) for node in nodes)
                places += [(path, name, occurrence) for occurrence in range(changes)]
    random.Random(seed).shuffle(places)
    found: list[Mutant] = []
    for path, name, occurrence in places:
        before = path.read_text()
        after = mutate_code(before.encode(), get_operator(name)(), occurrence)
        after = after.decode() if isinstance(after, bytes) else after
        if after and meaning(after) != meaning(before):
            found.append(Mutant(path, name.removeprefix("core/"), after, changed_lines(before, after)))
        if len(found) == count:
            break
    return found, len(places)


def changed_lines(before: str, after: str) -> frozenset[int]:
    """Numbers of the lines of `before` that differ."""
    matcher = difflib.SequenceMatcher(None, before.splitlines(), after.splitlines(), autojunk=False)
    spans = [range(a + 1, max(b, a + 1) + 1) for tag, a, b, _, _ in matcher.get_opcodes() if tag != "equal"]
    return frozenset(itertools.chain(*spans))


def meaning(code: str) -> str:
    """The program without annotations and docstrings; empty if it is none."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(0)
    return ast.dump(tree)


class Tests:
    """Which tests execute a line, and how long they take."""

    def __init__(self, data: Path, times: Path) -> None:
        self._data = coverage.CoverageData(str(data))
        self._data.read()
        self._seconds: dict[str, float] = {}
        for case in ElementTree.parse(times).getroot().iter("testcase"):
            file, _, of_class = case.get("classname", "").removeprefix("tests.").partition(".")
            name = "::".join(filter(None, [f"tests/{file}.py", of_class, case.get("name")]))
            self._seconds[name] = float(case.get("time", 0))

    def of(self, mutant: Mutant) -> list[str]:
        """The names of tests, the fastest first, as many as there is time for."""
        by_line = self._data.contexts_by_lineno(str(mutant.path))
        # What runs at import is run by all tests.
        every = {name.partition("|")[0] for line in mutant.lines for name in by_line.get(line, [])} - {""}
        if not every and any(line in by_line for line in mutant.lines):
            every = set(self._seconds)
        spent, chosen = 0.0, []
        for name in sorted(every & self._seconds.keys(), key=self._seconds.__getitem__):
            spent += self._seconds[name]
            if spent > SECONDS:
                break
            chosen.append(name)
        return chosen


def outcome(mutant: Mutant, tests: list[str], copy: Path) -> str:
    """killed, survived, or not tested."""
    if not tests:
        return "not tested"
    place = copy / mutant.path.relative_to(ROOT)
    original = place.read_text()
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    names = copy / "names-of-tests.txt"  # thousands of them are too long for a command line
    names.write_text("\n".join(tests))
    line = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", f"@{names}"]
    try:
        place.write_text(mutant.code)
        ended = subprocess.run(line, cwd=copy, env=environment, capture_output=True, timeout=ENDLESS, check=False)
        return "survived" if ended.returncode == 0 else "killed"
    except subprocess.TimeoutExpired:
        return "killed"
    finally:
        place.write_text(original)


def main() -> int:
    """Draw, test and count."""
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__.splitlines()[0])  # pyright: ignore
    parser.add_argument("--count", type=int, default=None, help="of mutants, drawn at random; all if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, default=ROOT / ".cache" / "coverage" / "data")
    parser.add_argument("--times", type=Path, default=ROOT / ".cache" / "coverage" / "times.xml")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "mutants.json")
    options = parser.parse_args()
    chosen, places = drawn(options.count, options.seed)
    tests = Tests(options.data, options.times)
    print(f"{len(chosen)} mutants, drawn from {places} places", flush=True)
    found: list[tuple[Mutant, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        copies: queue.Queue[Path] = queue.Queue()
        for worker in range(options.workers):
            copy = Path(folder) / str(worker)
            ignored = shutil.ignore_patterns(".*", "__pycache__", "demo-output")
            shutil.copytree(ROOT, copy, ignore=ignored)
            copies.put(copy)

        def work(mutant: Mutant) -> None:
            copy = copies.get()
            try:
                found.append((mutant, outcome(mutant, tests.of(mutant), copy)))
            finally:
                copies.put(copy)
            if found[-1][1] != "killed":
                print(f"\n# {found[-1][1]}\n{mutant.difference}", flush=True)
            elif len(found) % 20 == 0:
                print(f"{len(found)} of {len(chosen)}", flush=True)

        with ThreadPoolExecutor(options.workers) as threads:
            list(threads.map(work, chosen))
    outcomes = collections.Counter(what for _, what in found)
    print(f"\n{len(found)} mutants: {dict(outcomes)}; killed {outcomes['killed'] / len(found):.1%}")
    for path in FILES:
        of_file = collections.Counter(what for mutant, what in found if mutant.path == path)
        if of_file:
            print(f"  {path.relative_to(ROOT)}: {of_file['killed']} of {of_file.total()}")
    options.out.write_text(
        json.dumps([{"what": what, "mutant": mutant.difference} for mutant, what in found], indent=1)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
