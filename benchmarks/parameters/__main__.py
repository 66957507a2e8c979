"""Derivatives by parameters, one command: ``python -m benchmarks.parameters [--models a,b] [--wants ...] [--quick]``.

Each square (a network, a number of outputs, a want) starts one process for each environment; their contenders take
turns. Writes NAME.json, NAME.md and NAME.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.parameters import wants
from benchmarks.parameters.models import MODELS
from benchmarks.parameters.report import write_report
from benchmarks.parameters.square import MODULES, run_square
from benchmarks.versions import ROOT, devices, processor

RESULTS = ROOT / "benchmarks" / "results"
PEERS = ["jax", "nt", "netket", "torch", "backpack", "opacus"]
QUICK_SCAN = (8, 16)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    names = lambda text: text.split(",")
    numbers = lambda text: [int(n) for n in text.split(",")]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parameters", description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=names, default=list(MODELS), help=f"some of {','.join(MODELS)}")
    parser.add_argument("--wants", type=names, default=list(wants.WANTS), help=f"some of {','.join(wants.WANTS)}")
    parser.add_argument("--peers", type=names, default=PEERS, help=f"some of {','.join(PEERS)}")
    parser.add_argument("--nt-python", default=str(ROOT / ".venv-nt" / "bin" / "python"), help="see README.md")
    parser.add_argument("--netket-python", default=sys.executable, help="if NetKet has an environment of its own")
    parser.add_argument("--torch-python", default=sys.executable, help="if torch has an environment of its own")
    parser.add_argument("--no-torch-compile", dest="torch_compile", action="store_false", help="torch eagerly only")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="skip the peak memory")
    parser.add_argument("--no-scan", dest="scan", action="store_false", help="skip the scan over D")
    parser.add_argument("--no-table", dest="table", action="store_false", help="the scan over D only")
    parser.add_argument("--chunks", type=numbers, default=[32, 128])
    parser.add_argument("--rounds", type=int, default=7, help="turns for each contender")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each contender, over all its turns")
    parser.add_argument("--limit", type=float, default=90.0, help="wall-clock seconds for one step of a contender")
    parser.add_argument("--scan-limit", type=float, default=15.0, help="seconds of a run that the scan still makes")
    parser.add_argument("--quick", action="store_true", help="few samples, two rounds: does everything run?")
    parser.add_argument("--quick-samples", type=int, default=16)
    parser.add_argument("--out", type=Path, default=RESULTS / "parameters", help="path without suffix")
    parser.add_argument("--update", action="store_true", help="keep the other squares that OUT.json already holds")
    parser.add_argument("--report", action="store_true", help="run nothing: table and picture of OUT.json anew")
    options = parser.parse_args(arguments)
    own = {"nt_worker": options.nt_python, "netket_worker": options.netket_python, "torch_worker": options.torch_python}
    options.python = dict.fromkeys(MODULES, sys.executable) | own
    if "nt" in options.peers and not (options.report or Path(options.nt_python).exists()):
        print(f"neural-tangents is left out: {options.nt_python} does not exist (--nt-python)")
        options.peers.remove("nt")
    return options


def too_slow(previous: dict[str, Any] | None, growth: float, limit: float) -> dict[str, str]:
    """The contenders of the scan that would take too long for twice the samples, with the reason."""
    found = {}
    for entry in previous["contenders"] if previous else []:
        expected = entry.get("seconds", 0.0) * growth
        if entry["status"] != "ok":
            found[entry["name"]] = f"not run: failed for {previous['D']} samples"
        elif expected > limit:
            found[entry["name"]] = f"not run: about {expected:.0f} s to expect"
    return found


def run(options: argparse.Namespace, document: dict[str, Any], file: Path) -> None:
    def keep(square: dict[str, Any]) -> None:
        """Write after each square: a run that is cut short is not lost."""
        same = lambda old: all(old[key] == square[key] for key in ("model", "A", "want", "D", "scan"))
        document["squares"] = [old for old in document["squares"] if not same(old)] + [square]
        file.write_text(json.dumps(document, indent=1))

    table = wants.squares(options.models, options.wants) if options.table else []
    for number, (model, A, want) in enumerate(table, 1):
        D = options.quick_samples if options.quick else wants.SAMPLES[model][want]
        print(f"[{number}/{len(table)}] {model}, A = {A}, D = {D}: {want}", flush=True)
        keep(run_square(model, A, want, D, options, {}, scan=False))
    model, A = wants.SCAN_MODEL, wants.SCAN_OUTPUTS
    scanned = [want for want in wants.SCAN if want in options.wants] if options.scan and model in options.models else []
    for want in scanned:
        previous = None
        for D in QUICK_SCAN if options.quick else wants.SCAN_SAMPLES:
            print(f"[scan] {model}, A = {A}, D = {D}: {want}", flush=True)
            skip = too_slow(previous, wants.SCAN[want], options.scan_limit)
            previous = run_square(model, A, want, D, options, skip, scan=True)
            keep(previous)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    file = options.out.with_suffix(".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = (options.update or options.report) and file.exists()
    document = json.loads(file.read_text()) if kept else {"squares": []}
    if not options.report:
        document["environment"] = {"processor": processor(), "devices": devices()}
        run(options, document, file)
    print(write_report(document, options.out))


if __name__ == "__main__":
    main()
