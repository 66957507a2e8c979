"""A derivative as its equations, with none of the plain ones twice.

A strategy takes a model apart in several passes, and every pass evaluates the model again. Within one program the
compiler would find what is repeated; a gradient goes back through all of it, and each equation takes its time to be
differentiated, mapped over the samples and lowered. So the equations of a derivative are merged where they compute the
same, and the ones and zeros that rules of differentiation leave behind are dropped, before anything else is done. Last,
what is slow on a CPU becomes something else (see `nablax.graph.sums`, `nablax.graph.products`, `nablax.graph.scaled`).
The bodies of loops and branches, and functions with rules of their own, stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.extend.core import primitives

from nablax._compat import BROADCAST, DOT_GENERAL, SUMS_BY_LIBRARY
from nablax.graph.inline import Atom, Constant, Equation, Flat, Variable, inline
from nablax.graph.needed import needed
from nablax.graph.products import as_product, product_p
from nablax.graph.scaled import scaled_p
from nablax.graph.sine import cosine_p, sine_and_cosine_p, sine_p
from nablax.graph.sums import pays, repeated_p, total_p

_NEUTRAL: dict[Any, tuple[int, tuple[int, ...]]] = {
    primitives.mul_p: (1, (0, 1)),
    primitives.div_p: (1, (1,)),
    primitives.add_p: (0, (0, 1)),
    primitives.add_jaxvals_p: (0, (0, 1)),
    primitives.sub_p: (0, (1,)),
}
"""Primitives that hand one operand on where the other is a certain number: (that number, the places for it). Up to the
sign of a zero, as XLA has it, which drops them too."""

_FEW = 4096
"""Entries of a constant that are worth comparing."""

_PRODUCTS = {primitives.mul_p, primitives.integer_pow_p, primitives.square_p}

_DRAWS = {primitives.rng_uniform_p}
"""Primitives that return something else each time, and do not say so by their effects."""


def traced(function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """`function` for arguments of the types of `args`: its equations, merged."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    flat, tree = merged(inline(closed, scaled=True)), jax.tree.structure(shapes)
    return lambda *args: jax.tree.unflatten(tree, flat(*jax.tree.leaves(args)))


def merged(flat: Flat) -> Flat:
    """The same function without equations that repeat another one, change nothing, or serve no output."""
    same: dict[Atom, Atom] = {}
    filled: dict[Variable, Any] = {}
    seen: dict[Hashable, tuple[Variable, ...]] = {}
    kept: list[Equation] = []
    now: Callable[[Atom], Atom] = lambda atom: same.get(atom, atom)
    for eqn in flat.equations:
        eqn = replace(eqn, inputs=tuple(map(now, eqn.inputs)))
        if (operand := _handed_on(eqn, filled)) is not None:
            same[eqn.outputs[0]] = operand
            continue
        unique = eqn.effects or eqn.primitive in _DRAWS
        earlier = eqn.outputs if unique else seen.setdefault(tuple(_key(eqn)), eqn.outputs)
        if earlier is not eqn.outputs:
            same.update(zip(eqn.outputs, earlier, strict=True))
            continue
        if eqn.primitive is BROADCAST and (number := _number(eqn.inputs[0], filled)) is not None:
            filled[eqn.outputs[0]] = number
        kept.append(eqn)
    outputs = tuple(map(now, flat.outputs))
    live = needed(_with_scaled(kept, flat.inputs), outputs)
    return Flat(flat.inputs, outputs, _with_repeats(_with_products(_with_totals(_with_pairs(live)))))


def _handed_on(eqn: Equation, filled: dict[Variable, Any]) -> Atom | None:
    """The operand that an equation returns as it is, if it does."""
    if eqn.primitive is BROADCAST:
        operand = eqn.inputs[0]
        return operand if _type(operand) == _type(eqn.outputs[0]) else None
    number, places = _NEUTRAL.get(eqn.primitive, (0, ()))
    for place in places:
        other = eqn.inputs[1 - place]
        if _number(eqn.inputs[place], filled) == number and _type(other) == _type(eqn.outputs[0]):
            return other
    return None


def _number(atom: Atom, filled: dict[Variable, Any]) -> Any:
    """The number that every entry is, if that is known."""
    if isinstance(atom, Variable):
        return filled.get(atom)
    return None if isinstance(atom.value, jax.Array) or np.ndim(atom.value) else atom.value


def _type(atom: Atom) -> Any:
    return jax.typeof(atom.value) if isinstance(atom, Constant) else atom.aval


def _key(eqn: Equation) -> Iterator[Hashable]:
    """What equations share that compute the same."""
    yield eqn.primitive
    yield eqn.context
    for atom in eqn.inputs:
        if isinstance(atom, Variable):
            yield atom
        elif isinstance(atom.value, jax.Array) or np.size(atom.value) > _FEW:
            yield id(atom.value)
        else:  # by the bytes: 0.0 and -0.0 differ, and NaN is itself
            yield type(atom.value), _type(atom), np.asarray(atom.value).tobytes()
    for name, value in eqn.params.items():
        yield name, type(value), value if _has_hash(value) else id(value)


def _has_hash(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _with_scaled(equations: Sequence[Equation], inputs: Collection[Atom]) -> list[Equation]:
    """The same; products with an input of fewer axes as `nablax.graph.scaled` has them."""
    repeats: dict[Atom, Equation] = {eqn.outputs[0]: eqn for eqn in equations if eqn.primitive is BROADCAST}

    def vector(atom: Atom, shape: tuple[int, ...]) -> Atom | None:
        """The input whose repetition along leading axes `atom` is, if it is one."""
        axes: Sequence[int] = range(len(shape))
        while (eqn := repeats.get(atom)) is not None:
            axes, atom = [axes[k] for k in eqn.params["broadcast_dimensions"]], eqn.inputs[0]
        leading = len(shape) - len(axes)
        last = 0 < len(axes) < len(shape) and [*axes] == [*range(leading, len(shape))]
        return atom if last and atom in inputs and _type(atom).shape == shape[leading:] else None

    def replaced(eqn: Equation) -> Equation:
        result = eqn.outputs[0].aval if eqn.primitive is primitives.mul_p else None
        if result is None or result.dtype not in (np.float32, np.float64):
            return eqn
        for x, other in (eqn.inputs, eqn.inputs[::-1]):
            if isinstance(x, Variable) and (s := vector(other, result.shape)) is not None:
                return replace(eqn, primitive=scaled_p, inputs=(x, s), params={})
        return eqn

    return list(map(replaced, equations))


def _with_totals(equations: tuple[Equation, ...]) -> tuple[Equation, ...]:
    """The same; sums over one axis as `nablax.graph.sums` has them, which asks whether they are of products, or of the
    negatives of such.
    """
    products: set[Atom] = set()
    for eqn in equations:
        if eqn.primitive in _PRODUCTS or (eqn.primitive is primitives.neg_p and eqn.inputs[0] in products):
            products.update(eqn.outputs)

    def replaced(eqn: Equation) -> Equation:
        if eqn.primitive is not primitives.reduce_sum_p:
            return eqn
        aval, axes = _type(eqn.inputs[0]), tuple(map(int, eqn.params["axes"]))
        if aval.dtype not in (np.float32, np.float64) or not pays(aval.shape, axes, eqn.inputs[0] in products):
            return eqn
        return replace(eqn, primitive=total_p, params={"axes": axes})

    return tuple(map(replaced, equations))


def _with_products(equations: tuple[Equation, ...]) -> tuple[Equation, ...]:
    """The same; products of matrices as `nablax.graph.products` has them."""

    def replaced(eqn: Equation) -> Equation:
        if eqn.primitive is not DOT_GENERAL or any(isinstance(atom, Constant) for atom in eqn.inputs):
            return eqn
        found = as_product((_type(eqn.inputs[0]), _type(eqn.inputs[1])), eqn.params)
        return replace(eqn, primitive=product_p, params=found) if found else eqn

    return tuple(map(replaced, equations))


def _with_repeats(equations: tuple[Equation, ...]) -> tuple[Equation, ...]:
    """The same; arrays that are repeated as `nablax.graph.sums` has them, where XLA is slow to sum."""

    def replaced(eqn: Equation) -> Equation:
        if eqn.primitive is not BROADCAST or eqn.params.get("sharding") is not None:
            return eqn
        operand, result = _type(eqn.inputs[0]), _type(eqn.outputs[0])
        if operand.size == 1 or operand.dtype not in (np.float32, np.float64):
            return eqn
        axes = tuple(map(int, eqn.params["broadcast_dimensions"]))
        return replace(eqn, primitive=repeated_p, params={"shape": result.shape, "broadcast_dimensions": axes})

    return tuple(map(replaced, equations)) if SUMS_BY_LIBRARY else equations


def _with_pairs(equations: tuple[Equation, ...]) -> tuple[Equation, ...]:
    """The same; a sine and a cosine of the same as one equation (see `nablax.graph.sine`)."""
    found: dict[Any, dict[Any, Variable]] = {}
    for eqn in equations:
        if eqn.primitive in (sine_p, cosine_p):
            found.setdefault((eqn.inputs, eqn.context), {})[eqn.primitive] = eqn.outputs[0]

    def replaced(eqn: Equation) -> Iterator[Equation]:
        both = found.get((eqn.inputs, eqn.context), {}) if eqn.primitive in (sine_p, cosine_p) else {}
        if len(both) < 2:
            yield eqn
        elif next(iter(both)) is eqn.primitive:
            yield replace(eqn, primitive=sine_and_cosine_p, outputs=(both[sine_p], both[cosine_p]))

    return tuple(new for eqn in equations for new in replaced(eqn))
