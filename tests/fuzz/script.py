"""A case as a script that stands alone: it ends in an AssertionError while the fault is there."""

from __future__ import annotations

import inspect
import re

import jax

from fuzz import nested, prelude
from fuzz.case import Case

RULES = {
    "squashed": ["squashed_jvp"],
    "coupled": ["coupled_jvp"],
    "pulled": ["pulled_forward", "pulled_backward"],
}


def script(case: Case) -> str:
    """The text, ready to be pasted."""
    program, call = case.program, case.call
    args = "X, k" if program.parameters == "closure" else "p, X, k"
    one = args.replace("X", "x")
    parts = [
        IMPORTS,
        'jax.config.update("jax_enable_x64", True)',
        *_helpers(program.source()),
        case.setup(),
        program.source(),
        f"derive = {call.expression(program)}",
        _found(case, args),
        *_expected(case, args, one),
        CHECK.format(tolerance=1e-9 if case.dtype == "float64" else 1e-3),
    ]
    return "\n\n".join(parts) + "\n"


IMPORTS = """import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import nablax"""

CHECK = """assert jax.tree.structure(found) == jax.tree.structure(expected)
for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    assert a.shape == b.shape, (a.shape, b.shape)
    assert jnp.max(jnp.abs(a - b)) <= {tolerance} * max(1, jnp.max(jnp.abs(b))), (a, b)"""

LOSS = """def loss(tree):
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]
    return sum(jnp.sum((leaf.real + leaf.imag) * jnp.cos(jnp.arange(leaf.size) + 1.0)) for leaf in leaves)"""


def _found(case: Case, args: str) -> str:
    """The lines that compute what nablax says, samples first."""
    call = case.call
    index = "[0]" if case.program.has_aux else ""
    lines = [f"plain = lambda {args}: derive({args}){index}"]
    if call.out_axis:
        inner = f"jax.tree.map(lambda leaf: jnp.moveaxis(leaf, {call.out_axis}, 0), derive({args}){index})"
        lines = [f"plain = lambda {args}: {inner}"]
    if call.parametric:
        lines = [_directions(case), f"plain = lambda {args}: {_method(call.parametric, f'derive({args}){index}')}"]
    twice = f"*jax.tree.map(lambda a: jnp.stack([a, a]), ({args}))"
    runs = {
        "eager": f"plain({args})",
        "jit": f"jax.jit(plain)({args})",
        "checkpoint": f"jax.checkpoint(plain)({args})",
        "vmap": f"jax.tree.map(lambda leaf: leaf[0], jax.vmap(plain)({twice}))",
        "grad": f"jax.grad(lambda {args}: loss(plain({args})))({args})",
    }
    return "\n".join([*([LOSS, ""] if call.under == "grad" else []), *lines, f"found = {runs[call.under]}"])


def _expected(case: Case, args: str, one: str) -> list[str]:
    """The lines of the reference, of one sample and mapped."""
    call, (forward, reverse) = case.call, case.program.modes
    index = "[0]" if case.program.has_aux else ""
    if call.parametric:
        functions = [nested.by_parameters]
        body = f"by_parameters(lambda p: model({one}){index}, p, {forward})"
    elif call.partials:
        functions = [nested.partial]
        listed = call.partials.split()
        body = f"{{n: partial(lambda x: model({one}){index}, x, n, {forward}) for n in {listed}}}"
    else:
        functions = [nested.nested, nested.cut, nested.as_trees, nested.presented]
        weights = "None" if call.weights == "none" else "weights"
        derived = f"*nested(lambda x: model({one}){index}, x, {forward}, {reverse})"
        wanted = lambda want: f"presented({want}, {derived}, x, {weights})"
        body = wanted(repr(call.wants[0])) if len(call.wants) == 1 and call.wants[0] != "value" else None
        body = body or f"{{want: {wanted('want')} for want in {call.wants}}}"
    lines = [f"reference = jax.vmap(lambda {one}: {body}, in_axes={case.axes})"]
    if call.parametric:
        lines.append(PARAMETRIC[call.parametric])
        lines.insert(1, f"J = reference({args})")
    elif call.under == "grad":
        lines.append(f"expected = jax.grad(lambda {args}: loss(reference({args})))({args})")
    else:
        lines.append(f"expected = reference({args})")
    return [*(inspect.getsource(function).strip() for function in functions), "\n".join(lines)]


PARAMETRIC = {
    "dense": "expected = J.reshape(found.shape)",
    "tree": "tree = jax.vmap(jax.vmap(ravel_pytree(p)[1]))(J)\n"
    "expected = jax.tree.map(lambda a, b: a.reshape(b.shape), tree, found)",
    "gram": 'expected = jnp.einsum("dab,ecb->daec", J, J).reshape(found.shape)',
    "squared_norms": "expected = jnp.sum(J**2, -1).reshape(found.shape)",
    "times": "expected = (J @ ravel_pytree(v)[0]).reshape(found.shape)",
    "adjoint": 'expected = ravel_pytree(p)[1](jnp.einsum("da,dab->b", w(J.shape[:2]), J))',
}


def _method(name: str, operator: str) -> str:
    if name == "times":
        return f"{operator} @ v"
    if name == "adjoint":
        return f"(lambda O: O.T @ w(O.shape[:-1]))({operator})"
    return f"{operator}.{name}()"


def _directions(case: Case) -> str:
    """The directions of the products, where they are used."""
    waves = "jnp.{wave}(jnp.arange({size}) + 1.0).reshape({shape}).astype(" + repr(case.dtype) + ")"
    of_p = waves.format(wave="cos", size="leaf.size", shape="leaf.shape")
    of_w = waves.format(wave="sin", size="np.prod(shape)", shape="shape")
    return f"v = jax.tree.map(lambda leaf: {of_p}, p)\nw = lambda shape: {of_w}"


def _helpers(source: str) -> list[str]:
    """The source of the functions of the prelude that a program calls, and of those that they call."""
    needed: list[str] = []

    def need(text: str) -> None:
        for name, value in vars(prelude).items():
            ours = getattr(inspect.unwrap(value) if callable(value) else value, "__module__", "") == prelude.__name__
            if ours and name not in needed and re.search(rf"\b{name}\(", text):
                needed.append(name)
                need(_source(name))
                needed.extend(RULES.get(name, []))

    need(source)
    order = list(vars(prelude))
    texts = [_source(name) for name in sorted(set(needed), key=order.index)]
    return texts + (["pulled.defvjp(pulled_forward, pulled_backward)"] if "pulled" in needed else [])


def _source(name: str) -> str:
    """The text of one function of the prelude, with its decorators."""
    value = getattr(prelude, name)
    function = value.fun if isinstance(value, (jax.custom_jvp, jax.custom_vjp)) else inspect.unwrap(value)
    return inspect.getsource(function).strip()
