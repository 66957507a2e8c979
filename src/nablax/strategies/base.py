"""What a strategy is: one way to differentiate a function from R^C to R^A (or C^A)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nablax._types import SECOND_ORDER
from nablax.graph import Bound

SampleFunction = Callable[[Array], tuple[Array, Any]]
"""v (C,) -> (y (A,), rest): the model of one sample; `rest` is carried along and never differentiated."""


@dataclass(frozen=True)
class Wants:
    """What is asked of one pass.

    Attributes:
        names: some of value, jacobian, hessian, hessian_diagonal, laplacian, divergence.
        indices: partial derivatives by sorted coordinate numbers: ``(1, 1)`` is d2y / dv_1^2, ``()`` is y.
    """

    names: frozenset[str]
    indices: tuple[tuple[int, ...], ...] = ()

    @property
    def order(self) -> int:
        """The highest order of derivative asked for."""
        by_name = 2 if self.names & SECOND_ORDER else 1 if self.names & {"jacobian", "divergence"} else 0
        return max([by_name, *map(len, self.indices)])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Derivatives:
    """What a strategy returns for one sample; what was not asked for may be None.

    Attributes:
        value: (A,).
        jacobian: (A, C).
        hessian: (A, C, C).
        diagonal: (A, C), the diagonal of every Hessian.
        laplacian: (A,), sum_{c,e} W[c,e] H[a,c,e].
        partials: (A,) for each multi-index.
        rest: what the model returned besides y.
    """

    value: Array
    jacobian: Array | None = None
    hessian: Array | None = None
    diagonal: Array | None = None
    laplacian: Array | None = None
    partials: dict[tuple[int, ...], Array] | None = None
    rest: Any = None

    def get(self, want: str) -> Array:
        """The array of one want, by its public name."""
        if want == "divergence":
            assert self.jacobian is not None
            return jnp.trace(self.jacobian)
        array = getattr(self, "diagonal" if want == "hessian_diagonal" else want)
        assert array is not None, f"the strategy did not compute {want}"
        return array


class Strategy(ABC):
    """A way to compute `Derivatives`. One file holds one method; `nablax.strategies.BUILT_IN` is the table of them.

    Attributes:
        name: what users call it.
        summary: what it does, in one line.
        forward_mode: whether it pushes tangents through the model (a ``custom_vjp`` forbids it).
        reverse_mode: whether it pulls cotangents back through the model (a ``while_loop`` forbids it).
        min_order, max_order: the orders of derivative that it serves.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    forward_mode: ClassVar[bool]
    reverse_mode: ClassVar[bool]
    min_order: ClassVar[int] = 0
    max_order: ClassVar[int]

    @abstractmethod
    def derive(self, f: Bound, v: Array, wants: Wants, weights: Array | None) -> Derivatives:
        """Differentiate `f` at `v`; `weights` is None or a scalar, (C,) or (C, C) array for the Laplacian."""


def unit_vectors(count: int, dtype: Any) -> Array:
    """(count, count), one a row. A few are constants of the program: made in it, they would be a kernel to compile."""
    return jnp.asarray(np.eye(count, dtype=dtype)) if count <= 64 else jnp.eye(count, dtype=dtype)


def weight_rows(weights: Array | None, basis: Array) -> Array:
    """W as (C, C) rows against the identity `basis`: row c is the direction that is paired with e_c."""
    if weights is None:
        return basis
    if weights.ndim < 2:
        return basis * jnp.reshape(weights, (-1, 1)).astype(basis.dtype)
    return weights.astype(basis.dtype)


def contract_hessian(hessian: Array, weights: Array | None) -> Array:
    """sum_{c,e} W[c,e] H[a,c,e], for a Hessian (A, C, C) that was formed anyway: (A,)."""
    if weights is None:
        return jnp.trace(hessian, axis1=-2, axis2=-1)
    if weights.ndim < 2:
        diagonal = jnp.diagonal(hessian, axis1=-2, axis2=-1)
        return contraction("ac,c->a", diagonal, jnp.broadcast_to(weights, diagonal.shape[1:]))
    return contraction("ace,ce->a", hessian, weights)


def contraction(formula: str, *operands: Array) -> Array:
    """``jnp.einsum`` in full precision: an accelerator would otherwise round the factors to a few digits.

    The products inside the model keep the precision that its author chose.
    """
    return jnp.einsum(formula, *operands, precision=jax.lax.Precision.HIGHEST)
