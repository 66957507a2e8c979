"""Results with named axes: the arrays of a call as a Dataset of xarray."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nablax._dimensions import dimension_names, output_rank
from nablax._errors import InputTypeError, OptionError
from nablax._operator import ParameterJacobian
from nablax._types import BY_PARAMETERS, INPUT_AXES, OF_PAIRS, kind_of

if TYPE_CHECKING:
    import xarray

KNOWN = (*INPUT_AXES, *BY_PARAMETERS, *OF_PAIRS)

MEANING = {
    "value": "y",
    "jacobian": "dy/dx",
    "hessian": "d²y/dx dx",
    "hessian_diagonal": "d²y/dx²",
    "laplacian": "Laplacian of y",
    "divergence": "divergence of y",
    "parameter_jacobian": "dy/dp",
    "squared_norms": "|dy/dp|²",
    "gram": "dy/dp · dy/dp",
}
"""Labels of plots; p are the parameters."""


def to_xarray(
    results: Mapping[str, Any],
    names: Mapping[str, Sequence[Any]] | None = None,
    *,
    input_rank: int = 1,
    out_axes: int = 0,
) -> xarray.Dataset:
    """Results as a Dataset of xarray, with the axes sample, output, input and parameter, and names along them.

    A store that `nablax derive` or `nablax.store.run` wrote has the same names: ``xarray.open_zarr("d.zarr")``.

    Args:
        results: name -> array, as `nablax.derivatives` and `nablax.partials` return them; results of other calls under
            the name of what they are: ``{"hessian": H}``, ``{"gram": O.gram()}``. Under "parameter_jacobian", the
            operator itself may stand; it is multiplied out, and its parameters get their names. Any other name is that
            of a partial derivative.
        names: axis -> a name or number for each place along it: ``{"input": ["t", "x"], "output": ["u"]}``, also of
            "sample" and "parameter". Axes that occur a second time, such as "input_2", have the same ones.
        input_rank: how many axes one sample of x has. With another number than 1 they are called input0, input1, ..;
            those of y likewise.
        out_axes: where the samples are, as in the call that made the results.

    Returns:
        The Dataset, one variable for each result. Arrays on a CPU are not copied.

    Raises:
        OptionError: a shape or name does not fit; `InputTypeError`: a result is no array, but a tree, as the results of
            models of trees are: take its arrays one by one.

    Cost:
        None for arrays on a CPU, a copy to the host for others; an operator is multiplied out.

    Example:
        >>> import jax, jax.numpy as jnp, nablax
        >>> model = lambda M, x: jnp.tanh(M @ x)
        >>> found = nablax.derivatives(model, "value", "jacobian")(jnp.ones((2, 3)), jnp.ones((5, 3)))
        >>> data = nablax.to_xarray(found, names={"input": ["age", "dose", "weight"]})
        >>> data.jacobian.sel(input="dose").dims
        ('sample', 'output')
    """
    try:
        import xarray
    except ImportError as error:
        raise OptionError('to_xarray needs xarray: pip install "nablax[all]".') from error
    if not isinstance(results, Mapping) or not results:
        raise InputTypeError(
            f"to_xarray was given {kind_of(results)}; give a dict, the name of each result and its array: "
            'nablax.to_xarray({"hessian": H}).'
        )
    if not isinstance(input_rank, int) or input_rank < 0:
        raise OptionError(f"input_rank={input_rank!r} must be how many axes one sample of x has: 0, 1, 2, ..")
    arrays = {name: _array(name, result) for name, result in results.items()}
    axes = {name: _axes(name, array, input_rank, out_axes) for name, array in arrays.items()}
    sizes = _sizes(arrays, axes)
    labels = dict(names or {})
    operator = results.get("parameter_jacobian")
    if isinstance(operator, ParameterJacobian):
        labels.setdefault("parameter", operator.parameter_names)
    return xarray.Dataset(
        {name: (axes[name], array, {"long_name": MEANING.get(name, name)}) for name, array in arrays.items()},
        coords=_coordinates(labels, sizes),
    )


def _array(name: str, result: Any) -> np.ndarray:
    if isinstance(result, ParameterJacobian):
        result = result.dense()
    if not hasattr(result, "shape") or not hasattr(result, "dtype"):
        raise InputTypeError(
            f"to_xarray takes arrays, and {name!r} is {kind_of(result)}: x or y is a tree, and so are the results. "
            f'Give one array at a time, for example to_xarray({{{name!r}: result["t"]}}).'
        )
    return np.asarray(result)


def _axes(name: str, array: np.ndarray, input_rank: int, out_axes: int) -> tuple[str, ...]:
    """The names of the axes of a result, in the order in which it has them."""
    if name not in KNOWN and (alike := difflib.get_close_matches(name, KNOWN, 1, 0.75)):
        raise OptionError(f"to_xarray was given a result named {name!r}; did you mean {alike[0]!r}?")
    outputs = output_rank(name, array.ndim, input_rank)
    found = dimension_names(name, max(outputs, 0), input_rank)
    if len(found) != array.ndim or (name not in KNOWN and outputs > 1):
        raise OptionError(
            f"{name!r} has the shape {array.shape}, which does not fit the axes {', '.join(found)}; say with "
            "input_rank how many axes one sample of x has, and name results after what they are: "
            f"{', '.join(KNOWN)}, or a partial derivative."
        )
    if not -array.ndim <= out_axes < array.ndim:
        raise OptionError(f"out_axes={out_axes} is not among the {array.ndim} axes of {name!r}.")
    first, *others = found
    others.insert(out_axes % array.ndim, first)
    return tuple(others)


def _sizes(arrays: Mapping[str, np.ndarray], axes: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    """How long each axis is; results that disagree are not those of one call."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, array in arrays.items():
        for axis, size in zip(axes[name], array.shape, strict=True):
            known, other = sizes.setdefault(axis, (size, name))
            if known != size:
                raise OptionError(
                    f"the axis {axis} has {known} places in {other!r} and {size} in {name!r}; give results of one "
                    "model and batch, and out_axes and input_rank as they were."
                )
    return {axis: size for axis, (size, _) in sizes.items()}


def _coordinates(labels: Mapping[str, Sequence[Any]], sizes: Mapping[str, int]) -> dict[str, tuple[str, list[Any]]]:
    """Axis -> (axis, its labels), for every axis that has some; a second axis has those of the first."""
    found = {}
    for axis, given in labels.items():
        if axis not in sizes:
            raise OptionError(f"names has the axis {axis!r}; the results have {', '.join(sizes)}.")
        if len(given) != sizes[axis]:
            raise OptionError(f"names[{axis!r}] has {len(given)} names, and the axis has {sizes[axis]} places.")
        for twin in (axis, f"{axis}_2"):
            if twin in sizes:
                found[twin] = (twin, list(given))
    return found
