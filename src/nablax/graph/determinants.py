"""The logarithm of a determinant with derivatives by products: its matrix is inverted once.

JAX derives `jnp.linalg.slogdet` by solving with the matrix for every direction and again for every pair of them, and a
triangular solve of a small matrix costs many times its arithmetic. Here

    d log|det A| = tr(A^-1 dA),        d A^-1 = -A^-1 dA A^-1,

so that derivatives of every order are products with one inverse, and the second one is that of one product for each
direction, not for each pair: -tr(K_c K_e) with K_c = A^-1 dA_c. Both ways lose the same digits: as many as the
condition of A has. At a singular matrix there is no derivative: here it is NaN, where JAX has infinities whose signs
come from rounding. Reference: Forward Laplacian (R. Li et al., arXiv 2307.08214), where Slater determinants are derived
so.
"""

from __future__ import annotations

import string
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import Array

from nablax._compat import CUSTOM_JVP, jaxpr_of, matrix_primitive
from nablax.graph.products import product


def slogdet(A: Array) -> tuple[Array, Array]:
    """Sign and logarithm of |det A|, as `jnp.linalg.slogdet` computes them, of real matrices (.., n, n)."""
    return tuple(slogdet_p.bind(A))


def _derivative(A: Array, dA: Array) -> Any:
    sign, log = slogdet(A)
    slope = jnp.sum(jnp.swapaxes(_inverse(A), -1, -2) * dA, (-2, -1))
    return (sign, log), (jnp.zeros_like(sign), slope)


slogdet_p = matrix_primitive("slogdet", 2, lambda A: tuple(jnp.linalg.slogdet(A)), _derivative)


def curvature_factors(A: Array, tangents: Array) -> tuple[Array, Array]:
    """(K, L), each (n, .., N, N), for tangents of A like them: d2 log|det A| [dA_c, dA_e] = -sum(K[c] * L[e]) over the
    last two axes.
    """
    K = _times(_inverse(A), tangents)
    return K, jnp.swapaxes(K, -1, -2)


@jax.custom_jvp
def _inverse(A: Array) -> Array:
    """A^-1; NaN where A is singular, so that what has no derivative is not infinite in a direction of chance."""
    inverse = jnp.linalg.inv(A)
    return jnp.where(jnp.all(jnp.isfinite(inverse), (-2, -1), keepdims=True), inverse, jnp.nan)


@_inverse.defjvp
def _inverse_jvp(primals: tuple[Array], tangents: tuple[Array]) -> Any:
    inverse = _inverse(*primals)
    return inverse, -_times(_times(inverse, *tangents), inverse)


def _times(A: Array, B: Array) -> Array:
    """Products of matrices, along all leading axes of the one that has more of them."""
    leading = string.ascii_letters[3 : max(A.ndim, B.ndim) + 1]
    own = lambda matrices: leading[len(leading) + 2 - matrices.ndim :]
    how = {"precision": jax.lax.Precision.HIGHEST, "preferred_element_type": None}
    return product(A, B, first=own(A) + "ab", second=own(B) + "bc", out=leading + "ac", **how)


def by_products(eqn: Any) -> Any:
    """The jaxpr of `slogdet` in place of an equation that is the one of JAX; None if it is another.

    It is known by what it computes and by what its rule computes; a function that is only called like it is not.
    """
    if eqn.primitive is not CUSTOM_JVP or len(eqn.invars) != 1:
        return None
    A = jax.ShapeDtypeStruct(eqn.invars[0].aval.shape, eqn.invars[0].aval.dtype)
    if A.ndim < 2 or A.shape[-1] != A.shape[-2] or 0 in A.shape or A.dtype.kind != "f":
        return None
    if [(o.aval.shape, o.aval.dtype) for o in eqn.outvars] != 2 * [(A.shape[:-2], A.dtype)]:
        return None
    own = _text(eqn, A)
    return jax.make_jaxpr(slogdet)(A) if own and own in (_text(known, A) for known in _rules_of_jax(A)) else None


def _text(eqn: Any, A: jax.ShapeDtypeStruct) -> str | None:
    """What an equation and its derivative compute; None where its rule fails, or the text would not show all of it."""
    bound = lambda A: eqn.primitive.bind(A, **eqn.primitive.get_bind_params(eqn.params))
    try:
        closed = jax.make_jaxpr(lambda A, dA: (bound(A), jax.jvp(bound, (A,), (dA,))))(A, A)
    except Exception:  # whatever a rule of the user raises: it is not the one of JAX
        return None
    return None if closed.consts else str(closed.jaxpr)


def _rules_of_jax(A: jax.ShapeDtypeStruct) -> list[Any]:
    """The equation of `jnp.linalg.slogdet` for many matrices at once, and those for fewer of them under `vmap`."""
    function: Any = jnp.linalg.slogdet
    functions = [function]
    for _ in A.shape[:-2]:
        function = jax.vmap(function)
        functions.append(function)
    found = (_first_rule(jax.make_jaxpr(function)(A).jaxpr) for function in functions)
    return [eqn for eqn in found if eqn is not None]


def _first_rule(jaxpr: Any) -> Any:
    """The first equation with a custom rule, at any depth."""
    for eqn in jaxpr.eqns:
        if eqn.primitive is CUSTOM_JVP:
            return eqn
        for inner in jex.jaxprs_in_params(eqn.params):
            if (found := _first_rule(jaxpr_of(inner))) is not None:
                return found
    return None
