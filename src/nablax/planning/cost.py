"""What a problem costs: bytes counted on the graph, and the chunk size that follows from them."""

from __future__ import annotations

import math
from typing import Any

import jax

from nablax.planning.problem import Problem

CACHE_BYTES = 2**21
"""Working set to aim at on a CPU: about one core's share of the cache. Measured; larger chunks stream through main
memory."""

MEMORY_BYTES = 2**31
"""Working set to aim at elsewhere."""


def chunk_size_for(problem: Problem) -> int | None:
    """How many samples fit the cache (CPU) or a fixed share of the memory (elsewhere); None: all of them.

    The working set of a sample is its widest intermediate array, held for every tangent of every output.
    """
    budget = CACHE_BYTES if jax.default_backend() == "cpu" else MEMORY_BYTES
    size = max(budget // max(working_set(problem), 1), 16)
    return None if size >= problem.samples else size


def working_set(problem: Problem) -> int:
    """Bytes that one sample holds at a time, roughly."""
    widest = max((_bytes(var.aval) for eqn in problem.graph.jaxpr.eqns for var in eqn.outvars), default=8)
    directions = {0: 1, 1: max(problem.A, problem.C)}.get(problem.wants.order, problem.A * problem.C)
    return widest * directions


def _bytes(aval: Any) -> int:
    return math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 8)
