"""Names for the primitives of JAX that rules are made for; a version of JAX may lack some."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
from jax import lax
from jax.extend.core import primitives as p


def known(names: str) -> tuple[Any, ...]:
    """The primitives of these names that this version of JAX has."""
    places = (p, lax, lax.linalg)
    found = [getattr(place, f"{name}_p", None) for name in names.split() for place in places]
    return tuple(dict.fromkeys(primitive for primitive in found if primitive is not None))


def table(rules: dict[str, Any]) -> dict[Any, Any]:
    """Rules by primitive, from rules by names separated by blanks."""
    return {primitive: rule for names, rule in rules.items() for primitive in known(names)}


@cache
def key_primitives() -> tuple[Any, Any]:
    """(random_wrap, random_unwrap), which JAX does not export: numbers as a random key, and back."""
    bits = jax.ShapeDtypeStruct((2,), "uint32")
    wrap = jax.make_jaxpr(lambda bits: jax.random.wrap_key_data(bits, impl="threefry2x32"))(bits)
    unwrap = jax.make_jaxpr(lambda bits: jax.random.key_data(jax.random.wrap_key_data(bits, impl="threefry2x32")))(bits)
    return wrap.eqns[-1].primitive, unwrap.eqns[-1].primitive


BROADCASTS = frozenset(known("broadcast_in_dim tile"))
