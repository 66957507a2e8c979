"""The derivatives of elementwise nodes, entry by entry, and long chains as functions of one slope.

JAX derives a chain equation by equation, and every direction of a tangent passes through each of them: eight or nine in
a gelu with its bias, where the chain as a whole has a single derivative, entry by entry. A tangent is one product with
it, and so is a cotangent; and a gradient through either has that much less to go back through.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from nablax._compat import SELECT
from nablax.graph.classify import KINKS
from nablax.graph.nodes import Kind, Node, Values, derivative
from nablax.graph.once import once


def has_slope(node: Node) -> bool:
    """Whether a node is a chain that pays to derive as a whole, and for which that is what JAX computes: nothing in it
    changes the precision, has a rule of its own, or chooses between values: a zero slope would not stop a tangent that
    is NaN.
    """
    return (
        node.kind is Kind.ELEMENTWISE
        and len(node.roots) == 1
        and len(node.equations) > 2
        and KINKS.isdisjoint(eqn.primitive for eqn in node.equations)
        and all(o.aval.dtype == node.roots[0].aval.dtype for eqn in node.equations for o in eqn.outputs)
    )


def by_slope(node: Node, values: Values, apart: bool) -> Callable[[Any], Any]:
    """The function of such a node, of its root: to JAX a single one, whose derivative is a product with its slope.

    `apart` is whether a slope that takes long to compute is computed once (see `nablax.graph.once`), not by every
    operation that reads it.
    """

    def phi(root: Any, *held: Any) -> Any:
        return node.function(dict(zip(node.captures, held, strict=True)))(root)[0][0]

    # Captures are arguments and not closed over: their tangents count, and in a loop they belong to each step.
    chain = jax.custom_jvp(phi)

    @functools.partial(chain.defjvp, symbolic_zeros=True)
    def along(at: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        root, *held = at
        y, slope = jax.jvp(lambda root: phi(root, *held), (root,), (jnp.ones_like(root),))
        moved = jnp.zeros_like(y)
        if not isinstance(tangents[0], SymbolicZero):
            moved = (once(slope) if apart and node.pays_once else slope) * tangents[0]
        for k, tangent in enumerate(tangents[1:]):
            if not isinstance(tangent, SymbolicZero):
                of_one = lambda capture, k=k: phi(root, *held[:k], capture, *held[k + 1 :])
                moved += jax.jvp(of_one, (held[k],), (tangent,))[1]
        return y, moved

    return lambda root: chain(root, *(values[variable] for variable in node.captures))


def curvatures(node: Node, phi: Callable[..., Any], roots: Sequence[Any]) -> list[Any]:
    """phi''_ij, entry by entry, for the `pairs` of an elementwise node."""
    first = first_derivative(node)
    return [derivative(first(phi, i), j)(*roots) for i, j in node.pairs]


def first_derivative(node: Node) -> Callable[[Callable[..., Any], int], Callable[..., Any]]:
    """How to derive the function of an elementwise node once: in reverse mode if it chooses between values.

    The derivative is zero then, not NaN, for an entry that the node begins with discarding.
    """
    return _pulled if any(eqn.primitive is SELECT for eqn in node.equations) else derivative


def _pulled(phi: Callable[..., Any], i: int) -> Callable[..., Any]:
    """The same as `derivative`, in reverse mode."""

    def at(*roots: Any) -> Any:
        y, pull = jax.vjp(lambda root: phi(*roots[:i], root, *roots[i + 1 :]), roots[i])
        return pull(jnp.ones_like(y))[0]

    return at
