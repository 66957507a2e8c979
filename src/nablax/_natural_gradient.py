"""Natural-gradient steps: damped least squares with the Jacobian by the parameters, by the cheapest of three ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
from jax import Array
from jax.core import Tracer

from nablax._errors import OptionError
from nablax._operator import ParameterJacobian
from nablax._types import PyTree, kind_of

METHODS = ("auto", "kernel", "fisher", "cg")

LARGEST_MATRIX = 8192
"""Largest number of rows of a matrix that "auto" is willing to factorise."""


class NaturalGradient(eqx.Module):
    """A step of `natural_gradient`.

    Attributes:
        step: a tree like the parameters. Add it to them, times a step length, if the residual is target minus model;
            subtract it if it is model minus target.
        relative_residual: norm of (J^H J + damping) step - J^H residual, relative to that of J^H residual: what the
            linear solve has left.
        method: "kernel", "fisher" or "cg".
        why: the reason for the method.
    """

    step: PyTree
    relative_residual: Array
    method: str = eqx.field(static=True)
    why: str = eqx.field(static=True)


def natural_gradient(
    operator: ParameterJacobian | Sequence[ParameterJacobian],
    residual: Any,
    *,
    damping: Any,
    method: str = "auto",
    tolerance: float | None = None,
    max_steps: int | None = None,
) -> NaturalGradient:
    """The solution of (J^H J + damping) step = J^H residual, the damped Gauss-Newton or natural-gradient direction.

    It minimises |J step - residual|^2 + damping |step|^2. For residuals of a least-squares loss this is a step of
    Levenberg-Marquardt, for those of a PDE energy natural gradient, for centred log-derivatives of a wavefunction
    stochastic reconfiguration. Three ways give the same step:

    1. **kernel**: J^H (J J^H + damping)^-1 residual, with a Cholesky factor of the (D A) x (D A) kernel. "auto" selects
       it where D A <= B and D A <= 8192: few samples, many parameters.
    2. **fisher**: a Cholesky factor of the B x B matrix J^H J + damping. "auto" selects it where B < D A, B <= 8192.
    3. **cg**: conjugate gradients on products with J and J^H; no matrix at all. "auto" selects it for what is larger.

    Args:
        operator: J; or a list of operators by the same parameters, whose rows are stacked (interior and boundary of a
            PDE, each weighted).
        residual: (D, A), like the outputs; a list of them for a list of operators.
        damping: a positive number, or 0 for "cg".
        method: "auto", "kernel", "fisher" or "cg".
        tolerance: of "cg", relative. None: the square root of the rounding unit.
        max_steps: of "cg"; the step that is reached then is returned. None: 10 B, and it is an error not to converge.

    Returns:
        A `NaturalGradient`; ``.step`` is a tree like the parameters.

    Raises:
        OptionError: see `nablax.errors`.

    Cost:
        kernel: a gram and (D A)^3 / 3; fisher: D A B^2 and B^3 / 3; cg: two passes through the model a step.

    References:
        Chen and Heyl 2024, arXiv 2302.01941, and Rende et al. 2024, arXiv 2310.05715 (kernel);
        Mueller and Zeinhofer 2023, arXiv 2302.13163 (energy natural gradient).

    Example:
        >>> import jax.numpy as jnp, nablax
        >>> model = lambda w, x: jnp.dot(w, x)
        >>> X, y, w = jnp.eye(3), jnp.array([1.0, 2.0, 3.0]), jnp.zeros(3)
        >>> O = nablax.parameter_jacobian(model)(w, X)
        >>> found = nablax.natural_gradient(O, y - X @ w, damping=1e-6)
        >>> found.method, found.step.round()
        ('kernel', Array([1., 2., 3.], dtype=float32))
    """
    operators = [operator] if isinstance(operator, ParameterJacobian) else list(operator)
    residuals = [residual] if isinstance(operator, ParameterJacobian) else list(residual)
    _check(operators, residuals, damping, method)
    residuals = [jnp.asarray(r).reshape(o.shape[:-1]) for o, r in zip(operators, residuals, strict=True)]
    first = operators[0]
    N, B = sum(o.as_rows(r).size for o, r in zip(operators, residuals, strict=True)), first.shape[-1]
    chosen, why = (method, "asked for by name") if method != "auto" else _choose(N, B)
    gradient = first.flat(_sum([o.T @ r for o, r in zip(operators, residuals, strict=True)]))

    def normal(v: Array) -> Array:
        return first.flat(_sum([o.T @ (o @ v) for o in operators])) + damping * v

    if chosen == "kernel":
        solution = first.flat(_by_kernel(operators, residuals, damping))
    elif chosen == "fisher":
        F = sum(o.fisher() for o in operators)
        solution = _solve(F + damping * jnp.eye(B, dtype=F.dtype), gradient)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        solution = _by_cg(normal, gradient, tolerance, max_steps)
    size = jnp.linalg.norm(gradient)
    left = jnp.linalg.norm(normal(solution) - gradient) / jnp.where(size > 0, size, 1)
    return NaturalGradient(first.unflat(solution), left, chosen, why)


def _check(operators: list[Any], residuals: list[Any], damping: Any, method: str) -> None:
    """Raise where the arguments do not fit each other."""
    if method not in METHODS:
        raise OptionError(f"method={method!r} is unknown; use one of {', '.join(METHODS)}.")
    for o in operators:
        if not isinstance(o, ParameterJacobian):
            raise OptionError(
                f"natural_gradient was given {kind_of(o)}; give what nablax.parameter_jacobian(model)(params, X) "
                "returns, or a list of such operators."
            )
    if not operators or len(operators) != len(residuals):
        raise OptionError(
            f"natural_gradient was given {len(operators)} operator(s) and {len(residuals)} residual(s); give as many "
            "of one as of the other, at least one."
        )
    for o, r in zip(operators, residuals, strict=True):
        operators[0].check_partner(o)
        if jnp.shape(r) != o.shape[:-1]:
            raise OptionError(
                f"the residual has shape {jnp.shape(r)}, and the outputs of its operator have {o.shape[:-1]}; give one "
                "number for each output of each sample."
            )
    if not isinstance(damping, Tracer) and not (float(damping) > 0 or (method == "cg" and float(damping) == 0)):
        raise OptionError(
            f"damping={damping} must be a positive number; without damping the matrix need not be invertible (only "
            'method="cg" takes 0).'
        )


def _choose(N: int, B: int) -> tuple[str, str]:
    """The method for N rows and B parameters, and the reason."""
    if min(N, B) > LARGEST_MATRIX:
        return "cg", f"D A = {N} and B = {B} are both larger than {LARGEST_MATRIX}: no matrix is factorised"
    if N <= B:
        return "kernel", f"D A = {N} is at most B = {B}: the kernel is the smaller matrix"
    return "fisher", f"B = {B} is less than D A = {N}: the Fisher matrix is the smaller matrix"


def _by_kernel(operators: list[ParameterJacobian], residuals: list[Array], damping: Any) -> PyTree:
    """J^H (J J^H + damping)^-1 r for stacked operators.

    The parameters are real coordinates, so the real and imaginary parts of a complex output are rows of their own.
    """
    rows = [o.as_rows(r) for o, r in zip(operators, residuals, strict=True)]
    blocks = [
        [a.gram_of_rows(None if a is b else b).reshape(r.size, s.size) for b, s in zip(operators, rows, strict=True)]
        for a, r in zip(operators, rows, strict=True)
    ]
    K, r = jnp.block(blocks), jnp.concatenate([r.ravel() for r in rows])
    z = _solve(K + damping * jnp.eye(K.shape[0], dtype=K.dtype), r)
    ends = np.cumsum([r.size for r in rows])[:-1].tolist()
    parts = zip(operators, rows, jnp.split(z, ends), strict=True)
    return _sum([o.T @ o.from_rows(part.reshape(r.shape)) for o, r, part in parts])


def _by_cg(normal: Callable[[Array], Array], right: Array, tolerance: float | None, max_steps: int | None) -> Array:
    """Conjugate gradients; without a limit on the steps, it is an error not to converge."""
    relative = float(jnp.finfo(right.dtype).eps) ** 0.5 if tolerance is None else tolerance
    # lineax compares each entry with the tolerance; entries of the right side that are zero need an absolute one.
    size = jnp.max(jnp.abs(right))
    size = jnp.where(size > 0, size, 1)
    operator = lineax.FunctionLinearOperator(normal, jax.eval_shape(lambda: right), lineax.positive_semidefinite_tag)
    steps = 10 * right.size if max_steps is None else max_steps
    solver = lineax.CG(rtol=relative, atol=relative, max_steps=steps)
    solution = size * lineax.linear_solve(operator, right / size, solver, throw=False).value
    if max_steps is not None:
        return solution
    left = jnp.max(jnp.abs(normal(solution) - right)) / size
    return eqx.error_if(
        solution,
        ~(left <= 10 * relative),
        f"natural_gradient: conjugate gradients have not reached the tolerance {relative:.1e} in {steps} steps. Raise "
        "the damping or the tolerance, or set max_steps to take the step that is reached.",
    )


def _solve(matrix: Array, right: Array) -> Array:
    """With a Cholesky factor."""
    operator = lineax.MatrixLinearOperator(matrix, lineax.positive_semidefinite_tag)
    return lineax.linear_solve(operator, right.astype(matrix.dtype), lineax.Cholesky(), throw=False).value


def _sum(trees: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: sum(leaves), *trees)
