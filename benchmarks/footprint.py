"""``python -m benchmarks.footprint``: what nablax and its peers cost before they compute anything.

Each package is installed into a new environment of its own, with its own best JAX; counted are the distributions and
bytes that came with it, and timed, in turns, processes that import it. Writes results/footprint.md and footprint.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.versions import ROOT, commit, environment

RESULTS = Path(__file__).with_name("results")

COUNT = """
import importlib.metadata, json, re, sys
wanted = re.split(r"[=<>\\[ ]", sys.argv[1])[0].lower().replace("_", "-")
found = list(importlib.metadata.distributions())
name = lambda d: d.metadata["Name"].lower().replace("_", "-")
ours = [d for d in found if name(d) not in ("pip", "setuptools", "wheel")]
size = lambda d: sum(f.locate().stat().st_size for f in d.files or () if f.locate().is_file())
mine = next(d for d in ours if name(d) == wanted)
direct = [r for r in mine.requires or () if "extra ==" not in r]
jax_stack = {"jax", "jaxlib", "numpy", "scipy", "ml-dtypes", "opt-einsum"}
print(json.dumps({
    "version": mine.version, "jax": next(d.version for d in ours if name(d) == "jax"),
    "distributions": len(ours) - 1, "direct": len(direct),
    "bytes": sum(map(size, ours)), "beside_jax": sum(size(d) for d in ours if name(d) not in jax_stack),
}))
"""


@dataclass
class Package:
    """What is measured.

    Attributes:
        label: in the table.
        requirements: for pip; the first one is what is counted.
        statement: that a program begins with.
        found: what `COUNT` prints.
        seconds: of each process that runs the statement.
        jax_seconds: of each process that imports the JAX of this environment alone.
    """

    label: str
    requirements: tuple[str, ...]
    statement: str
    found: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    jax_seconds: list[float] = field(default_factory=list)


PACKAGES = (
    Package("JAX alone", ("jax>=0.10,!=0.10.2",), "import jax"),
    Package("nablax", (str(ROOT),), "import nablax"),
    Package("nablax, first transform", (str(ROOT),), "import nablax; nablax.hessian"),
    Package("nablax[all], first transform", (f"{ROOT}[all]",), "import nablax; nablax.hessian"),
    Package("folx", ("folx==0.2.30", "jax!=0.10.2"), "import folx"),
    Package("NetKet", ("netket==3.23.0", "jax!=0.10.2"), "import netket"),
    # It works with a JAX of 2023 only.
    Package(
        "neural-tangents",
        ("neural-tangents==0.6.5", "jax==0.4.23", "jaxlib==0.4.23", "scipy<1.13", "numpy<2"),
        "import neural_tangents",
    ),
)

COMMANDS = (
    "--help",
    "--version",
    "explain {model}",
    "check {model}",
    "derive {model} --out d.zarr --overwrite --quiet",
)

MODEL = """
import jax.numpy as jnp

def network(params, x):
    return jnp.tanh(x @ params["W"]) @ params["V"]
"""

FILES = """
import numpy as np
from nablax import store
draw = np.random.default_rng(0)
np.save("X.npy", draw.normal(size=(5000, 4)).astype("f4"))
store.save_parameters("p.npz", {"W": draw.normal(size=(4, 32)), "V": draw.normal(size=(32, 2))})
"""


def installed(package: Package, folder: Path) -> Path:
    """The interpreter of a new environment with a package."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *package.requirements]
        subprocess.run(install, check=True)
    return python


def seconds(python: Path, *arguments: str, cwd: Path) -> float:
    """Wall time of a process, the start of Python included."""
    start = time.perf_counter()
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([python, *arguments], cwd=cwd, env=environ, capture_output=True)
    spent = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))}: {done.stderr.decode()[-2000:]}")
    return spent


def measured(folder: Path, rounds: int) -> tuple[list[Package], dict[str, list[float]], list[float]]:
    """(packages, seconds of each command, seconds of Python alone), everything in turns."""
    pythons: dict[tuple[str, ...], Path] = {}
    for package in PACKAGES:
        key = package.requirements
        pythons[key] = pythons.get(key) or installed(package, folder / f"environment{len(pythons)}")
        name = "nablax" if str(ROOT) in key[0] else key[0]
        counted = subprocess.run([pythons[key], "-c", COUNT, name], capture_output=True, text=True, check=True)
        package.found = json.loads(counted.stdout)
        print(package.label, package.found, flush=True)
    work = folder / "work"
    work.mkdir(exist_ok=True)
    (work / "model.py").write_text(MODEL)
    line = pythons[(f"{ROOT}[all]",)]
    seconds(line, "-c", FILES, cwd=work)
    model = "model.py:network --params p.npz --inputs X.npy --of hessian"
    commands: dict[str, list[float]] = {command.split()[0]: [] for command in COMMANDS}
    nothing: list[float] = []
    for turn in range(rounds + 1):  # the first one only warms up
        for package in PACKAGES:
            python = pythons[package.requirements]
            times = seconds(python, "-c", package.statement, cwd=work), seconds(python, "-c", "import jax", cwd=work)
            if turn:
                package.seconds.append(times[0])
                package.jax_seconds.append(times[1])
        for command in COMMANDS:
            spent = seconds(line, "-m", "nablax.cli", *command.format(model=model).split(), cwd=work)
            if turn:
                commands[command.split()[0]].append(spent)
        if turn:
            nothing.append(seconds(line, "-c", "pass", cwd=work))
    return list(PACKAGES), commands, nothing


HOW = """\
Each package in a new environment of its own. Dependencies: distributions that pip installed beside the package itself,
and in parentheses those that it names. Size: bytes of all files that came, with and without JAX, NumPy and SciPy. Time:
median of processes that import it, in turns, the start of Python ({start:.2f} s) taken off; added: the median
difference to `import jax` in the same environment in the same turn.

| package | version | JAX | dependencies | MB | MB without JAX | import, s | added to `import jax`, s |
|---|---|---|---|---|---|---|---|
"""

COMMANDS_HEAD = """
nablax imports JAX when a transform is first used, so that `import nablax` alone is faster than `import jax`.

## Time to first output

Commands on a network of 192 parameters and 5,000 samples, from the shell to the end of the process, compiling included;
medians.

| command | s |
|---|---|
"""


def text(document: dict[str, Any]) -> str:
    """The tables."""
    start = statistics.median(document["python"])
    rows = [_row(package, start) for package in document["packages"]]
    times = [f"| `nablax {name}` | {statistics.median(times):.2f} |" for name, times in document["commands"].items()]
    head = "\n".join(["# Footprint", "", *document["head"], "", HOW.format(start=start)])
    return head + "\n".join(rows) + "\n" + COMMANDS_HEAD + "\n".join(times) + "\n"


def _row(package: dict[str, Any], start: float) -> str:
    found, times = package["found"], zip(package["seconds"], package["jax_seconds"], strict=True)
    added = f"{statistics.median(a - b for a, b in times):+.2f}" if package["statement"] != "import jax" else ""
    cells = (package["label"], found["version"], found["jax"], f"{found['distributions']} ({found['direct']})")
    cells += (f"{found['bytes'] / 1e6:.0f}", f"{found['beside_jax'] / 1e6:.1f}")
    cells += (f"{statistics.median(package['seconds']) - start:.2f}", added)
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="where the environments are made, and kept")
    parser.add_argument("--out", type=Path, default=RESULTS / "footprint")
    parser.add_argument("--report", action="store_true", help="only the table, anew")
    options = parser.parse_args()
    file = options.out.with_suffix(".json")
    if not options.report:
        with tempfile.TemporaryDirectory() as scratch:
            packages, commands, nothing = measured(options.folder or Path(scratch), options.rounds)
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        known = environment()
        head = [
            f"- measured: {now}, commit {commit()}",
            f"- processor: {known['processor']}; Python {known['versions']['python']}; {options.rounds} rounds",
            f"- load of the machine afterwards: {os.getloadavg()[0]:.1f}",
        ]
        rows = [asdict(p) | {"requirements": [r.replace(str(ROOT), ".") for r in p.requirements]} for p in packages]
        document = {"head": head, "packages": rows, "commands": commands, "python": nothing}
        file.write_text(json.dumps(document, indent=1) + "\n")
    document = json.loads(file.read_text())
    page = text(document)
    options.out.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
