"""The models that every strategy is tested on: a function of one sample, its arguments for a batch, and where they are
known its analytic derivatives.

A (outputs), C (inputs), D (samples) and H (hidden units) differ in a scenario, so that no transposed axis goes unseen.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True, eq=False)
class Scenario:
    """One model and one batch for it.

    Attributes:
        name: as it appears in the names of the tests.
        function: the model of one sample, ``function(params, x, *rest)``, or ``function(x)`` where `params` is None.
        params: first argument, shared by all samples unless `in_axes` says otherwise.
        X: the batch; every leaf has the samples on axis 0.
        rest: further arguments.
        in_axes: as for the transforms; None is the default.
        reference: ``reference(params, x, *rest) -> (value, jacobian, hessian)`` of one sample, analytic; None where
            nested differentiation has to do.
        forward_mode: False for a model that JAX cannot push tangents through (custom_vjp).
        reverse_mode: False for a model that JAX cannot pull cotangents back through (while_loop).
    """

    name: str
    function: Callable[..., Any]
    params: Any
    X: Any
    rest: tuple[Any, ...] = ()
    in_axes: tuple[Any, ...] | None = None
    reference: Callable[..., Any] | None = field(default=None)
    forward_mode: bool = True
    reverse_mode: bool = True

    def __repr__(self) -> str:
        return self.name

    @property
    def wrt(self) -> int:
        """The number of the argument that is differentiated."""
        return 0 if self.params is None else 1

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.X, *self.rest) if self.params is None else (self.params, self.X, *self.rest)

    @property
    def axes(self) -> tuple[Any, ...]:
        """One entry for each argument: 0, or None for a shared one."""
        given = self.in_axes if self.in_axes is not None else (None, 0) if self.wrt == 1 else (0,)
        return (*given, *[None] * (len(self.args) - len(given)))

    @property
    def samples(self) -> int:
        return jax.tree.leaves(self.X)[0].shape[0]

    @property
    def inputs(self) -> int:
        """C, the number of scalars in one x."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.X)) // self.samples

    def sample(self, number: int) -> tuple[Any, ...]:
        """The arguments of one sample."""
        return tuple(
            arg if axis is None else jax.tree.map(lambda leaf: leaf[number], arg)
            for arg, axis in zip(self.args, self.axes, strict=True)
        )


class Draw:
    """Random arrays that depend on a name alone, never on the order of the tests."""

    def __init__(self, name: str) -> None:
        self._generator = np.random.default_rng(zlib.crc32(name.encode()))

    def __call__(self, *shape: int, scale: float = 1.0) -> jax.Array:
        return jax.numpy.asarray(scale * self._generator.standard_normal(shape))

    def positive(self, *shape: int) -> jax.Array:
        """Between 0.5 and 2."""
        return jax.numpy.asarray(self._generator.uniform(0.5, 2.0, shape))

    def integers(self, high: int, *shape: int) -> jax.Array:
        return jax.numpy.asarray(self._generator.integers(0, high, shape))


def all_scenarios() -> list[Scenario]:
    """Every scenario, from the files that define them."""
    import scenarios_analytic
    import scenarios_control
    import scenarios_mathematics
    import scenarios_networks
    import scenarios_structure

    files = (scenarios_analytic, scenarios_networks, scenarios_control, scenarios_mathematics, scenarios_structure)
    return [scenario for file in files for scenario in file.SCENARIOS]
