"""Sine and cosine that are computed once, and on a CPU in operations on many numbers at a time.

XLA on a CPU asks the C library for the sine of one number after the other, which takes longer than all the rest of a
layer. In single precision sine and cosine are a series here, of the turns f that x is away from the nearest quarter:

    x / 2 pi = k / 4 + f,    |f| <= 1/8,    sin x = (sin, cos, -sin, -cos)[k mod 4](2 pi f),

with cos 2 pi f = sin 2 pi (1/4 - |f|), in double precision, and rounded once at the end: of all normal numbers none is
off by more than 0.500002 units in the last place; the C library is off by 0.56. However large x is, f is known to
all its digits: x has 24 of them, 1 / 2 pi is a sum of three numbers of 29 and a rest, so that each product of the first
three is exact in 53, and so is what it leaves of whole turns. From 2^76 on that sum begins behind the digits that only
give whole turns.

References: M. Payne and R. Hanek, "Radian reduction for trigonometric functions", SIGNUM Newsletter 18, 1983.
W. J. Cody and W. Waite, "Software manual for the elementary functions", 1980.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.extend.core import primitives
from numpy.polynomial import Chebyshev, Polynomial

from nablax._compat import enable_x64, unary_primitive
from nablax.graph.once import once

_PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")

_FAR = 76
"""From two to this power on the digits of 1 / 2 pi before the 53rd behind the point only give whole turns."""


def _parts(skipped: int) -> list[float]:
    """1 / 2 pi without its first digits behind the point, as a sum of three numbers of 29 digits and a rest."""
    rest, parts = 1 / (2 * _PI) % Fraction(1, 2**skipped), []
    for last in (skipped + 29, skipped + 58, skipped + 87):
        parts.append(float(rest - rest % Fraction(1, 2**last)))
        rest %= Fraction(1, 2**last)
    return [*parts, float(rest)]


_NEAR_AND_FAR = list(zip(_parts(2), _parts(_FAR - 23), strict=True))


def _slope(square: Any) -> Any:
    """sin(2 pi f) / f by f^2."""
    return 2 * np.pi * np.sinc(2 * np.sqrt(square))


_SERIES = Chebyshev.interpolate(_slope, 6, domain=[0, 1 / 16]).convert(kind=Polynomial).coef.tolist()
"""Off by 1e-13 of the slope, and by less where f is small."""

_INTEGERS = 1.5 * 2.0**52
"""Added to an integer it has that integer as its last digits."""


def _by_library(quarters: int, x: Array) -> Array:
    return (primitives.cos_p if quarters else primitives.sin_p).bind(x, accuracy=None)


def _by_series(quarters: Sequence[int], x: Array) -> list[Array]:
    """sin(x + q pi/2) for every q, and x in float32. In `jax.lax` alone, which is lowered faster than `jax.numpy`."""
    with enable_x64():
        turns = once(_turns(lax.convert_element_type(x, np.float64)))
        return [once(lax.convert_element_type(_sine(q, turns), np.float32)) for q in quarters]


def _turns(x: Array) -> Array:
    """f, with k mod 4 in place of its last two digits."""
    far = lax.ge(lax.abs(x), 2.0**_FAR)
    *exact, rest = (lax.mul(x, lax.select(far, lax.full_like(x, b), lax.full_like(x, a))) for a, b in _NEAR_AND_FAR)
    first, second, third = map(_less_whole, exact)
    k = lax.add(lax.add(first, second), third)
    k = lax.round(lax.mul(k, 4.0), lax.RoundingMethod.TO_NEAREST_EVEN)
    f = lax.sub(first, lax.mul(k, 0.25))
    for part in (second, third, rest):  # each sum is exact where f is small, because it is small too
        f = lax.add(f, part)
    f = lax.select(lax.eq(x, 0.0), x, f)  # with the sign of zero
    last = lax.bitwise_and(_bits(lax.add(k, _INTEGERS)), np.int64(3))
    return _number(lax.bitwise_or(lax.bitwise_and(_bits(f), np.int64(-4)), last))


def _less_whole(turns: Array) -> Array:
    """What is beyond the nearest whole turn."""
    return lax.sub(turns, lax.round(turns, lax.RoundingMethod.TO_NEAREST_EVEN))


def _sine(quarters: int, turns: Array) -> Array:
    """sin(x + q pi/2) from what `_turns` tells of x."""
    k = _bits(turns)
    k = lax.add(k, np.int64(quarters)) if quarters else k
    odd = lax.lt(lax.shift_left(k, np.int64(63)), np.int64(0))
    f = lax.select(odd, lax.sub(0.25, lax.abs(turns)), turns)
    square, slope = lax.mul(f, f), lax.full_like(f, _SERIES[-1])
    for coefficient in reversed(_SERIES[:-1]):
        slope = lax.add(lax.mul(slope, square), coefficient)
    negative = lax.bitwise_and(lax.shift_left(k, np.int64(62)), np.int64(-(2**63)))
    return _number(lax.bitwise_xor(_bits(lax.mul(f, slope)), negative))


def _bits(x: Array) -> Array:
    return lax.bitcast_convert_type(x, np.int64)


def _number(bits: Array) -> Array:
    return lax.bitcast_convert_type(bits, np.float64)


def _primitive(name: str, quarters: Sequence[int], derivative: Callable[..., Any]) -> Any:
    library = lambda x: [once(_by_library(q, x)) for q in quarters]
    on_cpu = lambda x: _by_series(quarters, x) if x.dtype == np.float32 else library(x)
    if len(quarters) > 1:
        return unary_primitive(name, library, on_cpu, derivative, len(quarters))
    return unary_primitive(name, lambda x: library(x)[0], lambda x: on_cpu(x)[0], derivative)


sine_p = _primitive("sin", [0], lambda tangent, x, _: tangent * cosine_p.bind(x))
cosine_p = _primitive("cos", [1], lambda tangent, x, _: -tangent * sine_p.bind(x))
sine_and_cosine_p = _primitive("sincos", [0, 1], lambda tangent, _, found: (tangent * found[1], -tangent * found[0]))
"""Both of the same, from the same turns, put in where the equations of a derivative are merged."""

SINES = {primitives.sin_p: sine_p, primitives.cos_p: cosine_p}
"""Primitives of JAX, and those that stand for them where operands are real and no accuracy is asked for."""


def apart(eqn: Any) -> Any:
    """The jaxpr of a sine and a cosine in place of an equation of both; None if it is another."""
    if eqn.primitive is not sine_and_cosine_p:
        return None
    return jax.make_jaxpr(lambda x: (sine_p.bind(x), cosine_p.bind(x)))(eqn.invars[0].aval)
