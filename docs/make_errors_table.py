"""Writes docs/errors.md: provokes every error of nablax and prints what it says.

With --check it compares instead, and exits 1 where the page is stale or where an error of the source is missing.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import io
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

os.environ["JAX_ENABLE_X64"] = "0"  # the page shows JAX as it is out of the box

import jax
import jax.numpy as jnp
import numpy as np

import nablax
from error_cases import (
    Case,
    arguments,
    coupling,
    files,
    libraries,
    models,
    montecarlo,
    options,
    parameters,
    pictures,
    results,
    stores,
)
from nablax import errors

PAGE = Path(__file__).with_name("errors.md")
SOURCE = Path(nablax.__file__).parent
PARTS = (options, arguments, models, libraries, coupling, parameters, montecarlo, results, pictures, files, stores)
CASES = [case for part in PARTS for case in part.CASES]

HEAD = """# Errors

Every error of nablax is a subclass of `nablax.NablaxError` and of the builtin error named below; all of them are in
`nablax.errors`. The messages are printed as they come: this page is written by `docs/make_errors_table.py`, which
provokes each of them, and a test fails where it is stale or where an error of the source is missing.

In the examples, `model(M, x) = tanh(M @ x)` with M (2, 4), and X holds D = 8 samples (8, 4); `wave(x)` is
sin(x[1] - x[0]) with T (8, 2). `own_rule` contains a `custom_vjp`, `unserved` a `while_loop` as well, and `wrong_rule`
a wrong `custom_jvp`. `installed_jaxlib(version)` pretends that this version is installed; `derive(...)` stands for the
command line `nablax derive ...`. F holds 8 samples of 3 numbers; `memory_in_use`, `room` and `full_device` pretend that
the process, the disk or the device is in that state.
"""

TABLE_HEAD = "| cause | message | remedy |\n|---|---|---|\n"


def names(folder: Path) -> dict:
    """What the code of a case may use; X, M and the rest are described in HEAD."""

    def model(M, x):
        return jnp.tanh(M @ x)

    @jax.custom_vjp
    def own(x):
        return jnp.tanh(x)

    own.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: ((1 - jnp.tanh(x) ** 2) * g,))

    @jax.custom_jvp
    def wrong(x):
        return jnp.tanh(x)

    wrong.defjvp(lambda primals, tangents: (jnp.tanh(primals[0]), 2 * tangents[0]))

    def unserved(M, x):
        return jax.lax.while_loop(lambda y: jnp.sum(y) > 10, lambda y: y / 2, own(M @ x))

    found = {
        "installed_jaxlib": lambda version: mock.patch("jaxlib.__version__", version),
        "model": model,
        "scaled": lambda M, x, s: s * jnp.tanh(M @ x),
        "wave": lambda x: jnp.sin(x[1] - x[0]),
        "own_rule": lambda M, x: own(M @ x),
        "wrong_rule": lambda M, x: wrong(M @ x),
        "unserved": unserved,
        "M": jnp.linspace(-1.0, 1.0, 8).reshape(2, 4),
        "X": jnp.linspace(0.0, 1.0, 32).reshape(8, 4),
        "T": jnp.linspace(0.0, 1.0, 16).reshape(8, 2),
    }
    return found | files.names(folder) | stores.names(folder) | {"jax": jax, "jnp": jnp, "np": np, "nablax": nablax}


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keeps progress bars off the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def provoke(case: Case, folder: Path) -> tuple[nablax.NablaxError, tuple[str, int]]:
    """The error of a case, and the file and line of the source that raised it."""
    try:
        with contextlib.chdir(folder), silence():
            exec(case.code, names(folder))
    except nablax.NablaxError as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(SOURCE)]
        return error, (frames[-1].filename, frames[-1].lineno or 0)
    raise SystemExit(f"this was expected to raise an error of nablax, and did not: {case.code}")


def message(error: nablax.NablaxError, folder: Path) -> str:
    """The text as a table cell, without what differs from machine to machine."""
    text = str(error).replace(str(folder) + os.sep, "").replace(str(folder), "")
    text = re.sub(r"relative error +\S+", "relative error ...", text)
    return escape(re.sub(r"(?<=\S) {2,}", " ", text))


def escape(text: str) -> str:
    """Text that means the same in Markdown."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|$])", r"\\\1", text)
    return text.replace("\n", "<br>")


def page(provoked: list[tuple[Case, nablax.NablaxError]], folder: Path) -> str:
    """The whole page: one section and one table for each class."""
    parts = [HEAD]
    for name in errors.__all__:
        kind = getattr(errors, name)
        rows = [(case, error) for case, error in provoked if type(error) is kind]
        if rows:
            builtin = kind.__bases__[1].__name__
            parts.append(f"\n## {name}\n\n{kind.__doc__} It is a `{builtin}` too.\n\n{TABLE_HEAD}")
            for case, error in rows:
                code = case.code.replace("|", "\\|").replace("\n", "; ")
                cells = (f"{escape(case.cause)}<br>`{code}`", message(error, folder), escape(case.remedy))
                parts.append(f"| {' | '.join(cells)} |\n")
    return "".join(parts)


def raise_sites() -> Iterator[tuple[str, int, int, str]]:
    """(file, first line, last line, class) of every statement of the source that raises an error of nablax."""
    named = set(errors.__all__) - {"NablaxError"}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                raised = getattr(node.exc.func, "id", getattr(node.exc.func, "attr", ""))
                if raised in named:
                    yield str(path), node.lineno, node.end_lineno or node.lineno, raised


def missing_sites(seen: set[tuple[str, int]]) -> list[str]:
    """The raise statements that no case has reached."""
    return [
        f"{Path(path).relative_to(SOURCE)}:{first}: {raised}"
        for path, first, last, raised in raise_sites()
        if not any(file == path and first <= line <= last for file, line in seen)
    ]


def main() -> int:
    """Writes or checks the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        files.prepare(folder)
        stores.prepare(folder)
        results = [(case, *provoke(case, folder)) for case in CASES]
        text = page([(case, error) for case, error, _ in results], folder)
    missing = missing_sites({site for _, _, site in results})
    for site in missing:
        print(f"no case in docs/error_cases provokes {site}", file=sys.stderr)
    if check and PAGE.read_text() != text:
        diff = difflib.unified_diff(
            PAGE.read_text().splitlines(), text.splitlines(), "docs/errors.md", "now", n=0, lineterm=""
        )
        print("docs/errors.md is stale; run python docs/make_errors_table.py", *diff, sep="\n", file=sys.stderr)
        return 1
    if not check:
        PAGE.write_text(text)
        print(f"{PAGE}: {len(results)} errors")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
