"""Values that are computed once, however many read them.

XLA on a CPU computes what it takes to be cheap again in every operation that reads it, and for every direction of
a tangent that it is multiplied with. Sine and cosine are among that (see `nablax.graph.sine`), and the derivatives of a
long elementwise chain (`nablax.graph.nodes.Node.pays_once`). It does not look into a call that it may not write out:
`once` passes a value through such a call, for nothing.
"""

from __future__ import annotations

from jax import Array

from nablax._compat import fence_primitive


def once(x: Array) -> Array:
    """The same values, computed once. Their derivatives are not held back."""
    return once_p.bind(x)


def worth_a_call(equations: int, entries: int) -> bool:
    """Whether a chain of so many equations on so many entries is computed once, as measured on a CPU: a shorter one
    takes no longer to compute again than to read, and fewer entries take less time than a call.
    """
    return equations > 4 and entries >= 32


once_p = fence_primitive("once")
