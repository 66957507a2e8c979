"""The steps that a program is made of, as templates of one line.

``{a}`` and ``{b}`` are earlier values of any shape, ``{n}`` a small size, ``{h}`` the width of the weights W (h, h) and
b (h,), s is a scalar parameter, k an integer argument.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Operation:
    """One kind of step.

    Attributes:
        template: its line.
        complex: it takes complex numbers too; others get a real combination of the two parts.
        result: "real", "complex", or "same" as what it takes.
        mode: "forward" if JAX has no reverse mode for it, "reverse" if it has no forward mode.
    """

    template: str
    complex: bool = False
    result: str = "real"
    mode: str = "both"

    @property
    def operands(self) -> int:
        return 2 if "{b}" in self.template else 1


SMOOTH = {
    "tanh": "jnp.tanh({a})",
    "sin": "jnp.sin({a} * s)",
    "bump": "jnp.exp(-({a}**2))",
    "softplus": "jax.nn.softplus({a})",
    "gelu": "jax.nn.gelu({a})",
    "silu": "jax.nn.silu({a})",
    "sigmoid": "jax.nn.sigmoid({a}) * {a}",
    "false silu": "silu({a})",
    "root": "jnp.sqrt(1 + {a} ** 2)",
    "log": "jnp.log1p({a} ** 2)",
    "cube": "jnp.tanh({a}) ** 3",
    "reciprocal": "1 / (1.5 + {a} ** 2)",
    "erf": "jax.scipy.special.erf({a})",
    "arcsin": "jnp.arcsin(0.8 * jnp.tanh({a}))",
    "sinh": "jnp.sinh(0.5 * jnp.tanh({a}))",
    "power": "(1.2 + jnp.tanh({a})) ** 1.5",
    "gammaln": "jax.scipy.special.gammaln(2 + jnp.tanh({a}))",
}

KINKS = {
    "relu": "jax.nn.relu({a})",
    "leaky": "jax.nn.leaky_relu({a})",
    "elu": "jax.nn.elu({a})",
    "abs": "jnp.abs({a})",
    "clip": "jnp.clip({a}, -0.5, 0.6) * {a}",
    "round": "jnp.round({a}) * {a}",
    "sign": "jnp.sign({a}) * {a} ** 2",
    "max": "jnp.max(spread({a})) * {a}",
    "min": "jnp.minimum({a}, like({b}, {a}))",
    "where": "jnp.where({a} > 0.1, jnp.tanh({a}) * like({b}, {a}), like({b}, {a}) ** 2)",
    "select": "jax.lax.select({a} > 0, {a} * {a}, like({b}, {a}).astype({a}.dtype))",
    "cummax": "jax.lax.cummax(spread(vec({a}, {n}))) * vec({a}, {n})",
    "sort": "jnp.sort(spread(vec({a}, {n}))) * vec({a}, {n})",
    "top": "jax.lax.top_k(spread(vec({a}, {n})), 2)[0]",
    "pick": "vec({a}, {n})[jnp.argmax(spread(vec({a}, {n})))] * vec({a}, 2)",
}

LINEAR = {
    "dense": "W @ vec({a}, {h}) + b",
    "transposed": "vec({a}, {h}) @ W",
    "layer": "jnp.tanh(vec({a}, {h}) @ W + b)",
    "positions": "(vec({a}, 2 * {h}).reshape(2, {h}) @ W).T",
    "conv": "conv({a}, b)",
    "sum": "jnp.sum({a})",
    "mean": "{a} - jnp.mean({a})",
    "reshape": "vec({a}, 6).reshape(2, 3).T",
    "axis": "jnp.sum(vec({a}, 6).reshape(2, 3), axis=-1)",
    "concat": "jnp.concatenate([vec({a}, {n}), vec({b}, 2)])",
    "stack": "jnp.stack([vec({a}, {n}), 2 * vec({b}, {n})])",
    "split": "jnp.concatenate(jnp.split(jnp.tile(vec({a}, 4), 2), [1, 3])[::-1])",
    "unstack": "jnp.unstack(vec({a}, 6).reshape(2, 3), axis=1)[1] * s",
    "flip": "jnp.flip(jnp.ravel({a}))[::2]",
    "gather": "vec({a}, {n})[jnp.array([0, -1, 0])]",
    "indexed": "vec({a}, 3)[k % 3] * b",
    "dynamic slice": "jax.lax.dynamic_slice(vec({a}, 4), (k % 3,), (2,))",
    "update": "jax.lax.dynamic_update_slice(vec({a}, 4), vec({b}, 2).astype({a}.dtype), (1,))",
    "set": "vec({a}, {n}).at[0].set(jnp.sum({a}) * s)",
    "scatter": "jnp.zeros(5, {a}.dtype).at[jnp.array([1, 1, 3])].add(vec({a}, 3))",
    "pad": "jnp.pad(vec({a}, {n}), (1, 2))",
    "cumsum": "jnp.cumsum({a})",
    "stop": "jax.lax.stop_gradient({a}) * {a}",
    "constant": "{a} * 0 + jnp.cos({n} * 1.0)",
}

CURVED = {
    "mul": "{a} * like({b}, {a})",
    "add": "{a} + s * like({b}, {a})",
    "div": "{a} / (1.5 + like({b}, {a}) ** 2)",
    "outer": "jnp.outer(vec({a}, 2), vec({b}, 3))",
    "dot": "jnp.dot(vec({a}, {n}), vec({b}, {n})) * {a}",
    "gram": "jnp.outer(vec({a}, {n}), vec({b}, {n})) @ vec({a}, {n})",
    "einsum": "jnp.einsum('ij,jk->ik', vec({a}, 6).reshape(2, 3), vec({b}, 6).reshape(3, 2))",
    "logaddexp": "jnp.logaddexp({a}, like({b}, {a}))",
    "arctan2": "jnp.arctan2({a}, 1 + like({b}, {a}) ** 2)",
    "pow": "jnp.power(1.5 + jnp.tanh({a}), jnp.tanh(like({b}, {a})))",
    "attention": "attention({a}, {b})",
    "norm": "norm({a}, {n})",
    "product": "jnp.prod(vec({a}, {n}) + 1.5)",
    "cumprod": "jnp.cumprod(jnp.tanh(vec({a}, {n})) + 1)",
    "logsumexp": "jax.nn.logsumexp({a})",
    "softmax": "jax.nn.softmax(vec({a}, {n}))",
    "length": "jnp.linalg.norm(spread(vec({a}, {n})) + 2)",
    "solve": "jnp.linalg.solve(general({a}, {n}), vec({b}, {n}))",
    "slogdet": "jnp.linalg.slogdet(general({a}, {n}))[1]",
    "det": "jnp.linalg.det(general({a}, {n}))",
    "inv": "jnp.linalg.inv(spd({a}, {n}))",
    "cholesky": "jnp.linalg.cholesky(spd({a}, {n}))",
    "fft": "jnp.real(jnp.fft.fft(vec({a}, {n})) ** 2)",
    "modulus": "jnp.abs(jnp.exp(1j * {a}) + 3.5) ** 2",
    "angle": "jnp.angle(jnp.exp(1j * jnp.tanh({a})) * (2 + 0.5j))",
}

CONTROL = {
    "recurrent": "recurrent(W, {a}, {h})",
    "scan": "scanned({a}, {b}, {n})",
    "fori": "twice({a})",
    "cond": "branch({a}, {b})",
    "switch": "switched({a}, k % 3)",
    "static switch": "jax.lax.switch(1, [jnp.sin, jnp.cos], {a})",
    "vmap": "jax.vmap(lambda u: jnp.tanh(u) * u)(jnp.ravel({a}))",
    "vmapped dense": "jax.vmap(lambda u: jnp.sin(u @ W))(vec({a}, 2 * {h}).reshape(2, {h}))",
    "map": "jax.lax.map(lambda u: jnp.sin(u) * u, vec({a}, {n}))",
    "jit": "jax.jit(lambda u: jnp.cos(u) + u * u)({a})",
    "remat": "jax.checkpoint(lambda u: jnp.cos(u) * u)({a})",
    "custom_jvp": "squashed({a})",
    "coupled": "coupled(jnp.tanh({a}))",
}

OPERATIONS: dict[str, Operation] = {
    name: Operation(template) for table in (SMOOTH, KINKS, LINEAR, CURVED, CONTROL) for name, template in table.items()
}
OPERATIONS |= {
    "custom_vjp": Operation("pulled({a})", mode="reverse"),
    "while": Operation("halved({a})", mode="forward"),
    "to complex": Operation("{a} + 0.5j * like({b}, {a})", result="complex"),
    "phase": Operation("jnp.exp(1j * {a})", result="complex"),
    "complex fft": Operation("jnp.fft.fft(vec({a}, {n}))", complex=True, result="complex"),
    "conj": Operation("jnp.conj({a}) * {a}", complex=True, result="same"),
}
# What takes complex numbers as it takes real ones.
for _name in (
    "sin", "dense", "transposed", "positions", "sum", "mean", "reshape", "concat", "stack", "split", "unstack",
    "gather", "indexed", "set", "scatter", "pad", "cumsum", "mul", "outer", "gram", "einsum", "vmap", "jit", "remat",
    "constant",
):  # fmt: skip
    OPERATIONS[_name] = Operation(OPERATIONS[_name].template, complex=True, result="same")
