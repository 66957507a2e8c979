"""The only file that may know how JAX differs from version to version, or touch its internals."""

from __future__ import annotations

from typing import Any

import jax
from jax.extend.core import primitives

CUSTOM_VJP = primitives.custom_vjp_call_p
WHILE = primitives.while_p
SCAN = primitives.scan_p
CUSTOM_JVP = primitives.custom_jvp_call_p


def jaxpr_of(maybe_closed: Any) -> Any:
    """The plain jaxpr inside a closed one; from jax 0.11 on the two are the same class."""
    return getattr(maybe_closed, "jaxpr", maybe_closed)


def enable_x64(enable: bool = True) -> Any:
    """Context in which float64 exists; JAX moved it to the top level in 0.8."""
    return jax.enable_x64(enable)


def loop_arity(params: dict[str, Any]) -> tuple[int, int]:
    """(number of constants, number of carried values) of a scan; jax 0.11 renamed the parameters that say so."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carries, _ = params["ft_in"].unpack()
    return len(list(constants)), len(list(carries))
