"""Derivatives at one look: heat maps, sensitivities, fields and spectra, drawn with matplotlib.

Every function takes arrays as the transforms return them, draws on the axes that it is given or on a new figure, and
returns the axes. Of complex numbers the modulus is drawn. Entries that are not finite are left out, and counted in the
title.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nablax._errors import InputTypeError, OptionError
from nablax._heat import BLUE, RED, Heat, labels, not_finite, of_samples, spread, surface
from nablax._types import kind_of

LABELLED = 30
"""Up to so many inputs and outputs have a label each."""

SEPARATE = 4
"""Up to so many outputs are drawn beside each other."""

GREY = "#888888"

Names = Sequence[str] | None


def jacobian(J: Any, *, inputs: Names = None, outputs: Names = None, sample: int | None = None, ax: Any = None) -> Any:
    """The Jacobian of one sample, or the mean of |J| over the samples, as a heat map of outputs and inputs.

    Args:
        J: (D, A, C), or (D, C) of a scalar output.
        inputs: names of the C inputs.
        outputs: names of the A outputs.
        sample: which one; None for the mean over all.
        ax: axes of matplotlib to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        OptionError: a shape, a name or a number does not fit.

    Cost:
        One pass over J, on the host.

    Example:
        >>> import jax.numpy as jnp, matplotlib, nablax
        >>> matplotlib.use("Agg")
        >>> J = nablax.jacobian(lambda M, x: jnp.tanh(M @ x))(jnp.ones((2, 3)), jnp.ones((5, 3)))
        >>> nablax.plot.jacobian(J, inputs=["age", "dose", "weight"]).get_xlabel()
        'input'
    """
    J = _array("J", J, {2: "(D, C)", 3: "(D, A, C)"})
    J = J[:, None] if J.ndim == 2 else J
    _check_names("inputs", inputs, J.shape[2])
    _check_names("outputs", outputs, J.shape[1])
    values, signed, title, unit = of_samples(J, sample, "Jacobian", "y / x", absolute=True)
    columns, rows = labels(inputs, J.shape[2], LABELLED), labels(outputs, J.shape[1], LABELLED)
    ax = _axes(ax)
    Heat(values, title, columns, "input", signed, unit, rows, "output").draw(ax)
    return ax


def hessian(
    H: Any,
    *,
    inputs: Names = None,
    outputs: Names = None,
    output: int | str | None = None,
    sample: int | None = None,
    ax: Any = None,
) -> Any:
    """Hessians of one sample, or their means over the samples, as heat maps of pairs of inputs.

    Args:
        H: (D, A, C, C), or (D, C, C) of a scalar output.
        inputs: names of the C inputs.
        outputs: names of the A outputs.
        output: which one, by number or name; None for all of up to four, beside each other.
        sample: which one; None for the mean over all.
        ax: axes of matplotlib to draw on; None makes a figure.

    Returns:
        The axes; an array of them for several outputs.

    Raises:
        OptionError: a shape, a name or a number does not fit.

    Cost:
        One pass over H, on the host.

    Example:
        >>> import jax.numpy as jnp, matplotlib, nablax
        >>> matplotlib.use("Agg")
        >>> H = nablax.hessian(lambda M, x: jnp.tanh(M @ x))(jnp.ones((2, 3)), jnp.ones((5, 3)))
        >>> len(nablax.plot.hessian(H)), nablax.plot.hessian(H, outputs=["risk", "cost"], output="cost").get_ylabel()
        (2, 'input')
    """
    H = _array("H", H, {3: "(D, C, C)", 4: "(D, A, C, C)"})
    H = H[:, None] if H.ndim == 3 else H
    if H.shape[2] != H.shape[3]:
        raise OptionError(f"H has the shape {H.shape}; its last two axes are both those of the inputs: (D, A, C, C).")
    _check_names("inputs", inputs, H.shape[3])
    chosen = _chosen(output, outputs, H.shape[1], 1 if ax is not None else SEPARATE)
    axes = [ax] if ax is not None else list(_new(len(chosen), 4.6))
    columns, called = labels(inputs, H.shape[3], LABELLED), labels(outputs, H.shape[1], H.shape[1]) or []
    for axis, a in zip(axes, chosen, strict=True):
        values, signed, title, unit = of_samples(H[:, a], sample, "Hessian", "y / x²", absolute=False)
        if H.shape[1] > 1:
            title += f"\nof output {called[a]}"
        Heat(values, title, columns, "input", signed, unit, columns, "input").draw(axis)
    return axes[0] if len(axes) == 1 else np.array(axes)


def sensitivity(
    J: Any,
    *,
    inputs: Names = None,
    outputs: Names = None,
    output: int | str | None = None,
    spread: tuple[float, float] = (0.1, 0.9),
    most: int = 20,
    ax: Any = None,
) -> Any:
    """How much each input matters: bars of the mean of |J| over the samples, with the spread of |J| between samples.

    Args:
        J: (D, A, C), or (D, C) of a scalar output.
        inputs: names of the C inputs.
        outputs: names of the A outputs.
        output: which one, by number or name; None for all of up to four, side by side.
        spread: the two quantiles between which a line lies.
        most: how many inputs, those with the longest bars; longest first.
        ax: axes of matplotlib to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        OptionError: a shape, a name or a number does not fit.

    Cost:
        Quantiles of |J| over the samples, on the host.

    Example:
        >>> import jax.numpy as jnp, matplotlib, nablax
        >>> matplotlib.use("Agg")
        >>> J = nablax.jacobian(lambda w, x: jnp.tanh(w @ x))(jnp.array([1.0, 3.0, 2.0]), jnp.ones((5, 3)))
        >>> ax = nablax.plot.sensitivity(J, inputs=["age", "dose", "weight"], most=2)
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['dose', 'weight']
    """
    J = _array("J", J, {2: "(D, C)", 3: "(D, A, C)"})
    J = np.abs(J[:, None] if J.ndim == 2 else J)
    _check_names("inputs", inputs, J.shape[2])
    if not 0 <= spread[0] < spread[1] <= 1:
        raise OptionError(f"spread={spread!r} must be two quantiles in order, for example (0.1, 0.9).")
    chosen = _chosen(output, outputs, J.shape[1], SEPARATE)
    finite = np.where(np.isfinite(J), J, np.nan)[:, chosen]
    mean = np.nanmean(finite, axis=0)  # (outputs, C)
    low, high = np.nanquantile(finite, spread, axis=0)
    order = np.argsort(-np.nanmax(mean, axis=0), kind="stable")[:most]
    names = labels(inputs, J.shape[2], J.shape[2]) or []
    called = labels(outputs, J.shape[1], J.shape[1]) or []
    ax = next(_new(1, 5.6, max(4.2, 1.2 + 0.09 * len(order) * (1 + len(chosen))))) if ax is None else ax
    height = 0.8 / len(chosen)
    for k, a in enumerate(chosen):
        places = np.arange(len(order)) + (k - (len(chosen) - 1) / 2) * height
        label = f"output {a}" if outputs is None else called[a]
        ax.barh(places, mean[k, order], height, color=f"C{k}" if len(chosen) > 1 else BLUE, label=label)
        ax.hlines(places, low[k, order], high[k, order], color="black", linewidth=1.2)
    ax.set_yticks(range(len(order)), [names[c] for c in order])
    ax.invert_yaxis()
    ax.set_xlabel("|dy/dx| (y / x)")
    ax.set_ylabel("input")
    ends = " to ".join(f"{100 * end:g}" for end in spread)
    shown = f", {len(order)} of {J.shape[2]} inputs" if len(order) < J.shape[2] else ""
    ax.set_title(f"mean |Jacobian| over {len(J)} samples{shown}\nline: {ends} % of the samples{not_finite(J)}")
    if len(chosen) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1))  # beside the bars, which leave no corner free
    return ax


def field(X: Any, values: Any, *, inputs: Names = None, label: str = "value", ax: Any = None) -> Any:
    """A function of two inputs: colours at the points where it is known, and arrows if it is a vector.

    Points of a rectangular grid, in any order, are drawn as an image, others as a triangulation.

    Args:
        X: (D, 2), the points.
        values: (D,), or (D, 2) for a vector field: arrows on its modulus, thinned out where they would overlap.
        inputs: names of the two inputs.
        label: what the values are, with their unit.
        ax: axes of matplotlib to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        OptionError: a shape or a name does not fit.

    Cost:
        A triangulation of the points, of the order of D log D, unless they lie on a grid.

    Example:
        >>> import jax, jax.numpy as jnp, matplotlib, nablax
        >>> matplotlib.use("Agg")
        >>> u, X = lambda x: jnp.sin(x[0]) * x[1], jax.random.uniform(jax.random.key(0), (50, 2))
        >>> nablax.plot.field(X, nablax.laplacian(u)(X), inputs=["x", "y"], label="Laplacian of u").get_xlabel()
        'x'
    """
    X = _array("X", X, {2: "(D, 2)"})
    values = _array("values", values, {1: "(D,)", 2: "(D, 2)"})
    if X.shape[1] != 2 or len(values) != len(X) or values.shape[1:] not in ((), (2,)):
        raise OptionError(
            f"X has the shape {X.shape} and values {values.shape}; give points (D, 2), and a number (D,) or a vector "
            "(D, 2) for each."
        )
    _check_names("inputs", inputs, 2)
    heights = np.linalg.norm(values, axis=1) if values.ndim == 2 else values
    heights, modulus = (np.abs(heights), True) if np.iscomplexobj(heights) else (heights, values.ndim == 2)
    ax = _axes(ax)
    image = surface(ax, X, heights)
    if values.ndim == 2:
        some = spread(X)
        ax.quiver(*X[some].T, *np.real(values[some]).T, color="black", pivot="mid")
    names = inputs or ("input 0", "input 1")
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    ax.set_title(f"{len(X)} points{not_finite(values)}")
    ax.figure.colorbar(image, ax=ax).set_label(f"|{label}|" if modulus else label)
    return ax


def spectrum(matrix: Any, *, ax: Any = None) -> Any:
    """Eigenvalues in falling order: of Hessians, of a neural tangent kernel, of a Fisher matrix.

    Positive ones are blue, negative ones red. Those that rounding makes out of zero are grey, below the dotted line.

    Args:
        matrix: a Hermitian matrix (N, N); Hessians (D, C, C) or (D, A, C, C), of which the median over samples and
            outputs is drawn and the band that holds 80 % of them; a kernel (D, A, D, A); or a `ParameterJacobian` O,
            of which the smaller of J J^H and J^H J is taken: their eigenvalues are the same, but for zeros.
        ax: axes of matplotlib to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        OptionError: it is not square, or not Hermitian.

    Cost:
        Eigenvalues of matrices of N rows on the host, of the order of N^3 operations each; of an operator also its
        `gram` or `fisher`.

    Example:
        >>> import jax.numpy as jnp, matplotlib, nablax
        >>> matplotlib.use("Agg")
        >>> O = nablax.parameter_jacobian(lambda M, x: jnp.tanh(M @ x))(jnp.ones((2, 3)), jnp.eye(5, 3))
        >>> nablax.plot.spectrum(O).get_title()
        'J^H J of a Jacobian (5, 2, 6)'
    """
    M, what = _hermitian(matrix)
    found = np.linalg.eigvalsh(M.astype(np.result_type(M, np.float64)))[..., ::-1]
    largest = np.abs(found).max() or 1.0
    floor = float(np.finfo(M.dtype).eps * M.shape[-1] * largest)
    values = np.median(found, axis=0) if found.ndim == 2 else found
    places = np.arange(1, len(values) + 1)
    ax = _axes(ax)
    if found.ndim == 2:
        ax.fill_between(places, *np.quantile(found, (0.1, 0.9), axis=0), color=BLUE, alpha=0.2, label="80 % of them")
    signed = bool((found < -floor).any())
    for chosen, colour, label in (
        (values > floor, BLUE, "positive"),
        (values < -floor, RED, "negative"),
        (np.abs(values) <= floor, GREY, "rounding"),
    ):
        if chosen.any():
            heights = values[chosen] if signed else np.maximum(np.abs(values[chosen]), floor / 10)
            ax.plot(places[chosen], heights, "o", color=colour, markersize=4, label=label)
    if signed:
        ax.set_yscale("symlog", linthresh=10.0 ** math.ceil(math.log10(floor)))  # else its ticks run into each other
    else:
        ax.set_yscale("log")
    for line in (floor, -floor) if signed else (floor,):
        ax.axhline(line, color=GREY, linewidth=0.8, linestyle=":")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("number, from the largest")
    ax.set_ylabel("eigenvalue")
    ax.set_title(what)
    ax.legend()
    return ax


def _hermitian(matrix: Any) -> tuple[np.ndarray, str]:
    """(one Hermitian matrix, or several, along axis 0; what they are)."""
    from nablax._operator import ParameterJacobian

    if isinstance(matrix, ParameterJacobian):
        *outputs, B = matrix.shape
        if kernel := math.prod(outputs) <= B:
            # Real and imaginary parts of complex outputs are rows of their own: else J J^H had other eigenvalues.
            gram = matrix.gram_of_rows()
            M = np.asarray(gram.reshape(gram.shape[0] * gram.shape[1], -1))
        else:
            M = np.asarray(matrix.fisher())
        what = f"{'J J^H' if kernel else 'J^H J'} of a Jacobian {tuple(matrix.shape)}"
    else:
        M = _array("matrix", matrix, {2: "(N, N)", 3: "(D, C, C)", 4: "(D, A, C, C)"})
        kernel = M.ndim == 4 and M.shape[:2] == M.shape[2:]
        if kernel and M.shape[0] == M.shape[1]:
            raise OptionError(
                f"matrix has the shape {M.shape}, which may be a kernel (D, A, D, A) or Hessians (D, A, C, C); give "
                "the kernel as a matrix (D A, D A), or the Hessians as (D A, C, C)."
            )
        M = M.reshape(M.shape[0] * M.shape[1], -1) if kernel else M.reshape(-1, *M.shape[-2:]) if M.ndim == 4 else M
        what = f"matrix {M.shape[0]} x {M.shape[0]}" if M.ndim == 2 else f"median of {len(M)} matrices"
    if M.shape[-1] != M.shape[-2]:
        raise OptionError(f"matrix has the shape {M.shape}; a spectrum is that of square matrices.")
    if not np.isfinite(M).all():
        raise OptionError("matrix has entries that are NaN or infinite; nablax.check says where they come from.")
    turned = np.swapaxes(M, -1, -2).conj()
    asymmetry = float(np.abs(M - turned).max() / (np.abs(M).max() or 1.0))
    if asymmetry > np.sqrt(np.finfo(M.dtype).eps):
        raise OptionError(
            f"matrix is not Hermitian: it differs from its adjoint by {asymmetry:.1e} of its largest entry. Give a "
            "Hessian, a Gram or a Fisher matrix; of a Jacobian J, J J^H."
        )
    return (M + turned) / 2, what


def _array(name: str, given: Any, shapes: dict[int, str]) -> np.ndarray:
    """An array of numbers of one of some ranks."""
    if isinstance(given, dict | tuple) or not hasattr(given, "shape"):
        raise InputTypeError(f"{name} is {kind_of(given)}; give an array {' or '.join(shapes.values())}.")
    array = np.asarray(given)
    if array.dtype.kind not in "fc" or array.ndim not in shapes or array.size == 0:
        raise OptionError(
            f"{name} has the shape {array.shape} and dtype {array.dtype}; give floating-point or complex numbers of "
            f"shape {' or '.join(shapes.values())}."
        )
    if not np.isfinite(array).any():
        raise OptionError(f"no entry of {name} is finite; nablax.check says which operation of the model makes NaN.")
    return array


def _check_names(option: str, names: Names, count: int) -> None:
    if names is not None and len(names) != count:
        raise OptionError(f"{option} has {len(names)} names, and there are {count}; give one for each.")


def _chosen(output: int | str | None, outputs: Names, count: int, most: int) -> list[int]:
    """Numbers of the outputs to draw."""
    _check_names("outputs", outputs, count)
    known = [*range(-count, count), *(outputs or ())]
    if output is None and count <= most:
        return list(range(count))
    if output is None or output not in known:
        names = f"0 to {count - 1}" + (f", or {', '.join(outputs)}" if outputs else "")
        raise OptionError(f"output={output!r}: {count} outputs are too many for one picture, name one: {names}.")
    return [output % count if isinstance(output, int) else list(outputs or ()).index(output)]


def _axes(ax: Any) -> Any:
    return next(_new(1, 5.6)) if ax is None else ax


def _new(count: int, width: float, height: float = 4.2) -> Any:
    """Axes of a new figure, beside each other."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise OptionError('nablax.plot draws with matplotlib: pip install "nablax[all]".') from error
    _, axes = pyplot.subplots(1, count, figsize=(width * count, height), squeeze=False, layout="constrained")
    return iter(axes[0])
