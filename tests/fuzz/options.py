"""What is asked of a program: one call of nablax, with random options, as data and as one line of Python."""

from __future__ import annotations

import random
from dataclasses import dataclass

from fuzz.programs import Program

SINGLE = ("jacobian", "hessian", "hessian_diagonal", "laplacian", "divergence")
SECOND = frozenset({"hessian", "hessian_diagonal", "laplacian"})
PARAMETRIC = ("dense", "tree", "gram", "squared_norms", "times", "adjoint")
STRATEGIES = ("forward", "reverse", "adjoint", "forward_over_reverse", "forward_over_forward", "reverse_over_reverse")


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        wants: names of wants; one name for the transform of that name, several for `nablax.derivatives`.
        partials: names such as ``u_xy`` instead, for `nablax.partials`.
        parametric: a method of `nablax.parameter_jacobian` instead.
        strategy, chunk_size, memory_budget: as the options of nablax.
        weights: of the Laplacian: none, number, vector, matrix.
        x_axis: the sample axis of every leaf of x (its first or its last).
        out_axis: the sample axis of the result.
        batched: whether params and k are of their own for every sample.
        under: eager, jit, vmap, grad or checkpoint.
    """

    wants: tuple[str, ...] = ()
    partials: str = ""
    parametric: str = ""
    strategy: str = "auto"
    chunk_size: int | str | None = "auto"
    memory_budget: str | None = None
    weights: str = "none"
    x_axis: int = 0
    out_axis: int = 0
    batched: bool = False
    under: str = "jit"

    @property
    def kind(self) -> str:
        """What the summary counts it as."""
        if self.parametric:
            return f"parameter_jacobian {self.parametric}"
        return "partials" if self.partials else self.wants[0] if len(self.wants) == 1 else "derivatives"

    def expression(self, program: Program) -> str:
        """The transformed function, as Python."""
        closure = program.parameters == "closure"
        axes = (self.x_axis, 0 if self.batched else None)
        options = {"in_axes": axes if closure else (0 if self.batched else None, *axes)}
        if self.chunk_size != "auto":
            options["chunk_size"] = self.chunk_size
        if self.memory_budget:
            options["memory_budget"] = self.memory_budget
        if program.has_aux:
            options["has_aux"] = True
        if self.parametric:
            return f"nablax.parameter_jacobian(model, {_listed(options)})"
        options |= {"wrt": 0} if closure else {}
        options |= {"strategy": self.strategy} if self.strategy != "auto" else {}
        options |= {"out_axes": self.out_axis} if self.out_axis else {}
        if self.partials:
            names = " ".join("xyz"[: program.C])
            return f"nablax.partials(model, {names!r}, {self.partials!r}, {_listed(options)})"
        weights = ", weights=weights" if self.weights != "none" else ""
        if len(self.wants) == 1 and self.wants[0] in SINGLE:
            return f"nablax.{self.wants[0]}(model{weights}, {_listed(options)})"
        return f"nablax.derivatives(model, {', '.join(map(repr, self.wants))}{weights}, {_listed(options)})"


def _listed(options: dict[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def draw_call(rng: random.Random, program: Program) -> Call:
    """A random call that the program can be asked for."""
    forward, reverse = program.modes
    real = not (program.outputs == "complex" or any(program.is_complex()[i] for i in program.ends))
    shared = {
        "chunk_size": rng.choice(["auto", None, 1, 2, 3]),
        "memory_budget": rng.choice([None, None, None, "64MiB"]),
        "x_axis": rng.choice([0, 0, -1]),
    }
    if real and program.parameters != "closure" and rng.random() < 0.18:
        under = rng.choice(["jit", "jit", "jit", "eager"])
        return Call(parametric=rng.choice(PARAMETRIC), under=under, **shared)
    unders = ["jit", "jit", "jit", "jit", "eager", "vmap", "checkpoint", *(["grad"] if reverse else [])]
    shared |= {
        "out_axis": rng.choice([0, 0, 0, -1]),
        "batched": rng.random() < 0.15,
        "under": rng.choice(unders),
    }
    names = _partial_names(rng, program) if program.inputs == "vector" and program.C <= 3 else ""
    if names and rng.random() < 0.2:
        order = max(len(name.partition("_")[2]) for name in names.split())
        fit = [s for s in STRATEGIES if s != "adjoint" and _serves(s, order, forward, reverse)]
        return Call(partials=names, strategy=rng.choice([*["auto"] * 3, *fit]), **shared)
    wants = tuple(sorted(rng.sample(["value", *SINGLE[:4]], rng.randint(2, 4))))
    if rng.random() < 0.5:
        wants = (rng.choice(SINGLE[:4]),)
    if program.outputs == "field" and rng.random() < 0.5:
        wants = ("divergence",)
    order = 2 if SECOND & set(wants) else 1
    fit = [s for s in STRATEGIES if _serves(s, order, forward, reverse)]
    weights = rng.choice(["none", "number", "vector", "matrix"]) if "laplacian" in wants else "none"
    return Call(wants, strategy=rng.choice([*["auto"] * 3, *fit]), weights=weights, **shared)


def _serves(strategy: str, order: int, forward: bool, reverse: bool) -> bool:
    """Whether a strategy says that it serves; others are refused by name, which other tests see to."""
    if strategy == "reverse":
        return order <= 1 and reverse
    if (strategy == "adjoint" and order != 2) or (strategy == "forward" and order > 2):
        return False
    needs_forward = strategy in ("forward", "adjoint", "forward_over_reverse", "forward_over_forward")
    needs_reverse = strategy in ("adjoint", "forward_over_reverse", "reverse_over_reverse")
    return (forward or not needs_forward) and (reverse or not needs_reverse)


def _partial_names(rng: random.Random, program: Program) -> str:
    """Some of u, u_x, u_xy, .. up to order three."""
    letters = "xyz"[: program.C]
    names = {"_".join(filter(None, ["u", "".join(rng.choices(letters, k=rng.randint(0, 3)))])) for _ in range(3)}
    return " ".join(sorted(names))
