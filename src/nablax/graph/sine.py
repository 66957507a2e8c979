"""Sine and cosine that are computed once, and on a CPU in operations on many numbers at a time.

XLA on a CPU asks the C library for the sine of one number after the other, which takes longer than all the rest of a
layer. In single precision sine and cosine are a series here. With q = 0 for the sine, q = 1 for the cosine, and k the
integer nearest to |x|/pi + q/2,

    sin(|x| + q pi/2) = (-1)^k sin r,    r = |x| - (k - q/2) pi,    |r| <= pi/2,

in double precision, and rounded once at the end: of all normal numbers below 2^20 none is off by more than 0.5002 units
in the last place; the C library is off by 0.56. What is larger is left to the C library, in a loop that runs once if
there is such a number and else not at all.

Reference: W. J. Cody and W. Waite, "Software manual for the elementary functions", 1980: pi in two parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.extend.core import primitives

from nablax._compat import enable_x64, unary_primitive
from nablax.graph.once import once

_BOUND = 2.0**20

_PI_HIGH, _PI_LOW = float.fromhex("0x1.921fb544p+1"), float.fromhex("0x1.0b4611a626331p-33")
"""pi is their sum, to 86 digits. The first has 33: times k - q/2 it is exact, and so is what |x| less that leaves."""

_SERIES = [(-1) ** n / math.factorial(2 * n + 1) for n in range(8)]

_INTEGERS = 1.5 * 2.0**52
"""Added to an integer it has that integer as its last digits."""


def _by_library(quarters: int, x: Array) -> Array:
    return (primitives.cos_p if quarters else primitives.sin_p).bind(x, accuracy=None)


def _by_series(quarters: Sequence[int], x: Array) -> Sequence[Array]:
    """sin(x + q pi/2) for every q, and x in float32. In `jax.lax` alone, which is lowered faster than `jax.numpy`."""

    def by_library(state: Sequence[Any]) -> Sequence[Any]:
        pairs = zip(quarters, state[1:], strict=True)
        return np.False_, *(lax.select(lax.ne(y, y), _by_library(q, x), y) for q, y in pairs)

    near = [once(_near(q, x)) for q in quarters]
    every = lax.reduce_sum(near[-1], range(x.ndim))
    return lax.while_loop(lambda state: state[0], by_library, (lax.ne(every, every), *near))[1:]


def _near(quarters: int, x: Array) -> Array:
    """The same where |x| < `_BOUND`, else NaN."""
    with enable_x64():
        x = lax.convert_element_type(x, np.float64)
        size = lax.abs(x)
        k = lax.round(lax.add(lax.mul(size, 1 / math.pi), quarters / 2), lax.RoundingMethod.TO_NEAREST_EVEN)
        turns = lax.sub(k, quarters / 2)
        r = lax.sub(lax.sub(size, lax.mul(turns, _PI_HIGH)), lax.mul(turns, _PI_LOW))
        square, value = lax.mul(r, r), lax.full_like(r, _SERIES[-1])
        for coefficient in reversed(_SERIES[:-1]):
            value = lax.add(lax.mul(value, square), coefficient)
        sign = lax.shift_left(_bits(lax.add(k, _INTEGERS)), np.int64(63))
        if not quarters:
            sign = lax.bitwise_xor(sign, lax.bitwise_and(_bits(x), np.int64(-(2**63))))
        value = lax.bitwise_xor(_bits(lax.mul(r, value)), sign)
        value = lax.convert_element_type(lax.bitcast_convert_type(value, np.float64), np.float32)
        return lax.select(lax.lt(size, _BOUND), value, lax.full_like(value, math.nan))


def _bits(x: Array) -> Array:
    return lax.bitcast_convert_type(x, np.int64)


def _primitive(name: str, quarters: Sequence[int], derivative: Callable[..., Any]) -> Any:
    library = lambda x: [once(_by_library(q, x)) for q in quarters]
    on_cpu = lambda x: _by_series(quarters, x) if x.dtype == np.float32 else library(x)
    if len(quarters) > 1:
        return unary_primitive(name, library, on_cpu, derivative, len(quarters))
    return unary_primitive(name, lambda x: library(x)[0], lambda x: on_cpu(x)[0], derivative)


sine_p = _primitive("sin", [0], lambda tangent, x, _: tangent * cosine_p.bind(x))
cosine_p = _primitive("cos", [1], lambda tangent, x, _: -tangent * sine_p.bind(x))
sine_and_cosine_p = _primitive("sincos", [0, 1], lambda tangent, _, found: (tangent * found[1], -tangent * found[0]))
"""Both of the same, with one loop for both, put in where the equations of a derivative are merged."""

SINES = {primitives.sin_p: sine_p, primitives.cos_p: cosine_p}
"""Primitives of JAX, and those that stand for them where operands are real and no accuracy is asked for."""


def apart(eqn: Any) -> Any:
    """The jaxpr of a sine and a cosine in place of an equation of both; None if it is another."""
    if eqn.primitive is not sine_and_cosine_p:
        return None
    return jax.make_jaxpr(lambda x: (sine_p.bind(x), cosine_p.bind(x)))(eqn.invars[0].aval)
