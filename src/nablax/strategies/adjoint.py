"""Second order assembled from first order: the Jacobians of the nodes and their adjoints.

With nodes v_n = phi_n(u_n), tangents J_n = du_n / dx and adjoints lambda_n = dy / dv_n,

    H[a,c,e] = sum_n  sum_{i,j}  lambda_n[a] . d2phi_n / du_i du_j [ J_n,i[c], J_n,j[e] ],

because y is linear in everything but the nodes. J_n takes one forward pass with C tangents, lambda_n one reverse pass
with A cotangents; each node then adds one contraction, which for an elementwise node is the product of three arrays,
sum_h (lambda phi'')[a,h] J[c,h] J[e,h].

References: R. M. Gower and M. P. Mello, "A new framework for the computation of Hessians", Optim. Methods Softw. 27
(2012), the edge-pushing algorithm; here in its vectorised form, on nodes instead of scalars.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from nablax.graph import Bound
from nablax.graph.determinants import curvature_factors
from nablax.graph.nodes import Kind, Node
from nablax.graph.once import once
from nablax.graph.probes import Probe, probes
from nablax.graph.slopes import curvatures
from nablax.graph.sums import total
from nablax.strategies.base import Derivatives, Strategy, Wants, contraction, unit_vectors
from nablax.strategies.forms import Form, Pairs
from nablax.strategies.forward import pushed
from nablax.strategies.nested import as_real, join
from nablax.strategies.sweep import Request

Tangents = tuple[Array, ...]
"""One array for each root of a node, the directions in front: (n, *lengths of the scans around, *root.shape)."""


class Adjoint(Strategy):
    """Tangents and adjoints of every node, then one contraction a node. Cost: C + A passes and the contractions."""

    name = "adjoint"
    summary = "C tangents and A adjoints of every nonlinear node, contracted with its local second derivative"
    forward_mode = True
    reverse_mode = True
    min_order = 2
    max_order = 2

    def derive(self, f: Bound, v: Array, wants: Wants, weights: Array | None) -> Derivatives:
        request = Request(wants, v.size, weights)
        nodes = probes(f.graph.program)
        still = [node.zero_nudge() for node in nodes]

        def probed(v: Array, nudges: Any) -> Any:
            y, readings, captures, rest = f.probed(v, nudges)
            return (y, readings), (captures, rest)

        # The model is evaluated once; what is left of it is linear, and goes forward and back.
        (y, readings), along, (captures, rest) = jax.linearize(probed, v, still, has_aux=True)
        columns, tangents = jax.vmap(lambda direction: along(direction, still))(request.directions(v))
        adjoints, outputs = _adjoints(lambda nudges: along(jnp.zeros_like(v), nudges)[0], still)
        if f.graph.discards:
            columns = pushed(f, v, request.directions(v))[0].tangents
        # Once for all forms, and outside of what was linearized: nothing is differentiated by it.
        seconds = map(_second, nodes, readings, captures)
        curved = list(zip(nodes, readings, seconds, tangents, adjoints, strict=True))

        def summed(terms: Any, form: Form, nodes: list[Any], shape: tuple[int, ...], axis: int) -> Array:
            zero = jnp.zeros(shape, y.real.dtype)
            each = (term for node in nodes for term in terms(form, *node, f.graph.discards))
            return join(_added([zero, *each]).real, y, axis=axis)

        def contracted(form: Form) -> Array:
            """The rows of a form (k, A), summed over the nodes; (A, n, n) where some go output by output."""
            triangle = form if isinstance(form, Pairs) and form.is_triangle else None
            pairs, others = [], []
            for probe, *node in curved:
                by_pairs = not triangle or probe.straight or pairs_pay(probe.node.kind, outputs, triangle.count)
                (pairs if by_pairs else others).append((probe, *node))
            rows = summed(_rows, form, pairs, (form.rows, outputs), 1)
            if not triangle or not others:
                return rows
            whole = summed(_whole, form, others, (outputs, triangle.count, triangle.count), 0)
            if not pairs:
                return whole
            # Looked up in a table, its entries would keep XLA from adding those of long terms several at a time.
            matrix = triangle.matrix(rows)
            return whole + (once(matrix) if any(len(probe.node.roots) > 1 for probe, *_ in others) else matrix)

        return request.results(y, columns, {name: contracted(form) for name, form in request.forms.items()}, rest)


def pairs_pay(kind: Kind, outputs: int, directions: int) -> bool:
    """Whether a node is contracted for a Hessian pair by pair, n (n + 1) / 2 products of tangents for all outputs, and
    not output by output, A n products with adjoints for all directions.
    """
    few = kind is Kind.ELEMENTWISE and outputs * directions <= FEW
    return directions + 1 < 2 * outputs or directions == 1 or few


def _adjoints(along: Callable[[list[Tangents]], Array], still: list[Tangents]) -> tuple[list[Tangents], int]:
    """(for each node dy / dnudge, the real outputs in front; how many outputs), given how y follows the nudges."""
    parts = lambda nudges: as_real(along(nudges))
    y = jax.eval_shape(parts, still)
    (adjoints,) = jax.vmap(jax.linear_transpose(parts, still))(unit_vectors(y.shape[0], y.dtype))
    return adjoints, y.shape[0]


def _second(probe: Probe, roots: Any, capture: Any) -> Any:
    """What the second derivative of a node needs besides its roots: of an elementwise one its value and phi''_ij for
    each of its pairs, of others what the function captures.
    """
    if probe.node.kind is not Kind.ELEMENTWISE:
        return capture

    def local(roots: Tangents, capture: Any) -> tuple[Array, list[Array]]:
        phi = lambda *roots: _phi(probe.node, capture)(*roots)[0]
        return phi(*roots), curvatures(probe.node, phi, roots)

    return _over_steps(local, probe)(roots, capture)


def _rows(
    form: Form, probe: Probe, roots: Any, second: Any, J: Tangents, adjoint: Tangents, discards: bool
) -> Iterator[Term]:
    """The rows (k, A) that one node adds: its second derivative along the pairs of the form, then the adjoint."""
    if probe.node.kind is Kind.ELEMENTWISE:
        multiply = _straight_products if probe.straight else _products
        part = lambda scaled, *both: multiply(_flat(form.products(both[0], both[-1])), _flat(scaled))
        for scaled, both, _ in _pairs(probe, second, J, adjoint[0], discards):
            term = _summed_over_steps(part, probe)(scaled, *both)
            yield _apart(term) if len(probe.node.roots) > 1 else term
        return

    if probe.node.kind is Kind.DETERMINANT:
        yield _products(_flat(form.log_determinant(*roots, *J)), _flat(adjoint[1]))
        return

    def bend(left: Tangents, right: Tangents) -> Tangents:
        local = lambda roots, capture, left, right: _second_derivative(_phi(probe.node, capture), roots, left, right)
        return _over_steps(local, probe)(roots, second, left, right)

    for rows, lam in zip(form.apply(bend, J), adjoint, strict=True):
        yield _apart(_products(_flat(rows), _flat(lam)))


def _whole(
    form: Form, probe: Probe, roots: Any, second: Any, J: Tangents, adjoint: Tangents, discards: bool
) -> Iterator[Term]:
    """The matrices (A, n, n) that one node adds, for all pairs of directions."""
    if probe.node.kind is Kind.ELEMENTWISE:
        for scaled, both, repeated in _pairs(probe, second, J, adjoint[0], discards):
            yield _summed_over_steps(functools.partial(_matrix, repeated), probe)(scaled, *both)
        return

    if probe.node.kind is Kind.DETERMINANT:
        left, right = curvature_factors(*roots, *J)
        yield contraction("ach,eh->ace", _flat(-adjoint[1][:, None, ..., None, None] * left[None], 2), _flat(right))
        return

    local = _pull_bilinear if probe.node.kind is Kind.BILINEAR else _pull

    def along(lam: Tangents, tangent: Tangents) -> Tangents:
        step = lambda roots, capture, lam, tangent: local(probe.node, capture, roots, lam, tangent)
        return _over_steps(step, probe)(roots, second, lam, tangent)

    pulled = jax.vmap(jax.vmap(along, in_axes=(None, 0)), in_axes=(0, None))(adjoint, J)
    if probe.node.kind is Kind.BILINEAR:
        yield _with_transpose(contraction("ach,eh->ace", _flat(pulled[0], 2), _flat(J[1])))
        return
    for p, t in zip(pulled, J, strict=True):
        yield contraction("ach,eh->ace", _flat(p, 2), _flat(t))


def _matrix(repeated: tuple[int, ...], scaled: Array, *both: Array) -> Array:
    """The matrices (A, n, n) of one of the `_pairs`."""
    left, right = both[0], both[-1]
    if left is right:
        return _congruence(_flat(scaled), _flat(left))
    block = contraction(
        "ach,eh->ace", _flat(_summed_products(scaled, left, repeated), 2), _flat(_once(right, repeated))
    )
    return _with_transpose(block)


def _pairs(
    probe: Probe, second: Any, J: Tangents, adjoint: Array, discards: bool
) -> Iterator[tuple[Array, tuple[Array, ...], tuple[int, ...]]]:
    """(lambda phi''_ij, J_i and J_j, axes along which J_j alone is repeated) for each pair of an elementwise node.

    Where i = j there is one J: forms tell a square from a product.

    What a ``where`` discards may be NaN or infinite. JAX stops it at the ``where``; here it would be multiplied with
    the zero that the ``where`` left in another factor. So an entry is left out that does not bend, or whose value is
    NaN and of which no output knows. (An adjoint of zero alone is not enough: sqrt(x)^3 has one at zero, too.)

    Roots that repeat what they were broadcast from are taken once, their adjoints summed.
    """
    value, bends = second
    for (i, j), curvature in zip(probe.node.pairs, bends, strict=True):
        curvature = once(curvature) if probe.node.pays_once else curvature
        scaled, left, right = adjoint * curvature[None], J[i], J[j]
        if discards:
            out = ((curvature == 0) | (jnp.isnan(value) & jnp.all(adjoint == 0, axis=0)))[None]
            scaled, left = jnp.where(out, 0, scaled), jnp.where(out, 0, left)
            right = left if i == j else jnp.where(out, 0, right)
            yield scaled, (left,) if i == j else (left, right), ()
            continue
        both = set(probe.repeated[i]).intersection(probe.repeated[j])
        if both:
            scaled = jnp.sum(scaled, tuple(both), keepdims=True)
            left = _once(left, both)
            right = left if i == j else _once(right, both)
        alone = [set(probe.repeated[k]) - both for k in (i, j)]
        if alone[0] and not alone[1]:
            left, right, alone = right, left, alone[::-1]
        yield scaled, (left,) if i == j else (left, right), tuple(alone[1]) if not alone[0] else ()


def _once(array: Array, axes: Iterable[int]) -> Array:
    """The first of what is repeated along `axes`."""
    for axis in axes:
        array = jax.lax.slice_in_dim(array, 0, 1, axis=array.ndim + axis)
    return array


def _summed_products(scaled: Array, left: Array, axes: tuple[int, ...]) -> Array:
    """Sum over `axes` of scaled[a,..] left[c,..]: (A, n, ..), without these axes."""
    if not axes:
        return scaled[:, None] * left[None]
    names = "".join(chr(ord("A") + k) for k in range(scaled.ndim - 1))
    kept = "".join(name for k, name in enumerate(names, start=1 - scaled.ndim) if k not in axes)
    return contraction(f"a{names},c{names}->ac{kept}", scaled, left)


FEW = 4
"""Up to so many rows on either side, rows are multiplied entry by entry and summed: matrix products of that size do not
pay. Nor do products with one row, a matrix by a vector for each sample: XLA needs longer to compile and to run them."""


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


def _apart(term: Term) -> Term:
    """The same; what of it is still to be summed is computed by itself. Factors of nodes with several roots are moved
    and summed first, and XLA takes an operation that does that for all of them entry by entry.
    """
    return Entries(once(term.array)) if isinstance(term, Entries) else term


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
    return contraction("ach,eh->ace", scaled[:, None] * both[None], both)


@_congruence.defjvp
def _congruence_along(at: tuple[Array, Array], along: tuple[Array, Array]) -> tuple[Array, Array]:
    (scaled, both), (more, tangent) = at, along
    half = scaled[:, None] * tangent[None] + more[:, None] * both[None] / 2
    return _congruence(scaled, both), _with_transpose(contraction("ach,eh->ace", half, both))


def _with_transpose(block: Array) -> Array:
    return block + jnp.swapaxes(block, 1, 2)


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


def _flat(array: Array, leading: int = 1) -> Array:
    """All axes behind the leading ones as one."""
    return array.reshape(*array.shape[:leading], -1)


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(jnp.add, terms)
