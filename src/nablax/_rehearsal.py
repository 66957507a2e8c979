"""Made-up arguments: what a call can be timed with while it is traced, when there are no values yet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from nablax._types import PyTree
from nablax.graph import Graph


def made_up(tree: PyTree, seed: int = 0) -> PyTree:
    """Arrays of the same shapes and dtypes: random numbers, and ones for integers, which may be counts or indices."""
    random = np.random.default_rng(seed)

    def fill(leaf: Any) -> Array:
        aval = jax.typeof(leaf)
        if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0, impl=str(jax.random.key_impl(leaf))), aval.shape)
        if not jnp.issubdtype(aval.dtype, jnp.inexact):
            return jnp.ones(aval.shape, aval.dtype)
        return jnp.asarray(random.standard_normal(aval.shape), aval.dtype)

    return jax.tree.map(fill, tree)


def has_tracers(tree: PyTree) -> bool:
    """Whether a leaf is a value that is not known yet."""
    return any(isinstance(leaf, Tracer | jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))


def untraced(graph: Graph) -> Graph:
    """The graph with made-up values for what the model has captured of an enclosing transformation."""
    if not has_tracers(graph.closed.consts):
        return graph
    consts = [made_up(value) if isinstance(value, Tracer) else value for value in graph.closed.consts]
    return replace(graph, closed=graph.closed.replace(consts=consts))
