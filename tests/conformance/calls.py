"""Every public function with its calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conformance import calls_lax, calls_numpy, calls_scipy
from conformance.layers import LAYERS
from conformance.public import functions

CALLS = calls_numpy.CALLS | calls_lax.CALLS | calls_scipy.CALLS
LAYERS_OF_FOLX = "layers"


@dataclass(frozen=True)
class Case:
    """A function to judge.

    Attributes:
        module, name: where it is found.
        function: the function itself.
        calls: how it is called; empty where a guess has to do.
        same: the name under which the same function comes earlier.
    """

    module: str
    name: str
    function: Callable[..., Any]
    calls: str | tuple[str, ...] = ""
    same: str = ""

    def __repr__(self) -> str:
        return f"{self.module}.{self.name}"


def cases() -> list[Case]:
    """In the order of the page."""
    first: dict[int, str] = {}
    found = []
    for module, public in functions().items():
        for name, function in public.items():
            same = first.setdefault(id(function), f"{module}.{name}")
            calls = CALLS.get(module, {}).get(name, "")
            found.append(Case(module, name, function, calls, same if same != f"{module}.{name}" else ""))
    return found + [Case(LAYERS_OF_FOLX, name, function, call) for name, (function, call) in LAYERS.items()]
