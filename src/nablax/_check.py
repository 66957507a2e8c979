"""Compare a derivative with references that share no code with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nablax._call import ByName, transform
from nablax._compat import enable_x64
from nablax._diagnose import Kink, Origin, kinks, origin
from nablax._errors import CheckFailedError, OptionError
from nablax._json import as_json
from nablax._layout import Layout
from nablax._options import Options
from nablax._sample import OneSample
from nablax._types import SECOND_ORDER, WANTS, Model, PyTree
from nablax.batching.axes import Batch, InAxes, find_batch
from nablax.graph.classify import JAX, Table
from nablax.parameters.modes import breaks_holomorphy
from nablax.strategies import Derivatives, Wants


@dataclass(frozen=True)
class Comparison:
    """One want against one reference.

    Attributes:
        want: name of the derivative.
        reference: what it was compared with.
        error: largest difference, relative to the largest entry of the reference.
        tolerance: what rounding (and the truncation of finite differences) explains.
        worst_sample: index in the batch of the sample with the largest difference.
        worst_entry: its index in the derivative of that sample, of the flat outputs and inputs.
        nonfinite: entries that are NaN or infinite in the result but not in the reference.
    """

    want: str
    reference: str
    error: float
    tolerance: float
    worst_sample: int
    nonfinite: int
    worst_entry: tuple[int, ...] = ()

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance and self.nonfinite == 0


@dataclass(frozen=True)
class CheckReport:
    """What `nablax.check` found; print it, or call `raise_if_failed`.

    Attributes:
        comparisons: of each want with each reference.
        samples: how many were compared.
        dtype: of the inputs.
        kinks: where samples lie at points at which the model is not smooth. JAX has a number there, and so has nablax,
            the same; finite differences have another one.
        origins: for each sample with derivatives that are not finite, what made the first such number.
    """

    comparisons: tuple[Comparison, ...]
    samples: int
    dtype: str
    kinks: tuple[Kink, ...] = ()
    origins: tuple[Origin, ...] = ()

    @property
    def passed(self) -> bool:
        return all(comparison.passed for comparison in self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return {"passed": self.passed, **as_json(self)}

    def raise_if_failed(self) -> None:
        """Raise `CheckFailedError` with the table, unless every comparison passed."""
        if not self.passed:
            raise CheckFailedError(
                f"a derivative differs from its reference:\n{self}\nIf only finite differences differ, the model "
                f"may not be smooth at that sample, or "
                "compute in less than float64 inside; if the complex step differs and nested AD does not, a custom "
                "rule of the model is wrong; if nested AD in float64 differs, please report it with the model."
            )

    def __repr__(self) -> str:
        head = f"nablax.check: {self.samples} samples, {self.dtype}"
        columns = ("want", "reference", "worst_sample")
        wide = [max(len(str(getattr(c, name))) for c in self.comparisons) for name in columns]
        rows = [
            f"  {c.want:<{wide[0]}}  {c.reference:<{wide[1]}}  relative error {c.error:7.1e} "
            f"(allowed {c.tolerance:.0e})  worst sample {c.worst_sample:<{wide[2]}}  "
            f"{'ok' if c.passed else f'DIFFERS, most in entry {c.worst_entry}'}"
            + (f"  {c.nonfinite} not finite" if c.nonfinite else "")
            for c in self.comparisons
        ]
        return "\n".join([head, *rows, *(f"  {found}" for found in (*self.kinks, *self.origins))])


def check(
    model: Model,
    *wants: str,
    weights: Any = None,
    samples: int = 8,
    wrt: int | None = None,
    in_axes: InAxes = None,
    strategy: str = "auto",
    chunk_size: int | str | None = "auto",
    has_aux: bool = False,
    table: Table | None = None,
) -> Callable[..., CheckReport]:
    """Compare derivatives with nested automatic differentiation in float64 and with finite differences.

    No reference uses the engine of nablax: the first is ``jax.jacfwd`` and ``jax.jacrev`` of the model in double
    precision, the second central differences of its values with one Richardson extrapolation. First derivatives are
    compared with a complex step too, Im f(x + i h e_c) / h, which is exact to rounding, where the traced model is
    proved to be holomorphic (W. Squire and G. Trapp, SIAM Review 40, 1998). The report also names the samples at which
    the model is not smooth (kinks, ties, roots at zero) and the operations, with their lines in the model, that make
    derivatives infinite or NaN; it does not look for these inside of loops and branches.

    Args:
        model: a function of one sample; this and the options from `wrt` on are those of `nablax.jacobian`.
        *wants: what to check, see `nablax.derivatives`.
        weights: of the Laplacian, see `nablax.laplacian`.
        samples: how many samples to compare, spread evenly over the batch.

    Returns:
        A function of ``(params, X, *rest)`` that returns a `CheckReport`: printable, with ``passed`` and
        ``raise_if_failed()``.

    Raises:
        nablax.NablaxError: see `nablax.errors`.

    Cost:
        That of the derivatives for a few samples, in float64, and 8 C^2 evaluations of the model for each.

    Example:
        >>> import jax.numpy as jnp, nablax
        >>> model = lambda params, x: jnp.tanh(params @ x)
        >>> nablax.check(model, "hessian")(jnp.ones((2, 4)), jnp.ones((8, 4)) / 8).passed
        True
    """
    if not wants or not set(wants) <= set(WANTS):
        raise OptionError(
            f"check was asked for {', '.join(map(repr, wants)) or 'nothing'}; name some of {', '.join(WANTS)}."
        )
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise OptionError(f"samples={samples!r} must be a positive int.")
    out_axes = 0
    transformed = transform("check", model, Wants(frozenset(wants)), _Raw(), Options.of(locals()), weights)

    def checked(*args: PyTree) -> CheckReport:
        args = jax.tree.map(jnp.asarray, args)
        batch = find_batch(args, wrt, in_axes)
        chosen = np.unique(np.linspace(0, batch.samples - 1, min(samples, batch.samples)).round().astype(int))
        few = _take(args, batch, chosen)
        got = transformed(*few)[0] if has_aux else transformed(*few)
        eps = float(jnp.finfo(Layout.of(args[batch.wrt]).dtype).eps)
        with enable_x64():
            one, samples_, V = _model_of_one(model, _take(_doubled(args), batch, chosen), batch, has_aux)
            references = _references(one, V, samples_, _doubled(weights))
            steps = _complex_steps(one, V, samples_)
            numbers = [int(number) for number in chosen]
            order = 2 if {*wants} & {*SECOND_ORDER} else 1
            strange = kinks(one, V, samples_, numbers), _origins(one, V, samples_, numbers, references[0], order)
        exact = max(2e3 * eps, 1e-10)
        rough = {want: max(2e3 * eps, 1e-5 if want in SECOND_ORDER else 1e-7) for want in wants}
        comparisons = [
            _compare(want, reference, got[want], values[want], tolerance, chosen)
            for want in wants
            for reference, values, tolerance in (
                ("nested AD in float64", references[0], exact),
                ("finite differences", references[1] if want != "value" else {}, rough[want]),
                ("complex step", steps, exact),
            )
            if want in values
        ]
        return CheckReport(tuple(comparisons), len(chosen), str(Layout.of(args[batch.wrt]).dtype), *strange)

    return checked


@dataclass(frozen=True)
class _Raw:
    """Present the wants as arrays of flat outputs and inputs, without the user's trees."""

    def check(self, sample: OneSample) -> None:
        ByName().check(sample)

    def __call__(self, sample: OneSample, found: Derivatives) -> PyTree:
        return {want: found.get(want) for want in sample.wants.names}


def _take(args: tuple[PyTree, ...], batch: Batch, chosen: np.ndarray) -> tuple[PyTree, ...]:
    leaves, treedef = jax.tree.flatten(args)
    return jax.tree.unflatten(
        treedef,
        [leaf if axis is None else jnp.take(leaf, chosen, axis) for leaf, axis in zip(leaves, batch.axes, strict=True)],
    )


def _doubled(tree: PyTree) -> PyTree:
    """The floating and complex leaves in double precision."""

    def double(leaf: Any) -> Any:
        kind = jnp.result_type(leaf)
        wide = np.complex128 if jnp.issubdtype(kind, jnp.complexfloating) else np.float64
        return np.asarray(leaf, wide) if jnp.issubdtype(kind, jnp.inexact) else leaf

    return jax.tree.map(double, tree)


def _model_of_one(
    model: Model, args: tuple[PyTree, ...], batch: Batch, has_aux: bool
) -> tuple[Callable[..., Array], list[Array], Array]:
    """(f(v, sample), the batched leaves of the samples, V): the model as a function of the flat input v."""
    leaves, treedef = jax.tree.flatten(args)
    batched, shared = batch.split([jnp.asarray(leaf) for leaf in leaves])
    inputs = lambda sample: list(jax.tree.unflatten(treedef, batch.merge(sample, shared)))

    def one(v: Array, sample: list[Array]) -> Array:
        all_ = inputs(sample)
        like = (
            jax.tree.map(lambda leaf: leaf.astype(v.dtype), all_[batch.wrt]) if jnp.iscomplexobj(v) else all_[batch.wrt]
        )
        x = Layout.of(like).unravel(v)
        output = model(*all_[: batch.wrt], x, *all_[batch.wrt + 1 :])
        y = jax.tree.map(jnp.asarray, output[0] if has_aux else output)
        return Layout.of(y).ravel(y)

    def flat(sample: list[Array]) -> Array:
        x = inputs(sample)[batch.wrt]
        return Layout.of(x).ravel(x)

    return one, batched, jax.vmap(flat)(batched)


def _references(one: Callable[..., Array], V: Array, samples: list[Array], weights: Any) -> list[dict[str, np.ndarray]]:
    """[nested AD, finite differences]: want -> array (D, A[, C[, C]]) of flat outputs and inputs."""

    def both(v: Array, sample: list[Array]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        f = lambda v: one(v, sample)
        return _nested(f, v), _differences(f, v)

    found = jax.jit(jax.vmap(both))(V, samples)
    return [_wants_of(np.asarray(y), np.asarray(J), np.asarray(H), weights) for y, J, H in found]


def _origins(
    one: Callable[..., Array],
    V: Array,
    samples: list[Array],
    numbers: Sequence[int],
    nested: dict[str, np.ndarray],
    order: int,
) -> tuple[Origin, ...]:
    """What makes the derivatives up to `order` of some samples infinite or NaN."""
    found = []
    for index, number in enumerate(numbers):
        finite = [np.isfinite(nested[want][index]).all() for want in ("value", "jacobian", "hessian")[: order + 1]]
        if not all(finite):
            sample = [leaf[index] for leaf in samples]
            found.append(origin(one, V[index], sample, number, finite.index(False)))
    return tuple(each for each in found if each is not None)


def _nested(f: Callable[[Array], Array], v: Array) -> tuple[Array, Array, Array]:
    """(y, J, H) by plain JAX, in whatever mode the model allows."""

    def parts(v: Array) -> Array:
        y = f(v)
        return jnp.stack([y.real, y.imag]) if jnp.iscomplexobj(y) else y

    def whole(derivative: Array) -> Array:
        return jax.lax.complex(derivative[0], derivative[1]) if jnp.iscomplexobj(y) else derivative

    y = f(v)
    failures = []
    for outer, inner in ((jax.jacfwd, jax.jacfwd), (jax.jacrev, jax.jacrev)):
        try:
            return y, whole(inner(parts)(v)), whole(outer(inner(parts))(v))
        except (TypeError, ValueError) as error:  # a custom_vjp has no forward mode, a while_loop no reverse mode
            failures.append(error)
    raise failures[0]


def _differences(f: Callable[[Array], Array], v: Array) -> tuple[Array, Array, Array]:
    """(y, J, H) by central differences with one Richardson extrapolation: errors of order h^4."""
    scale = jnp.maximum(1.0, jnp.abs(v))
    basis = jnp.diag(scale)

    def extrapolated(rule: Callable[[float], Array], h: float) -> Array:
        return (4 * rule(h / 2) - rule(h)) / 3

    def first(h: float) -> Array:
        return jax.vmap(lambda e: (f(v + h * e) - f(v - h * e)) / (2 * h), out_axes=-1)(basis) / scale[None]

    def second(h: float) -> Array:
        def mixed(e: Array, g: Array) -> Array:
            a, b = h * e, h * g
            return (f(v + a + b) - f(v + a - b) - f(v - a + b) + f(v - a - b)) / (4 * h * h)

        rows = jax.vmap(lambda e: jax.vmap(lambda g: mixed(e, g), out_axes=-1)(basis), out_axes=-1)(basis)
        return rows / (scale[:, None] * scale[None])[None]

    return f(v), extrapolated(first, 2e-4), extrapolated(second, 4e-3)


def _complex_steps(one: Callable[..., Array], V: Array, samples: list[Array]) -> dict[str, np.ndarray]:
    """Wants of first order by a complex step, or none if the model is not real, or not known to be holomorphic."""
    first = [leaf[0] for leaf in samples]
    if jnp.issubdtype(jax.eval_shape(one, V[0], first).dtype, jnp.complexfloating):
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parts that a model takes of complex numbers
            traced = jax.make_jaxpr(one)(V[0].astype(complex), first)
    except Exception:  # operations of the model that take no complex numbers raise what they like
        return {}
    if breaks_holomorphy(traced, [0], JAX) is not None:
        return {}
    h = 1e-30  # nothing is subtracted, so that the step can be as small as numbers are
    step = lambda v, e, sample: one(v + 1j * h * e, sample).imag / h
    columns = jax.vmap(step, (None, 0, None), out_axes=-1)
    jacobian = jax.jit(jax.vmap(columns, (0, None, 0)))(V, jnp.eye(V.shape[1]), samples)
    return _first_order(np.asarray(jacobian))


def _wants_of(y: np.ndarray, jacobian: np.ndarray, hessian: np.ndarray, weights: Any) -> dict[str, np.ndarray]:
    diagonal = np.diagonal(hessian, axis1=-2, axis2=-1)
    C = jacobian.shape[-1]
    W = np.ones(()) if weights is None else np.asarray(weights)
    full = W.reshape(C, C) if W.size == C * C and C > 1 else np.diag(np.broadcast_to(W.reshape(-1), (C,)))
    laplacian = np.einsum("dace,ce->da", hessian, full)
    second = {"hessian": hessian, "hessian_diagonal": diagonal, "laplacian": laplacian}
    return {"value": y, **_first_order(jacobian), **second}


def _first_order(jacobian: np.ndarray) -> dict[str, np.ndarray]:
    square = jacobian.shape[-2] == jacobian.shape[-1]
    return {"jacobian": jacobian} | ({"divergence": np.trace(jacobian, axis1=-2, axis2=-1)} if square else {})


def _compare(
    want: str, reference: str, got: np.ndarray, expected: np.ndarray, tolerance: float, chosen: np.ndarray
) -> Comparison:
    shape = expected.shape
    got, expected = np.asarray(got).reshape(len(chosen), -1), expected.reshape(len(chosen), -1)
    finite = np.isfinite(expected)
    difference = np.where(finite & np.isfinite(got), np.abs(got - np.where(finite, expected, 0)), 0.0)
    scale = float(np.max(np.abs(expected), where=finite, initial=0.0)) or 1.0
    per_sample = difference.max(axis=1, initial=0.0)
    lost = int(np.sum(finite & ~np.isfinite(got)))
    worst = int(per_sample.argmax())
    entry = tuple(int(k) for k in np.unravel_index(difference[worst].argmax(), shape[1:]))
    return Comparison(want, reference, float(per_sample.max()) / scale, tolerance, int(chosen[worst]), lost, entry)
