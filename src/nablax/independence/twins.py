"""The same model traced for two numbers of samples, equation beside equation.

Sizes that differ between the two are those that count samples, whatever else has the same size by chance; a number that
differs is one that depends on D. Where the equations themselves differ, nothing can be said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.extend.core as jex
import numpy as np
from jax.core import ShapedArray, Tracer

from nablax._compat import jaxpr_of
from nablax.graph.classify import Table
from nablax.graph.dense import dense_p
from nablax.graph.inline import Atom, Constant, Equation, Flat, Variable, inline
from nablax.graph.lines import line_of
from nablax.independence.primitives import BROADCASTS
from nablax.independence.values import SHARED, SIZE, Mixed, Own, Reason, Samples, Value

Pair = tuple[Any, Any]
"""Something in the first trace, and the same in the second."""

Shape = tuple[int, ...]

# Broadcasts stay inside of the operations that do them.
_PLAIN = Table(frozenset(), frozenset(), frozenset(), frozenset())


class MismatchError(Exception):
    """The two traces are not the same program; `reason` says where."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text)
        self.reason = reason


@dataclass(frozen=True, eq=False)
class Twin:
    """An equation in both traces.

    Attributes:
        first: the equation for the first number of samples, at least two.
        second: that for the second; None where it is a broadcast that one sample does not need.
        inputs, outputs: the operands and results in both.
        sizes: the two numbers of samples.
    """

    first: Equation
    second: Equation | None
    inputs: tuple[tuple[Atom, Atom], ...]
    outputs: tuple[tuple[Variable, Atom], ...]
    sizes: tuple[int, int]

    @property
    def primitive(self) -> Any:
        """What the equation does."""
        return self.first.primitive

    @property
    def name(self) -> str:
        """What the user knows the primitive as."""
        return "dot_general" if self.primitive is dense_p else self.primitive.name

    @property
    def line(self) -> str:
        """Of the user's program."""
        return line_of(*self.first.calls)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters in the first trace."""
        return self.first.params

    @property
    def second_params(self) -> dict[str, Any]:
        """The parameters in the second trace."""
        return self.params if self.second is None else self.second.params

    @cached_property
    def changed(self) -> frozenset[str]:
        """The parameters that depend on D."""
        first, second = self.params, self.second_params
        if first.keys() != second.keys():
            return frozenset(first.keys() | second.keys())
        return frozenset(name for name in first if not same(first[name], second[name]))

    def shape(self, number: int) -> Shape:
        """Of an operand, in the first trace."""
        return shape_of(self.inputs[number][0])

    def typed(self, number: int) -> str:
        """The type of an operand, with D for the number of samples."""
        a, b = self.inputs[number]
        return f"{dtype_of(a)}[{', '.join(self._size(*ab) for ab in zip(shape_of(a), shape_of(b), strict=True))}]"

    def _size(self, a: int, b: int) -> str:
        times = a // self.sizes[0]
        return str(a) if a == b else "D" if times == 1 else f"{times}*D"

    def mixes(self, text: str) -> Mixed:
        """The result depends on several samples, or on their order: the operation `text`."""
        return Mixed(Reason(self.name, text, self.line))

    def unproven(self, text: str) -> Mixed:
        """The result may depend on several samples: the operation `text`."""
        return Mixed(Reason(self.name, text, self.line, proven=False))

    def inner(self, closed: Pair) -> Twins:
        """A jaxpr among the parameters, in both traces."""
        calls = (self.first.calls, self.second.calls if self.second else ())
        flats = [inline(one, _PLAIN, calls=tracebacks) for one, tracebacks in zip(closed, calls, strict=True)]
        return Twins.of((flats[0], flats[1]), self.sizes)


@dataclass(frozen=True, eq=False)
class Twins:
    """A jaxpr in both traces.

    Attributes:
        inputs: its variables in the first trace.
        outputs: in both.
        equations: in both, in the order of their evaluation.
        sizes: the two numbers of samples.
    """

    inputs: tuple[Variable, ...]
    outputs: tuple[tuple[Atom, Atom], ...]
    equations: tuple[Twin, ...]
    sizes: tuple[int, int]

    @classmethod
    def traced(cls, closed: Pair, sizes: tuple[int, int]) -> Twins:
        """Two jaxprs of the whole model."""
        return cls.of((inline(closed[0], _PLAIN), inline(closed[1], _PLAIN)), sizes)

    @classmethod
    def of(cls, flats: tuple[Flat, Flat], sizes: tuple[int, int]) -> Twins:
        """Lay two traces side by side.

        Raises:
            MismatchError: they are not the same equations.
        """
        first, second = flats
        images: dict[Variable, Atom] = dict(zip(first.inputs, second.inputs, strict=True))
        waiting = list(reversed(second.equations))
        equations = []
        for eqn in first.equations:
            if waiting and _correspond(eqn, waiting[-1], images):
                twin = waiting.pop()
                outputs: Sequence[Atom] = twin.outputs
            elif (vanished := _vanished(eqn, images, sizes)) is not None:
                twin, outputs = None, [vanished]
            else:
                raise MismatchError(_difference(eqn))
            inputs = [image(atom, images) for atom in eqn.inputs] if twin is None else twin.inputs
            images.update(zip(eqn.outputs, outputs, strict=True))
            pairs = tuple(zip(eqn.inputs, inputs, strict=True)), tuple(zip(eqn.outputs, outputs, strict=True))
            equations.append(Twin(eqn, twin, *pairs, sizes))
        if waiting:
            raise MismatchError(_difference(waiting[-1]))
        for a, b in zip(first.outputs, second.outputs, strict=True):
            if not _is_image(a, b, images):
                raise MismatchError(_difference(first.equations[-1]) if first.equations else Reason("", "", ""))
        return cls(first.inputs, tuple(zip(first.outputs, second.outputs, strict=True)), tuple(equations), sizes)


def _difference(eqn: Equation) -> Reason:
    text = "is not computed in the same way for every number of samples"
    return Reason(eqn.primitive.name, text, line_of(*eqn.calls), proven=False)


def _correspond(a: Equation, b: Equation, images: dict[Variable, Atom]) -> bool:
    """Whether two equations do the same to the same operands."""
    alike = a.primitive is b.primitive and len(a.inputs) == len(b.inputs) and len(a.outputs) == len(b.outputs)
    return (
        alike
        and all(_is_image(x, y, images) for x, y in zip(a.inputs, b.inputs, strict=True))
        and all(_same_type(x, y) for x, y in zip(a.outputs, b.outputs, strict=True))
    )


def _same_type(a: Atom, b: Atom) -> bool:
    return dtype_of(a) == dtype_of(b) and len(shape_of(a)) == len(shape_of(b))


def image(atom: Atom, images: dict[Variable, Atom]) -> Atom:
    """An operand in the second trace."""
    return atom if isinstance(atom, Constant) else images[atom]


def _is_image(a: Atom, b: Atom, images: dict[Variable, Atom]) -> bool:
    if isinstance(a, Variable):
        return images[a] is b
    return isinstance(b, Constant) and _same_type(a, b)


def _vanished(eqn: Equation, images: dict[Variable, Atom], sizes: tuple[int, int]) -> Atom | None:
    """What stands for the result of a broadcast to D = 1 rows in a trace that had no need of it."""
    if sizes[1] != 1 or eqn.primitive not in BROADCASTS:
        return None
    operand, (result,) = image(eqn.inputs[0], images), eqn.outputs
    given, wanted = shape_of(operand), result.aval.shape
    rows = zip(given, wanted, strict=False)
    fits = len(given) == len(wanted) and all(g == w or (g == 1 and w == sizes[0]) for g, w in rows)
    return operand if fits else None


def shape_of(atom: Atom) -> Shape:
    """The shape of a variable or constant; empty for what has none."""
    return tuple(getattr(atom.value if isinstance(atom, Constant) else atom.aval, "shape", ()))


def dtype_of(atom: Atom) -> Any:
    """The dtype of a variable or constant."""
    if isinstance(atom, Variable):
        return getattr(atom.aval, "dtype", None)
    return getattr(atom.value, "dtype", None) or np.result_type(atom.value)


def is_array(atom: Atom) -> bool:
    """Whether it is a plain value, rather than a mutable array or a token."""
    return isinstance(atom, Constant) or isinstance(atom.aval, ShapedArray)


def sample_axes(a: Atom, b: Atom) -> list[int]:
    """The axes whose size depends on D."""
    return [axis for axis, (m, n) in enumerate(zip(shape_of(a), shape_of(b), strict=True)) if m != n]


def same(a: Any, b: Any) -> bool:
    """Whether a parameter is the same in both traces."""
    if a is b:
        return True
    if isinstance(a, jex.Jaxpr | jex.ClosedJaxpr):
        return _same_steps(jaxpr_of(a), jaxpr_of(b)) and same(getattr(a, "consts", ()), getattr(b, "consts", ()))
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray | np.generic) or isinstance(b, np.ndarray | np.generic):
        return bool(np.shape(a) == np.shape(b) and np.all(np.asarray(a) == np.asarray(b)))
    try:
        return bool(a == b)
    except Exception:  # a class of which nothing is known
        return False


def _same_steps(a: Any, b: Any) -> bool:
    """Whether two jaxprs among the parameters are the same equations of the same operands, literals included."""
    if len(a.eqns) != len(b.eqns) or _wiring(a) != _wiring(b):
        return False
    for e, f in zip(a.eqns, b.eqns, strict=True):
        literals = [[v.val for v in eqn.invars if isinstance(v, jex.Literal)] for eqn in (e, f)]
        if e.primitive is not f.primitive or not same(*literals) or e.params.keys() != f.params.keys():
            return False
        if not all(same(e.params[name], f.params[name]) for name in e.params):
            return False
    return True


def _wiring(jaxpr: Any) -> list[list[int]]:
    """Which values go where: variables by the order in which they appear, literals as -1."""
    order: dict[Any, int] = {}
    number = lambda atom: -1 if isinstance(atom, jex.Literal) else order.setdefault(atom, len(order))
    lists = [jaxpr.constvars, jaxpr.invars, *(atoms for e in jaxpr.eqns for atoms in (e.invars, e.outvars))]
    return [[number(atom) for atom in atoms] for atoms in (*lists, jaxpr.outvars)]


def constant(a: Any, b: Any, sizes: tuple[int, int]) -> Value:
    """What is known of a literal or captured array that has these values in the two traces."""
    if a is b:
        return SHARED
    reason = Reason("constant", "has entries that differ from sample to sample", "")
    if isinstance(a, Tracer) or isinstance(b, Tracer):
        return Mixed(Reason("constant", "is a traced value that is another one in each trace", "", proven=False))
    try:
        a, b = np.asarray(a), np.asarray(b)
    except Exception:  # random keys and the like
        return Mixed(Reason("constant", "is no array that can be compared", "", proven=False))
    if a.shape == b.shape:
        return SHARED if np.array_equal(a, b, equal_nan=a.dtype.kind in "fc") else SIZE
    axes = [axis for axis, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n]
    if len(axes) != 1 or any(array.shape[axes[0]] % size for array, size in zip((a, b), sizes, strict=True)):
        return Mixed(reason)
    return _repeated(a, b, axes[0], sizes, reason)


def _repeated(a: np.ndarray, b: np.ndarray, axis: int, sizes: tuple[int, int], reason: Reason) -> Value:
    """A captured array whose one axis counts samples: the same for each of them, or their numbers."""
    rows = [np.moveaxis(array, axis, 0) for array in (a, b)]
    numbers = [np.arange(len(array)).reshape(-1, *[1] * (array.ndim - 1)) for array in rows]
    if a.dtype.kind in "iu" and all((array == number).all() for array, number in zip(rows, numbers, strict=True)):
        return Own(axis, reason)
    # One axis of D blocks of equal entries, or, k times, one of D equal entries.
    k = a.shape[axis] // sizes[0]
    layouts = ((1, k), (k, 1)) if a.shape[axis] * sizes[1] == b.shape[axis] * sizes[0] else ()
    for outer, inner in layouts:
        blocks = [array.reshape(outer, size, inner, -1) for array, size in zip(rows, sizes, strict=True)]
        if all((block == blocks[0][:, :1]).all() for block in blocks):
            return Samples(axis, outer, inner, false=a.dtype == bool and not a.any())
    return Mixed(reason)
