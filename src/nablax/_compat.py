"""The only file that may know how JAX differs from version to version, or touch its internals."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax.core import ShapedArray
from jax.dtypes import issubdtype
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Primitive, primitives
from jax.interpreters import ad, batching, mlir

CUSTOM_VJP = primitives.custom_vjp_call_p
WHILE = primitives.while_p
SCAN = primitives.scan_p
COND = primitives.cond_p
CUSTOM_JVP = primitives.custom_jvp_call_p
DOT_GENERAL = primitives.dot_general_p
BROADCAST = primitives.broadcast_in_dim_p
SELECT = primitives.select_n_p


def bound_by(name: str, function: Callable[[Any], Any]) -> Any | None:
    """The primitive of this name that a function of JAX binds for a matrix, or None: some are not exported, and are
    different equations before jax 0.10.
    """
    eqns = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((2, 2), np.float32)).jaxpr.eqns
    return next((eqn.primitive for eqn in eqns if eqn.primitive.name == name), None)


SPLIT = bound_by("split", lambda x: jax.lax.split(x, (1, 1)))
STACK = bound_by("stack", lambda x: jnp.stack([x, x]))
UNSTACK = bound_by("unstack", jnp.unstack)
TILE = bound_by("tile", lambda x: jnp.tile(x, 2))
BARRIER = bound_by("optimization_barrier", jax.lax.optimization_barrier)

SUMS_BY_LIBRARY = jax.__version_info__ >= (0, 11)
"""Whether XLA on a CPU hands sums to a library (YNNPACK): from jax 0.11 on it does, together with what is summed, which
it then takes several times as long for; repetitions of arrays are written down for it.
"""

SET_ASIDE = 1.3 if SUMS_BY_LIBRARY else 1.0
"""What XLA on a CPU sets aside for a gradient, in units of what that of jax 0.10 does."""


def jaxpr_of(maybe_closed: Any) -> Any:
    """The plain jaxpr inside a closed one; from jax 0.11 on the two are the same class."""
    return getattr(maybe_closed, "jaxpr", maybe_closed)


def enable_x64(enable: bool = True) -> Any:
    """Context in which float64 exists; JAX moved it to the top level in 0.8."""
    return jax.enable_x64(enable)


def expansion(eqn: Any) -> Any | None:
    """What an equation computes, as a jaxpr, if it stands for other equations and has no derivative of its own.

    From jax 0.12 on `jax.numpy.searchsorted` and `nonzero` are such. One whose result has derivatives may have rules
    for them: it stays what it is.
    """
    stands_for = eqn.params.get("_prim")
    if not hasattr(stands_for, "expand") or any(issubdtype(var.aval.dtype, np.inexact) for var in eqn.outvars):
        return None
    flat = lambda *values: jax.tree.leaves(stands_for.expand(*jax.tree.unflatten(stands_for.in_tree, values)))
    with eqn.ctx.manager:
        return jax.make_jaxpr(flat)(*(jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in eqn.invars))


def loop_arity(params: dict[str, Any]) -> tuple[int, int]:
    """(number of constants, number of carried values) of a scan; jax 0.11 renamed the parameters that say so."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carries, _ = params["ft_in"].unpack()
    return len(list(constants)), len(list(carries))


def bilinear_primitive(
    name: str,
    compute: Callable[..., Any],
    shape: Callable[..., tuple[tuple[int, ...], Any]],
    by_first: Callable[..., Any],
    by_second: Callable[..., Any],
    batched: Callable[..., Any],
    on_cpu: Callable[..., Any] | None = None,
) -> Any:
    """A primitive of two operands, linear in each, that every transformation of JAX knows.

    Args:
        name: its name in printed jaxprs.
        compute: ``(x, y, **params) -> result`` in other primitives.
        shape: (shape, dtype) of the result from the types of the operands.
        by_first, by_second: ``(cotangent, x, y, **params)``, the transpose with respect to one operand, of which only
            the ``aval`` is given.
        batched: ``((x, y), axes, **params) -> (result, axis)``.
        on_cpu: the same as `compute` for CPUs, if they are to do it otherwise.
    """
    primitive = Primitive(name)
    primitive.def_impl(compute)
    primitive.def_abstract_eval(lambda x, y, **params: ShapedArray(*shape(x, y, **params)))
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=False))
    if on_cpu is not None:
        mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu")
    ad.defbilinear(primitive, by_first, by_second)
    batching.primitive_batchers[primitive] = batched
    return primitive


def linear_primitive(
    name: str,
    compute: Callable[..., Any],
    shape: Callable[..., tuple[tuple[int, ...], Any]],
    transpose: Callable[..., Any],
    batched: Callable[..., Any] | None = None,
    on_cpu: Callable[..., Any] | None = None,
) -> Any:
    """A linear primitive of one operand.

    Args:
        name: its name in printed jaxprs.
        compute: ``(x, **params) -> result`` in other primitives.
        shape: (shape, dtype) of the result from the type of the operand.
        transpose: ``(cotangent, x, **params) -> cotangent of x``, of which only the ``aval`` is given.
        batched: ``((x,), (axis,), **params) -> (result, axis)``; None if it maps over all leading axes by itself.
        on_cpu: the same as `compute` for CPUs, if they are to do it otherwise.
    """
    primitive = Primitive(name)
    primitive.def_impl(compute)
    primitive.def_abstract_eval(lambda x, **params: ShapedArray(*shape(x, **params)))
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=False))
    if on_cpu is not None:
        mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu")
    ad.deflinear2(primitive, lambda cotangent, x, **params: [transpose(cotangent, x, **params)])
    batching.primitive_batchers[primitive] = batched or (
        lambda operands, mapped, **params: (primitive.bind(jnp.moveaxis(operands[0], mapped[0], 0), **params), 0)
    )
    return primitive


def fence_primitive(name: str) -> Any:
    """The identity, as a primitive behind which XLA on a CPU does not fuse.

    A call that must not be inlined survives its optimisations; `jax.lax.optimization_barrier` does not.
    """
    primitive = Primitive(name)
    primitive.def_impl(lambda x: x)
    primitive.def_abstract_eval(lambda x: x)
    identity = jax.jit(lambda x: x)

    def called(x: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return identity(x)

    mlir.register_lowering(primitive, lambda ctx, x: [x])
    mlir.register_lowering(primitive, mlir.lower_fun(called, multiple_results=False), platform="cpu")
    ad.primitive_jvps[primitive] = lambda primals, tangents: (primitive.bind(*primals), *tangents)
    batching.defvectorized(primitive)
    return primitive


def unary_primitive(
    name: str,
    compute: Callable[[Any], Any],
    on_cpu: Callable[[Any], Any],
    derivative: Callable[[Any, Any, Any], Any],
    results: int = 0,
) -> Any:
    """A primitive of one operand that acts on every entry by itself.

    Args:
        name: its name in printed jaxprs.
        compute: ``x -> result`` in other primitives.
        on_cpu: the same for a CPU.
        derivative: ``(tangent, x, result) -> tangent of the result``.
        results: how many it has, as a sequence; 0 for one that is no sequence.
    """
    primitive = Primitive(name)
    primitive.multiple_results = several = results > 0
    primitive.def_impl(compute)
    primitive.def_abstract_eval(lambda x: [x] * results if several else x)
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=several))
    mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=several), platform="cpu")

    def pushed(primals: Any, tangents: Any) -> tuple[Any, Any]:
        found = primitive.bind(*primals)
        return found, derivative(tangents[0], primals[0], found)

    def batched(operands: Any, axes: Any) -> tuple[Any, Any]:
        return primitive.bind(*operands), [axes[0]] * results if several else axes[0]

    ad.primitive_jvps[primitive] = pushed
    batching.primitive_batchers[primitive] = batched
    return primitive


def matrix_primitive(
    name: str, results: int, compute: Callable[[Any], Any], derivative: Callable[[Any, Any], Any]
) -> Any:
    """A primitive of matrices (.., n, n), each by itself, with numbers (..) as results.

    Args:
        name: its name in printed jaxprs.
        results: how many.
        compute: ``A -> results`` in other primitives.
        derivative: ``(A, dA) -> (results, tangents of the results)``.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(compute)
    primitive.def_abstract_eval(lambda A: [ShapedArray(A.shape[:-2], A.dtype)] * results)
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=True))
    ad.primitive_jvps[primitive] = lambda primals, tangents: derivative(*primals, *tangents)

    def batched(operands: Any, axes: Any) -> tuple[Any, Any]:
        return primitive.bind(jnp.moveaxis(operands[0], axes[0], 0)), [0] * results

    batching.primitive_batchers[primitive] = batched
    return primitive


@functools.cache
def convolutions_are_products() -> bool:
    """Whether XLA on a CPU makes a product of a convolution without a window: that of jax 0.12 has a loop for it, which
    is many times slower. It is asked once per process, for a small one.
    """
    convolution = lambda x, W: jax.lax.conv_general_dilated(x, W, (), "VALID", dimension_numbers=("NC", "IO", "NC"))
    matrix = jax.ShapeDtypeStruct((32, 32), np.float32)
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError:  # JAX was told to do without
        return False
    with jax.default_device(cpu):
        text = jax.jit(convolution).lower(matrix, matrix).compile().as_text() or ""
    return " dot(" in text and " convolution(" not in text


def wrong_sums() -> str | None:
    """Why the installed jaxlib cannot be trusted on the default device, or None.

    jaxlib 0.10.2 on a CPU drops terms of some sums (jax issue 39103): gradients and Hessians of plain JAX are wrong
    there too. The flag turns the faulty optimisation off.
    """
    flag = "--xla_cpu_experimental_ynn_fusion_type="
    safe = flag in os.environ.get("XLA_FLAGS", "").split()
    if jaxlib.__version__ != "0.10.2" or safe or jax.default_backend() != "cpu":
        return None
    return (
        "jaxlib 0.10.2 is installed, which computes wrong sums on a CPU (jax issue 39103); install another version "
        f"(pip install 'jax!=0.10.2'), or set XLA_FLAGS={flag} before Python starts."
    )
