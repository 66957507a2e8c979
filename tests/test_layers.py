"""Imports point one way: transforms -> planning -> strategies -> graph. Read from the source; nothing has to run."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import nablax

SOURCE = Path(nablax.__file__).parent

# What each part may import of nablax, besides itself and the base. A part that is not named here is an application of
# the library (store, cli, models ..): it may import everything, and nothing that is named here may import it.
BASE = ("_errors", "_types", "_compat", "_layout", "_dimensions", "_json", "_heat", "_version")
ALLOWED = {
    "base": (),
    "graph": (),
    "strategies": ("graph",),
    "planning": ("strategies", "graph"),
    "batching": (),
    "parameters": ("graph", "batching"),
    "independence": ("graph",),
    "transforms": ("planning", "strategies", "graph", "batching", "parameters", "independence"),
}
TRANSFORMS = (
    "_transforms",
    "_partials",
    "_check",
    "_explain",
    "_options",
    "_call",
    "_rehearsal",
    "_sample",
    "_cache",
    "_parametric",
    "_operands",
    "_programs",
    "_operator",
    "_to_xarray",
    "_parameters",
    "_natural_gradient",
    "_per_sample",
    "_spot_check",
    "_diagnose",
)
# These only hand on names.
FACADES = ("__init__", "errors")


def modules() -> dict[str, Path]:
    """Name -> file of every module, the leading ``nablax.`` left off; packages by the name of their folder."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


MODULES = modules()


def part_of(module: str) -> str:
    top = module.split(".")[0]
    return "base" if top in BASE else "transforms" if top in TRANSFORMS else "facade" if top in FACADES else top


def imports(tree: ast.AST, module: str, everywhere: bool = True) -> set[str]:
    """Absolute names of all imports in `tree`: of modules, and of names in modules. Relative ones are resolved."""
    package = ["nablax", *module.split(".")]
    if module not in MODULES or MODULES[module].name != "__init__.py":
        package = package[:-1]
    nodes = ast.walk(tree) if everywhere else getattr(tree, "body", [])
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def own_imports(tree: ast.AST, module: str, everywhere: bool = True) -> set[str]:
    """The modules of nablax that are imported, the leading ``nablax.`` left off."""
    names = {name.removeprefix("nablax.") for name in imports(tree, module, everywhere) if name.startswith("nablax.")}
    return {name for name in names if name in MODULES}


def violations(tree: ast.AST, module: str) -> list[str]:
    """What `module` imports and must not."""
    part = part_of(module)
    if part not in ALLOWED:
        return []
    allowed = {part, "base", *ALLOWED[part]}
    return sorted(f"{module} imports {other}" for other in own_imports(tree, module) if part_of(other) not in allowed)


def internals(tree: ast.AST, module: str) -> list[str]:
    """Uses of ``jax._src`` and ``jax.interpreters``: imports, and attributes of jax."""
    used = set()
    for name in imports(tree, module):
        used |= {private for private in ("jax._src", "jax.interpreters") if f"{name}.".startswith(f"{private}.")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("jax._src", "jax.interpreters"):
            used.add(ast.unparse(node))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("jax._src"):
            used.add("jax._src")
    return sorted(used)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    assert not violations(ast.parse(MODULES[module].read_text()), module)


@pytest.mark.parametrize("module", MODULES)
def test_only_compat_touches_what_is_private_in_jax(module):
    used = internals(ast.parse(MODULES[module].read_text()), module)
    assert "jax._src" not in used
    assert module == "_compat" or not used


@pytest.mark.parametrize(
    "module, source",
    [
        ("graph.trace", "from nablax.strategies import base"),
        ("graph", "import nablax.planning.choose"),
        ("graph.trace", "from ..planning import choose"),
        ("strategies.nested", "from nablax import planning"),
        ("strategies", "from ..planning.problem import Problem"),
        ("planning.choose", "def f():\n    from nablax._transforms import hessian"),
        ("batching.chunks", "from nablax.graph import Graph"),
        ("_layout", "from nablax.graph import Graph"),
        ("_transforms", "from nablax.store import run"),
        ("_call", "import nablax.cli"),
    ],
)
def test_a_violation_is_seen(module, source, monkeypatch):
    """The tests above can fail."""
    for name in ("store", "cli"):
        monkeypatch.setitem(MODULES, name, SOURCE / f"{name}.py")
    assert violations(ast.parse(source), module)


@pytest.mark.parametrize(
    "source",
    [
        "import jax._src.core",
        "from jax._src import core",
        "from jax import _src",
        "import jax\njax._src.core",
        "import importlib\nimportlib.import_module('jax._src.core')",
        "from jax.interpreters import ad",
        "from jax import interpreters",
        "import jax\njax.interpreters.ad",
    ],
)
def test_a_private_name_is_seen(source):
    assert internals(ast.parse(source), "_call")


def test_the_parts_of_the_plan_exist():
    parts = {part_of(module) for module in MODULES}
    assert {"graph", "strategies", "planning", "batching", "transforms", "base"} <= parts


def test_no_cycles():
    """Module-level imports of nablax have an order."""
    graph = {
        name: own_imports(ast.parse(path.read_text()), name, everywhere=False) - {name}
        for name, path in MODULES.items()
    }
    # A package is loaded before what is in it, and imports from there: that is no cycle.
    for name in graph:
        graph[name] -= {other for other in graph[name] if name.startswith(f"{other}.")}
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("statement", ["import nablax", "import nablax.cli"])
def test_jax_is_imported_late(statement):
    """`nablax --help` must not wait for JAX."""
    if statement.endswith("cli") and "cli" not in MODULES:
        pytest.fail("there is no command line")
    code = f"{statement}; import sys; print([name for name in ('jax', 'numpy', 'zarr') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_few_and_resolve():
    assert len(nablax.__all__) <= 25
    for name in nablax.__all__:
        assert getattr(nablax, name) is not None
    assert set(nablax.__all__) <= set(dir(nablax))
    with pytest.raises(AttributeError, match="no attribute 'hessain'"):
        nablax.hessain  # noqa: B018


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = function.body[0]
    docstring = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if docstring else 0)


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_are_short(module):
    """A file is one idea, a function fits a screen."""
    text = MODULES[module].read_text()
    assert len(text.splitlines()) <= 400
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not [f"{function.name}: {length(function)} lines" for function in functions if length(function) > 60]
