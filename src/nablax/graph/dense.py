"""A dense layer as a primitive of its own: ``y[..., k] = sum_h x[..., h] W[h, k]``, for any leading axes.

It computes what `jax.lax.dot_general` computes, and differs in one place only, its transpose. The gradient by W sums
over all leading axes: samples, directions, positions. JAX contracts them one by one, and XLA then copies both factors
into another order first, which can cost more than the product. Here they are merged into one axis: nothing is copied.

On a CPU it is written as a convolution without a window, which is the same product. XLA hands products on to a library
(YNNPACK) that takes longer than its own (Eigen) for one of the size of a layer, mostly because the other cores come too
late. What was a convolution becomes a product only after that is decided.
"""

from __future__ import annotations

import math
import string
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from nablax._compat import bilinear_primitive, convolutions_are_products
from nablax.graph.products import in_type_of, product

THIN = 32
"""Columns of either side up to which a matrix is none for Eigen, and products are left to XLA as they are."""

ROWS_FOR_A_COPY = 512
"""Fewer rows do not pay for a copy of the weights in the other order."""

SMALL_COPY = 128 * 128
"""Numbers up to which a slower copy does not show beside the product."""


def dense(x: Array, W: Array, *, axis: int, **how: Any) -> Array:
    """The product of the last axis of `x` with axis 0 or 1 of the matrix `W`; `how` are parameters of dot_general."""
    return dense_p.bind(x, W, axis=axis, **how)


def as_dense(operands: tuple[Any, Any], params: dict[str, Any]) -> tuple[tuple[int, int], dict[str, Any]] | None:
    """How a dot_general of operands of these types is a dense layer: (which is x, which is W; parameters), or None."""
    (contracted, batched), (left, right) = params["dimension_numbers"], operands
    if batched != ((), ()) or len(contracted[0]) != 1 or params.get("out_sharding") is not None:
        return None
    (i,), (j,) = contracted
    how = {name: params[name] for name in ("precision", "preferred_element_type")}
    if right.ndim == 2 and i == left.ndim - 1:
        return (0, 1), {"axis": j, **how}
    if left.ndim == 2 and right.ndim == 1:
        return (1, 0), {"axis": i, **how}
    return None


def _product(x: Array, W: Array, *, axis: int, **how: Any) -> Array:
    return jax.lax.dot_general(x, W, (((x.ndim - 1,), (axis,)), ((), ())), **how)


def _on_cpu(x: Array, W: Array, *, axis: int, **how: Any) -> Array:
    rows, K = math.prod(x.shape[:-1]), x.shape[-1]
    if not _pays_as_convolution(x, W, rows, axis, **how):
        return _product(x, W, axis=axis, **how)
    kernel = W if axis == 0 else _transposed(W)
    y = lax.conv_general_dilated(x.reshape(rows, K), kernel, (), "VALID", dimension_numbers=("NC", "IO", "NC"), **how)
    return y.reshape(*x.shape[:-1], -1)


def _transposed(W: Array) -> Array:
    """W.T. XLA copies a transposed matrix tile by tile, in an operation that takes 24 ms to compile. Reversed twice, it
    is copied number by number, which takes 10 ms to compile, and 30 microseconds instead of 17 for 128 x 128.
    """
    return W.T if W.size > SMALL_COPY else lax.rev(lax.rev(W, (0,)).T, (1,))


def _pays_as_convolution(x: Array, W: Array, rows: int, axis: int, precision: Any, preferred_element_type: Any) -> bool:
    single = {np.dtype(t) for t in (x.dtype, W.dtype, preferred_element_type or x.dtype)} == {np.dtype(np.float32)}
    least = (THIN if axis == 0 else ROWS_FOR_A_COPY, THIN, THIN)
    # Exported, a size may be a symbol.
    large = all(isinstance(n, int) and n >= k for n, k in zip((rows, *W.shape), least, strict=True))
    known = all(isinstance(p, lax.Precision | None) for p in jax.tree.leaves(precision))
    return single and large and known and convolutions_are_products()


def _shape(x: Any, W: Any, *, axis: int, preferred_element_type: Any, **_: Any) -> tuple[tuple[int, ...], Any]:
    return (*x.shape[:-1], W.shape[1 - axis]), preferred_element_type or jnp.result_type(x.dtype, W.dtype)


def _by_x(cotangent: Array, x: Any, W: Array, *, axis: int, **how: Any) -> Array:
    return in_type_of(x, dense(cotangent, W, axis=1 - axis, **how))


def _by_W(cotangent: Array, x: Array, W: Any, *, axis: int, **how: Any) -> Array:
    first, second = (x, cotangent) if axis == 0 else (cotangent, x)
    if x.ndim == 1:
        return in_type_of(W, jnp.outer(first, second))
    first, second = first.reshape(-1, first.shape[-1]), second.reshape(-1, second.shape[-1])
    return in_type_of(W, jax.lax.dot_general(first, second, (((0,), (0,)), ((), ())), **how))


def _batched(operands: tuple[Array, Array], axes: tuple[Any, Any], *, axis: int, **how: Any) -> tuple[Array, int]:
    (x, W), (x_axis, W_axis) = operands, axes
    if W_axis is None:
        return dense(jnp.moveaxis(x, x_axis, 0), W, axis=axis, **how), 0
    leading = string.ascii_letters[2 : x.ndim + 1 - (x_axis is not None)]  # h and k are a and b here
    names = {"first": leading + "a", "second": "ab" if axis == 0 else "ba", "out": leading + "b"}
    return jax.vmap(lambda x, W: product(x, W, **names, **how), in_axes=(x_axis, W_axis))(x, W), 0


dense_p = bilinear_primitive("dense", _product, _shape, _by_x, _by_W, _batched, on_cpu=_on_cpu)
