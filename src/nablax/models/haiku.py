"""Haiku: what `haiku.transform` or `haiku.transform_with_state` returned."""

from __future__ import annotations

from typing import Any

import haiku

from nablax._errors import OptionError
from nablax._types import PyTree, kind_of
from nablax.models import Apply

BATCHED = True
HOLDS_PARAMETERS = False
TAKES_KEYS = True


def adapt(model: Any, variables: PyTree, rngs: tuple[str, ...], options: dict[str, Any]) -> tuple[PyTree, Apply]:
    """(params, apply); a state is a constant, and what it changes to is not returned."""
    if not isinstance(model, haiku.Transformed | haiku.TransformedWithState):
        raise OptionError(f"from_model was given {kind_of(model)} of Haiku; it takes what haiku.transform(f) returns.")
    if len(rngs) > 1:
        raise OptionError(f"rngs={rngs!r} was given; Haiku draws everything from one key: name one stream.")
    if isinstance(model, haiku.Transformed):

        def apply(params: PyTree, keys: dict[str, Any], *args: Any) -> PyTree:
            return model.apply(params, next(iter(keys.values()), None), *args, **options)

        return variables, apply
    if not isinstance(variables, tuple) or len(variables) != 2:
        raise OptionError("the model has a state: give (params, state), as model.init(..) returned them, as variables.")
    params, state = variables

    def apply_with_state(params: PyTree, keys: dict[str, Any], *args: Any) -> PyTree:
        return model.apply(params, state, next(iter(keys.values()), None), *args, **options)[0]

    return params, apply_with_state
