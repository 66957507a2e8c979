"""Rules for operations that compute: entry by entry, along axes, on matrices, on windows, on random keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nablax.independence.moves import entrywise
from nablax.independence.twins import Twin, shape_of
from nablax.independence.values import Samples, Value

Rule = Callable[..., Value | list[Value]]


def _whose(eqn: Twin, number: int, operand: Samples) -> str:
    return f"axis {operand.axis} of {eqn.typed(number)}, which holds the samples"


def over(param: str, verb: str) -> Rule:
    """An operation that removes the axes in `param`."""

    def rule(eqn: Twin, *operands: Value) -> Value:
        found = entrywise(eqn, *operands)
        if not isinstance(found, Samples):
            return found
        axes = eqn.params[param]
        if found.axis in axes:
            return eqn.mixes(f"{verb} {_whose(eqn, 0, found)}")
        return found.at(found.axis - sum(axis < found.axis for axis in axes))

    return rule


def along(param: str, verb: str) -> Rule:
    """An operation on whole rows of one axis, which stays."""

    def rule(eqn: Twin, *operands: Value) -> Value:
        found = entrywise(eqn, *operands)
        axis = eqn.params.get(param, -1) % len(eqn.shape(0))
        if isinstance(found, Samples) and found.axis == axis:
            return eqn.mixes(f"{verb} {_whose(eqn, 0, found)}")
        return found

    return rule


def leading(*core: int) -> Rule:
    """An operation on the last `core` axes of each operand (the last entry holds for all further ones)."""

    def rule(eqn: Twin, *operands: Value) -> Value:
        for number, operand in enumerate(operands):
            inside = len(eqn.shape(number)) - core[min(number, len(core) - 1)]
            if isinstance(operand, Samples) and operand.axis >= inside:
                return eqn.mixes(f"works on {_whose(eqn, number, operand)}, as part of a matrix or vector")
        return entrywise(eqn, *operands)

    return rule


def fft(eqn: Twin, operand: Value) -> Value:
    """Transforms along the last axes."""
    assert isinstance(operand, Samples)
    if "fft_lengths" in eqn.changed or operand.axis >= len(eqn.shape(0)) - len(eqn.params["fft_lengths"]):
        return eqn.mixes(f"transforms along {_whose(eqn, 0, operand)}")
    return operand


def dense(eqn: Twin, x: Value, W: Value) -> Value:
    """x[.., h] W[h, k] or x[.., h] W[k, h]."""
    return _dot(eqn, x, W, (((len(eqn.shape(0)) - 1,), (eqn.params["axis"],)), ((), ())))


def dot_general(eqn: Twin, left: Value, right: Value) -> Value:
    """The axes of a result: batched ones, what is left of the left operand, what is left of the right one."""
    return _dot(eqn, left, right, eqn.params["dimension_numbers"])


def _dot(eqn: Twin, left: Value, right: Value, numbers: Any) -> Value:
    contracted, batched = numbers
    for number, operand in enumerate((left, right)):
        if isinstance(operand, Samples) and operand.axis in contracted[number]:
            return eqn.mixes(f"sums over {_whose(eqn, number, operand)}")
    places = [
        _place(eqn, number, operand.axis, contracted, batched) if isinstance(operand, Samples) else None
        for number, operand in enumerate((left, right))
    ]
    if isinstance(left, Samples) and isinstance(right, Samples):
        if places[0] != places[1] or left.layout != right.layout:
            axes = f"axis {left.axis} of {eqn.typed(0)} and axis {right.axis} of {eqn.typed(1)}"
            return eqn.mixes(f"multiplies each sample with every other, {axes}")
        return left.at(places[0] or 0)
    one, place = (left, places[0]) if isinstance(left, Samples) else (right, places[1])
    assert isinstance(one, Samples)
    return one.at(place or 0)


def _place(eqn: Twin, number: int, axis: int, contracted: Any, batched: Any) -> int:
    """Where an axis of an operand goes in the result."""
    if axis in batched[number]:
        return list(batched[number]).index(axis)
    gone = {*contracted[number], *batched[number]}
    free = sum(k not in gone for k in range(axis))
    before = 0 if number == 0 else len(eqn.shape(0)) - len(contracted[0]) - len(batched[0])
    return len(batched[0]) + before + free


def convolution(eqn: Twin, x: Value, kernel: Value) -> Value:
    """Samples as batch of x; as output features of the kernel; or, with one group of features for each sample, both."""
    numbers = eqn.params["dimension_numbers"]
    (batch, features, *_), (out, *_) = numbers.lhs_spec, numbers.rhs_spec
    fixed = not eqn.changed & {"feature_group_count", "batch_group_count"}
    alone = fixed and eqn.params["batch_group_count"] == 1
    if alone and isinstance(x, Samples) and not isinstance(kernel, Samples) and x.axis == batch:
        return x.at(numbers.out_spec[0])
    if isinstance(kernel, Samples) and kernel.axis == out:
        if alone and not isinstance(x, Samples):
            return kernel.at(numbers.out_spec[1])
        if isinstance(x, Samples) and x.axis == features and x.outer == kernel.outer == 1 and _grouped(eqn):
            return kernel.at(numbers.out_spec[1])
    if isinstance(x, Samples) and x.axis not in (batch, features):
        return eqn.mixes(f"slides over {_whose(eqn, 0, x)}")
    if isinstance(x, Samples) and x.axis == features and fixed:
        return eqn.mixes(f"sums over {_whose(eqn, 0, x)}")
    return eqn.unproven("groups samples in a way that nablax does not know")


def _grouped(eqn: Twin) -> bool:
    """Whether the feature groups are whole samples: their number is a multiple of D."""
    groups = [params["feature_group_count"] for params in (eqn.params, eqn.second_params)]
    batches = [params["batch_group_count"] for params in (eqn.params, eqn.second_params)]
    times = {divmod(count, size) for count, size in zip(groups, eqn.sizes, strict=True)}
    return batches == [1, 1] and len(times) == 1 and next(iter(times))[1] == 0


def window(eqn: Twin, *operands: Value) -> Value:
    """Windows over the other axes."""
    found = entrywise(eqn, *operands)
    if not isinstance(found, Samples):
        return found
    steps = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")
    given = [eqn.params[name][found.axis] for name in steps if eqn.params.get(name) is not None]
    if any(step != 1 for step in given) or any(eqn.params["padding"][found.axis]):
        return eqn.mixes(f"slides over {_whose(eqn, 0, found)}")
    return found


def random(eqn: Twin, keys: Value, *shapes: Value) -> Value:
    """Numbers for each key; the axes of the keys lead, and one key serves many entries by their positions."""
    if not isinstance(keys, Samples):
        return eqn.mixes("draws for the whole batch at once, so that the noise of a sample depends on its position")
    return entrywise(eqn, keys, *shapes)


def collective(eqn: Twin, *operands: Value) -> list[Value]:
    """A reduction under `jax.vmap` with an axis name; what is left are names of axes of devices."""
    axes = eqn.params["axes"]
    if any(not isinstance(axis, int) for axis in axes) or eqn.params.get("axis_index_groups") is not None:
        return [eqn.unproven("communicates between devices")] * len(operands)
    results: list[Value] = []
    for number, operand in enumerate(operands):
        if isinstance(operand, Samples) and operand.axis in axes:
            results.append(eqn.mixes(f"reduces {_whose(eqn, number, operand)}"))
        else:
            shift = sum(axis < operand.axis for axis in axes) if isinstance(operand, Samples) else 0
            results.append(operand.at(operand.axis - shift) if isinstance(operand, Samples) else operand)
    return results


def each(_: Twin, *operands: Value) -> list[Value]:
    """One result for each operand."""
    return list(operands)


def same_axis(eqn: Twin, *operands: Value) -> Value:
    """The results have the axes of the operands, and perhaps more of them behind."""
    found = entrywise(eqn, *operands)
    lost = isinstance(found, Samples) and found.axis >= len(shape_of(eqn.outputs[0][0]))
    return eqn.unproven("merges the last axis") if lost else found


ENTRYWISE = (
    "abs acos acosh add add_jaxvals and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz "
    "complex conj convert_element_type copy cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge "
    "gt igamma igamma_grad_a igammac imag integer_pow is_finite le le_to lgamma log log1p log2 logistic lt lt_to max "
    "min mul mulhi name ne neg nextafter not one_minus_square or polygamma polynomial population_count pow "
    "random_fold_in real reduce_precision regularized_incomplete_beta rem round rsqrt select_n shift_left "
    "shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh threefry2x32 "
    "xor zeta"
)

# Names of primitives, separated by blanks -> their rule.
RULES: dict[str, Rule] = {
    ENTRYWISE: entrywise,
    "device_put optimization_barrier sharding_constraint": each,
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor": over("axes", "reduces"),
    "psum pmax pmin": collective,
    "argmax argmin": over("axes", "searches"),
    "reduce": over("dimensions", "reduces"),
    "cumsum cumprod cummax cummin cumlogsumexp": along("axis", "accumulates along"),
    "sort": along("dimension", "sorts along"),
    "top_k": along("axis", "sorts along"),
    "approx_top_k": along("reduction_dimension", "sorts along"),
    "cholesky eig eigh hessenberg lu qr schur svd tridiagonal triangular_solve symmetric_product": leading(2),
    "householder_product cholesky_update": leading(2, 1),
    "ormqr": leading(2, 1, 2),
    "tridiagonal_solve": leading(1, 1, 1, 2),
    "lu_pivots_to_permutation": leading(1),
    "fft": fft,
    "dot_general": dot_general,
    "conv_general_dilated": convolution,
    "reduce_window reduce_window_sum reduce_window_max reduce_window_min": window,
    "select_and_scatter_add select_and_gather_add select_and_scatter": window,
    "random_bits random_split random_gamma": random,
    "random_seed": entrywise,
    "bitcast_convert_type": same_axis,
}
