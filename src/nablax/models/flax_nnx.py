"""Flax NNX: a module is split into what is trained and the rest, and merged again for every call."""

from __future__ import annotations

from typing import Any

from flax import nnx

from nablax._errors import OptionError
from nablax._types import PyTree
from nablax.models import Apply

BATCHED = True
HOLDS_PARAMETERS = True
TAKES_KEYS = True


def adapt(model: Any, variables: None, rngs: tuple[str, ...], options: dict[str, Any]) -> tuple[PyTree, Apply]:
    """(params, apply); the variables of type `nnx.Param` are the parameters."""
    streams = {node.tag for _, node in nnx.iter_graph(model) if isinstance(node, nnx.RngStream)}
    if not streams.issuperset(rngs):
        raise OptionError(
            f"rngs={rngs!r} was given for a model whose streams of random numbers are {sorted(streams)}; name some of "
            "those. They are named where the module is made: nnx.Rngs(0, dropout=1)."
        )
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def apply(params: PyTree, keys: dict[str, Any], *args: Any) -> PyTree:
        # A copy: what a call changes in the module stays in that call.
        module = nnx.merge(graph, params, rest, copy=True)
        if keys:
            nnx.reseed(module, **keys)
        return module(*args, **options)

    return params, apply
