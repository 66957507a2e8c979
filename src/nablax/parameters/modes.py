"""Complex numbers: which coordinates the parameters have, and which rows the output.

A complex number is two real ones. For a row y of the output and a seam z = x W, JAX's adjoint is

    v = dy/dRe(z) - i dy/dIm(z),   so that   dy = Re(v x dW):

a real W has the derivative Re(x v), a complex one Re(x v) by its real part and -Im(x v) by its imaginary part. A
complex output has two rows, its real and its imaginary part. Only a function that is holomorphic in all parameters has
one complex derivative, x v itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import Array
from jax.extend.core import primitives as p

from nablax._compat import CUSTOM_VJP, jaxpr_of
from nablax.graph.classify import INLINED, NOT_HOLOMORPHIC, Table
from nablax.parameters.factors import Bias, Block, InFactors, Term, Whole, Zero

MODES = ("auto", "real", "complex", "holomorphic")


def rows_of(y: Array, holomorphic: bool) -> Array:
    """The cotangents, one for each row: the entries of y; for a complex y their real and then their imaginary parts."""
    one = jnp.eye(y.size, dtype=y.dtype)
    return jnp.concatenate([one, -1j * one]) if jnp.iscomplexobj(y) and not holomorphic else one


def join_rows(array: Array, A: int, axis: int) -> Array:
    """Rows on `axis` -> entries of y: real and imaginary parts become complex numbers."""
    if array.shape[axis] == A:
        return array
    real, imaginary = jnp.split(array, 2, axis)
    return real + 1j * imaginary


def coordinates(block: Block, leaf: Any, holomorphic: bool) -> list[Block]:
    """The derivative by the coordinates of a leaf: itself, or its real and then its imaginary part."""
    if holomorphic or isinstance(block, Bias):
        return [block]
    dtype = jnp.finfo(leaf.dtype).dtype
    parts = (False, True) if jnp.iscomplexobj(leaf) else (False,)
    return [_part(block, imaginary, dtype) for imaginary in parts]


def _part(block: InFactors | Whole | Zero, imaginary: bool, dtype: Any) -> Block:
    """Re(u v), or -Im(u v), in real numbers."""
    if isinstance(block, Zero):
        return Zero(block.none.real.astype(dtype), block.size)
    if isinstance(block, Whole):
        return Whole((-block.rows.imag if imaginary else block.rows.real).astype(dtype))
    return InFactors(tuple(_real_term(term, imaginary, dtype) for term in block.terms), block.view)


def _real_term(term: Term, imaginary: bool, dtype: Any) -> Term:
    cast = lambda x: x if jnp.issubdtype(x.dtype, jnp.integer) else x.astype(dtype)
    u, v = term.u, term.v
    part = (lambda x: -x.imag) if imaginary else (lambda x: x.real)
    if jnp.iscomplexobj(u) and jnp.iscomplexobj(v):
        # Re(u v) = Re u Re v - Im u Im v,  -Im(u v) = -Re u Im v - Im u Re v: twice as many positions
        first, second = (-v.imag, -v.real) if imaginary else (v.real, -v.imag)
        u, v = jnp.concatenate([u.real, u.imag], axis=-2), jnp.concatenate([first, second], axis=-2)
    elif jnp.iscomplexobj(u):
        u = part(u)
    else:
        v = part(v)
    return Term(cast(u), cast(v), term.lookup)


# ------------------------------------------------------------------------------------------------------- holomorphic?


def breaks_holomorphy(closed: Any, leaves: Sequence[int], table: Table) -> str | None:
    """The first operation on the way from the inputs `leaves` to the first output that may not be holomorphic.

    None proves that the function is holomorphic wherever it is differentiable.
    """
    jaxpr = jaxpr_of(closed)
    moving = {jaxpr.invars[leaf] for leaf in leaves}
    return _first_suspect(jaxpr, moving, _needed(jaxpr, jaxpr.outvars[:1]), table)


def _needed(jaxpr: Any, outputs: Sequence[Any]) -> set[Any]:
    """The variables that the outputs depend on."""
    needed = {var for var in outputs if isinstance(var, jex.Var)}
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            needed.update(var for var in eqn.invars if isinstance(var, jex.Var))
    return needed


def _first_suspect(jaxpr: Any, moving: set[Any], needed: set[Any], table: Table) -> str | None:
    moving = set(moving)
    for eqn in jaxpr.eqns:
        inputs = [var for var in eqn.invars if isinstance(var, jex.Var) and var in moving]
        outputs = [var for var in eqn.outvars if jnp.issubdtype(var.aval.dtype, jnp.inexact)]
        if not inputs or not outputs or eqn.primitive in table.zero or not needed.intersection(eqn.outvars):
            continue
        moving.update(outputs)
        inner = list(jex.jaxprs_in_params(eqn.params))
        if inner:
            for closed in map(jaxpr_of, inner):
                if eqn.primitive in INLINED:
                    entering = {own for own, var in zip(closed.invars, eqn.invars, strict=True) if var in inputs}
                else:
                    # Whatever enters a loop or a branch may move everything inside: the proof holds for every turn.
                    entering = {var for var in closed.invars if jnp.issubdtype(var.aval.dtype, jnp.complexfloating)}
                suspect = _first_suspect(closed, entering, _needed(closed, closed.outvars), table)
                if suspect:
                    return suspect
            if eqn.primitive is not CUSTOM_VJP:
                continue
        complex_all = all(jnp.issubdtype(jnp.result_type(var.aval), jnp.complexfloating) for var in (*inputs, *outputs))
        known = eqn.primitive in table.linear | table.elementwise | table.bilinear
        if not complex_all or not known or eqn.primitive in NOT_HOLOMORPHIC | _CONJUGATING:
            return eqn.primitive.name
    return None


# Linear for real numbers only, or choices by size.
_CONJUGATING = frozenset(
    {p.conj_p, p.real_p, p.imag_p, p.sort_p, p.reduce_max_p, p.reduce_min_p, p.cummax_p, p.cummin_p}
)


def cauchy_riemann_error(function: Callable[[list[Array]], Array], leaves: list[Array], key: Array) -> Array:
    """How far ``f'(v i)`` is from ``i f'(v)`` for random directions v, relative to f'(v): zero if f is holomorphic
    at these parameters.
    """
    keys = jax.random.split(key, len(leaves))
    v = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    along = lambda directions: jax.jvp(function, (leaves,), (directions,))[1]
    plain, turned = along(v), along([1j * direction for direction in v])
    scale = jnp.maximum(jnp.max(jnp.abs(plain)), jnp.max(jnp.abs(turned)))
    return jnp.max(jnp.abs(turned - 1j * plain)) / jnp.where(scale > 0, scale, 1)
