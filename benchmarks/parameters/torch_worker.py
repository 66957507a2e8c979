"""torch.func, BackPACK and Opacus on the twins of the networks, with the weights and samples that JAX sees."""

from __future__ import annotations

import os
import sys

import torch

from benchmarks.parameters.serve import serve
from benchmarks.parameters.task import Task
from benchmarks.parameters.torch_func import torch_func
from benchmarks.parameters.torch_layers import backpack, opacus
from benchmarks.parameters.torch_tools import Square

FAMILIES = {
    "torch": (torch_func, "torch"),
    "backpack": (backpack, "backpack-for-pytorch"),
    "opacus": (opacus, "opacus"),
}

if __name__ == "__main__":
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    square = Square.of(Task.read(sys.argv[1]))
    chosen = [FAMILIES[family] for family in FAMILIES if family in square.task.families]
    contenders = [contender for make, _ in chosen for contender in make(square)]
    serve(square.task, contenders, ("torch", *(package for _, package in chosen)))
