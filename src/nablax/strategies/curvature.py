"""What one curved node adds to a Hessian: its second derivative along pairs of tangents, then its adjoints.

A contraction comes in two forms: pair by pair, rows (k, A) for all outputs, or output by output, matrices (A, n,
n) for all pairs. Of a node in blocks (see `nablax.graph.blocks`) both are taken block by block, and
the blocks lead: (count, k, A) or (count, A, n, n), n directions of one block each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from nablax.graph.blocks import Blocks
from nablax.graph.determinants import curvature_factors
from nablax.graph.inline import Variable
from nablax.graph.nodes import Kind, Node
from nablax.graph.once import once
from nablax.graph.probes import Probe
from nablax.graph.slopes import curvatures
from nablax.graph.sums import repeated, total
from nablax.strategies.base import contraction
from nablax.strategies.forms import Form, Pairs

Tangents = tuple[Array, ...]
"""One array for each root of a node, the directions in front: (n, *lengths of the scans around, *root.shape)."""


@dataclass(frozen=True, eq=False)
class Curved:
    """A curved node with all that it is contracted from.

    Attributes:
        probe: the node and where it stands.
        roots: what it reads.
        second: what its second derivative needs besides its roots: of an elementwise node its value and phi''_ij for
            each of its pairs, of others what the function captures.
        tangents: along the directions; of a node in blocks, along those of one block for all blocks at once.
        adjoints: (A, *shape) for each of its outputs.
        discards: whether the graph chooses between values (``where``).
        blocks: the blocks that it falls into, if it does.
    """

    probe: Probe
    roots: Any
    second: Any
    tangents: Tangents
    adjoints: Tangents
    discards: bool
    blocks: Blocks | None

    @property
    def node(self) -> Node:
        return self.probe.node

    def sum(self, term: Callable[..., Any], *operands: tuple[Array, Variable, int]) -> Any:
        """``term`` of arrays with all entries as one last axis, given with the variable whose entries they are and how
        many axes are in front of them. For blocks, each by itself.
        """
        if self.blocks is None:
            return term(*(_flat(array, leading) for array, _, leading in operands))
        return jax.vmap(term)(*(self.blocks.apart(*operand) for operand in operands))


def second(probe: Probe, roots: Any, capture: Any) -> Any:
    """`Curved.second` of a node."""
    if probe.node.kind is not Kind.ELEMENTWISE:
        return capture

    def local(roots: Tangents, capture: Any) -> tuple[Array, list[Array]]:
        phi = lambda *roots: _phi(probe.node, capture)(*roots)[0]
        return phi(*roots), curvatures(probe.node, phi, roots)

    return _over_steps(local, probe)(roots, capture)


FEW = 4
"""Up to so many rows on either side, rows are multiplied entry by entry and summed: matrix products of that size do not
pay. Nor do products with one row, a matrix by a vector for each sample: XLA needs longer to compile and to run them."""


def pairs_pay(kind: Kind, outputs: int, directions: int) -> bool:
    """Whether a node is contracted for a Hessian pair by pair, n (n + 1) / 2 products of tangents for all outputs, and
    not output by output, A n products with adjoints for all directions.
    """
    few = kind is Kind.ELEMENTWISE and outputs * directions <= FEW
    return directions + 1 < 2 * outputs or directions == 1 or few


def contracted(form: Form, nodes: Iterable[Curved], outputs: int, dtype: Any, blocks: Blocks | None = None) -> Array:
    """The rows of a form (k, A), summed over the nodes; (A, n, n) where some go output by output. Of nodes that all
    fall into `blocks`, those lead.
    """
    triangle = form if isinstance(form, Pairs) and form.is_triangle else None
    pairs: list[Curved] = []
    others: list[Curved] = []
    for curved in nodes:
        by_pairs = not triangle or curved.probe.straight or pairs_pay(curved.node.kind, outputs, triangle.count)
        (pairs if by_pairs else others).append(curved)
    lead = () if blocks is None else (blocks.count,)

    def summed(terms: Any, nodes: list[Curved], *shape: int) -> Array:
        each = (term for curved in nodes for term in terms(form, curved))
        return _added([jnp.zeros((*lead, *shape), dtype), *each]).real

    rows = summed(_rows, pairs, form.rows, outputs)
    if not triangle or not others:
        return rows
    whole = summed(_matrices, others, outputs, triangle.count, triangle.count)
    if not pairs:
        return whole
    # Looked up in a table, its entries would keep XLA from adding those of long terms several at a time.
    matrix = triangle.matrix(rows) if blocks is None else jax.vmap(triangle.matrix)(rows)
    return whole + (once(matrix) if any(len(curved.node.roots) > 1 for curved in others) else matrix)


def _rows(form: Form, curved: Curved) -> Iterator[Term]:
    """The rows (k, A) that one node adds: its second derivative along the pairs of the form, then the adjoint."""
    probe, J, adjoints, outputs = curved.probe, curved.tangents, curved.adjoints, curved.node.outputs
    if curved.node.kind is Kind.ELEMENTWISE:
        multiply = _straight_products if probe.straight else _products

        def part(scaled: Array, *both: Array) -> Term:
            if len(scaled) == 1 and not probe.straight:
                weighted = form.products(both[0], both[-1], scaled[0])
                return curved.sum(lambda rows: Entries(rows[:, None]), (weighted, outputs[0], 1))
            products = form.products(both[0], both[-1])
            return curved.sum(multiply, (products, outputs[0], 1), (scaled, outputs[0], 1))

        for scaled, both, _ in _pairs(curved):
            term = _summed_over_steps(part, probe)(scaled, *both)
            yield _apart(term) if len(curved.node.roots) > 1 else term
        return

    if curved.node.kind is Kind.DETERMINANT:
        rows = form.log_determinant(*curved.roots, *J)
        yield curved.sum(_products, (rows, outputs[1], 1), (adjoints[1], outputs[1], 1))
        return

    def bend(left: Tangents, right: Tangents) -> Tangents:
        local = lambda roots, capture, left, right: _second_derivative(_phi(curved.node, capture), roots, left, right)
        return _over_steps(local, probe)(curved.roots, curved.second, left, right)

    for rows, lam, output in zip(form.apply(bend, J), adjoints, outputs, strict=True):
        yield _apart(curved.sum(_products, (rows, output, 1), (lam, output, 1)))


def _matrices(form: Form, curved: Curved) -> Iterator[Term]:
    """The matrices (A, n, n) that one node adds, for all pairs of directions."""
    probe, J, adjoints, roots = curved.probe, curved.tangents, curved.adjoints, curved.node.roots
    if curved.node.kind is Kind.ELEMENTWISE:
        for scaled, both, repeated in _pairs(curved):
            yield _summed_over_steps(functools.partial(_matrix, curved, repeated), probe)(scaled, *both)
        return

    if curved.node.kind is Kind.DETERMINANT:
        left, right = curvature_factors(*curved.roots, *J)
        scaled = -adjoints[1][:, None, ..., None, None] * left[None]
        yield curved.sum(_all_products, (scaled, roots[0], 2), (right, roots[0], 1))
        return

    local = _pull_bilinear if curved.node.kind is Kind.BILINEAR else _pull

    def along(lam: Tangents, tangent: Tangents) -> Tangents:
        step = lambda roots, capture, lam, tangent: local(curved.node, capture, roots, lam, tangent)
        return _over_steps(step, probe)(curved.roots, curved.second, lam, tangent)

    pulled = jax.vmap(jax.vmap(along, in_axes=(None, 0)), in_axes=(0, None))(adjoints, J)
    if curved.node.kind is Kind.BILINEAR:
        yield _with_transpose(curved.sum(_all_products, (pulled[0], roots[1], 2), (J[1], roots[1], 1)))
        return
    for p, t, root in zip(pulled, J, roots, strict=True):
        yield curved.sum(_all_products, (p, root, 2), (t, root, 1))


def _matrix(curved: Curved, repeated: tuple[int, ...], scaled: Array, *both: Array) -> Array:
    """The matrices (A, n, n) of one of the `_pairs`."""
    (left, right), output = (both[0], both[-1]), curved.node.outputs[0]
    if left is right:
        return curved.sum(_congruence, (scaled, output, 1), (left, output, 1))
    summed, once_each = _summed_products(scaled, left, repeated), _once(right, repeated)
    return _with_transpose(curved.sum(_all_products, (summed, output, 2), (once_each, output, 1)))


def _pairs(curved: Curved) -> Iterator[tuple[Array, tuple[Array, ...], tuple[int, ...]]]:
    """(lambda phi''_ij, J_i and J_j, axes along which J_j alone is repeated) for each pair of an elementwise node.

    Where i = j there is one J: forms tell a square from a product.

    What a ``where`` discards may be NaN or infinite. JAX stops it at the ``where``; here it would be multiplied with
    the zero that the ``where`` left in another factor. So an entry is left out that does not bend, or whose value is
    NaN and of which no output knows. (An adjoint of zero alone is not enough: sqrt(x)^3 has one at zero, too.)

    Roots that repeat what they were broadcast from are taken once, their adjoints summed.
    """
    J, adjoint, (value, bends) = curved.tangents, curved.adjoints[0], curved.second
    for (i, j), curvature in zip(curved.node.pairs, bends, strict=True):
        curvature = once(curvature) if curved.node.pays_once else curvature
        scaled, left, right = adjoint * curvature[None], J[i], J[j]
        if curved.discards:
            out = ((curvature == 0) | (jnp.isnan(value) & jnp.all(adjoint == 0, axis=0)))[None]
            scaled, left = jnp.where(out, 0, scaled), jnp.where(out, 0, left)
            right = left if i == j else jnp.where(out, 0, right)
            yield scaled, (left,) if i == j else (left, right), ()
            continue
        repeated = curved.probe.repeated
        both = set(repeated[i]).intersection(repeated[j])
        if both:
            scaled = jnp.sum(scaled, tuple(both), keepdims=True)
            left = _once(left, both)
            right = left if i == j else _once(right, both)
        alone = [set(repeated[k]) - both for k in (i, j)]
        if alone[0] and not alone[1]:
            left, right, alone = right, left, alone[::-1]
        yield scaled, (left,) if i == j else (left, right), tuple(alone[1]) if not alone[0] else ()


def _once(array: Array, axes: Iterable[int]) -> Array:
    """The first of what is repeated along `axes`."""
    for axis in axes:
        array = jax.lax.slice_in_dim(array, 0, 1, axis=array.ndim + axis)
    return array


def _summed_products(scaled: Array, left: Array, axes: tuple[int, ...]) -> Array:
    """Sum over `axes` of scaled[a,..] left[c,..]: (A, n, ..), these axes of size one."""
    if not axes or len(scaled) == 1:  # one row: no matrix by a vector for each sample (see `FEW`)
        return jnp.sum(scaled[:, None] * left[None], axes, keepdims=True)
    names = "".join(chr(ord("A") + k) for k in range(scaled.ndim - 1))
    kept = "".join(name for k, name in enumerate(names, start=1 - scaled.ndim) if k not in axes)
    return jnp.expand_dims(contraction(f"a{names},c{names}->ac{kept}", scaled, left), axes)


class Entries(NamedTuple):
    """Rows (k, A) of sums over entries that are still to be taken: those of several nodes are added entry by entry, and
    summed once. Each sum takes XLA as long to compile as all that is added.

    Attributes:
        array: (k, A, h).
    """

    array: Array


Term = Array | Entries


def _added(terms: Iterable[Term]) -> Array:
    """The sum of the terms of all nodes."""
    whole: list[Array] = []
    alike: dict[tuple[int, ...], list[Array]] = {}
    for term in terms:
        if isinstance(term, Entries):
            alike.setdefault(term.array.shape, []).append(term.array)
        else:
            whole.append(term)
    return _sum([*whole, *(total(_sum(arrays)) for arrays in alike.values())])


def _apart(term: Term) -> Array:
    """Its sum, of entries that are computed by themselves. Factors of nodes with several roots are moved and summed
    first, and XLA takes an operation that does that for all of them entry by entry.
    """
    return jnp.sum(once(term.array), -1) if isinstance(term, Entries) else term


def _products(rows: Array, scaled: Array) -> Term:
    """sum_h rows[k,h] scaled[a,h]: (k, A)."""
    if scaled.shape[0] == 1 or rows.shape[0] * scaled.shape[0] <= FEW**2:
        return Entries(rows[:, None] * scaled[None])
    return contraction("kh,ah->ka", rows, scaled)


def _straight_products(rows: Array, scaled: Array) -> Array:
    """The same for rows that are the same for all samples: they stay what they are, unmoved."""
    return contraction("ah,kh->ak", scaled, rows).T


@jax.custom_jvp
def _congruence(scaled: Array, both: Array) -> Array:
    """sum_h scaled[a,h] both[c,h] both[e,h]: (A, n, n).

    What follows a change of any factor is one product and its own transpose. JAX would take two products, and two back;
    this one goes back as the product of a symmetric matrix with the tangents, from which all factors take theirs.
    """
    return _all_products(_outer(scaled, both), both)


@_congruence.defjvp
def _congruence_along(at: tuple[Array, Array], along: tuple[Array, Array]) -> tuple[Array, Array]:
    (scaled, both), (more, tangent) = at, along
    half = _outer(scaled, tangent) + _outer(more, both) / 2
    return _congruence(scaled, both), _with_transpose(_all_products(half, both))


def _outer(scaled: Array, tangents: Array) -> Array:
    """scaled[a,h] tangents[c,h]: (A, n, h). No rule of differentiation that stays what it is may repeat by itself."""
    shape = (scaled.shape[0], *tangents.shape)
    return repeated(scaled, shape, (0, 2)) * repeated(tangents, shape, (1, 2))


def _all_products(rows: Array, tangents: Array) -> Array:
    """sum_h rows[a,c,h] tangents[e,h]: (A, n, n)."""
    return contraction("ach,eh->ace", rows, tangents)


def _with_transpose(block: Array) -> Array:
    return block + jnp.swapaxes(block, -1, -2)


def _pull(node: Node, capture: Any, roots: Tangents, lam: Tangents, tangent: Tangents) -> Tangents:
    """d/du < lambda, dphi(u) tangent >, for a node of which nothing is known."""
    gradient = lambda *roots: jax.vjp(_phi(node, capture), *roots)[1](lam)
    return jax.jvp(gradient, roots, tangent)[1]


def _pull_bilinear(node: Node, capture: Any, roots: Tangents, lam: Tangents, tangent: Tangents) -> Tangents:
    """< lambda, B(tangent of the first root, .) >, a linear form on the second root."""
    phi = _phi(node, capture)
    return jax.linear_transpose(lambda b: phi(tangent[0], b), roots[1])(lam)


def _second_derivative(phi: Callable[..., Tangents], roots: Tangents, left: Tangents, right: Tangents) -> Tangents:
    """d2phi [left, right]."""
    return jax.jvp(lambda *roots: jax.jvp(phi, roots, left)[1], roots, right)[1]


def _phi(node: Node, capture: Any) -> Callable[..., Tangents]:
    """The function of a node as one of its roots alone."""
    values = dict(zip(node.captures, capture, strict=True))
    return lambda *roots: node.function(values)(*roots)[0]


def _over_steps(local: Callable[..., Any], probe: Probe) -> Callable[..., Any]:
    """`local` for a node inside scans: once for each step."""
    for _ in probe.lengths:
        local = jax.vmap(local)
    return local


def _summed_over_steps(local: Callable[..., Term], probe: Probe) -> Callable[..., Term]:
    """`local` once for each step of the scans around a node, and their sum. A scan leaves the steps in front of the
    samples: one contraction over steps and entries would have to move all of it.
    """
    if not probe.lengths:
        return local
    summed = lambda *arrays: _added([local(*arrays)])
    for _ in probe.lengths:
        summed = lambda *arrays, step=summed: jnp.sum(jax.vmap(step, in_axes=1)(*arrays), axis=0)
    return summed


def _flat(array: Array, leading: int) -> Array:
    """All axes behind the leading ones as one."""
    return array.reshape(*array.shape[:leading], -1)


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(jnp.add, terms)
