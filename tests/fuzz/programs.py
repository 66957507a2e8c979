"""A random model of one sample as data: it is drawn, made smaller and printed as the lines of a Python function."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from fuzz.operations import CONTROL, CURVED, KINKS, LINEAR, OPERATIONS, SMOOTH

# How often a step is of each class; what is not listed is drawn seldom.
CLASSES = [(SMOOTH, 5), (LINEAR, 6), (CURVED, 5), (KINKS, 2), (CONTROL, 3)]
RARE = ("to complex", "phase", "complex fft", "conj", "custom_vjp", "while")

INPUTS = {
    "vector": ["x"],
    "matrix": ["x"],
    "scalar": ["x"],
    "dict": ['x["a"]', 'x["b"]'],
    "tuple": ["x[0]", "x[1]"],
}
PARAMETERS = {
    "dict": 'W, b, s = p["W"], p["b"], p["s"]',
    "tuple": "W, (b, s) = p",
    "tied": "b, s = p\n    W = jnp.outer(b, b)",
    "vector": "W, b, s = jnp.outer(p[1:], p[1:]), p[1:], p[0]",
    "closure": "",
}
OUTPUTS = {
    "vector": "vec({0}, {A})",
    "scalar": "jnp.sum({0})",
    "matrix": "vec({0}, 6).reshape(2, 3)",
    "whole": "{0}",
    "dict": '{{"u": vec({0}, {A}), "v": jnp.sum({1})}}',
    "tuple": "(jnp.sum({0}), vec({1}, 2))",
    "zeros": "(vec({0}, {A}), jnp.zeros(2, {0}.dtype))",
    "complex": "vec({0}, {A}) + 1j * vec({1}, {A})",
    "field": "like({0}, x)",
}


@dataclass(frozen=True)
class Step:
    """One line: an operation of earlier values, counted from the inputs on."""

    operation: str
    operands: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class Program:
    """A model of one sample.

    Attributes:
        steps: its lines.
        ends: the two values that the output is made of.
        inputs, parameters, outputs: one of the forms in the tables above.
        C: entries of a vector x; rows of a matrix.
        A: entries of a vector output.
        H: width of the weights.
        has_aux: whether it returns a second, auxiliary value.
    """

    steps: tuple[Step, ...]
    ends: tuple[int, int]
    inputs: str = "vector"
    parameters: str = "dict"
    outputs: str = "vector"
    C: int = 2
    A: int = 2
    H: int = 2
    has_aux: bool = False

    @property
    def leaves(self) -> int:
        """Number of values before the first step."""
        return len(INPUTS[self.inputs])

    @property
    def modes(self) -> tuple[bool, bool]:
        """Whether JAX has a forward and a reverse mode for it."""
        modes = {OPERATIONS[step.operation].mode for step in self.steps}
        return "reverse" not in modes, "forward" not in modes

    def is_complex(self) -> list[bool]:
        """Of every value, whether it is complex."""
        found = [False] * self.leaves
        for step in self.steps:
            operation = OPERATIONS[step.operation]
            same = operation.complex and any(found[i] for i in step.operands)
            found.append(operation.result == "complex" or (operation.result == "same" and same))
        return found

    def lines(self) -> list[str]:
        """The body of the model."""
        kinds = self.is_complex()
        lines = [f"v{i} = {leaf}" for i, leaf in enumerate(INPUTS[self.inputs])]
        for number, step in enumerate(self.steps, self.leaves):
            operation = OPERATIONS[step.operation]
            named = [
                f"real(v{i})" if kinds[i] and not operation.complex else f"v{i}"
                for i in (*step.operands, *step.operands)
            ]
            text = operation.template.replace("2 * {h}", str(2 * self.H)).format(
                a=named[0], b=named[1], n=step.size, h=self.H
            )
            lines.append(f"v{number} = {text}")
        ends = [
            f"real(v{i})" if kinds[i] and self.outputs in ("complex", "zeros", "field") else f"v{i}" for i in self.ends
        ]
        result = OUTPUTS[self.outputs].format(*ends, A=self.A)
        return [*lines, f"return {result}, jnp.sum({ends[0]})" if self.has_aux else f"return {result}"]

    def source(self) -> str:
        """The model as Python."""
        head = "def model(x, k):" if self.parameters == "closure" else "def model(p, x, k):"
        unpack = PARAMETERS[self.parameters]
        return "\n    ".join([head, *([unpack] if unpack else []), *self.lines()])

    def without(self, number: int) -> Program:
        """The program without one step; what used its value uses what it was made of."""
        gone, instead = self.leaves + number, self.steps[number].operands[0]
        move = lambda i: instead if i == gone else i - (i > gone)
        steps = [
            replace(step, operands=tuple(map(move, step.operands)))
            for step in (*self.steps[:number], *self.steps[number + 1 :])
        ]
        first, second = map(move, self.ends)
        return replace(self, steps=tuple(steps), ends=(first, second))


def draw_program(rng: random.Random, longest: int = 6) -> Program:
    """A random program of up to `longest` steps."""
    inputs = rng.choices(list(INPUTS), [6, 2, 1, 2, 2])[0]
    leaves = len(INPUTS[inputs])
    width = rng.choice([2, 3, 4])
    rare = rng.choice(RARE) if rng.random() < 0.25 else None
    steps: list[Step] = []
    count = rng.randint(1, longest)
    for number in range(count):
        if rare is not None and rng.random() < 1.5 / count:
            name = rare
        else:
            name = rng.choice(list(rng.choices([table for table, _ in CLASSES], [often for _, often in CLASSES])[0]))
        made = leaves + number
        # Mostly the newest values, so that steps follow each other; sometimes older ones, or one value twice.
        recent = lambda made=made: made - 1 if rng.random() < 0.6 else rng.randrange(made)
        operands = tuple(recent() for _ in range(OPERATIONS[name].operands))
        steps.append(Step(name, operands, width if rng.random() < 0.7 else rng.choice([2, 3, 4])))
    last = leaves + count - 1
    ends = last, rng.randrange(max(0, last - 2), last + 1)
    outputs = rng.choices(list(OUTPUTS), [8, 4, 1, 1, 2, 2, 1, 2, 2])[0]
    return Program(
        tuple(steps),
        ends,
        inputs,
        rng.choices(list(PARAMETERS), [4, 2, 1, 1, 2])[0],
        "vector" if outputs == "field" and inputs in ("dict", "tuple") else outputs,
        rng.choice([2, 3, 4]),
        rng.choice([1, 2, 3]),
        width,
        rng.random() < 0.1,
    )
