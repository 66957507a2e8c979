"""Second order assembled from first order: the Jacobians of the nodes and their adjoints.

With nodes v_n = phi_n(u_n), tangents J_n = du_n / dx and adjoints lambda_n = dy / dv_n,

    H[a,c,e] = sum_n  sum_{i,j}  lambda_n[a] . d2phi_n / du_i du_j [ J_n,i[c], J_n,j[e] ],

because y is linear in everything but the nodes. J_n takes one forward pass with C tangents, lambda_n one reverse pass
with A cotangents; each node then adds one contraction, which for an elementwise node is the product of three arrays,
sum_h (lambda phi'')[a,h] J[c,h] J[e,h] (see `nablax.strategies.curvature`).

References: R. M. Gower and M. P. Mello, "A new framework for the computation of Hessians", Optim. Methods Softw. 27
(2012), the edge-pushing algorithm; here in its vectorised form, on nodes instead of scalars.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nablax.graph import Bound
from nablax.graph.blocks import Blocks
from nablax.graph.inline import Variable
from nablax.graph.nodes import Program
from nablax.graph.probes import Probe, probes, run
from nablax.strategies.base import Derivatives, Strategy, Wants, unit_vectors
from nablax.strategies.curvature import Curved, Tangents, contracted, second
from nablax.strategies.forms import Form, Pairs, narrow_directions, widened_tangents
from nablax.strategies.forward import pushed
from nablax.strategies.nested import as_real, join
from nablax.strategies.sweep import Request


class Adjoint(Strategy):
    """Tangents and adjoints of every node, then one contraction a node. Cost: C + A passes and the contractions."""

    name = "adjoint"
    summary = "C tangents and A adjoints of every nonlinear node, contracted with its local second derivative"
    forward_mode = True
    reverse_mode = True
    min_order = 2
    max_order = 2

    def derive(self, f: Bound, v: Array, wants: Wants, weights: Array | None) -> Derivatives:
        request = Request(wants, v.size, weights)
        parts, columns, tangents = _tangents(f, v, request)
        adjoints, outputs = _adjoints(parts, v)
        known = zip(parts, tangents, adjoints, strict=True)
        curved = [part.curved(along, back, f.graph.discards) for part, along, back in known]
        y, rest = parts[-1].carried[0], parts[-1].rest
        if f.graph.discards:
            columns = pushed(f, v, request.directions(v))[0].tangents

        def rows(form: Form) -> Array:
            found = contracted(form, curved[-1], outputs, y.real.dtype)
            for part, nodes in zip(parts[:-1], curved[:-1], strict=True):
                assert part.blocks is not None
                within = form.within(part.blocks.width)
                assert within is not None
                near = form.of_blocks(contracted(within, nodes, outputs, y.real.dtype, part.blocks))
                found = near + (form.matrix(found) if near.ndim > found.ndim and isinstance(form, Pairs) else found)
            return join(found, y, axis=1 if found.ndim == 2 else 0)

        return request.results(y, columns, {name: rows(form) for name, form in request.forms.items()}, rest)


class _Part:
    """A part of the model with probes in it, linearized: it is evaluated once, and goes forward and back.

    Attributes:
        nodes: its curved nodes.
        blocks: the blocks that it falls into, if it does.
        carried: what it gives that depends on x.
        rest: what else it gives.
        along: (tangents of what moves, nudges) -> (tangents of `carried`, tangents of the roots of each node).
        still: no nudges.
    """

    def __init__(
        self,
        program: Program,
        nodes: list[Probe],
        given: Sequence[Array],
        moving: list[Array],
        carried: int,
        blocks: Blocks | None = None,
    ) -> None:
        def probed(moving: list[Array], nudges: list[Any]) -> Any:
            outputs, readings, captures = run(program, [*given, *moving], nudges)
            return (outputs[:carried], readings), (captures, outputs[carried:])

        self.nodes, self.blocks = nodes, blocks
        self.still = [node.zero_nudge() for node in nodes]
        (self.carried, self._readings), self.along, (self._captures, self.rest) = jax.linearize(
            probed, moving, self.still, has_aux=True
        )

    def forward(self, directions: list[Array]) -> tuple[list[Array], list[Tangents]]:
        """`along` for tangents of what moves."""
        return jax.vmap(lambda moving: self.along(moving, self.still))(directions)

    def curved(self, tangents: list[Tangents], adjoints: list[Tangents], discards: bool) -> list[Curved]:
        """Its nodes, given what was found by going forward and back. Their second derivatives are computed outside of
        what is linearized: nothing is differentiated by them.
        """
        seconds = map(second, self.nodes, self._readings, self._captures)
        known = zip(self.nodes, self._readings, seconds, tangents, adjoints, strict=True)
        return [Curved(*node, discards, self.blocks) for node in known]


def _tangents(f: Bound, v: Array, request: Request) -> tuple[list[_Part], Array, list[list[Tangents]]]:
    """(parts, tangents of y, tangents of the roots of each node of each part).

    Where a model falls into blocks at first, that is a part of its own, which carries the directions of one block.
    """
    nodes, blocks = probes(f.graph.program), request.blocks(f.graph)
    if blocks is None or f.graph.parts is None:
        whole = _Part(f.graph.program, nodes, f.others, [v], 1)
        (columns,), tangents = whole.forward([request.directions(v)])
        return [whole], columns, [tangents]
    first, last = f.graph.parts
    meeting = [o for o in first.flat.outputs if isinstance(o, Variable) and o in blocks.inner]
    near = _Part(first, [n for n in nodes if blocks.holds(n.node)], f.others, [v], len(meeting), blocks)
    moved, apart = near.forward([narrow_directions(blocks, request.forms.values(), v.dtype)])
    far = _Part(last, [n for n in nodes if not blocks.holds(n.node)], near.rest, near.carried, 1)
    (columns,), together = far.forward([widened_tangents(m, blocks, o) for m, o in zip(moved, meeting, strict=True)])
    return [near, far], columns, [apart, together]


def _adjoints(parts: list[_Part], v: Array) -> tuple[list[list[Tangents]], int]:
    """(for each node of each part dy / dnudge, the real outputs in front; how many outputs)."""

    def along(nudges: list[list[Tangents]]) -> Array:
        moving = [jnp.zeros_like(v)]
        for part, given in zip(parts, nudges, strict=True):
            moving, _ = part.along(moving, given)
        return as_real(moving[0])

    still = [part.still for part in parts]
    y = jax.eval_shape(along, still)
    (adjoints,) = jax.vmap(jax.linear_transpose(along, still))(unit_vectors(y.shape[0], y.dtype))
    return adjoints, y.shape[0]
