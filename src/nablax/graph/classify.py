"""What kind of function each primitive is: the one table that the sweeps rely on.

The table is keyed by the primitive objects of JAX, never by name: a user's function that happens to be called ``silu``
is just what it computes. A primitive that is in none of the sets is opaque: differentiated by its own rules, exact,
only less fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from jax.extend.core import primitives as p

from nablax._compat import BARRIER, SPLIT, STACK, TILE, UNSTACK
from nablax.graph.dense import dense_p
from nablax.graph.once import once_p
from nablax.graph.pairs import pair_products_p, symmetric_p
from nablax.graph.sine import cosine_p, sine_p
from nablax.graph.sums import total_p


@dataclass(frozen=True)
class Table:
    """Sets of primitives. The sets may overlap: ``mul`` is elementwise and bilinear.

    Attributes:
        zero: piecewise constant, so that their derivative is zero wherever it exists.
        linear: jointly linear in all operands that carry derivatives, or piecewise so; their second derivative is zero.
        elementwise: entry i of the result depends on entry i of each operand; for complex operands, holomorphic there.
        bilinear: linear in each of two operands; plain linear where only one of them depends on x.
    """

    zero: frozenset[Any]
    linear: frozenset[Any]
    elementwise: frozenset[Any]
    bilinear: frozenset[Any]

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(known)} {kind}" for kind, known in vars(self).items())
        return f"Table of primitives: {counts}"

    def extended(
        self,
        *,
        zero: Iterable[Any] = (),
        linear: Iterable[Any] = (),
        elementwise: Iterable[Any] = (),
        bilinear: Iterable[Any] = (),
    ) -> Table:
        """A table that knows more primitives; the promise that they are what is said is the caller's."""
        return replace(
            self,
            zero=self.zero.union(zero),
            linear=self.linear.union(linear),
            elementwise=self.elementwise.union(elementwise),
            bilinear=self.bilinear.union(bilinear),
        )


def _present(*names: str) -> frozenset[Any]:
    """The primitives of these names that this version of JAX has."""
    found = (getattr(p, name + "_p", None) for name in names)
    return frozenset(primitive for primitive in found if primitive is not None)


# Choices between operands: linear wherever they are differentiable at all.
_CHOICES = _present("select_n", "max", "min", "clamp", "abs")

_FLAT = _CHOICES | _present("add", "add_jaxvals", "sub", "neg", "copy", "convert_element_type") | {once_p}

JAX = Table(
    zero=_present("floor", "ceil", "round", "sign", "is_finite", "stop_gradient", "argmax", "argmin"),
    linear=_FLAT
    | _present("reshape", "transpose", "broadcast_in_dim", "squeeze", "rev", "slice", "dynamic_slice", "gather", "pad")
    | _present(
        "concatenate", "dynamic_update_slice", "scatter", "scatter_add", "reduce_sum", "reduce_max", "reduce_min"
    )
    | _present("cumsum", "cummax", "cummin", "sort", "real", "imag", "conj", "complex", "fft", "reduce_window_sum")
    | _present("name", "reduce_precision", "select_and_gather_add", "sharding_constraint", "device_put")
    | {symmetric_p, total_p}
    | {found for found in (SPLIT, STACK, UNSTACK, TILE, BARRIER) if found is not None},
    elementwise=_FLAT
    | _present("exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "cbrt", "square", "integer_pow", "pow")
    | _present("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "atan2")
    | _present("logistic", "erf", "erfc", "erf_inv", "lgamma", "digamma", "mul", "div", "one_minus_square")
    | {sine_p, cosine_p},
    bilinear=_present("mul", "dot_general", "conv_general_dilated") | {dense_p, pair_products_p},
)

# Entrywise, but not complex differentiable: a complex operand has two directions.
NOT_HOLOMORPHIC = _present("abs", "max", "min", "clamp", "atan2")

# A model that is made of these and of linear maps has kinks, and no curvature between them.
KINKS = _CHOICES | _present("reduce_max", "reduce_min", "cummax", "cummin", "sort", "custom_jvp_call")

# Their derivatives look for the operands that are equal to the result.
EXTREMES = _present("reduce_max", "reduce_min", "scatter_max", "scatter_min")

# Linear in the first operand, for any value of the second.
LINEAR_IN_FIRST = _present("div")

INLINED = _present("jit", "closed_call", "call", "remat")
