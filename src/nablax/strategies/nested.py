"""The plain strategies: one derivative taken of another, by JAX alone.

They are exact for whatever JAX can differentiate, they are the reference for every other strategy, and they are the
only ones that serve a model with its own ``custom_vjp``. Everything here is about one sample, a function ``f(v) -> (y,
rest)`` from a vector of C numbers to a vector of A numbers; the batch is added by the caller with ``jax.vmap``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nablax.graph import Bound
from nablax.strategies.base import (
    Derivatives,
    SampleFunction,
    Strategy,
    Wants,
    contract_hessian,
    contraction,
    unit_vectors,
    weight_rows,
)


def forward_jacobian(f: SampleFunction) -> Callable[[Array], tuple[Array, tuple[Array, Any]]]:
    """V -> (J (*y.shape, C), (y, rest)): C tangents pushed forward at once."""

    def jacobian(v: Array) -> tuple[Array, tuple[Array, Any]]:
        push = lambda tangent: jax.jvp(f, (v,), (tangent,), has_aux=True)
        y, columns, rest = jax.vmap(push, out_axes=(None, -1, None))(_basis(v))
        return columns, (y, rest)

    return jacobian


def reverse_jacobian(f: SampleFunction) -> Callable[[Array], tuple[Array, tuple[Array, Any]]]:
    """V -> (J (A, C), (y, rest)): A cotangents pulled back at once (2 A where y is complex)."""

    def jacobian(v: Array) -> tuple[Array, tuple[Array, Any]]:
        parts, pull, (y, rest) = jax.vjp(real_parts(f), v, has_aux=True)
        (rows,) = jax.vmap(pull)(_basis(parts))
        return join(rows, y), (y, rest)

    return jacobian


class Reverse(Strategy):
    """Cotangents only, first order. Cost: A reverse passes."""

    name = "reverse"
    summary = "one reverse pass for each of the A outputs"
    forward_mode = False
    reverse_mode = True
    max_order = 1

    def derive(self, f: Bound, v: Array, wants: Wants, weights: Array | None) -> Derivatives:
        jacobian, (y, rest) = reverse_jacobian(f.by_slopes)(v)
        return first_order_partials(Derivatives(y, jacobian, rest=rest), wants)


class ForwardOverReverse(Strategy):
    """Tangents of the reverse-mode Jacobian, as in ``jax.hessian``. Cost: C (1 + A) passes."""

    name = "forward_over_reverse"
    summary = "C tangents of a Jacobian that is taken in A reverse passes (as jax.hessian)"
    forward_mode = True
    reverse_mode = True
    max_order = 4

    def derive(self, f: Bound, v: Array, wants: Wants, weights: Array | None) -> Derivatives:
        if wants.indices:
            return _forward_partials(f, v, wants, first=lambda f, v, e: _column(reverse_jacobian(f), v, e))
        gradient = reverse_jacobian(f)
        if wants.order < 2:
            jacobian, (y, rest) = gradient(v)
            return Derivatives(y, jacobian, rest=rest)
        if "hessian" in wants.names:
            hessian, (jacobian, (y, rest)) = forward_jacobian(gradient)(v)
            return _contractions(Derivatives(y, jacobian, hessian, rest=rest), wants, weights)

        def along(e: Array, w: Array) -> tuple[Array, Array, tuple[Array, Any]]:
            jacobian, moved, carried = jax.jvp(gradient, (v,), (e,), has_aux=True)
            return contraction("ac,c->a", moved, w), jacobian, carried

        return _by_directions(along, v, wants, weights, jacobian_axis=None)


class ForwardOverForward(Strategy):
    """Tangents of tangents. Cost: C^2 + 2 C passes for the Hessian, 3 C for its diagonal or trace."""

    name = "forward_over_forward"
    summary = "tangents of tangents: C^2 of them for the Hessian, C for its diagonal or trace"
    forward_mode = True
    reverse_mode = False
    max_order = 4

    def derive(self, f: Bound, v: Array, wants: Wants, weights: Array | None) -> Derivatives:
        if wants.indices:
            return _forward_partials(f, v, wants, first=_push)
        if wants.order < 2:
            jacobian, (y, rest) = forward_jacobian(f)(v)
            return Derivatives(y, jacobian, rest=rest)
        if "hessian" in wants.names:
            hessian, (jacobian, (y, rest)) = forward_jacobian(forward_jacobian(f))(v)
            return _contractions(Derivatives(y, jacobian, hessian, rest=rest), wants, weights)

        def along(e: Array, w: Array) -> tuple[Array, Array, tuple[Array, Any]]:
            """d2f[e, w] and df[e]; the tangent along e is the one of the Jacobian's column."""
            inner = lambda v: _push(f, v, e)
            column, second, carried = jax.jvp(inner, (v,), (w,), has_aux=True)
            return second, column, carried

        return _by_directions(along, v, wants, weights, jacobian_axis=-1)


class ReverseOverReverse(Strategy):
    """Cotangents of cotangents, output by output. Cost: A (1 + C) passes; the only one for a ``custom_vjp``."""

    name = "reverse_over_reverse"
    summary = "for each output, C reverse passes through its reverse-mode gradient"
    forward_mode = False
    reverse_mode = True
    max_order = 4

    def derive(self, f: Bound, v: Array, wants: Wants, weights: Array | None) -> Derivatives:
        if wants.indices:
            return _reverse_partials(f, v, wants)
        if wants.order < 2:
            return Reverse().derive(f, v, wants, weights)
        parts, (y, rest) = real_parts(f)(v)
        basis = _basis(v)

        # One output at a time (under vmap): pulling A C cotangents through the Jacobian of all outputs at once would
        # cost A^2 C.
        def row(select: Array) -> tuple[Array, ...]:
            scalar = lambda v: jnp.vdot(select, real_parts(f)(v)[0])
            gradient, pull = jax.vjp(jax.grad(scalar), v)
            if "hessian" in wants.names:
                return gradient, jax.vmap(lambda e: pull(e)[0])(basis)
            found = (gradient,)
            if "hessian_diagonal" in wants.names:
                found += (jax.vmap(lambda e: jnp.vdot(pull(e)[0], e))(basis),)
            if "laplacian" in wants.names:
                rows = weight_rows(weights, basis)
                found += (jax.vmap(lambda e, w: jnp.vdot(pull(e)[0], w))(basis, rows).sum(),)
            return found

        jacobian, *seconds = (join(rows, y) for rows in jax.vmap(row)(_basis(parts)))
        if "hessian" in wants.names:
            return _contractions(Derivatives(y, jacobian, seconds[0], rest=rest), wants, weights)
        found = Derivatives(y, jacobian, rest=rest)
        if "hessian_diagonal" in wants.names:
            found = replace(found, diagonal=seconds.pop(0))
        if "laplacian" in wants.names:
            found = replace(found, laplacian=seconds.pop(0))
        return found


def refused_by_jax(f: SampleFunction, v: Array, strategy: Strategy, order: int) -> bool:
    """Whether JAX alone cannot differentiate `f` this often in the modes of the strategy. Nothing is computed."""
    nested = lambda v: real_parts(f)(v)[0]
    for level in range(order):
        reverse = strategy.reverse_mode and (level == 0 or not strategy.forward_mode)
        nested = (jax.jacrev if reverse else jax.jacfwd)(nested)
    try:
        jax.eval_shape(nested, v)
    except Exception:
        return True
    return False


def _by_directions(
    along: Callable[..., Any], v: Array, wants: Wants, weights: Array | None, jacobian_axis: int | None
) -> Derivatives:
    """Diagonal and Laplacian as second derivatives along pairs of directions, without the Hessian.

    `along(e, w)` gives d2f[e, w], the Jacobian (whole where `jacobian_axis` is None, else its column along e) and (y,
    rest).
    """
    basis = _basis(v)
    found: dict[str, Array] = {}
    shared: list[Any] = []
    if "hessian_diagonal" in wants.names:
        found["diagonal"], *shared = jax.vmap(along, out_axes=(-1, jacobian_axis, None))(basis, basis)
    if "laplacian" in wants.names:
        terms, *shared = jax.vmap(along, out_axes=(-1, jacobian_axis, None))(basis, weight_rows(weights, basis))
        found["laplacian"] = terms.sum(-1)
    jacobian, (y, rest) = shared
    return Derivatives(y, jacobian, None, found.get("diagonal"), found.get("laplacian"), rest=rest)


def _forward_partials(f: SampleFunction, v: Array, wants: Wants, first: Callable[..., Any]) -> Derivatives:
    """Partial derivatives by towers of tangents; `first` is how the innermost derivative is taken.

    A tower along (c1, c2, ..) yields y, y_c1, y_c1c2, .. on its way, so only the longest chains are built, and all
    chains of one length go through the model together.
    """
    basis = _basis(v)
    y, rest = f(v)
    found: dict[tuple[int, ...], Array] = {(): y}
    for chains in _longest_chains(wants.indices):

        def tower(directions: Array, length: int = len(chains[0])) -> list[Array]:
            level = lambda v: (y := f(v)[0], [y])
            for step in range(length):
                level = _next_level(level, directions[step], first if step == 0 else _push)
            return level(v)[1]

        levels = jax.vmap(tower)(jnp.stack([basis[jnp.array(chain)] for chain in chains]))
        for number, chain in enumerate(chains):
            found |= {chain[:order]: levels[order][number] for order in range(len(chain) + 1)}
    return Derivatives(y, partials={index: found[index] for index in wants.indices}, rest=rest)


def _reverse_partials(f: SampleFunction, v: Array, wants: Wants) -> Derivatives:
    """Partial derivatives by nested gradients, output by output."""
    parts, (y, rest) = real_parts(f)(v)
    orders = [(), *(index for index in wants.indices if index)]

    def row(select: Array) -> tuple[Array, ...]:
        found = []
        for index in orders:
            scalar = lambda v: jnp.vdot(select, real_parts(f)(v)[0])
            for c in index:
                scalar = lambda v, scalar=scalar, c=c: jax.grad(scalar)(v)[c]
            found.append(scalar(v))
        return tuple(found)

    values = dict(zip(orders, (join(rows, y) for rows in jax.vmap(row)(_basis(parts))), strict=True))
    return Derivatives(y, partials={index: values[index] for index in wants.indices}, rest=rest)


def _next_level(level: Callable[..., Any], direction: Array, derivative: Callable[..., Any]) -> Callable[..., Any]:
    """From v -> (g(v), [.., g(v)]) to v -> (dg(v), [.., g(v), dg(v)])."""

    def up(v: Array) -> tuple[Array, list[Array]]:
        moved, (_, below) = derivative(level, v, direction)
        return moved, [*below, moved]

    return up


def _longest_chains(indices: tuple[tuple[int, ...], ...]) -> list[list[tuple[int, ...]]]:
    """The indices that are no prefix of another one, grouped by their length."""
    chains = [i for i in dict.fromkeys(indices) if i and not any(o != i and o[: len(i)] == i for o in indices)]
    return [[i for i in chains if len(i) == length] for length in sorted({len(i) for i in chains})]


def first_order_partials(found: Derivatives, wants: Wants) -> Derivatives:
    """Partial derivatives of order 0 and 1 are the value and columns of the Jacobian."""
    jacobian = found.get("jacobian")
    partials = {index: jacobian[:, index[0]] if index else found.value for index in wants.indices}
    return replace(found, partials=partials)


def _contractions(found: Derivatives, wants: Wants, weights: Array | None) -> Derivatives:
    """Diagonal and Laplacian of a Hessian that was asked for as well."""
    hessian = found.get("hessian")
    if "hessian_diagonal" in wants.names:
        found = replace(found, diagonal=jnp.diagonal(hessian, axis1=-2, axis2=-1))
    if "laplacian" in wants.names:
        found = replace(found, laplacian=contract_hessian(hessian, weights))
    return found


def _push(f: SampleFunction, v: Array, tangent: Array) -> tuple[Array, tuple[Array, Any]]:
    """df[tangent], (f, rest)."""
    y, moved, rest = jax.jvp(f, (v,), (tangent,), has_aux=True)
    return moved, (y, rest)


def _column(jacobian: Callable[..., Any], v: Array, direction: Array) -> tuple[Array, tuple[Array, Any]]:
    """J direction, (y, rest), from the whole Jacobian."""
    matrix, carried = jacobian(v)
    return contraction("ac,c->a", matrix, direction), carried


def _basis(v: Array) -> Array:
    """The unit vectors of the space of `v`, one a row: (v.size, *v.shape)."""
    return unit_vectors(v.size, v.dtype).reshape(v.size, *v.shape)


def as_real(y: Array) -> Array:
    """A complex y (A,) as its real and imaginary parts (2A,): reverse mode needs real outputs of a real input."""
    return jnp.concatenate([y.real, y.imag]) if jnp.iscomplexobj(y) else y


def real_parts(f: Callable[[Any], tuple[Array, Any]]) -> Callable[[Any], tuple[Array, tuple[Array, Any]]]:
    """``v -> (as_real(y), (y, rest))`` of F."""

    def parts(v: Any) -> tuple[Array, tuple[Array, Any]]:
        y, rest = f(v)
        return as_real(y), (y, rest)

    return parts


def join(rows: Array, y: Array, axis: int = 0) -> Array:
    """Undo `as_real` on the axis of a derivative that counts the outputs."""
    if not jnp.iscomplexobj(y):
        return rows
    return jax.lax.complex(*jnp.split(rows.astype(y.real.dtype), 2, axis=axis))
