"""A program, its arguments and a call: what is computed, and how the reference is."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nablax
from fuzz import nested, prelude
from fuzz.options import Call
from fuzz.programs import Program


@dataclass(frozen=True)
class Case:
    """A program with arguments for D samples, drawn from `seed`."""

    program: Program
    call: Call
    samples: int = 1
    seed: int = 0
    dtype: str = "float64"

    def setup(self, exact: bool = False) -> str:
        """The arguments p, X, k and the weights, as Python; the same numbers in float64 if `exact`."""
        D, P, c = self.samples, self.program, self.call
        x = {
            "vector": f"draw({D}, {P.C})",
            "matrix": f"draw({D}, {P.C}, 2)",
            "scalar": f"draw({D})",
            "dict": f'{{"a": draw({D}, {P.C}), "b": draw({D})}}',
            "tuple": f"(draw({D}, {P.C}), draw({D}, 2, 1))",
        }[P.inputs]
        lead, H = (f"{D}, " if c.batched and P.parameters != "closure" else ""), P.H
        W, b, s = f"draw({lead}{H}, {H})", f"draw({lead}{H})", f"draw({lead.rstrip(', ')})"
        p = {
            "dict": f'p = {{"W": {W}, "b": {b}, "s": {s}}}',
            "tuple": f"p = ({W}, ({b}, {s}))",
            "tied": f"p = ({b}, {s})",
            "vector": f"p = draw({lead}{H + 1})",
            "closure": f"W, b, s = {W}, {b}, {s}",
        }[P.parameters]
        lines = [
            f"rng = np.random.default_rng({self.seed})",
            f"draw = lambda *shape: np.asarray(0.7 * rng.normal(size=shape)).astype(jnp.{self.dtype})"
            + (".astype(jnp.float64)" if exact else ""),
            p,
            f"X = {x}",
        ]
        if c.x_axis:
            lines.append(f"X = jax.tree.map(lambda leaf: np.moveaxis(leaf, 0, {c.x_axis}), X)")
        lines.append(f"k = np.arange({D})" if c.batched else f"k = {self.seed % 3}")
        sizes = {"number": "", "vector": "C", "matrix": "C, C"}
        if c.weights != "none":
            count = "C = sum(leaf.size for leaf in jax.tree.leaves(X)) // " + str(D)
            lines += [count, f"weights = draw({sizes[c.weights]})"]
        return "\n".join(lines)

    @property
    def axes(self) -> tuple[Any, ...]:
        shared = 0 if self.call.batched else None
        return (self.call.x_axis, shared) if self.closure else (shared, self.call.x_axis, shared)

    @property
    def closure(self) -> bool:
        return self.program.parameters == "closure"

    def names(self, exact: bool = False) -> dict[str, Any]:
        """The names that the text of the case defines."""
        return _names(self.setup(exact), self.program.source(), self.call.expression(self.program))

    def loss(self, tree: Any) -> Any:
        """A number through everything that was computed."""
        leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]
        waves = [jnp.cos(jnp.arange(leaf.size) + 1.0).astype(leaf.real.dtype) for leaf in leaves]
        return sum(
            jnp.sum(leaf.real * wave) + (jnp.sum(leaf.imag * wave) if jnp.iscomplexobj(leaf) else 0)
            for leaf, wave in zip(leaves, waves, strict=True)
        )

    def arguments(self, names: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        """The arguments of the call, and the weights."""
        args = (names["X"], names["k"]) if self.closure else (names["p"], names["X"], names["k"])
        return args, names.get("weights")

    # ------------------------------------------------------------------------------------------------ what nablax says

    def found(self, names: dict[str, Any], args: tuple[Any, ...], weights: Any) -> Any:
        """The result of the call, samples first; its gradient by the first argument under grad."""
        call, transformed = self.call, names["transformed"] if weights is None else names["make"](weights)

        def plain(*args: Any) -> Any:
            if call.parametric:
                return self.apply(transformed, args)
            result = transformed(*args)
            result, aux = result if self.program.has_aux else (result, ())
            return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, call.out_axis, 0), result), aux

        if call.under == "grad":
            return jax.grad(lambda first: self.loss(plain(first, *args[1:])))(args[0])
        if call.under == "checkpoint":
            return jax.checkpoint(plain)(*args)
        if call.under == "vmap":
            flip = lambda arg, axis: arg if axis is None else jax.tree.map(lambda leaf: jnp.flip(leaf, axis), arg)
            flipped = [flip(arg, axis) for arg, axis in zip(args, self.axes, strict=True)]
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), tuple(args), tuple(flipped))
            return jax.tree.map(lambda leaf: leaf[1][::-1], jax.vmap(plain)(*stacked))
        return plain(*args)

    def apply(self, transformed: Any, args: tuple[Any, ...]) -> Any:
        """A method of the operator of derivatives by the parameters."""
        O, aux = transformed(*args) if self.program.has_aux else (transformed(*args), ())
        v, w = self.directions(args[0], O.shape[:-1])
        methods = {
            "dense": lambda: O.dense(),
            "tree": lambda: O.tree(),
            "gram": lambda: O.gram(),
            "squared_norms": lambda: O.squared_norms(),
            "times": lambda: O @ v,
            "adjoint": lambda: O.T @ w,
        }
        return methods[self.call.parametric](), aux

    @staticmethod
    def directions(p: Any, rows: tuple[int, ...]) -> tuple[Any, Any]:
        v = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size) + 1.0).reshape(leaf.shape).astype(leaf.dtype), p)
        return v, jnp.sin(jnp.arange(int(np.prod(rows))) + 1.0).reshape(rows).astype(jax.tree.leaves(p)[0].dtype)

    # ------------------------------------------------------------------------------------------------ what JAX says

    def expected(self, names: dict[str, Any], inputs: Any, shared: dict[Any, Any], second: bool = False) -> Any:
        """The same by nested differentiation; in another mode if `second`.

        `shared` keeps what calls with the same arguments have in common.
        """
        args, weights = inputs
        forward, reverse = self.program.modes
        if second:
            forward, reverse = (True, False) if forward else (forward, reverse)
        call, has_aux = self.call, self.program.has_aux
        wrt = 0 if self.closure else 1
        # Compiled, so that it is traced once however often it is differentiated.
        model = jax.jit(names["model"])

        def f(args: tuple[Any, ...], x: Any) -> Any:
            y = model(*args[:wrt], x, *args[wrt + 1 :])
            return y if has_aux else (y, ())

        def derived(*args: Any) -> Any:
            y, found = nested.nested(lambda x: f(args, x)[0], args[wrt], forward, reverse)
            return y, found, f(args, args[wrt])[1]

        def presented(found: Any, x: Any) -> Any:
            y, derivatives, aux = found
            wants = {w: nested.presented(w, y, derivatives, x, weights) for w in call.wants}
            return (wants if len(wants) > 1 or call.wants == ("value",) else wants[call.wants[0]]), aux

        def plain(*args: Any) -> Any:
            key = call.batched, second, self.dtype
            found = shared.get(key) if call.under != "grad" else None
            if found is None:
                found = jax.vmap(derived, self.axes)(*args)
            if call.under != "grad":
                shared[key] = found
            return jax.vmap(presented, (0, self.axes[wrt]))(found, args[wrt])

        def partials(*args: Any) -> Any:
            y = lambda x: f(args, x)[0]
            found = {n: nested.partial(y, args[wrt], n, forward and not second) for n in call.partials.split()}
            return found, f(args, args[wrt])[1]

        if call.parametric:
            return self.expected_of_parameters(model, args, forward)
        if call.partials:
            plain = jax.vmap(partials, self.axes)
        if call.under == "grad":
            return jax.grad(lambda first: self.loss(plain(first, *args[1:])))(args[0])
        return plain(*args)

    def expected_of_parameters(self, model: Any, args: tuple[Any, ...], forward: bool) -> Any:
        p, has_aux = args[0], self.program.has_aux

        def one(x: Any, k: Any) -> Any:
            f = lambda p: model(p, x, k)[0] if has_aux else model(p, x, k)
            aux = model(p, x, k)[1] if has_aux else ()
            return nested.by_parameters(f, p, forward), f(p), aux

        J, y, aux = jax.vmap(one, self.axes[1:])(*args[1:])  # (D, A, B)
        leaves = jax.tree.leaves(y)
        shape = leaves[0].shape if len(leaves) == 1 else J.shape[:2]
        v, w = self.directions(p, shape)
        flat = jax.flatten_util.ravel_pytree
        unravel = flat(p)[1]
        gram = jnp.einsum("dab,ecb->daec", J, J)
        methods = {
            "dense": lambda: J.reshape(*shape, -1),
            "tree": lambda: jax.vmap(jax.vmap(unravel))(J),
            "gram": lambda: gram.reshape(*shape, *shape),
            "squared_norms": lambda: jnp.sum(J**2, -1).reshape(shape),
            "times": lambda: (J @ flat(v)[0]).reshape(shape),
            "adjoint": lambda: jax.tree.map(
                lambda leaf, like: leaf.astype(like.dtype),  # it is a tree like the parameters
                unravel(jnp.einsum("da,dab->b", w.reshape(J.shape[:2]), J)),
                p,
            ),
        }
        found = methods[self.call.parametric]()
        if self.call.parametric == "tree":
            found = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[2:]), found)
        return found, aux


@functools.lru_cache(maxsize=64)
def _names(setup: str, source: str, expression: str) -> dict[str, Any]:
    """Run the text of a case."""
    names: dict[str, Any] = {**vars(prelude), "np": np, "jax": jax, "jnp": jnp, "nablax": nablax}
    exec("\n".join([setup, source, f"make = lambda weights: {expression}", "transformed = make(None)"]), names)
    return names
