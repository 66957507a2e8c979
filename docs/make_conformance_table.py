"""Writes docs/conformance.md: every public function of JAX through nablax and through nested AD (half an hour).

With names, ``jax.nn.relu jax.lax``, only these functions or modules are computed, with --missing only those that the
page does not list; the other rows are kept. With --check nothing is computed: exits 1 where the page and the tables of
calls say different things.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Nearly all of the time goes into programs that then run for microseconds.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_parallel_codegen_split_count=1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import jax
from conformance import page
from conformance.calls import Case, cases
from conformance.judge import judge

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)

KEEP_PROGRAMS = 50
"""Compiled programs are dropped after so many functions: they would fill the memory."""


def rows_of(chosen: list[Case]) -> page.Rows:
    """The findings of some functions."""
    rows: page.Rows = {}
    for number, case in enumerate(chosen):
        rows[repr(case)] = case.same or judge(case.function, case.calls)
        print(*page.lines(repr(case), rows[repr(case)]), sep="", end="", flush=True)
        if number % KEEP_PROGRAMS == KEEP_PROGRAMS - 1:
            jax.clear_caches()
    return rows


def main() -> int:
    """Writes or checks the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="functions or modules; none for all")
    parser.add_argument("--check", action="store_true", help="compare with the tables instead of computing")
    parser.add_argument("--missing", action="store_true", help="only what the page does not list")
    options = parser.parse_args()
    everything = cases()
    known = page.read()[1] if options.check or options.missing or options.names else {}
    if options.check:
        found = page.stale(everything, known) + [f"{name} is not listed" for name in page.unlisted(everything, known)]
        print(*found, sep="\n", file=sys.stderr)
        return 1 if found else 0
    chosen = [c for c in everything if not options.names or {repr(c), c.module} & set(options.names)]
    rows = known | rows_of([c for c in chosen if not (options.missing and repr(c) in known)])
    page.PAGE.write_text(page.text(everything, {repr(c): rows[repr(c)] for c in everything if repr(c) in rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
