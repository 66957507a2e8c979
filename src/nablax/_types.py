"""The words that the rest of the package is written in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

PyTree = Any
"""Any nesting of tuples, lists, dicts and registered classes whose leaves are arrays."""

Model = Callable[..., Any]
"""A function of one sample: ``model(params, x, *rest) -> y``."""

Want = Literal["value", "jacobian", "hessian", "hessian_diagonal", "laplacian", "divergence"]

WANTS: tuple[str, ...] = ("value", "jacobian", "hessian", "hessian_diagonal", "laplacian", "divergence")
INPUT_AXES = {"value": 0, "jacobian": 1, "hessian": 2, "hessian_diagonal": 1, "laplacian": 0, "divergence": 0}
"""How many axes C the result of each want has."""

BY_PARAMETERS = ("parameter_jacobian", "squared_norms")
"""Results for single samples that are derivatives by the parameters."""

OF_PAIRS = ("gram",)
"""Results for all pairs of samples."""

SECOND_ORDER: frozenset[str] = frozenset({"hessian", "hessian_diagonal", "laplacian"})


def kind_of(value: Any) -> str:
    """What a value is called in a message: "an array" whatever class JAX or NumPy gives it, else "a" and its class."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return "an array" if getattr(value.dtype, "kind", "V") in "biufcV" else f"an array of {value.dtype.name}s"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
