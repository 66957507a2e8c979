"""The only file that may know how JAX differs from version to version, or touch its internals."""

from __future__ import annotations

import os
from typing import Any

import jax
import jaxlib
from jax.extend.core import primitives

CUSTOM_VJP = primitives.custom_vjp_call_p
WHILE = primitives.while_p
SCAN = primitives.scan_p
CUSTOM_JVP = primitives.custom_jvp_call_p
DOT_GENERAL = primitives.dot_general_p


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


def wrong_sums() -> str | None:
    """Why the installed jaxlib cannot be trusted on the default device, or None.

    jaxlib 0.10.2 on a CPU drops terms of some sums (jax issue 39103): gradients and Hessians of plain JAX are wrong
    there too. The flag turns the faulty optimisation off.
    """
    flag = "--xla_cpu_experimental_ynn_fusion_type="
    safe = flag in os.environ.get("XLA_FLAGS", "").split()
    if jaxlib.__version__ != "0.10.2" or safe or jax.default_backend() != "cpu":
        return None
    return (
        "jaxlib 0.10.2 is installed, which computes wrong sums on a CPU (jax issue 39103); install another version "
        f"(pip install 'jax!=0.10.2'), or set XLA_FLAGS={flag} before Python starts."
    )
