"""Keras 3 under its JAX backend: the trainable variables by their paths."""

from __future__ import annotations

from typing import Any

import keras

from nablax._errors import OptionError
from nablax._types import PyTree
from nablax.models import Apply

BATCHED = True
HOLDS_PARAMETERS = True
TAKES_KEYS = False


def adapt(model: Any, variables: None, rngs: tuple[str, ...], options: dict[str, Any]) -> tuple[PyTree, Apply]:
    """(params, apply); as in Keras itself, a call is one for evaluation unless ``training=True`` is given."""
    if keras.backend.backend() != "jax":
        raise OptionError(
            f"Keras computes with {keras.backend.backend()} here; set the environment variable KERAS_BACKEND=jax "
            "before it is imported."
        )
    if not model.built:
        raise OptionError("the Keras model has no weights yet; call it once, or model.build(shape), before from_model.")
    paths = _different([variable.path for variable in model.trainable_variables])
    rest = [variable.value for variable in model.non_trainable_variables]
    options = {"training": False, **options}

    def apply(params: PyTree, keys: dict[str, Any], *args: Any) -> PyTree:
        return model.stateless_call([params[path] for path in paths], rest, *args, **options)[0]

    values = [variable.value for variable in model.trainable_variables]
    return dict(zip(paths, values, strict=True)), apply


def _different(paths: list[str]) -> list[str]:
    """The paths, numbered where layers of the same name have the same."""
    return [f"{path}:{k}" if (k := paths[:place].count(path)) else path for place, path in enumerate(paths)]
