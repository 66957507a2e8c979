"""Products of matrices, batch by batch, as a primitive: on a CPU their first factors are summed over the last axis.

``out[b, i, j] = sum_k x[b, i, k] y[b, k, j]``, and whatever else letters say. XLA on a CPU hands a batch of products to
a library where the first factor is summed over its last axis. Where it is not, as in half of the products that a
gradient goes back through, it takes one product after the other, up to six times as long. There the first factor is
copied into that order, behind a call that XLA may not look into: it would take the copy back (`nablax.graph.once`).
Small products are no work for a library at all: up to ten times faster are sums of products, written out,
which need no other order of the first factor, and become part of the operations around them.

It is put in where the equations of a derivative are merged (see `nablax.graph.merge`), and where a dense layer turns
out to multiply by another matrix for each sample.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from nablax._compat import bilinear_primitive
from nablax.graph.once import once

_THIN = 3
"""Matrices of so many rows and columns XLA writes out by itself: fast in any order."""

_LANES = 8
"""Columns that are computed at once; of fewer than twice as many, those that are missing take as long as if they were
there, or longer.
"""


def product(x: Array, y: Array, *, first: str, second: str, out: str, **how: Any) -> Array:
    """The sum of products of entries over the letters that `out` lacks, as `jax.numpy.einsum` has it: every letter in
    two or three of the terms, once in each. `how` are parameters of dot_general.
    """
    return product_p.bind(x, y, first=first, second=second, out=out, **how)


def as_product(operands: tuple[Any, Any], params: dict[str, Any]) -> dict[str, Any] | None:
    """The parameters of `product` for a dot_general of real operands of these types; None if it is none."""
    (summed, batch), (x, y) = params["dimension_numbers"], operands
    if not summed[0] or params.get("out_sharding") is not None or {x.dtype.kind, y.dtype.kind} != {"f"}:
        return None
    letters = iter(string.ascii_letters)
    first, second = [next(letters) for _ in range(x.ndim)], [next(letters) for _ in range(y.ndim)]
    for i, j in (*zip(*summed, strict=True), *zip(*batch, strict=True)):
        second[j] = first[i]
    kept = lambda names: [a for k, a in enumerate(names) if a not in {first[i] for i in (*summed[0], *batch[0])}]
    out = [first[i] for i in batch[0]] + kept(first) + kept(second)
    how = {name: params[name] for name in ("precision", "preferred_element_type")}
    return {"first": "".join(first), "second": "".join(second), "out": "".join(out), **how}


def as_dot_general(eqn: Any) -> Any:
    """The jaxpr of a dot_general in place of an equation of `product_p`; None if it is another."""
    if eqn.primitive is not product_p:
        return None
    return jax.make_jaxpr(lambda x, y: _product(x, y, **eqn.params))(*(var.aval for var in eqn.invars))


def in_type_of(operand: Any, cotangent: Array) -> Array:
    """In the dtype of the operand; a real factor of a complex product receives the real part."""
    real = jnp.iscomplexobj(cotangent) and not jnp.issubdtype(operand.aval.dtype, jnp.complexfloating)
    return (cotangent.real if real else cotangent).astype(operand.aval.dtype)


def _product(x: Array, y: Array, *, first: str, second: str, out: str, **how: Any) -> Array:
    batch, summed = _letters(first, second, out)
    places = lambda names, letters: tuple(names.index(letter) for letter in letters)
    of_both = lambda letters: (places(first, letters), places(second, letters))
    free = [a for names in (first, second) for a in names if a not in batch and a not in summed]
    return _order(lax.dot_general(x, y, (of_both(summed), of_both(batch)), **how), [*batch, *free], out)


def _letters(first: str, second: str, out: str) -> tuple[list[str], list[str]]:
    """(those of the batch, those that are summed over)."""
    both = [letter for letter in first if letter in second]
    return [a for a in both if a in out], [a for a in both if a not in out]


def _on_cpu(x: Array, y: Array, *, first: str, second: str, out: str, **how: Any) -> Array:
    batch, summed = _letters(first, second, out)
    if not batch:
        return _product(x, y, first=first, second=second, out=out, **how)
    lengths = dict(zip(first + second, (*x.shape, *y.shape), strict=True))
    if any(a in second for a in [a for a in out if a not in batch][:1]):  # as XLA would, to transpose the result
        x, y, first, second = y, x, second, first
    left, right = ([a for a in names if a not in batch and a not in summed] for names in (first, second))
    rows, columns, terms = (math.prod(lengths[a] for a in letters) for letters in (left, right, summed))
    types = {x.dtype, y.dtype, np.dtype(how["preferred_element_type"] or x.dtype)}
    if _as_sums(rows, columns, terms) and len(types) == 1 and x.dtype in (np.float32, np.float64):
        # Neighbours in y are neighbours in the result: they are read, multiplied and summed several at once.
        x, y = _order(x, first, [*batch, *left, *summed]), once(_order(y, second, [*batch, *summed, *right]))
        x = lax.expand_dims(x, range(x.ndim, x.ndim + len(right)))
        y = lax.expand_dims(y, range(len(batch), len(batch + left)))
        found = lax.reduce_sum(x * y, range(len(batch + left), len(batch + left + summed)))
        return _order(found, [*batch, *left, *right], out)
    if not first.endswith("".join(summed)) and max(rows, columns) > _THIN and min(rows, columns) > 1:
        order = [*batch, *left, *summed]
        x, first = once(_order(x, first, order)), "".join(order)
    if len(right) == 1 and 4 < columns < 2 * _LANES and rows >= 2 * columns:
        y = _filled(y, second.index(right[0]))
        found = _product(x, y, first=first, second=second, out=out, **how)
        return lax.slice_in_dim(found, 0, columns, axis=out.index(right[0]))
    return _product(x, y, first=first, second=second, out=out, **how)


def _filled(y: Array, axis: int) -> Array:
    """The same, with zeros behind it, as long as whole registers."""
    missing = -y.shape[axis] % _LANES
    return lax.pad(y, np.zeros((), y.dtype), [(0, missing if k == axis else 0, 0) for k in range(y.ndim)])


def _as_sums(rows: int, columns: int, terms: int) -> bool:
    """Whether sums, written out, are faster than a library, as measured on a CPU. Sums of 64 terms would be 30 times
    slower.
    """
    return terms <= 8 or (terms <= 32 and rows * columns * terms <= 1024)


def _order(array: Array, letters: Sequence[str], wanted: Sequence[str]) -> Array:
    return array if [*letters] == [*wanted] else lax.transpose(array, [letters.index(a) for a in wanted])


def _shape(x: Any, y: Any, *, first: str, second: str, out: str, **how: Any) -> tuple[tuple[int, ...], Any]:
    lengths = dict(zip(first + second, (*x.shape, *y.shape), strict=True))
    return tuple(lengths[a] for a in out), how["preferred_element_type"] or jnp.result_type(x.dtype, y.dtype)


def _by_x(cotangent: Array, x: Any, y: Array, *, first: str, second: str, out: str, **how: Any) -> Array:
    return in_type_of(x, product(cotangent, y, first=out, second=second, out=first, **how))


def _by_y(cotangent: Array, x: Array, y: Any, *, first: str, second: str, out: str, **how: Any) -> Array:
    return in_type_of(y, product(cotangent, x, first=out, second=first, out=second, **how))


def _batched(
    operands: tuple[Array, Array], axes: tuple[Any, Any], *, first: str, second: str, out: str, **how: Any
) -> tuple[Array, int]:
    """One letter more: in front, or where it comes out of the product if one operand is the same for all."""
    new = next(a for a in string.ascii_letters if a not in first + second)
    x, y = (o if axis is None else jnp.moveaxis(o, axis, 0) for o, axis in zip(operands, axes, strict=True))
    place = 0
    if None in axes:
        place = sum(a in first and (axes[0] is None or a in second) for a in out)
    first, second = (names if axis is None else new + names for names, axis in zip((first, second), axes, strict=True))
    return product(x, y, first=first, second=second, out=out[:place] + new + out[place:], **how), place


product_p = bilinear_primitive("product", _product, _shape, _by_x, _by_y, _batched, _on_cpu)
