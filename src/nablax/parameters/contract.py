"""What can be computed from factors, without the array (D, A, B) of all derivatives.

Blocks come with the samples on a leading axis. With u (D, R, G, T, H) and v (D, R, G, T, K), dropping r, g:

    gram          sum_{h,k} dY[d] dY[e]*   =  sum_{t,s} (u[d,t] . u[e,s]*) (v[d,t] . v[e,s]*)
    squared norm  the same with d = e
    weighted sum  sum_d c[d] dY[d]         =  sum_{d,t} c[d] u[d,t] v[d,t]

The first two cost T^2 (H + K) for each pair where the derivatives themselves cost H K: with many positions it is
cheaper to multiply the factors out, for a few samples at a time. The count decides (Goodfellow 2015, arXiv 1510.01799,
for T = 1; Li et al. 2021, arXiv 2110.05679, and Bu et al. 2022, arXiv 2205.10683, for T > 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from nablax.parameters.factors import Bias, Block, InFactors, Term, Whole, Zero


def rows(blocks: Sequence[Block]) -> list[Array]:
    """The derivative by each leaf, multiplied out: (D, R, entries of the leaf)."""
    return [_rows(block, blocks) for block in blocks]


def _rows(block: Block, blocks: Sequence[Block]) -> Array:
    if isinstance(block, Whole):
        return block.rows
    if isinstance(block, Zero):
        return jnp.zeros((*block.none.shape[:2], block.size), block.none.dtype)
    if isinstance(block, Bias):
        summed = sum(term.v.sum(3) for term in _layer(block, blocks).terms)
        return summed.reshape(*summed.shape[:2], -1)  # pyright: ignore[reportAttributeAccessIssue]
    first, *more = (_product(term, block) for term in block.terms)
    found = sum(more, first)
    return found.reshape(*found.shape[:2], -1)


def _layer(bias: Bias, blocks: Sequence[Block]) -> InFactors:
    """The block of the weights that a bias belongs to."""
    layer = blocks[bias.of]
    assert isinstance(layer, InFactors)
    return layer


def _product(term: Term, block: InFactors) -> Array:
    """sum_t u v in the order of the leaf: (D, R, *leaf)."""
    restore = lambda x: block.view.restore(x, 2)
    if term.lookup:
        return restore(_placed(term, block))
    R = max(term.u.shape[1], term.v.shape[1])
    D, _, G, T, H = term.u.shape
    K = term.v.shape[-1]
    if T == 1:
        # Each factor is put in order by itself: XLA would transpose their product by a copy.
        u, v = (jnp.broadcast_to(x, (D, R, G, H, K)) for x in (term.u.swapaxes(-1, -2), term.v))
        return restore(u) * restore(v)
    u, v = _rows_if_any(term.u), _rows_if_any(term.v)
    r = ["r" if x.ndim == 5 else "" for x in (u, v)]
    found = jnp.einsum(f"d{r[0]}gth,d{r[1]}gtk->d{max(r)}ghk", u, v)
    return restore(found.reshape(D, R, G, H, K))


def _placed(term: Term, block: InFactors) -> Array:
    """The rows of a table that were looked up receive v; the others are zero."""
    (D, R, G, _, K), H = term.v.shape, _table_rows(block)
    d, r, g, _ = jnp.ogrid[:D, :R, :G, :1]
    # an index beyond the table is dropped; -1 would count from its end
    index = jnp.where(term.u < 0, H, term.u)
    return jnp.zeros((D, R, G, H, K), term.v.dtype).at[d, r, g, index].add(term.v, mode="drop")


def _rows_if_any(x: Array) -> Array:
    """Without the axis of rows, where there is one row for all."""
    return x[:, 0] if x.shape[1] == 1 else x


def _sizes(block: InFactors) -> tuple[int, int, int, int, int, int]:
    """(G, T of all terms, rows of u, H, rows of v, K)."""
    T = sum(term.v.shape[3] for term in block.terms)
    rows_u = max(1 if term.lookup else term.u.shape[1] for term in block.terms)
    rows_v = max(term.v.shape[1] for term in block.terms)
    first = block.terms[0]
    H = 1 if first.lookup else first.u.shape[-1]
    return first.v.shape[2], T, rows_u, H, rows_v, first.v.shape[-1]


def _table_rows(block: InFactors) -> int:
    """H, for a block whose first term may be a lookup."""
    G, K = block.terms[0].v.shape[2], block.terms[0].v.shape[-1]
    return math.prod(block.view.shape) // (G * K)


def entries(block: Block) -> int:
    """How many entries the leaf has."""
    if isinstance(block, Bias):
        return block.size
    if isinstance(block, Zero):
        return 0
    return math.prod(block.view.shape) if isinstance(block, InFactors) else block.rows.shape[-1]


def row_count(block: Block) -> int:
    """R, for any block but that of a bias."""
    if isinstance(block, Whole):
        return block.rows.shape[1]
    if isinstance(block, Zero):
        return block.none.shape[1]
    assert isinstance(block, InFactors)
    return max(max(1 if term.lookup else term.u.shape[1], term.v.shape[1]) for term in block.terms)


def positions(block: Block) -> int:
    """G times the largest T of a term: how much larger a kernel is than the pairs of samples and rows."""
    if not isinstance(block, InFactors):
        return 1
    return max(term.v.shape[2] * term.v.shape[3] for term in block.terms)


# ---------------------------------------------------------------------------------------------------------------- gram


def gram(left: Sequence[Block], right: Sequence[Block]) -> Array:
    """The products dY dY'*, summed over all parameters: (D, R, D', R')."""
    pairs = list(zip(left, right, strict=True))
    # The kernel of a bias is that of its layer with 1 for u . u': both are computed at once.
    shared = {
        number: a.of
        for number, (a, b) in enumerate(pairs)
        if isinstance(a, Bias) and isinstance(b, Bias) and a.of == b.of and pays(*pairs[a.of])
    }
    found = []
    for number, (a, b) in enumerate(pairs):
        if number in shared:
            continue
        if isinstance(a, InFactors) and isinstance(b, InFactors) and pays(a, b):
            biased = number in shared.values()
            found += [_gram_of_terms(s, t, biased) for s in a.terms for t in b.terms]
        else:
            x, y = _rows(a, left), _rows(b, right)
            # no entries have the product zero, and the right shape
            end = 0 if isinstance(a, Zero) or isinstance(b, Zero) else x.shape[-1]
            found.append(_gram_of_rows(x[..., :end], y[..., :end]))
    return sum(found[1:], found[0])


def pays(a: Block, b: Block) -> bool:
    """Whether the products of factors are cheaper than products of all derivatives, for each pair of samples."""
    if not isinstance(a, InFactors) or not isinstance(b, InFactors) or a.view != b.view:
        return False
    (G, T, ru, H, rv, K), (_, S, su, _, sv, _) = _sizes(a), _sizes(b)
    pairs = max(ru, rv) * max(su, sv)
    return G * T * S * (ru * su * H + rv * sv * K + pairs) <= pairs * entries(a)


def _gram_of_rows(left: Array, right: Array) -> Array:
    (D, R, n), (E, S, _) = left.shape, right.shape
    return (left.reshape(D * R, n) @ right.reshape(E * S, n).conj().T).reshape(D, R, E, S)


def _gram_of_terms(s: Term, t: Term, biased: bool) -> Array:
    """Sum over groups and positions of the two kernels' product: (D, R, D', R')."""
    of_u = _kernel_u(s, t)
    product = (of_u + 1 if biased else of_u) * _kernel(s.v, t.v)
    if s.v.shape[2:4] == t.v.shape[2:4] == (1, 1):
        return product[0, :, :, 0, :, :, 0]
    return jnp.sum(product, axis=(0, 3, 6))


def _kernel(x: Array, y: Array) -> Array:
    """(D, R, G, T, H), (D', R', G, T', H) -> (G, D, R, T, D', R', T')."""
    (D, R, G, T, H), (E, S, _, W, _) = x.shape, y.shape
    if G == 1:
        flat = x.reshape(D * R * T, H) @ y.reshape(E * S * W, H).conj().T
    else:
        grouped = lambda a: jnp.moveaxis(a, 2, 0).reshape(G, -1, H)
        flat = grouped(x) @ grouped(y).conj().swapaxes(1, 2)
    return flat.reshape(G, D, R, T, E, S, W)


def _kernel_u(s: Term, t: Term) -> Array:
    """The kernel of the u of two terms, lookups by comparing indices."""
    if not s.lookup and not t.lookup:
        return _kernel(s.u, t.u)
    if s.lookup and t.lookup:
        a, b = (jnp.moveaxis(term.u, 2, 0) for term in (s, t))
        same = a[:, :, :, :, None, None, None] == b[:, None, None, None, :, :, :]
        return jnp.where(same & (a >= 0)[..., None, None, None], jnp.ones((), s.v.dtype), 0)
    if s.lookup:
        return _looked_up(s.u, t.u.conj())
    return _looked_up(t.u, s.u).transpose(0, 4, 5, 6, 1, 2, 3)


def _looked_up(index: Array, y: Array) -> Array:
    """The kernel (G, D, 1, T, D', R', T') of unit vectors (D, 1, G, T) with y (D', R', G, T', H): entries of y."""
    index, y = index[:, 0].swapaxes(0, 1), jnp.moveaxis(y, 2, 0)
    found = jnp.stack([jnp.take(y[g], jnp.maximum(index[g], 0), axis=-1) for g in range(y.shape[0])])
    found = jnp.where(index[:, None, None, None] >= 0, found, 0)  # (G, D', R', T', D, T)
    return jnp.moveaxis(found, (4, 5), (1, 2))[:, :, None]


# ------------------------------------------------------------------------------------------------ one sample at a time


def squared_norms(blocks: Sequence[Block]) -> Array:
    """Sum over all parameters of |dY|^2: (D, R)."""
    found = []
    shared = {block.of for block in blocks if isinstance(block, Bias) and _norm_pays(_layer(block, blocks))}
    for number, block in enumerate(blocks):
        if isinstance(block, Bias) and block.of in shared:
            continue
        if isinstance(block, InFactors) and _norm_pays(block):
            pairs = [(s, t) for i, s in enumerate(block.terms) for t in block.terms[i:]]
            found += [(1 if s is t else 2) * _inner(s, t, number in shared) for s, t in pairs]
        else:
            every = block.none if isinstance(block, Zero) else _rows(block, blocks)
            found.append(squared(every).sum(-1))
    return sum(found[1:], found[0])


def _norm_pays(block: InFactors) -> bool:
    """Whether the products of factors are cheaper than the squares of all derivatives, for each sample."""
    G, T, ru, H, rv, K = _sizes(block)
    R = max(ru, rv)
    return G * T * T * (ru * H + rv * K + R) <= R * (T + 1) * entries(block)


def squared(x: Array) -> Array:
    """|x|^2, entry by entry."""
    return jnp.square(x.real) + jnp.square(x.imag) if jnp.iscomplexobj(x) else jnp.square(x)


def _inner(s: Term, t: Term, biased: bool) -> Array:
    """The real part of the inner product of two terms of the same sample and row: (D, R)."""
    one = 1 if biased else 0
    if s is t and s.v.shape[3] == 1:
        of_u = (s.u >= 0).astype(s.v.real.dtype) if s.lookup else squared(s.u).sum(-1)
        return jnp.sum((of_u + one) * squared(s.v).sum(-1), axis=(2, 3))
    kernel = lambda x, y: x @ y.conj().swapaxes(-1, -2)  # (D, R, G, T, T')
    if s.lookup and t.lookup:
        same = (s.u[..., :, None] == t.u[..., None, :]) & (s.u >= 0)[..., None]
        of_u = jnp.where(same, jnp.ones((), s.v.dtype), 0)
    elif s.lookup or t.lookup:
        index, y = (s.u, t.u.conj()) if s.lookup else (t.u, s.u)
        found = jnp.take_along_axis(y, jnp.maximum(index, 0)[..., None, :], axis=-1)  # (D, R, G, T', T)
        found = jnp.where(index[..., None, :] >= 0, found, 0)
        of_u = found.swapaxes(-1, -2) if s.lookup else found
    else:
        of_u = kernel(s.u, t.u)
    return jnp.sum((of_u + one) * kernel(s.v, t.v), axis=(2, 3, 4)).real


def weighted_sums(blocks: Sequence[Block], c: Array) -> list[Array]:
    """sum_{d,r} c[d, r] dY[d, r] for each leaf, its entries in one axis."""
    return [_weighted_sum(block, blocks, c) for block in blocks]


def _weighted_sum(block: Block, blocks: Sequence[Block], c: Array) -> Array:
    if isinstance(block, Whole):
        return jnp.einsum("dr,drn->n", c, block.rows)
    if isinstance(block, Zero):
        return jnp.zeros(block.size, block.none.dtype)
    if isinstance(block, Bias):
        return sum(jnp.einsum("dr,drgtk->gk", c, term.v) for term in _layer(block, blocks).terms).ravel()  # pyright: ignore
    first, *more = (_weighted_term(term, block, c) for term in block.terms)
    return block.view.restore(sum(more, first), 0).ravel()


def _weighted_term(term: Term, block: InFactors, c: Array) -> Array:
    """Sum c u v: (G, H, K)."""
    u, v = term.u, term.v * c[:, :, None, None, None]
    if u.shape[1] == 1:
        v = v.sum(1, keepdims=True)
    if term.lookup:
        G, H, K = v.shape[2], _table_rows(block), v.shape[-1]
        index = jnp.where(u < 0, H, u)
        return jnp.zeros((G, H, K), v.dtype).at[jnp.arange(G)[:, None], index].add(v, mode="drop")
    if u.shape[1] != v.shape[1]:
        v = jnp.broadcast_to(v, (*u.shape[:2], *v.shape[2:]))
    grouped = lambda x: jnp.moveaxis(x, 2, 0).reshape(x.shape[2], -1, x.shape[-1])
    return grouped(u).swapaxes(1, 2) @ grouped(v)


def squared_sums(blocks: Sequence[Block], w: Array) -> list[Array]:
    """sum_{d,r} w[d, r] |dY[d, r]|^2 for each leaf, its entries in one axis: the diagonal of the Fisher matrix."""
    return [_squared_sum(block, blocks, w) for block in blocks]


def squares_in_factors(block: Block) -> bool:
    """Whether the square of the derivative is a product of squares: where there is one position only."""
    return isinstance(block, InFactors) and len(block.terms) == 1 and block.terms[0].v.shape[3] == 1


def _squared_sum(block: Block, blocks: Sequence[Block], w: Array) -> Array:
    if isinstance(block, InFactors) and squares_in_factors(block):
        (term,) = block.terms
        squares = Term(term.u if term.lookup else squared(term.u), squared(term.v), term.lookup)
        return block.view.restore(_weighted_term(squares, block, w), 0).ravel()
    if isinstance(block, Zero):
        return jnp.zeros(block.size, block.none.real.dtype)
    return jnp.einsum("dr,drn->n", w, squared(_rows(block, blocks)))
