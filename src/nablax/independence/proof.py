"""The proof that a batch-wise model treats every sample by itself, and all of them alike.

The model was traced for two numbers of samples. Equation by equation, the proof says of each value whether it is shared
or belongs to samples, and along which axis (`nablax.independence.values`); one table says how each primitive hands that
on. What the rules cannot vouch for is Mixed, and stays so in everything that is computed from it. If the outputs are
not Mixed, then by induction over the equations output d is a function of sample d and of what is shared, the same one
for every d, and the same for both numbers of samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nablax.graph.dense import dense_p
from nablax.graph.inline import Atom, Constant, Variable
from nablax.graph.once import once_p
from nablax.graph.pairs import pair_products_p, symmetric_p
from nablax.graph.sine import cosine_p, sine_p
from nablax.graph.sums import total_p
from nablax.independence import arithmetic, calls, indexing, moves
from nablax.independence.primitives import key_primitives, table
from nablax.independence.twins import Twin, Twins, constant, is_array, sample_axes, shape_of
from nablax.independence.values import (
    SHARED,
    SIZE,
    Columns,
    Current,
    Mixed,
    Own,
    Samples,
    Shared,
    Size,
    Value,
    plain,
)

RULES: dict[Any, Any] = {
    **table(moves.RULES),
    **table(arithmetic.RULES),
    **table(indexing.RULES),
    dense_p: arithmetic.dense,
    **dict.fromkeys((sine_p, cosine_p, once_p), moves.entrywise),
    pair_products_p: arithmetic.along("axis", "pairs entries of"),
    symmetric_p: arithmetic.along("axis", "makes matrices of"),
    total_p: arithmetic.over("axes", "sums over"),
}

SPECIAL: dict[Any, Any] = table(indexing.SPECIAL)

# These make an array with a row for each sample out of what is shared.
_CREATING = frozenset(table({"broadcast_in_dim tile iota random_bits random_split random_gamma": True}))

# Parameters that may depend on D: sizes that the rules, or the sizes of the results, account for.
_SIZES = table(
    {
        "broadcast_in_dim iota random_bits random_split": {"shape"},
        "reshape": {"new_sizes"},
        "slice": {"start_indices", "limit_indices"},
        "split": {"sizes"},
        "tile": {"reps"},
        "dynamic_slice gather": {"slice_sizes"},
        "conv_general_dilated": {"feature_group_count"},
        "fft": {"fft_lengths"},
        "reduce": {"computation"},  # the same as its jaxpr, as a Python function
    }
)


@dataclass(frozen=True)
class Proof:
    """Goes through a program.

    Attributes:
        orders: how many derivatives of custom rules are followed, too. A rule may contain calls with rules of their
            own, so that each order costs about three times as much as the one before.
    """

    orders: int

    def derived(self) -> Proof:
        """For a program that is a derivative."""
        return replace(self, orders=self.orders - 1)

    def __call__(self, program: Twins, values: Sequence[Value]) -> list[Value]:
        """What is known of the outputs of a program, from what is known of its inputs."""
        known: dict[Variable, Value] = dict(zip(program.inputs, values, strict=True))

        def read(pair: tuple[Atom, Atom], line: str = "") -> Value:
            a, b = pair
            if isinstance(a, Variable):
                return known[a]
            assert isinstance(b, Constant)
            return _at(line, constant(a.value, b.value, program.sizes))

        for eqn in program.equations:
            operands = [read(pair, eqn.line) if isinstance(pair[0], Constant) else read(pair) for pair in eqn.inputs]
            results = self._results(eqn, operands)
            known |= {a: _checked(eqn, (a, b), v) for (a, b), v in zip(eqn.outputs, results, strict=True)}
        return [read(pair) for pair in program.outputs]

    def _results(self, eqn: Twin, operands: Sequence[Value]) -> Sequence[Value]:
        """What is known of the results of one equation."""
        count = len(eqn.outputs)
        if not all(is_array(atom) for pair in (*eqn.inputs, *eqn.outputs) for atom in pair):
            return [eqn.unproven("works on an array that can change")] * count
        if eqn.primitive in calls.RULES:
            if eqn.changed & calls.FIXED:
                return [eqn.unproven("is set up in a way that depends on the number of samples")] * count
            return calls.RULES[eqn.primitive](self, eqn, *operands)
        if eqn.primitive in SPECIAL and any(map(_is_special, operands)):
            found = SPECIAL[eqn.primitive](eqn, *operands)
            if found is not None:
                return [found] * count
        found = _of_plain(eqn, [plain(value) for value in operands])
        return found if isinstance(found, list) else [found] * count


def _is_special(value: Value) -> bool:
    return isinstance(value, Own | Columns) or (isinstance(value, Samples) and value.false)


def _at(line: str, value: Value) -> Value:
    """A captured array has no line of its own; it gets that of the equation that uses it."""
    if isinstance(value, Mixed | Own) and not value.reason.line:
        return replace(value, reason=replace(value.reason, line=line))
    return value


def _of_plain(eqn: Twin, operands: list[Value]) -> Value | list[Value]:
    """The rule of the primitive, after what holds for all primitives."""
    for value in operands:
        if isinstance(value, Mixed):
            return value
    kinds = {type(value) for value in operands}
    grows = any(sample_axes(*pair) for pair in eqn.outputs)
    if Samples not in kinds and not grows:
        return _without_samples(eqn, operands)
    if Size in kinds:
        return eqn.mixes("uses a number that depends on the number of samples")
    if Current in kinds:
        return eqn.mixes("combines the sample of one step of a loop with all samples")
    rule = RULES.get(eqn.primitive) or _rule_for_keys(eqn)
    if rule is None:
        return eqn.unproven("is an operation that nablax has no rule for")
    if eqn.changed - _SIZES.get(eqn.primitive, set()):
        names = ", ".join(sorted(eqn.changed - _SIZES.get(eqn.primitive, set())))
        return eqn.unproven(f"has parameters that depend on the number of samples ({names})")
    if Samples not in kinds and eqn.primitive not in _CREATING:
        return eqn.unproven("makes an array with an entry for each sample")
    return rule(eqn, *operands)


def _without_samples(eqn: Twin, operands: list[Value]) -> Value:
    """A function of shared values is shared, whatever it is; one of the sample of this step belongs to that."""
    kinds = {type(value) for value in operands} | ({Size} if eqn.changed else set())
    loops = {value for value in operands if isinstance(value, Current)}
    if Size in kinds:
        return eqn.mixes("uses a number that depends on the number of samples") if loops else SIZE
    if len(loops) > 1:
        return eqn.mixes("combines the samples of two loops")
    return loops.pop() if loops else SHARED


def _rule_for_keys(eqn: Twin) -> Any:
    """Random keys as numbers, and back."""
    wrap, unwrap = key_primitives()
    return {wrap: arithmetic.leading(1), unwrap: arithmetic.each}.get(eqn.primitive)


def _checked(eqn: Twin, pair: tuple[Variable, Atom], value: Value) -> Value:
    """What a rule says of a result, unless its sizes say otherwise: exactly the sample axis may depend on D."""
    axes = sample_axes(*pair)
    if isinstance(value, Mixed):
        return value
    if isinstance(value, Samples | Own | Columns):
        outer, inner = value.layout if isinstance(value, Samples) else (1, 1)
        sizes = [shape_of(atom)[value.axis] if len(shape_of(atom)) > value.axis else 0 for atom in pair]
        if axes == [value.axis] and sizes == [outer * size * inner for size in eqn.sizes]:
            return value
    elif isinstance(value, Shared | Size | Current) and not axes:
        return value
    return eqn.unproven("has a result whose sizes depend on the number of samples in a way that nablax does not know")
