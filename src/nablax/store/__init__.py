"""Derivatives of data sets on disk: read inputs, run in units, write a zarr 3 group.

Needs the extra ``cli``. The names are loaded when they are first used, because zarr takes longer to import than a short
command runs.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nablax.store.inputs import Inputs, read_inputs
    from nablax.store.interrupts import RunInterrupted
    from nablax.store.parameters import load_parameters, save_parameters
    from nablax.store.picture import plot_store
    from nablax.store.report import RunReport
    from nablax.store.streaming import run
    from nablax.store.summary import StoreSummary, inspect_store

_HOME = {
    "Inputs": "inputs",
    "read_inputs": "inputs",
    "load_parameters": "parameters",
    "save_parameters": "parameters",
    "RunReport": "report",
    "RunInterrupted": "interrupts",
    "StoreSummary": "summary",
    "inspect_store": "summary",
    "plot_store": "picture",
    "run": "streaming",
}

__all__ = [
    "Inputs",
    "RunInterrupted",
    "RunReport",
    "StoreSummary",
    "inspect_store",
    "load_parameters",
    "plot_store",
    "read_inputs",
    "run",
    "save_parameters",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOME:
        raise AttributeError(f"module 'nablax.store' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"nablax.store.{_HOME[name]}"), name)
    globals()[name] = value
    return value
