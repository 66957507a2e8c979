"""Value, tangents and second derivatives together, from the inputs to the outputs.

Every variable u that depends on x carries J = du/dx along n directions, and rows S of second derivatives (see
`nablax.strategies.forms`). A node v = phi(u) moves them on by

    J_v = dphi J_u,        S_v = dphi S_u + d2phi [J_u, J_u],

where the second term exists for curved nodes only, and is contracted at once to the rows that are wanted: n (n + 1) / 2
for the Hessian, n for its diagonal, a single one for its (weighted) trace.

References: R. Li et al., "A computational framework for neural network-based variational Monte Carlo with Forward
Laplacian" (arXiv 2307.08214); DOF (arXiv 2402.09730) for weights; F. Dangel et al., "Collapsing Taylor mode automatic
differentiation" (arXiv 2505.13644).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nablax.graph import Bound
from nablax.graph.blocks import Blocks
from nablax.graph.inline import Equation, Variable
from nablax.graph.nodes import Kind, Loop, Node, Program, Values, read
from nablax.graph.once import once
from nablax.graph.scaled import scaled
from nablax.graph.slopes import curvatures, first_derivative
from nablax.strategies.base import Derivatives, Strategy, Wants, unit_vectors
from nablax.strategies.forms import Form, narrow_directions, widened_tangents
from nablax.strategies.nested import first_order_partials, forward_jacobian
from nablax.strategies.sweep import Request

Rows = tuple[Array | None, ...]
"""The rows of every form, (k, *shape) each; None stands for zeros that are known."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Moving:
    """What a variable carries: its value, tangents (n, *shape) and rows."""

    value: Any
    tangents: Array
    rows: Rows


class Forward(Strategy):
    """Tangents, and rows of second derivatives beside them. Cost: C + K passes, K = C (C + 1) / 2, C or 1."""

    name = "forward"
    summary = "value, C tangents and the wanted second derivatives carried forward together"
    forward_mode = True
    reverse_mode = False
    max_order = 2

    def derive(self, f: Bound, v: Array, wants: Wants, weights: Array | None) -> Derivatives:
        if wants.order < 2 and f.graph.discards:
            moved, rest = pushed(f, v, unit_vectors(v.size, v.dtype))
            return first_order_partials(Derivatives(moved.value, moved.tangents.T, rest=rest), wants)
        if wants.order < 2:
            jacobian, (y, rest) = forward_jacobian(f.by_slopes)(v)
            return first_order_partials(Derivatives(y, jacobian, rest=rest), wants)
        request = Request(wants, v.size, weights)
        forms = tuple(request.forms.values())
        moved, rest = pushed(f, v, request.directions(v), forms, request.blocks(f.graph))
        found = [_rows_or_zeros(r, form, moved.value) for r, form in zip(moved.rows, forms, strict=True)]
        rows = dict(zip(request.forms, found, strict=True))
        if "hessian" in rows:  # a symmetric matrix has every entry in two places
            rows["hessian"] = once(rows["hessian"])
        return request.results(moved.value, moved.tangents, rows, rest)


def pushed(
    f: Bound, v: Array, directions: Array, forms: tuple[Form, ...] = (), blocks: Blocks | None = None
) -> tuple[Moving, list[Any]]:
    """(y with its tangents along `directions` and the rows of `forms`, rest).

    Unlike `jax.jvp`, it does not meet an infinite slope of what a ``where`` discards. With `blocks`, the directions are
    the unit vectors.
    """
    start = Moving(v, directions, (None,) * len(forms))
    y, *rest = sweep(f.graph.program, [*f.others, start], forms, blocks)
    if not isinstance(y, Moving):
        y = Moving(y, jnp.zeros((len(directions), *y.shape), y.dtype), (None,) * len(forms))
    return y, [r.value if isinstance(r, Moving) else r for r in rest]


def sweep(program: Program, inputs: Sequence[Any], forms: tuple[Form, ...], blocks: Blocks | None = None) -> list[Any]:
    """The outputs of a program, as `Moving` where they depend on x; `inputs` are `Moving` where they do.

    Values that fall into `blocks` carry the directions of one block only, which stand for those of all: the others are
    zero there. They are widened where blocks meet.
    """
    values: dict[Variable, Any] = {}
    moving: dict[Variable, Moving] = {}
    narrow: dict[Variable, Moving] = {}
    thin: list[Form] = []

    def write(variable: Variable, value: Any, to: dict[Variable, Moving]) -> None:
        if isinstance(value, Moving):
            to[variable] = value
            value = value.value
        values[variable] = value

    def widened(variable: Variable) -> Moving:
        if variable not in moving:
            assert blocks is not None
            moving[variable] = _widened(narrow[variable], forms, blocks, variable)
        return moving[variable]

    for variable, value in zip(program.flat.inputs, inputs, strict=True):
        write(variable, value, moving)
    if blocks is not None:
        v = program.flat.inputs[-1]
        narrow[v] = Moving(values[v], narrow_directions(blocks, forms, values[v].dtype), (None,) * len(forms))
        thin = [within for form in forms if (within := form.within(blocks.width))]
    for step in program.steps:
        if isinstance(step, Equation):
            values.update(zip(step.outputs, step(*(read(values, a) for a in step.inputs)), strict=True))
            continue
        straight = program.straight.issuperset(step.roots)
        if blocks is not None and blocks.holds(step):
            results, to = _node(step, values, [narrow[root] for root in step.roots], tuple(thin), straight), narrow
        else:
            roots, to = [widened(root) for root in step.roots], moving
            loop = isinstance(step, Loop)
            results = _loop(step, values, moving, forms) if loop else _node(step, values, roots, forms, straight)
        for variable, value in results:
            write(variable, value, to)
    moves: Callable[[Any], bool] = lambda o: o in moving or o in narrow
    return [widened(o) if moves(o) else read(values, o) for o in program.flat.outputs]  # pyright: ignore[reportArgumentType]


def _widened(value: Moving, forms: tuple[Form, ...], blocks: Blocks, variable: Variable) -> Moving:
    """With tangents and rows for the directions of all blocks."""
    wide = lambda form, rows: form.widened(rows, blocks.count, blocks.inner[variable])
    rows = (None if r is None else wide(form, r) for form, r in zip(forms, value.rows, strict=True))
    return Moving(value.value, widened_tangents(value.tangents, blocks, variable), tuple(rows))


def _node(
    node: Node, values: Values, roots: Sequence[Moving], forms: tuple[Form, ...], straight: bool
) -> list[tuple[Variable, Any]]:
    """The outputs of one node; `straight` is whether its roots depend on x, or on what a step of a loop is given, by
    linear maps.
    """
    at = tuple(root.value for root in roots)
    tangents = tuple(root.tangents for root in roots)
    phi = node.function(values)
    if node.kind is Kind.ELEMENTWISE:
        outputs, first = _elementwise(node, phi, at, roots, forms, straight)
        return [(node.outputs[0], Moving(outputs[0], *first))]
    outputs, moved, others = _push(phi, at, tangents)
    rows = []
    for k, form in enumerate(forms):
        row = None
        if any(root.rows[k] is not None for root in roots):
            given = tuple(_rows_or_zeros(root.rows[k], form, root.value) for root in roots)
            row = _push(phi, at, given)[1]
        if node.kind is not Kind.LINEAR:
            bend = _bend(node, lambda *roots: phi(*roots)[0], at, tangents, form)
            row = bend if row is None else jax.tree.map(jnp.add, row, bend)
        rows.append((None,) * len(outputs) if row is None else row)
    moved = [Moving(outputs[i], moved[i], tuple(row[i] for row in rows)) for i in range(len(outputs))]
    return [*zip(node.outputs, moved, strict=True), *zip(node.others, others, strict=True)]


def _elementwise(
    node: Node,
    phi: Callable[..., Any],
    at: tuple[Any, ...],
    roots: Sequence[Moving],
    forms: tuple[Form, ...],
    straight: bool,
) -> tuple[tuple[Any, ...], tuple[Array, Rows]]:
    """(values, (tangents, rows)) of an elementwise node: products with its first and second derivatives, entry by
    entry.

    Tangents of what is `straight`, and their products, are the same for all samples. They meet those derivatives last:
    a gradient sums over the samples before it goes back through them.
    """
    outputs, _ = phi(*at)
    function = lambda *roots: phi(*roots)[0][0]
    first = first_derivative(node)
    slopes = [first(function, i)(*at) for i in range(len(at))]
    bends = curvatures(node, function, at) if forms else []
    if node.pays_once:
        slopes, bends = [once(s) for s in slopes], [once(b) for b in bends]
    # A node may round (x.astype(jnp.bfloat16)): what is carried on has the dtype of the value.
    rounded = lambda array: array.astype(outputs[0].dtype)
    straight &= all(row is None for root in roots for row in root.rows)  # what a loop carries on may have some

    def times(factor: Array, array: Array) -> Array:
        return scaled(jnp.broadcast_to(factor, array.shape), array) if straight else factor[None] * array

    tangents = rounded(sum(times(slope, root.tangents) for slope, root in zip(slopes, roots, strict=True)))
    rows = []
    for k, form in enumerate(forms):
        row: Any = 0
        for (i, j), bend in zip(node.pairs, bends, strict=True):
            both = roots[i].tangents, roots[j].tangents
            row += times(bend, form.products(*both)) if straight else form.products(*both, bend)
        for slope, root in zip(slopes, roots, strict=True):
            carried = root.rows[k]
            if carried is not None:  # in this order XLA compiles one operation for all layers, in the other one more
                row = slope[None] * carried + row
        rows.append(rounded(row))
    return outputs, (tangents, tuple(rows))  # pyright: ignore[reportReturnType]


def _push(phi: Callable[..., Any], at: tuple[Any, ...], tangents: tuple[Array, ...]) -> tuple[Any, Any, Any]:
    """(outputs, dphi [tangents], other results): tangents lead, so that a dense layer is one matrix product for all of
    them.
    """
    push = lambda *tangents: jax.jvp(phi, at, tangents, has_aux=True)
    return jax.vmap(push, out_axes=(None, 0, None))(*tangents)


def _bend(
    node: Node, phi: Callable[..., Any], at: tuple[Any, ...], tangents: tuple[Array, ...], form: Form
) -> tuple[Array, ...]:
    """The rows of d2phi [tangents, tangents] of a node that is not elementwise."""
    if node.kind is Kind.BILINEAR:
        cross = lambda left, right: jax.tree.map(jnp.add, phi(left[0], right[1]), phi(right[0], left[1]))
        return form.apply(cross, tangents)
    if node.kind is Kind.DETERMINANT:
        rows = form.log_determinant(*at, *tangents)
        return jnp.zeros_like(rows), rows
    second = lambda left, right: jax.jvp(lambda *roots: jax.jvp(phi, roots, left)[1], at, right)[1]
    return form.apply(second, tangents)


def _loop(
    loop: Loop, values: Values, moving: dict[Variable, Moving], forms: tuple[Form, ...]
) -> list[tuple[Variable, Any]]:
    """A scan whose carried and scanned-over values are `Moving` where they depend on x."""
    eqn = loop.equations[0]
    given = [moving.get(a) or read(values, a) if isinstance(a, Variable) else a.value for a in eqn.inputs]
    count = next(iter(m for m in given if isinstance(m, Moving))).tangents.shape[0]
    constants, end = given[: loop.constants], loop.constants + loop.carries
    # A carried value that comes to depend on x carries tangents and rows from the first step on.
    start = [
        _filled(value, count, forms) if variable in loop.body.varying else value
        for value, variable in zip(
            given[loop.constants : end], loop.body.flat.inputs[loop.constants : end], strict=True
        )
    ]

    def step(carry: list[Any], scanned: list[Any]) -> tuple[list[Any], list[Any]]:
        outputs = sweep(loop.body, [*constants, *carry, *scanned], forms)
        moved = [_filled(o, count, forms) if isinstance(c, Moving) else o for o, c in zip(outputs, carry, strict=False)]
        return moved, outputs[len(carry) :]

    how = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
    carry, stacked = jax.lax.scan(step, start, [_swap_steps(g) for g in given[end:]], **how)
    return list(zip(eqn.outputs, [*carry, *(_swap_steps(s) for s in stacked)], strict=True))


def _swap_steps(value: Any) -> Any:
    """Exchange the two leading axes of tangents and rows: directions and steps of a loop."""
    if not isinstance(value, Moving):
        return value
    swap = lambda array: jnp.swapaxes(array, 0, 1)
    return Moving(value.value, swap(value.tangents), jax.tree.map(swap, value.rows))


def _filled(value: Any, count: int, forms: tuple[Form, ...]) -> Moving:
    """`value` with tangents and rows, zero where it has none."""
    if not isinstance(value, Moving):
        zeros = jnp.zeros((count, *jnp.shape(value)), jnp.result_type(value))
        value = Moving(value, zeros, (None,) * len(forms))
    rows = (_rows_or_zeros(row, form, value.value) for row, form in zip(value.rows, forms, strict=True))
    return Moving(value.value, value.tangents, tuple(rows))


def _rows_or_zeros(rows: Array | None, form: Form, value: Any) -> Array:
    return jnp.zeros((form.rows, *jnp.shape(value)), jnp.result_type(value)) if rows is None else rows
