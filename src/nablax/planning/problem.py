"""The facts that a plan is chosen from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nablax._compat import CUSTOM_VJP, WHILE
from nablax.graph import Graph
from nablax.graph.blocks import Blocks
from nablax.graph.inline import equations
from nablax.strategies import Strategy, Wants


@dataclass(frozen=True)
class Problem:
    """What is to be differentiated, and how often.

    Attributes:
        graph: the traced model of one sample.
        wants: what is asked for.
        samples: D.
        chunk_size: how many samples go through the model at once: a number, None for all of them, or "auto".
        budget: bytes that the intermediate arrays of a chunk may take, if the user has set a bound.
        results: bytes of the results of all samples, if there is a bound.
    """

    graph: Graph
    wants: Wants
    samples: int
    chunk_size: int | str | None = "auto"
    budget: int | None = None
    results: int = 0

    @property
    def C(self) -> int:
        """Number of inputs."""
        return self.graph.inputs

    @property
    def A(self) -> int:
        """Number of real outputs: reverse mode treats the two parts of a complex output one by one."""
        return self.graph.outputs * (2 if self.graph.complex_output else 1)

    @property
    def directions(self) -> int:
        """How many of the inputs are differentiated by: C, or the coordinates that partial derivatives name."""
        return len({c for index in self.wants.indices for c in index}) if self.wants.indices else self.C

    def second_rows(self, directions: int) -> tuple[int, int]:
        """(second derivatives wanted for each output, pairs of directions that go into them)."""
        names, n = self.wants.names, directions
        pairs = {"hessian": n * (n + 1) // 2, "hessian_diagonal": n, "laplacian": n}
        rows = pairs | {"laplacian": 1}
        second = sum(len(index) == 2 for index in self.wants.indices)
        return second + sum(rows.get(k, 0) for k in names), second + sum(pairs.get(k, 0) for k in names)

    @property
    def blocks(self) -> Blocks | None:
        """The blocks of inputs that the two sweeps narrow their directions to."""
        return self.graph.blocks if self.wants.order == 2 and not self.wants.indices else None

    @cached_property
    def primitives(self) -> frozenset[Any]:
        """The primitives of the graph at any depth, those too that do not depend on x."""
        return frozenset(eqn.primitive for eqn in equations(self.graph.jaxpr))

    def why_not(self, strategy: Strategy) -> str | None:
        """The reason that `strategy` cannot serve this problem, or None."""
        inside = self.graph.varying_primitives
        if not strategy.min_order <= self.wants.order <= strategy.max_order:
            serves = f"{strategy.min_order} to {strategy.max_order}"
            return f"it serves derivatives of order {serves}, and order {self.wants.order} is asked for"
        if strategy.forward_mode and CUSTOM_VJP in inside:
            return (
                "it pushes tangents forward, and the model contains a jax.custom_vjp function, which has no "
                "forward-mode rule"
            )
        if strategy.reverse_mode and WHILE in inside:
            return (
                "it pulls cotangents back, and the model contains a while_loop (or a fori_loop with bounds that are "
                "not "
                "known when it is traced), which JAX cannot reverse"
            )
        return None
