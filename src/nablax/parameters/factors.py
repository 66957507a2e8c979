"""The derivative of a sample's output by the parameters, in factors.

One pass through the graph with a nudge at every seam gives what the seams read; one backward pass for every row of the
output gives dy/dz at all seams, and the derivative by the parameters that have no factors. That is the cost of ordinary
backpropagation without its last step, the products that make the gradients of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from nablax.graph.inline import Constant
from nablax.parameters.seams import Seam
from nablax.parameters.split import Piece, Split
from nablax.parameters.views import Step, View


class Term(eqx.Module):
    """One seam's share: dy/dW[r, g, h, k] = sum_t u[r, g, t, h] v[r, g, t, k].

    Attributes:
        u: (R or 1, G, T, H); for a lookup the indices (1, G, T) of unit vectors, -1 for none.
        v: (R or 1, G, T, K); one of u and v has all R rows.
        lookup: whether u holds indices.
    """

    u: Array
    v: Array
    lookup: bool = eqx.field(static=True)

    def unit_vectors(self, H: int) -> Array:
        """U as numbers."""
        return jax.nn.one_hot(self.u, H, dtype=self.v.dtype) if self.lookup else self.u


class InFactors(eqx.Module):
    """The derivative by one parameter leaf as a sum of terms; `view` says which entry [g, h, k] is."""

    terms: tuple[Term, ...]
    view: View = eqx.field(static=True)


class Bias(eqx.Module):
    """The derivative by the bias of a layer: sum_t v, with the v of the block of its weights, number `of`."""

    of: int = eqx.field(static=True)
    size: int = eqx.field(static=True)


class Whole(eqx.Module):
    """The derivative by one parameter leaf, (R, size of the leaf)."""

    rows: Array


class Zero(eqx.Module):
    """The derivative by a parameter that the output does not depend on; `none`, (R, 0), says how many rows it has."""

    none: Array
    size: int = eqx.field(static=True)


Block = InFactors | Whole | Bias | Zero


def derive(
    split: Split, inputs: Sequence[Array], leaves: Sequence[int], rows: Callable[[Array], Array], share: bool
) -> tuple[dict[int, Block], list[Array]]:
    """The derivative of the first output of one sample by every parameter, and the outputs.

    Args:
        split: the graph and its seams.
        inputs: values of the inputs of the graph.
        leaves: which of the inputs are the parameters.
        rows: y -> cotangents (R, A), one for each row of the derivative.
        share: whether a bias may be part of the block of its layer, where numbers are real.
    """
    seams = split.piece.all_seams()
    entire = [leaf for leaf in range(len(leaves)) if leaf in split.whole]

    def run(nudges: list[Array], values: list[Array]) -> tuple[Array, tuple[list[Array], list[Array]]]:
        given = list(inputs)
        for leaf, value in zip(entire, values, strict=True):
            given[leaves[leaf]] = value
        outputs, readings = _run(split.piece, given, iter(nudges))
        return outputs[0], (outputs, readings)

    nudges = [_zero_nudge(seam) for seam in seams]
    values = [inputs[leaves[leaf]] for leaf in entire]
    y, pull, (outputs, readings) = jax.vjp(run, nudges, values, has_aux=True)
    adjoints, derivatives = jax.vmap(pull)(rows(y))
    blocks: dict[int, Block] = {
        leaf: Whole(found.reshape(found.shape[0], -1)) for leaf, found in zip(entire, derivatives, strict=True)
    }
    terms: dict[int, list[Term]] = {leaf: [] for leaf in split.views}
    for seam, reading, adjoint in zip(seams, readings, adjoints, strict=True):
        terms[seam.view.leaf].append(_term(seam, reading, adjoint, seam in split.swapped))
    blocks |= {leaf: InFactors(tuple(terms[leaf]), view) for leaf, view in split.views.items()}
    for leaf in split.unused:
        none = jnp.zeros((*rows(y).shape[:1], 0), jnp.result_type(y, inputs[leaves[leaf]]))
        blocks[leaf] = Zero(none, math.prod(inputs[leaves[leaf]].shape))
    for bias, leaf in split.biases.items():
        size = math.prod(inputs[leaves[bias]].shape)
        if share and not any(jnp.iscomplexobj(term.u) for term in terms[leaf]):
            blocks[bias] = Bias(leaf, size)
        else:
            blocks[bias] = Whole(sum(term.v.sum(-2) for term in terms[leaf]).reshape(-1, size))  # pyright: ignore
    return blocks, outputs


def _run(piece: Piece, inputs: Sequence[Any], nudges: Iterator[Array]) -> tuple[list[Any], list[Array]]:
    """(outputs, readings): evaluate a piece with a nudge added to the result of every seam."""
    known = dict(zip(piece.flat.inputs, inputs, strict=True))
    read = lambda atom: atom.value if isinstance(atom, Constant) else known[atom]
    readings: list[Array] = []
    for eqn in piece.flat.equations:
        operands = [read(atom) for atom in eqn.inputs]
        if eqn in piece.seams:
            seam = piece.seams[eqn]
            readings.append(seam.reading(*operands))
            results = [eqn(*operands)[0] + next(nudges)]
        elif eqn in piece.loops:
            results, inside = _run_loop(piece, eqn, operands, nudges)
            readings += inside
        else:
            results = eqn(*operands)
        known.update(zip(eqn.outputs, results, strict=True))
    return [read(atom) for atom in piece.flat.outputs], readings


def _run_loop(piece: Piece, eqn: Any, operands: list[Any], nudges: Iterator[Array]) -> tuple[list[Any], list[Array]]:
    """The scan, with the nudges of its seams as one more scanned-over input and the readings as scanned-over output."""
    body, constants, carries = piece.loops[eqn]
    inside = [next(nudges) for _ in body.all_seams()]
    given, carry, scanned = (
        operands[:constants],
        operands[constants : constants + carries],
        operands[constants + carries :],
    )

    def turn(carry: list[Any], here: tuple[list[Any], list[Array]]) -> tuple[list[Any], Any]:
        outputs, readings = _run(body, [*given, *carry, *here[0]], iter(here[1]))
        return outputs[:carries], (outputs[carries:], readings)

    carry, (stacked, readings) = jax.lax.scan(
        turn, carry, (scanned, inside), **{name: eqn.params[name] for name in ("length", "reverse", "unroll")}
    )
    return [*carry, *stacked], readings


def _zero_nudge(seam: Seam) -> Array:
    z = seam.equation.outputs[0].aval
    return jnp.zeros((*(length for _, length in seam.view.loops), *z.shape), z.dtype)


def _term(seam: Seam, reading: Array, adjoint: Array, swapped: bool) -> Term:
    """What a seam has read and what came back to it, as one term; the loops around it become groups or positions."""
    loops = seam.view.loops
    sort = seam.adjoint
    for _ in (*loops, "rows"):
        sort = jax.vmap(sort)
    u, v = reading[None], sort(adjoint)
    for depth, (step, _) in reversed(list(enumerate(loops, start=1))):
        u, v = _merged(u, depth, step), _merged(v, depth, step)
    return Term(v, u, seam.lookup) if swapped else Term(u, v, seam.lookup)


def _merged(array: Array, axis: int, step: Step) -> Array:
    """Merge the axis of a loop into the groups behind it, or into the positions behind those."""
    if step is Step.REPEATED:
        array, axis = jnp.moveaxis(array, axis, axis + 1), axis + 1
    shape = array.shape
    return array.reshape(*shape[:axis], math.prod(shape[axis : axis + 2]), *shape[axis + 2 :])
