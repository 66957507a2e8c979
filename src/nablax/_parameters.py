"""Derivatives by the parameters: the transforms that make the operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from nablax._call import check_arguments
from nablax._errors import AxesError, HolomorphyError, OptionError, OutputTypeError
from nablax._operator import ParameterJacobian
from nablax._options import Options, checked_model, default_table
from nablax._parametric import Setting, checked_parameters, output_layout
from nablax._rehearsal import has_tracers
from nablax._types import Model, PyTree
from nablax.batching.axes import InAxes, find_batch
from nablax.graph.classify import Table
from nablax.parameters.modes import MODES


def parameter_jacobian(
    model: Model,
    *,
    wrt: int = 0,
    in_axes: InAxes = None,
    chunk_size: int | str | None = "auto",
    memory_budget: int | str | None = None,
    has_aux: bool = False,
    table: Table | None = None,
    mode: str = "auto",
) -> Callable[..., Any]:
    """Derivatives of every output of every sample by every parameter, as an operator of shape (D, A, B).

    The array (D, A, B) is formed by nothing but `ParameterJacobian.dense` and `ParameterJacobian.tree`. The model is
    traced for one sample, and cut where parameters meet values of the sample: at its seams. There dY/dW is an outer
    product of what the seam has read and of the adjoint of its result, and kernels, norms and sums of gradients are
    made of these factors. Dense layers with any leading positions, contractions, convolutions and embeddings are seams,
    also inside scans over time or over layers, in Laplacians of deep networks, and where a parameter is used
    many times. A parameter that meets samples in another way is served entry by entry; the operator's repr says which.

    Args:
        model: a function of **one** sample, ``model(params, x, *rest) -> y``, as for `nablax.jacobian`; here x may be
            of any type, integers too.
        wrt: number of the argument that holds the parameters.
        in_axes: see `nablax.jacobian`; the parameters are shared by all samples.
        chunk_size: see `nablax.jacobian`.
        memory_budget: bound for intermediate arrays of one chunk and for what `dense`, `tree` and `fisher` return;
            None: the memory of the device for the latter.
        has_aux: the model returns ``(y, aux)``; the transform then returns ``(operator, aux)``.
        table: see `nablax.jacobian`.
        mode: "real": parameters and outputs are real. "complex": derivatives by the real and imaginary parts of the
            parameters, of real or complex outputs. "holomorphic": parameters and outputs are complex, and so is the
            derivative; the model is proved to be holomorphic in its parameters, or tested at the given ones. "auto":
            "real", or "complex" where anything is.

    Returns:
        A function of ``(params, X, *rest)`` that returns a `ParameterJacobian`.

    Raises:
        nablax.NablaxError: see `nablax.errors`.

    Cost:
        Nothing but a trace of the model; each method of the operator states its own.

    Example:
        >>> import jax.numpy as jnp, nablax
        >>> model = lambda W, x: jnp.tanh(W @ x)
        >>> O = nablax.parameter_jacobian(model)(jnp.ones((2, 3)), jnp.zeros((5, 3)))
        >>> O.shape, O.dense().shape, O.gram().shape, O.squared_norms().shape
        ((5, 2, 6), (5, 2, 6), (5, 2, 5, 2), (5, 2))
        >>> print(O)
        ParameterJacobian of 5 samples, 2 outputs, 6 parameters (float32); 240 B if dense
          params  (2, 3)  dense layer
    """
    options = Options(wrt, in_axes, 0, "auto", chunk_size, has_aux, memory_budget, table)
    _check_mode(mode)
    checked_model("parameter_jacobian", model)

    def transformed(*args: PyTree) -> Any:
        return _operator(model, options, mode, args)

    return transformed


def per_sample_gradients(
    loss: Model,
    *,
    wrt: int = 0,
    in_axes: InAxes = None,
    chunk_size: int | str | None = "auto",
    memory_budget: int | str | None = None,
    has_aux: bool = False,
    table: Table | None = None,
    mode: str = "auto",
) -> Callable[..., Any]:
    """The gradient of a loss for every sample, as an operator of shape (D, B): norms, products and clipped means of
    gradients without the gradients.

    Args:
        loss: ``loss(params, x, y, *rest)``, a scalar, for **one** sample; this and all options are those of
            `parameter_jacobian`.
        wrt: see `parameter_jacobian`.
        in_axes: None: every argument but the parameters holds samples on axis 0; else see `nablax.jacobian`.
        chunk_size: see `parameter_jacobian`.
        memory_budget: see `parameter_jacobian`.
        has_aux: see `parameter_jacobian`.
        table: see `parameter_jacobian`.
        mode: see `parameter_jacobian`.

    Returns:
        A function of ``(params, X, Y)`` that returns a `ParameterJacobian`: ``tree()`` are the gradients,
        ``squared_norms()``, ``clipped_mean(max_norm)`` and ``gram()`` do not form them.

    Raises:
        nablax.NablaxError: see `nablax.errors`.

    Cost:
        See the methods of the operator.

    Example:
        >>> import jax.numpy as jnp, nablax
        >>> loss = lambda W, x, y: jnp.sum((W @ x - y) ** 2)
        >>> W, X, Y = jnp.ones((2, 3)), jnp.ones((5, 3)), jnp.zeros((5, 2))
        >>> nablax.per_sample_gradients(loss)(W, X, Y).clipped_mean(1.0).shape
        (2, 3)
    """
    options = Options(wrt, in_axes, 0, "auto", chunk_size, has_aux, memory_budget, table)
    _check_mode(mode)
    checked_model("per_sample_gradients", loss)

    def transformed(*args: PyTree) -> Any:
        axes = [0] * len(args)
        if -len(args) <= wrt < len(args):
            axes[wrt] = None  # pyright: ignore[reportArgumentType, reportCallIssue]
        given = options if in_axes is not None else replace(options, in_axes=tuple(axes))
        made = _operator(loss, given, mode, args)
        operator = made[0] if has_aux else made
        if operator.y_shape != ():
            raise OutputTypeError(
                f"per_sample_gradients needs a loss that is one number for each sample; it returned shape "
                f"{operator.y_shape}. Sum it, or use nablax.parameter_jacobian for vector outputs."
            )
        return made

    return transformed


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise OptionError(f"mode={mode!r} is unknown; use one of {', '.join(MODES)}.")


def _operator(model: Model, options: Options, mode: str, args: tuple[PyTree, ...]) -> Any:
    """Check the arguments, find the samples and the mode, and bind all of it."""
    check_arguments(args, None)
    batch = find_batch(args, options.wrt, options.in_axes)
    args = tuple(jax.tree.map(jnp.asarray, arg) for arg in args)
    checked_parameters(args[batch.wrt], batch.wrt)
    start = len(jax.tree.leaves(args[: batch.wrt]))
    of_params = batch.axes[start : start + len(jax.tree.leaves(args[batch.wrt]))]
    if any(axis is not None for axis in of_params):
        raise AxesError(
            f"in_axes gives argument {batch.wrt} a sample axis, and that argument holds the parameters (wrt="
            f"{batch.wrt}), which all samples share; use None there, or name another argument with wrt."
        )
    table = default_table if options.table is None else options.table
    setting = Setting(batch.wrt, batch.axes, options.chunk_size, options.budget, options.has_aux, table, mode)
    y = output_layout(model, args, setting)
    setting = replace(setting, mode=_resolved(mode, y.dtype, args[batch.wrt]))
    operator = ParameterJacobian.of(model, args, setting, y)
    if setting.holomorphic:
        _check_holomorphic(operator)
    return (operator, operator.aux()) if options.has_aux else operator


def _resolved(mode: str, y: Any, params: PyTree) -> str:
    """The mode for these dtypes."""
    is_complex = lambda dtype: jnp.issubdtype(dtype, jnp.complexfloating)
    kinds = {"the output": y} | {
        f"params{jax.tree_util.keystr(path)}": leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    given_complex = [name for name, dtype in kinds.items() if is_complex(dtype)]
    given_real = [name for name in kinds if name not in given_complex]
    if mode == "real" and given_complex:
        raise OptionError(
            f'mode="real" was asked for, and {given_complex[0]} has dtype {kinds[given_complex[0]]}; use '
            'mode="complex" for derivatives by real and imaginary parts, or mode="holomorphic".'
        )
    if mode == "holomorphic" and given_real:
        raise OptionError(
            f'mode="holomorphic" needs complex parameters and a complex output, and {given_real[0]} has dtype '
            f'{kinds[given_real[0]]}; use mode="complex".'
        )
    return mode if mode != "auto" else "complex" if given_complex else "real"


def _check_holomorphic(operator: ParameterJacobian) -> None:
    """Raise unless the graph proves that the model is holomorphic, or the given values show that it is here."""
    suspect = operator.suspect()
    if suspect is None:
        return
    remedy = 'Use mode="complex", derivatives by real and imaginary parts.'
    if has_tracers(operator):
        raise HolomorphyError(
            f'mode="holomorphic": the model contains {suspect}, which need not be holomorphic, and its values are not '
            f"known while it is traced, so that it cannot be tested; make the operator outside of jax.jit. {remedy}"
        )
    error, allowed = float(operator.holomorphy_error()), float(jnp.finfo(operator.dtype).eps) ** 0.6
    if not error <= allowed:
        raise HolomorphyError(
            f'mode="holomorphic": the model is not holomorphic in its parameters. It contains {suspect}, and at the '
            f"given parameters the Cauchy-Riemann equations are violated by {error:.1e} (relative). {remedy}"
        )
