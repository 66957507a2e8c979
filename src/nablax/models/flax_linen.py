"""Flax Linen: the collection ``params`` of the variables is trained, the others are constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nablax._errors import OptionError
from nablax._types import PyTree, kind_of
from nablax.models import Apply

BATCHED = True
HOLDS_PARAMETERS = False
TAKES_KEYS = True


def adapt(model: Any, variables: PyTree, rngs: tuple[str, ...], options: dict[str, Any]) -> tuple[PyTree, Apply]:
    """(params, apply); with ``mutable=[..]`` among the options a call returns (y, state), as Linen has it."""
    if not isinstance(variables, Mapping) or "params" not in variables:
        given = f"a dict with {sorted(variables)}" if isinstance(variables, Mapping) else kind_of(variables)
        raise OptionError(f"variables are {given}; they should be what model.init(..) returned, a dict with 'params'.")
    rest = {name: collection for name, collection in variables.items() if name != "params"}

    def apply(params: PyTree, keys: dict[str, Any], *args: Any) -> PyTree:
        return model.apply({**rest, "params": params}, *args, rngs=keys, **options)

    return variables["params"], apply
