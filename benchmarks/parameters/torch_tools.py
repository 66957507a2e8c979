"""What the torch contenders share: inputs and module, results as arrays, contenders."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.parameters import models
from benchmarks.parameters.serve import Contender, Run
from benchmarks.parameters.task import Task
from benchmarks.parameters.torch_models import module


@dataclass
class Square:
    """The inputs of one square as tensors."""

    task: Task
    params: dict[str, torch.Tensor]
    X: torch.Tensor
    Y: torch.Tensor
    v: dict[str, torch.Tensor]
    w: torch.Tensor
    max_norm: float

    @classmethod
    def of(cls, task: Task) -> Square:
        given = models.inputs(task.model, task.A, task.D)
        tensors = lambda tree: {key: torch.from_numpy(np.ascontiguousarray(leaf)) for key, leaf in tree.items()}
        arrays = (torch.from_numpy(given[key]) for key in ("X", "Y", "w"))
        with np.load(task.reference) as file:
            max_norm = float(file["max_norm"])
        X, Y, w = arrays
        return cls(task, tensors(given["params"]), X, Y, tensors(given["v"]), w, max_norm)

    def module(self) -> nn.Module:
        return module(self.task.model, self.task.A, self.params)

    @property
    def y(self) -> tuple[int, ...]:
        """The shape of one output."""
        return () if self.task.A == 1 else (self.task.A,)

    @property
    def chunks(self) -> list[int | None]:
        return [None, *(c for c in self.task.chunks if c < self.task.D)]


def named(base: str, chunk: int | None) -> str:
    return base if chunk is None else f"{base} @{chunk}"


def leaves(result: Any) -> list[np.ndarray]:
    """A tensor, or a dict of tensors in the order of its keys, as JAX flattens them."""
    ordered = [result[key] for key in sorted(result)] if isinstance(result, dict) else [result]
    return [leaf.detach().numpy() for leaf in ordered]


def contender(name: str, family: str, run: Run) -> Contender:
    def build() -> tuple[Run, dict[str, Any]]:
        start = time.perf_counter()
        run()
        return run, {"compile_s": time.perf_counter() - start}  # the first run

    return Contender(name, family, build, leaves)


def compiled(name: str, function: Callable, *args: Any) -> Contender:
    """The same by torch.compile: one graph, static shapes."""
    program = torch.compile(function, fullgraph=True, dynamic=False)
    return contender(f"{name}, compiled", "torch", lambda: program(*args))
