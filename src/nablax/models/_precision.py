"""Parameters that JAX would round without a word."""

from __future__ import annotations

from typing import Any

import jax

from nablax._errors import OptionError
from nablax._types import PyTree


def refuse_rounding(params: PyTree) -> None:
    """End if parameters have twice the precision that JAX computes in as it is set up.

    Raises:
        nablax.OptionError: some are float64 or complex128.
    """
    if jax.config.read("jax_enable_x64"):
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name: Any = getattr(getattr(leaf, "dtype", None), "name", "")
        if name in ("float64", "complex128"):
            raise OptionError(
                f"the parameter {jax.tree_util.keystr(path, simple=True, separator='/')} of the model is {name}, which "
                "JAX would round: call jax.config.update('jax_enable_x64', True) first, or convert the model."
            )
