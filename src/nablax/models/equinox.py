"""Equinox: the floating point arrays of a module are trained."""

from __future__ import annotations

from typing import Any

import equinox

from nablax._types import PyTree
from nablax.models import Apply

BATCHED = False
HOLDS_PARAMETERS = True
TAKES_KEYS = True


def adapt(model: Any, variables: None, rngs: tuple[str, ...], options: dict[str, Any]) -> tuple[PyTree, Apply]:
    """(params, apply); the parameters are the module with None in place of whatever is not trained."""
    params, rest = equinox.partition(model, equinox.is_inexact_array)

    def apply(params: PyTree, keys: dict[str, Any], *args: Any) -> PyTree:
        return equinox.combine(params, rest)(*args, **keys, **options)

    return params, apply
