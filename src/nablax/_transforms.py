"""The public transforms: from a model of one sample to its derivatives for every sample of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nablax._call import ByName, Only, transform
from nablax._options import Options, checked_wants
from nablax._types import Model, PyTree
from nablax.batching.axes import InAxes
from nablax.graph.classify import Table
from nablax.strategies import Wants


def jacobian(
    model: Model,
    *,
    wrt: int | None = None,
    in_axes: InAxes = None,
    out_axes: Any = 0,
    strategy: str = "auto",
    chunk_size: int | str | None = "auto",
    has_aux: bool = False,
    memory_budget: int | str | None = None,
    table: Table | None = None,
) -> Callable[..., PyTree]:
    """First derivatives of every output by every input, sample by sample.

    Args:
        model: a function of **one** sample, ``model(params, x, *rest) -> y``, or ``model(x) -> y``. x and y are arrays
            of any shape or pytrees of arrays; x is real floating point, y real or complex. It must be pure and
            traceable by JAX. A callable pytree (an equinox module) works too.
        wrt: number of the argument to differentiate. None: 1, or 0 for a model of one argument. The others are
            constants here, but stay differentiable from outside.
        in_axes: which axis of each argument holds the samples, as in `jax.vmap`; None marks an argument that all
            samples share. The default is ``(None, 0)`` (``(0,)`` for one argument); arguments beyond the tuple are
            shared.
        out_axes: where the sample axis goes in the results: an int, or a tree of ints that is a prefix of the result.
        strategy: "auto", "autotune", or the name of one: "forward", "reverse" (first derivatives), "adjoint" (second),
            "forward_over_reverse", "forward_over_forward", "reverse_over_reverse". All give the same numbers to
            rounding. "auto" predicts which is fastest; "autotune" measures it when the transform is compiled, on
            random arguments of the same shapes, and remembers the answer, on disk too if the environment variable
            NABLAX_AUTOTUNE_CACHE names a folder.
        chunk_size: how many samples go through the model at once: an int, "auto", or None for the whole batch. It need
            not divide D. Chunks bound the memory, also of the backward pass through the result.
        has_aux: the model returns ``(y, aux)``; the transform then returns ``(result, aux)``, aux with the samples on
            axis 0.
        memory_budget: a bound for the intermediate arrays of one chunk, in bytes or as ``"512MiB"``, ``"1.5GB"``; their
            size is predicted. "auto" chunks fit it; a chunk that cannot, or a result that is larger, is an error. A
            gradient through the result takes chunks that fit it together with the results of all samples, which are
            intermediate arrays there, or a sample at a time. None: "auto" chunks fit the cache of a CPU, or 2 GiB
            elsewhere, and nothing is refused.
        table: what is known of primitives, a `nablax.Table`. None is ``nablax.default_table``; to teach one of your
            own, pass ``nablax.default_table.extended(elementwise=[my_primitive])``. Primitives that are in no table
            are served too, by their own rules.

    Returns:
        A function of ``(params, X, *rest)`` that returns an array (D, *y.shape, *x.shape): (D, A, C) for vectors, (D,
        C) for a scalar output. Where y or x are pytrees, the result is a tree like y whose leaves are trees like x, as
        `jax.jacobian`'s is. It is a pure function: use it under `jax.jit`, `jax.grad`, `jax.vmap`.

    Raises:
        nablax.NablaxError: one of the classes in `nablax.errors`; each message says what was given, what was expected,
            what to do.

    Cost:
        C tangent passes or A reverse passes through the model for each sample.

    Example:
        >>> import jax.numpy as jnp, nablax
        >>> model = lambda params, x: jnp.tanh(params @ x)
        >>> M, X = jnp.ones((2, 4)), jnp.zeros((8, 4))
        >>> nablax.jacobian(model)(M, X).shape
        (8, 2, 4)
        >>> nablax.jacobian(model, in_axes=(None, -1), out_axes=-1)(M, X.T).shape
        (2, 4, 8)
    """
    return transform("jacobian", model, Wants(frozenset({"jacobian"})), Only("jacobian"), Options.of(locals()))


def hessian(
    model: Model,
    *,
    wrt: int | None = None,
    in_axes: InAxes = None,
    out_axes: Any = 0,
    strategy: str = "auto",
    chunk_size: int | str | None = "auto",
    has_aux: bool = False,
    memory_budget: int | str | None = None,
    table: Table | None = None,
) -> Callable[..., PyTree]:
    """Second derivatives of every output by every pair of inputs, sample by sample.

    Args:
        model: a function of one sample; this and all options are those of `nablax.jacobian`.
        wrt: see `nablax.jacobian`.
        in_axes: see `nablax.jacobian`.
        out_axes: see `nablax.jacobian`.
        strategy: see `nablax.jacobian`.
        chunk_size: see `nablax.jacobian`.
        has_aux: see `nablax.jacobian`.
        memory_budget: see `nablax.jacobian`.
        table: see `nablax.jacobian`.

    Returns:
        A function of ``(params, X, *rest)`` that returns an array (D, *y.shape, *x.shape, *x.shape): (D, A, C, C) for
        vectors, (D, C, C) for a scalar output; for pytrees, a tree like y of trees like x of trees like x.

    Raises:
        nablax.NablaxError: see `nablax.errors`.

    Cost:
        C + A passes through the model for each sample and a contraction of A C^2 numbers for each curved entry, or C +
        C (C + 1) / 2 passes, whichever is less; and D A C^2 numbers of memory for the result. If only its diagonal or
        trace is needed, `hessian_diagonal` and `laplacian` are cheaper.

    Example:
        >>> import jax.numpy as jnp, nablax
        >>> model = lambda params, x: jnp.tanh(params @ x)
        >>> nablax.hessian(model)(jnp.ones((2, 4)), jnp.zeros((8, 4))).shape
        (8, 2, 4, 4)
    """
    return transform("hessian", model, Wants(frozenset({"hessian"})), Only("hessian"), Options.of(locals()))


def hessian_diagonal(
    model: Model,
    *,
    wrt: int | None = None,
    in_axes: InAxes = None,
    out_axes: Any = 0,
    strategy: str = "auto",
    chunk_size: int | str | None = "auto",
    has_aux: bool = False,
    memory_budget: int | str | None = None,
    table: Table | None = None,
) -> Callable[..., PyTree]:
    """Second derivatives of every output by each input alone: the diagonal of the Hessian, without the Hessian.

    Args:
        model: a function of one sample; this and all options are those of `nablax.jacobian`.
        wrt: see `nablax.jacobian`.
        in_axes: see `nablax.jacobian`.
        out_axes: see `nablax.jacobian`.
        strategy: see `nablax.jacobian`.
        chunk_size: see `nablax.jacobian`.
        has_aux: see `nablax.jacobian`.
        memory_budget: see `nablax.jacobian`.
        table: see `nablax.jacobian`.

    Returns:
        A function of ``(params, X, *rest)`` that returns d2y / dx_c^2 with the shape of the Jacobian: (D, A, C), (D, C)
        for a scalar output.

    Raises:
        nablax.NablaxError: see `nablax.errors`.

    Cost:
        About 2 C passes through the model for each sample.

    Example:
        >>> import jax.numpy as jnp, nablax
        >>> cubes = lambda x: jnp.array([1.0, 2.0]) * jnp.sum(x**3)
        >>> nablax.hessian_diagonal(cubes)(jnp.array([[1.0, 2.0, 3.0]]))
        Array([[[ 6., 12., 18.],
                [12., 24., 36.]]], dtype=float32)
    """
    return transform(
        "hessian_diagonal",
        model,
        Wants(frozenset({"hessian_diagonal"})),
        Only("hessian_diagonal"),
        Options.of(locals()),
    )


def laplacian(
    model: Model,
    *,
    weights: Any = None,
    wrt: int | None = None,
    in_axes: InAxes = None,
    out_axes: Any = 0,
    strategy: str = "auto",
    chunk_size: int | str | None = "auto",
    has_aux: bool = False,
    memory_budget: int | str | None = None,
    table: Table | None = None,
) -> Callable[..., PyTree]:
    """The trace of the Hessian of every output, weighted if asked: sum_{c,e} W[c,e] d2y / dx_c dx_e.

    Args:
        model: a function of one sample; this and all other options are those of `nablax.jacobian`.
        weights: W: None for the plain Laplacian, a number, one number for each input (C,), or a matrix (C, C), whose
            asymmetric part has no effect. For an x that is no vector, C counts the entries of x in the order of
            ``jax.flatten_util.ravel_pytree``. It may be traced and differentiated.
        wrt: see `nablax.jacobian`.
        in_axes: see `nablax.jacobian`.
        out_axes: see `nablax.jacobian`.
        strategy: see `nablax.jacobian`.
        chunk_size: see `nablax.jacobian`.
        has_aux: see `nablax.jacobian`.
        memory_budget: see `nablax.jacobian`.
        table: see `nablax.jacobian`.

    Returns:
        A function of ``(params, X, *rest)`` that returns an array (D, *y.shape).

    Raises:
        nablax.NablaxError: see `nablax.errors`.

    Cost:
        About C + 1 passes through the model for each sample.

    Example:
        >>> import jax.numpy as jnp, nablax
        >>> square = lambda x: jnp.sum(x**2)
        >>> nablax.laplacian(square)(jnp.zeros((2, 3)))
        Array([6., 6.], dtype=float32)
        >>> nablax.laplacian(square, weights=jnp.array([1.0, 0.0, 0.5]))(jnp.zeros((2, 3)))
        Array([3., 3.], dtype=float32)
    """
    return transform(
        "laplacian", model, Wants(frozenset({"laplacian"})), Only("laplacian"), Options.of(locals()), weights
    )


def divergence(
    model: Model,
    *,
    wrt: int | None = None,
    in_axes: InAxes = None,
    out_axes: Any = 0,
    strategy: str = "auto",
    chunk_size: int | str | None = "auto",
    has_aux: bool = False,
    memory_budget: int | str | None = None,
    table: Table | None = None,
) -> Callable[..., PyTree]:
    """The divergence sum_c dy_c / dx_c of a vector field, sample by sample, exactly (no random probes).

    Args:
        model: a function of one sample whose output has the shape of x; this and all options are those of
            `nablax.jacobian`.
        wrt: see `nablax.jacobian`.
        in_axes: see `nablax.jacobian`.
        out_axes: see `nablax.jacobian`.
        strategy: see `nablax.jacobian`.
        chunk_size: see `nablax.jacobian`.
        has_aux: see `nablax.jacobian`.
        memory_budget: see `nablax.jacobian`.
        table: see `nablax.jacobian`.

    Returns:
        A function of ``(params, X, *rest)`` that returns an array (D,).

    Raises:
        nablax.NablaxError: see `nablax.errors`; `OutputTypeError` where y and x differ in shape.

    Cost:
        C passes through the model for each sample.

    Example:
        >>> import jax.numpy as jnp, nablax
        >>> nablax.divergence(lambda x: x * jnp.array([1.0, 2.0, 3.0]))(jnp.zeros((2, 3)))
        Array([6., 6.], dtype=float32)
    """
    return transform("divergence", model, Wants(frozenset({"divergence"})), Only("divergence"), Options.of(locals()))


def derivatives(
    model: Model,
    *wants: str,
    weights: Any = None,
    wrt: int | None = None,
    in_axes: InAxes = None,
    out_axes: Any = 0,
    strategy: str = "auto",
    chunk_size: int | str | None = "auto",
    has_aux: bool = False,
    memory_budget: int | str | None = None,
    table: Table | None = None,
) -> Callable[..., PyTree]:
    """Several derivatives from one shared pass: what they have in common is computed once.

    Args:
        model: a function of one sample; this and all options are those of `nablax.jacobian`.
        *wants: some of "value", "jacobian", "hessian", "hessian_diagonal", "laplacian", "divergence".
        weights: of the Laplacian, see `nablax.laplacian`.
        wrt: see `nablax.jacobian`.
        in_axes: see `nablax.jacobian`.
        out_axes: see `nablax.jacobian`; a dict with the names of the wants is a prefix of the result.
        strategy: see `nablax.jacobian`.
        chunk_size: see `nablax.jacobian`.
        has_aux: see `nablax.jacobian`.
        memory_budget: see `nablax.jacobian`.
        table: see `nablax.jacobian`.

    Returns:
        A function of ``(params, X, *rest)`` that returns a dict: want -> what the transform of that name returns;
        "value" is (D, *y.shape).

    Raises:
        nablax.NablaxError: see `nablax.errors`.

    Cost:
        That of the most expensive want; value and Jacobian come with any second derivative.

    Example:
        >>> import jax.numpy as jnp, nablax
        >>> model = lambda params, x: jnp.tanh(params @ x)
        >>> found = nablax.derivatives(model, "value", "jacobian", "laplacian")(jnp.ones((2, 4)), jnp.zeros((8, 4)))
        >>> {want: array.shape for want, array in found.items()}
        {'jacobian': (8, 2, 4), 'laplacian': (8, 2), 'value': (8, 2)}
    """
    named = checked_wants("derivatives", wants, weights)
    return transform("derivatives", model, named, ByName(), Options.of(locals()), weights)
