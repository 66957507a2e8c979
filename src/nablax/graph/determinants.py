"""The logarithm of a determinant with derivatives by products: its matrix is inverted once.

JAX derives `jnp.linalg.slogdet` by solving with the matrix for every direction and again for every pair of them, and a
triangular solve of a small matrix costs many times its arithmetic. Here

    d log|det A| = tr(A^-1 dA),        d A^-1 = -A^-1 dA A^-1,

so that derivatives of every order are products with one inverse. Both ways lose the same digits: as many as the
condition of A has. Reference: Forward Laplacian (R. Li et al., arXiv 2307.08214), where Slater determinants are derived
so.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import Array

from nablax._compat import CUSTOM_JVP, jaxpr_of


@jax.custom_jvp
def slogdet(A: Array) -> tuple[Array, Array]:
    """Sign and logarithm of |det A|, as `jnp.linalg.slogdet` computes them, of real matrices (.., n, n)."""
    return tuple(jnp.linalg.slogdet(A))  # pyright: ignore[reportReturnType]


@slogdet.defjvp
def _slogdet_jvp(primals: tuple[Array], tangents: tuple[Array]) -> Any:
    (A,), (dA,) = primals, tangents
    sign, log = slogdet(A)
    slope = jnp.sum(jnp.swapaxes(_inverse(A), -1, -2) * dA, (-2, -1))
    return (sign, log), (jnp.zeros_like(sign), slope)


@jax.custom_jvp
def _inverse(A: Array) -> Array:
    return jnp.linalg.inv(A)


@_inverse.defjvp
def _inverse_jvp(primals: tuple[Array], tangents: tuple[Array]) -> Any:
    inverse = _inverse(*primals)
    times = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    return inverse, -times(times(inverse, *tangents), inverse)


def by_products(eqn: Any) -> Any:
    """The jaxpr of `slogdet` in place of an equation that is the one of JAX; None if it is another.

    It is known by what it computes and by what its rule computes; a function that is only called like it is not.
    """
    if eqn.primitive is not CUSTOM_JVP or len(eqn.invars) != 1:
        return None
    A = jax.ShapeDtypeStruct(eqn.invars[0].aval.shape, eqn.invars[0].aval.dtype)
    if A.ndim < 2 or A.shape[-1] != A.shape[-2] or 0 in A.shape or A.dtype.kind != "f":
        return None
    return jax.make_jaxpr(slogdet)(A) if _text(eqn, A) in _texts_of_jax(A) else None


def _text(eqn: Any, A: jax.ShapeDtypeStruct) -> str:
    """What an equation computes, and what its derivative does."""
    bound = lambda A: eqn.primitive.bind(A, **eqn.primitive.get_bind_params(eqn.params))
    return str(jax.make_jaxpr(lambda A, dA: (bound(A), jax.jvp(bound, (A,), (dA,))))(A, A).jaxpr)


def _texts_of_jax(A: jax.ShapeDtypeStruct) -> list[str]:
    """The texts of `jnp.linalg.slogdet` for many matrices at once, and of the one for a single matrix under `vmap`."""
    function: Any = jnp.linalg.slogdet
    functions = [function]
    for _ in A.shape[:-2]:
        function = jax.vmap(function)
        functions.append(function)
    found = (_first_rule(jax.make_jaxpr(function)(A).jaxpr) for function in functions)
    return [_text(eqn, A) for eqn in found if eqn is not None]


def _first_rule(jaxpr: Any) -> Any:
    """The first equation with a custom rule, at any depth."""
    for eqn in jaxpr.eqns:
        if eqn.primitive is CUSTOM_JVP:
            return eqn
        for inner in jex.jaxprs_in_params(eqn.params):
            if (found := _first_rule(jaxpr_of(inner))) is not None:
                return found
    return None
