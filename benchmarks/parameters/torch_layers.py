"""BackPACK and Opacus, which know the layers of a module; for A outputs, one backward pass for each."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.parameters.serve import Contender
from benchmarks.parameters.torch_tools import Square, contender


def square_error(square: Square, outputs: torch.Tensor) -> torch.Tensor:
    """The loss of each sample, (D,)."""
    return (outputs - square.Y.reshape(outputs.shape)).pow(2).sum(-1) / 2


def stacked(square: Square, per_output: Callable[[int], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Results of all outputs, with A on axis 1; a scalar output has no axis."""
    if square.task.A == 1:
        return per_output(0)
    found = [per_output(a) for a in range(square.task.A)]
    return {key: torch.stack([one[key] for one in found], 1) for key in found[0]}


def joined(tree: dict[str, torch.Tensor], y: tuple[int, ...]) -> torch.Tensor:
    return torch.cat([tree[key].flatten(1 + len(y)) for key in sorted(tree)], -1)


def gradients(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in net.named_parameters()}


def backpack(square: Square) -> list[Contender]:
    """The dense and the convolutional net only: BackPACK has no rule for attention."""
    from backpack import backpack as context
    from backpack import extend, extensions

    if square.task.model == "attention":
        return []
    net = extend(square.module())

    def of_output(extension: Any, attribute: str) -> Callable[[int], dict[str, torch.Tensor]]:
        def run(a: int) -> dict[str, torch.Tensor]:
            net.zero_grad()
            with context(extension):
                net(square.X)[:, a].sum().backward()
            return {name: getattr(p, attribute) for name, p in net.named_parameters()}

        return run

    tree = lambda: stacked(square, of_output(extensions.BatchGrad(), "grad_batch"))
    squares = of_output(extensions.BatchL2Grad(), "batch_l2")
    norms = lambda: stacked(square, lambda a: {"": sum(squares(a).values())})[""]

    def fisher_diagonal() -> dict[str, torch.Tensor]:
        """The Gauss-Newton diagonal of a summed squared error, whose second derivative is 2."""
        net.zero_grad()
        with context(extensions.DiagGGNExact()):
            outputs = net(square.X)
            criterion(outputs, square.Y.reshape(outputs.shape)).backward()
        return {name: p.diag_ggn_exact / 2 for name, p in net.named_parameters()}

    def clipped_mean() -> dict[str, torch.Tensor]:
        """The norms of the gradients, then one gradient of the weighted loss."""
        net.zero_grad()
        with context(extensions.BatchL2Grad(), retain_graph=True):
            losses = square_error(square, net(square.X))
            losses.sum().backward(retain_graph=True)
        norms = sum(p.batch_l2 for p in net.parameters()).sqrt()
        net.zero_grad()
        scale = (square.max_norm / norms).clamp(max=1.0) / len(square.X)
        (scale * losses).sum().backward()
        return gradients(net)

    criterion = extend(nn.MSELoss(reduction="sum"))
    runs = {
        "squared_norms": ("backpack BatchL2Grad", norms),
        "dense": ("backpack BatchGrad", lambda: joined(tree(), square.y)),
        "tree": ("backpack BatchGrad", tree),
        "fisher_diagonal": ("backpack DiagGGNExact", fisher_diagonal),
        "clipped_mean": ("backpack BatchL2Grad, weighted gradient", clipped_mean),
    }
    if square.task.want not in runs:
        return []
    name, run = runs[square.task.want]
    return [contender(name, "backpack", run)]


def opacus(square: Square) -> list[Contender]:
    """Ghost norms for the norms and the clipping, per-sample gradients for the tree."""
    from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping

    warnings.filterwarnings("ignore", module="torch")
    common = {"loss_reduction": "sum", "batch_first": True}

    def ghost(function: Callable, name: str) -> list[Contender]:
        # Only its norms are used: its own scales have 1e-6 in the denominator.
        net = GradSampleModuleFastGradientClipping(square.module(), use_ghost_clipping=True, **common)
        return [contender(name, "opacus", lambda: function(net))]

    def norms(net: nn.Module) -> torch.Tensor:
        def run(a: int) -> dict[str, torch.Tensor]:
            net.zero_grad()
            net(square.X)[:, a].sum().backward()
            return {"": net.get_norm_sample() ** 2}

        return stacked(square, run)[""]

    def clipped_mean(net: nn.Module) -> dict[str, torch.Tensor]:
        net.zero_grad()
        losses = square_error(square, net(square.X))
        losses.sum().backward(retain_graph=True)
        scale = (square.max_norm / net.get_norm_sample()).clamp(max=1.0) / len(square.X)
        net.zero_grad()
        net.disable_hooks()
        (scale * losses).sum().backward()
        net.enable_hooks()
        return gradients(net._module)

    def tree(net: nn.Module) -> dict[str, torch.Tensor]:
        def run(a: int) -> dict[str, torch.Tensor]:
            net.zero_grad()
            net(square.X)[:, a].sum().backward()
            return {name: p.grad_sample for name, p in net._module.named_parameters()}

        return stacked(square, run)

    match square.task.want:
        case "squared_norms":
            return ghost(norms, "opacus ghost norms")
        case "clipped_mean":
            return ghost(clipped_mean, "opacus ghost clipping")
        case "tree":
            net = GradSampleModule(square.module(), **common)
            return [contender("opacus GradSampleModule", "opacus", lambda: tree(net))]
        case "dense":
            net = GradSampleModule(square.module(), **common)
            return [contender("opacus GradSampleModule", "opacus", lambda: joined(tree(net), square.y))]
    return []
