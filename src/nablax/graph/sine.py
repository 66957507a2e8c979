"""Sine and cosine that are computed once, and on a CPU in operations on many numbers at a time.

XLA on a CPU asks the C library for the sine of one number after the other, which takes longer than all the rest of a
layer. In single precision a number is m 2^e with an integer m < 2^24. With |x| 2/pi = k + f, k an integer, |f| <= 1/2
and r = f pi/2, the sine of |x| is sin r, cos r, -sin r or -cos r where k is 0, 1, 2 or 3 modulo 4. Only those digits of
2/pi matter to k modulo 4 and to f that stand around the exponent: m times 96 of them is a number with k in front of
the point and 60 right digits of f behind it. sin r and cos r are their series, in double precision, so that the result
is rounded once: of 10^8 numbers of every size, those nearest to multiples of pi/2 among them, none was off by more than
0.5002 units in the last place; the C library is off by 0.56.

Reference: M. H. Payne and R. N. Hanek, "Radian reduction for trigonometric functions", ACM SIGNUM Newsletter 18 (1983).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.extend.core import primitives

from nablax._compat import enable_x64, unary_primitive
from nablax.graph.once import once

_TWO_OVER_PI = 0xA2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE5163ABDEBBC561
"""256 binary digits behind the point."""

_WORDS = [np.uint64(_TWO_OVER_PI >> place & 2**64 - 1) for place in (256, 192, 128, 64, 0)]
"""The same in words of 64, with 64 zeros in front."""

_SINE = np.array([(-1) ** n / math.factorial(2 * n + 1) for n in range(6)][::-1])
_COSINE = np.array([(-1) ** n / math.factorial(2 * n) for n in range(7)][::-1])


def _by_library(quarters: int, x: Array) -> Array:
    return (primitives.cos_p if quarters else primitives.sin_p).bind(x, accuracy=None)


@jax.jit
def _by_series(x: Array, quarters: Array) -> Array:
    """sin(x + quarters pi/2) for x in float32.

    Sine and cosine share one trace, and it is of `jax.lax` alone: through operators and functions of `jax.numpy` a
    program of both takes twice as long to lower.
    """
    with enable_x64():
        size = lax.bitcast_convert_type(lax.abs(x), np.int32)
        m = _to(np.uint64, lax.bitwise_or(lax.bitwise_and(size, np.int32((1 << 23) - 1)), np.int32(1 << 23)))
        # The first of the digits that matter: two of them stand in front of the point.
        first = lax.sub(lax.shift_right_arithmetic(size, np.int32(23)), np.int32(88))
        k, r = _reduced(m, first)
        negative = lax.lt(x, np.float32(0))
        r, k = lax.select(negative, lax.neg(r), r), lax.select(negative, lax.neg(k), k)
        # There, and only there, are there digits of x behind those of the product.
        near = lax.lt(lax.abs(x), np.float32(0.5))
        r, k = lax.select(near, _to(np.float64, x), r), lax.select(near, lax.full_like(k, 0), k)
        square, k = lax.mul(r, r), lax.add(k, quarters)
        even = lax.eq(lax.bitwise_and(k, np.int32(1)), np.int32(0))
        found = lax.select(even, lax.mul(r, _polynomial(_SINE, square)), _polynomial(_COSINE, square))
        positive = lax.eq(lax.bitwise_and(k, np.int32(2)), np.int32(0))
        found = lax.select(positive, found, lax.neg(found))
        return _to(np.float32, lax.select(lax.is_finite(x), found, lax.full_like(found, math.nan)))


def _reduced(m: Array, first: Array) -> tuple[Array, Array]:
    """(k modulo 4, r) with r = f pi/2 and m 2^e 2/pi = k + f; `first` is the first digit of 2/pi that matters."""
    word = lax.shift_right_arithmetic(first, np.int32(6))
    shift = _to(np.uint64, lax.bitwise_and(first, np.int32(63)))
    back = lax.sub(np.uint64(63), shift)
    words = [lax.full_like(m, word) for word in _WORDS]
    none, single = lax.le(word, np.int32(0)), lax.eq(word, np.int32(1))
    one, two, three = (lax.select(none, words[n], lax.select(single, *words[n + 1 : n + 3])) for n in range(3))

    def joined(left: Array, right: Array) -> Array:
        """64 digits from `shift` on."""
        return lax.bitwise_or(lax.shift_left(left, shift), lax.shift_right_logical(_shifted(right, 1), back))

    behind = _shifted(lax.mul(m, _shifted(joined(two, three), 32)), 32)
    product = lax.add(lax.mul(m, joined(one, two)), behind)
    k = _shifted(lax.add(product, np.uint64(1 << 61)), 62)
    f = lax.bitcast_convert_type(lax.sub(product, lax.shift_left(k, np.uint64(62))), np.int64)
    return _to(np.int32, k), lax.mul(_to(np.float64, f), math.pi / 2 / 2.0**62)


def _to(dtype: Any, x: Array) -> Array:
    return lax.convert_element_type(x, dtype)


def _shifted(x: Array, places: int) -> Array:
    """The integer part of x 2^-places."""
    return lax.shift_right_logical(x, np.uint64(places))


def _polynomial(coefficients: np.ndarray, x: Array) -> Array:
    """The polynomial with these coefficients, the highest first, by Horner's rule."""
    value = lax.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = lax.add(lax.mul(value, x), coefficient)
    return value


def _primitive(name: str, quarters: int, derivative: Callable[[Array, Array], Any]) -> Any:
    library = functools.partial(_by_library, quarters)
    series = lambda x: _by_series(x, np.int32(quarters))
    on_cpu = lambda x: once(series(x) if x.dtype == np.float32 else library(x))
    return unary_primitive(name, lambda x: once(library(x)), on_cpu, derivative)


sine_p = _primitive("sin", 0, lambda tangent, x: tangent * cosine_p.bind(x))
cosine_p = _primitive("cos", 1, lambda tangent, x: -tangent * sine_p.bind(x))

SINES = {primitives.sin_p: sine_p, primitives.cos_p: cosine_p}
"""Primitives of JAX, and those that stand for them where operands are real and no accuracy is asked for."""
