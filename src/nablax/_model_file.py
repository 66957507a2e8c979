"""The model that a command line names: a function in a file or a module."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from nablax._errors import DataError


def load_model(spec: str) -> Any:
    """The function that FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION names."""
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise DataError(f"the model {spec!r} names no function; write FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION.")
    if place.endswith(".py") and not Path(place).is_file():
        raise DataError(f"{place}: there is no such file.")
    try:
        module = _run_file(Path(place)) if place.endswith(".py") else _import(place)
    except (Exception, SystemExit) as error:
        raise DataError(f"{place}: {type(error).__name__} was raised when it was imported ({error}).") from error
    model = getattr(module, name, None)
    if not callable(model):
        own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        functions = [n for n in own if not n.startswith("_")]
        raise DataError(f"{place}: it has no function {name!r}; it has {', '.join(functions) or 'none'}.")
    return model


def _run_file(path: Path) -> Any:
    """The module in a file, which can import its neighbours as if Python had been started with it."""
    from importlib import util

    found = util.spec_from_file_location(f"nablax_model_{path.stem}", path)
    assert found is not None
    assert found.loader is not None
    module = util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses look their module up there
    sys.path.insert(0, str(path.resolve().parent))
    found.loader.exec_module(module)
    return module


def _import(name: str) -> Any:
    """A module by name, from the working folder too: an installed command does not look there by itself."""
    import importlib

    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)
