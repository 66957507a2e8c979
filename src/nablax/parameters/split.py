"""Find the seams of a graph: walk it once, and see which parameters meet samples only in ways that are known.

What depends on parameters only is computed once for all samples. A parameter that meets samples at seams only, through
views that agree, has a derivative in factors. Every other one is *whole*: its derivative is computed entry by entry,
and the reason is kept for the user.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives as p

from nablax._compat import SCAN, loop_arity
from nablax.graph.classify import Table
from nablax.graph.inline import Atom, Constant, Equation, Flat, Variable
from nablax.graph.needed import prepared
from nablax.parameters.seams import Seam, find_seam, see_through
from nablax.parameters.views import Step, View


@dataclass(frozen=True)
class Spread:
    """One parameter leaf after equations that move and repeat its entries.

    Attributes:
        view: the leaf, and the loops around the place.
        equations: what was done to it.
    """

    view: View
    equations: tuple[Equation, ...] = ()

    def entries(self) -> np.ndarray:
        """Which entry of the leaf stands where."""
        scanned = sum(step is Step.SCANNED for step, _ in self.view.loops)
        shape = self.view.shape[scanned:]
        with jax.ensure_compile_time_eval():
            array: Any = jnp.arange(math.prod(shape)).reshape(shape)
            for eqn in self.equations:
                (array,) = eqn(array)
            return np.asarray(array)

    def looped(self, view: View | None) -> Spread | None:
        """What the body of a loop sees of it; only of a leaf as it is."""
        return None if self.equations or view is None else Spread(view)


@dataclass(frozen=True)
class Mark:
    """What a value depends on.

    Attributes:
        sample: whether it depends on the sample.
        leaves: the parameters that it depends on with a derivative, as far as it does not depend on the sample.
        view: if it is one parameter, rearranged at most: how.
        spread: if it is one parameter, rearranged or spread over more positions: which entry stands where.
        changed: else, the first operation that did more to it.
    """

    sample: bool = False
    leaves: frozenset[int] = frozenset()
    view: View | None = None
    spread: Spread | None = None
    changed: str = ""

    @property
    def is_parameter(self) -> bool:
        """Whether it is made of parameters alone."""
        return bool(self.leaves) and not self.sample


NOTHING = Mark()


@dataclass(frozen=True, eq=False)
class Piece:
    """A graph and its seams.

    Attributes:
        flat: the equations.
        seams: those among them that are seams.
        biases: for additions of a parameter to the result of a seam, and of nothing else: (the seam, the parameter).
        loops: those among them that are scans with seams inside: (the body, number of constants, of carried values).
    """

    flat: Flat
    seams: dict[Equation, Seam]
    biases: dict[Equation, tuple[Seam, int]]
    loops: dict[Equation, tuple[Piece, int, int]]

    def all_seams(self) -> list[Seam]:
        """In the order in which they are run."""
        found = []
        for eqn in self.flat.equations:
            if eqn in self.seams:
                found.append(self.seams[eqn])
            elif eqn in self.loops:
                found += self.loops[eqn][0].all_seams()
        return found

    def all_biases(self) -> list[tuple[Seam, int]]:
        """Every addition of a bias, here and in loops."""
        return [*self.biases.values(), *(b for body, *_ in self.loops.values() for b in body.all_biases())]

    def without(self, leaves: set[int]) -> Piece:
        """The same without the seams of some parameters."""
        seams = {eqn: seam for eqn, seam in self.seams.items() if seam.view.leaf not in leaves}
        biases = {eqn: (seam, leaf) for eqn, (seam, leaf) in self.biases.items() if seam.view.leaf not in leaves}
        loops = {eqn: (body.without(leaves), *arity) for eqn, (body, *arity) in self.loops.items()}
        return replace(
            self, seams=seams, biases=biases, loops={eqn: loop for eqn, loop in loops.items() if loop[0].all_seams()}
        )


@dataclass(frozen=True, eq=False)
class Split:
    """A graph, its seams, and what becomes of every parameter.

    Attributes:
        piece: the graph with the seams of the parameters in factors.
        biases: for parameters that are added to the result of every seam of another one, and to nothing else: which.
        whole: for every other parameter, why its derivative is computed entry by entry.
        unused: the parameters that the output does not depend on.
        swapped: the seams whose view exchanges the roles of h and k, compared with the first one of that parameter.
        views: for every parameter in factors, its entries as (G, H, K).
    """

    piece: Piece
    biases: dict[int, int]
    whole: dict[int, str]
    unused: frozenset[int]
    swapped: frozenset[Seam]
    views: dict[int, View]

    def treatment(self) -> dict[int, str]:
        """For every parameter, how its derivative is computed: in words, for users."""
        found: dict[int, dict[str, int]] = {leaf: {} for leaf in self.views}
        for seam in self.piece.all_seams():
            times = found[seam.view.leaf]
            times[seam.kind] = times.get(seam.kind, 0) + 1
        named = lambda kinds: ", ".join(kind if n == 1 else f"{kind} ({n} times)" for kind, n in kinds.items())
        return (
            {leaf: named(kinds) for leaf, kinds in found.items()}
            | dict.fromkeys(self.biases, "bias")
            | {leaf: f"whole: {why}" for leaf, why in self.whole.items()}
            | dict.fromkeys(self.unused, "unused: the output does not depend on it")
        )


def split(flat: Flat, marks: Sequence[Mark], table: Table) -> Split:
    """Find the seams of `flat`, whose inputs are what `marks` say."""
    walk = _Walk(table)
    piece, outputs = walk.run(flat, marks)
    for mark in outputs:
        walk.give_up(mark, "returned without meeting a sample")
    whole = walk.whole
    used = {seam.view.leaf for seam in piece.all_seams()}
    unused = {leaf for mark in marks for leaf in mark.leaves} - used - set(whole)
    piece = piece.without(set(whole))
    first: dict[int, Seam] = {}
    # Lookups come first: their unit vectors are always the u.
    for seam in sorted(piece.all_seams(), key=lambda seam: not seam.lookup):
        first.setdefault(seam.view.leaf, seam)
    swapped = set()
    for seam in piece.all_seams():
        agrees = _agrees(first[seam.view.leaf].view, seam.view)
        if agrees is None:
            whole[seam.view.leaf] = "its uses group its entries in different ways"
        elif not agrees:
            swapped.add(seam)
    views = {leaf: seam.view for leaf, seam in first.items() if leaf not in whole}
    piece = piece.without(set(whole))
    # What is a bias in one place and meets samples at a seam in another is neither.
    biases = _biases(piece, walk.uses, {leaf for leaf in whole if leaf not in used}, swapped)
    for leaf in biases:
        del whole[leaf]
    return Split(piece, biases, whole, frozenset(unused), frozenset(swapped), views)


def _biases(piece: Piece, uses: Mapping[int, int], candidates: set[int], swapped: set[Seam]) -> dict[int, int]:
    """Bias -> the parameter whose seams it follows, all of them, being used nowhere else."""
    seams, added = piece.all_seams(), piece.all_biases()
    found = {}
    for bias in candidates:
        mine = [seam for seam, b in added if b == bias]
        leaf = mine[0].view.leaf if mine else None
        follows = set(mine) == {seam for seam in seams if seam.view.leaf == leaf} and len(mine) == uses[bias]
        if mine and follows and not swapped.intersection(mine) and leaf not in found.values():
            found[bias] = leaf
    return found


def _agrees(one: View, other: View) -> bool | None:
    """True if two views place the entries of a leaf alike, False if they exchange h and k, None otherwise."""
    moving = lambda view: [step for step in view.steps if step[0] is not Step.REPEATED]
    if moving(one) == moving(other):
        return True
    a, b = one.entries(), other.entries()
    if a.shape == b.shape and np.array_equal(a, b):
        return True
    b = b.swapaxes(1, 2)
    return False if a.shape == b.shape and np.array_equal(a, b) else None


class _Walk:
    """One walk through a graph.

    Attributes:
        whole: the parameters that were met in an unknown way, and which.
        uses: how often each of them was.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.whole: dict[int, str] = {}
        self.uses: Counter[int] = Counter()

    def give_up(self, mark: Mark, why: str) -> None:
        """The parameters that a value is made of have no factors."""
        for leaf in mark.leaves if mark.is_parameter else ():
            self.whole.setdefault(leaf, why)
            self.uses[leaf] += 1

    def run(self, flat: Flat, inputs: Sequence[Mark]) -> tuple[Piece, list[Mark]]:
        """The seams of `flat`, and the marks of its outputs."""
        known = dict(zip(flat.inputs, inputs, strict=True))
        mark = lambda atom: NOTHING if isinstance(atom, Constant) else known[atom]
        piece = Piece(flat, {}, {}, {})
        read = Counter(atom for eqn in flat.equations for atom in eqn.inputs)
        read.update(flat.outputs)
        for eqn in flat.equations:
            marks = [mark(atom) for atom in eqn.inputs]
            if eqn.primitive is SCAN and any(m.sample for m in marks) and any(m.is_parameter for m in marks):
                results = self._loop(eqn, marks, piece)
            else:
                results = self._equation(eqn, marks, piece)
                self._bias(eqn, marks, piece, read)
            known.update(
                (var, m if _has_derivative(var) else Mark(sample=m.sample))
                for var, m in zip(eqn.outputs, results, strict=True)
            )
        return piece, [mark(atom) for atom in flat.outputs]

    def _equation(self, eqn: Equation, marks: list[Mark], piece: Piece) -> list[Mark]:
        sample = any(m.sample for m in marks)
        if eqn.primitive in self.table.zero:
            return [Mark(sample)] * len(eqn.outputs)
        if not sample:
            leaves = frozenset().union(*(m.leaves for m in marks))
            view = marks[0].view if len(marks) == 1 else None
            view = None if view is None else see_through(eqn, view)
            spread = None
            if len(marks) == 1 and marks[0].spread is not None and eqn.primitive in MOVING:
                spread = replace(marks[0].spread, equations=(*marks[0].spread.equations, eqn))
            changes = [m.changed for m in marks if m.changed] + [eqn.primitive.name] * (view is None and spread is None)
            return [Mark(False, leaves, view, spread, next(iter(changes), ""))] * len(eqn.outputs)
        met = [i for i, m in enumerate(marks) if m.is_parameter]
        view = marks[met[0]].view if len(met) == 1 else None
        seam = None if view is None else find_seam(eqn, met[0], view)
        if seam is not None:
            piece.seams[eqn] = seam
        elif any(map(_has_derivative, eqn.outputs)):
            for i in met:
                before = f"changed by {marks[i].changed}, then " if marks[i].changed else ""
                self.give_up(marks[i], f"{before}meets samples in {eqn.primitive.name}")
        return [Mark(True)] * len(eqn.outputs)

    def _bias(self, eqn: Equation, marks: list[Mark], piece: Piece, read: Mapping[Atom, int]) -> None:
        """Note the addition of a bias: every unit of a layer, the result of a seam, gets an entry of a parameter."""
        if eqn.primitive is not p.add_p or sum(m.is_parameter for m in marks) != 1:
            return
        which = marks[0].is_parameter
        z, spread = eqn.inputs[int(which)], marks[int(not which)].spread
        seam = next((s for s in piece.seams.values() if z in s.equation.outputs), None)
        if seam is None or spread is None or read[z] != 1 or spread.view.loops != seam.view.loops:
            return
        entries = spread.entries()
        if entries.shape != z.aval.shape:  # pyright: ignore[reportAttributeAccessIssue]
            return
        entries = np.asarray(seam.adjoint(entries))  # pyright: ignore[reportArgumentType]
        G, _, K = entries.shape
        if np.array_equal(entries, np.broadcast_to(np.arange(G * K).reshape(G, 1, K), entries.shape)):
            piece.biases[eqn] = seam, spread.view.leaf

    def _loop(self, eqn: Equation, marks: list[Mark], piece: Piece) -> list[Mark]:
        """A scan that reads parameters and samples: its body has seams of its own."""
        body = prepared(eqn.params["jaxpr"], self.table, loops=True)
        constants, carries = loop_arity(eqn.params)
        length = eqn.params["length"]
        given, start, scanned = (
            marks[:constants],
            marks[constants : constants + carries],
            marks[constants + carries :],
        )
        inside = [_entering(m, m.view and m.view.repeated(length)) for m in given]
        across = [_entering(m, m.view and m.view.scanned(length)) for m in scanned]
        # What a carried value depends on grows from turn to turn, until it stays.
        carried = [Mark(m.sample, m.leaves) for m in start]
        while True:
            _, after = _Walk(self.table).run(body, [*inside, *carried, *across])
            grown = [
                Mark(c.sample or a.sample, c.leaves | a.leaves) for c, a in zip(carried, after[:carries], strict=True)
            ]
            if grown == carried:
                break
            carried = grown
        for before, now in zip(start, carried, strict=True):
            if now.sample:
                self.give_up(before, "starts a loop over samples")
        carried = [Mark(m.sample, m.leaves, changed="scan") for m in carried]
        inner, after = self.run(body, [*inside, *carried, *across])
        piece.loops[eqn] = inner, constants, carries
        return [*carried, *(Mark(m.sample, m.leaves, changed="scan") for m in after[carries:])]


def _entering(mark: Mark, view: View | None) -> Mark:
    """The mark of an operand inside the body of a loop."""
    return replace(mark, view=view, spread=mark.spread and mark.spread.looped(view))


# What may stand between a bias and its layer.
MOVING = frozenset({p.broadcast_in_dim_p, p.reshape_p, p.squeeze_p, p.transpose_p, p.copy_p})


def _has_derivative(atom: Atom) -> bool:
    return isinstance(atom, Variable) and jnp.issubdtype(atom.aval.dtype, jnp.inexact)
