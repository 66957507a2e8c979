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
import jax.numpy as jnp
import numpy as np
from jax import Array
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


def _by_series(quarters: int, x: Array) -> Array:
    """sin(x + quarters pi/2) for x in float32."""
    with enable_x64():
        size = jax.lax.bitcast_convert_type(jnp.abs(x), np.int32)
        m = ((size & (1 << 23) - 1) | 1 << 23).astype(np.uint64)
        first = (size >> 23) - 88  # of the digits that matter: two of them stand in front of the point
        word, shift = first >> 6, (first & 63).astype(np.uint64)
        one, two, three = (
            jnp.where(word <= 0, _WORDS[n], jnp.where(word == 1, _WORDS[n + 1], _WORDS[n + 2])) for n in range(3)
        )
        joined = lambda left, right: left << shift | right >> np.uint64(1) >> np.uint64(63) - shift
        product = m * joined(one, two) + (m * (joined(two, three) >> np.uint64(32)) >> np.uint64(32))
        k = product + np.uint64(1 << 61) >> np.uint64(62)
        f = jax.lax.bitcast_convert_type(product - (k << np.uint64(62)), np.int64).astype(np.float64) / 2.0**62
        r, k = f * (math.pi / 2), k.astype(np.int32)
        r, k = jnp.where(x < 0, -r, r), jnp.where(x < 0, -k, k)
        near = jnp.abs(x) < 0.5  # there, and only there, are there digits of x behind those of the product
        r, k = jnp.where(near, x.astype(np.float64), r), jnp.where(near, 0, k) + quarters
        sine, cosine = r * jnp.polyval(_SINE, r * r), jnp.polyval(_COSINE, r * r)
        found = jnp.where(k & 1 == 0, sine, cosine)
        found = jnp.where(k & 2 == 0, found, -found)
        return jnp.where(jnp.isfinite(x), found, math.nan).astype(np.float32)


def _primitive(name: str, quarters: int, derivative: Callable[[Array, Array], Any]) -> Any:
    library, series = functools.partial(_by_library, quarters), functools.partial(_by_series, quarters)
    on_cpu = lambda x: once(series(x) if x.dtype == np.float32 else library(x))
    return unary_primitive(name, lambda x: once(library(x)), on_cpu, derivative)


sine_p = _primitive("sin", 0, lambda tangent, x: tangent * cosine_p.bind(x))
cosine_p = _primitive("cos", 1, lambda tangent, x: -tangent * sine_p.bind(x))

SINES = {primitives.sin_p: sine_p, primitives.cos_p: cosine_p}
"""Primitives of JAX, and those that stand for them where operands are real and no accuracy is asked for."""
