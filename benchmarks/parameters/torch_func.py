"""torch.func, by functional_call on the module: the formulations of its tutorials on Jacobians, kernels and norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

from benchmarks.parameters.serve import Contender
from benchmarks.parameters.torch_tools import Square, compiled, contender, named


def torch_func(square: Square) -> list[Contender]:
    """All formulations of the want; the whole batch also compiled."""
    net = square.module()

    def f(params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return functional_call(net, params, (x[None],))[0].reshape(square.y)

    def entries(make: Callable[[int | None], Callable], name: str) -> list[Contender]:
        """For every chunk size, and compiled."""
        args = (square.params, square.X, square.Y)
        run = lambda function: lambda: function(*args)
        found = [contender(named(name, chunk), "torch", run(make(chunk))) for chunk in square.chunks]
        return [*found, compiled(name, make(None), *args)] if square.task.torch_compile else found

    match square.task.want:
        case "gram":
            return gram(square, f)
        case "squared_norms":
            per_sample = lambda params, x: sum(J.pow(2).flatten(len(square.y)).sum(-1) for J in jacobian(f, params, x))
            return entries(lambda c: lambda p, X, Y: over(per_sample, c)(p, X), "torch jacrev, leaf by leaf")
        case "dense":
            per_sample = lambda params, x: torch.cat([J.flatten(len(square.y)) for J in jacobian(f, params, x)], -1)
            return entries(lambda c: lambda p, X, Y: over(per_sample, c)(p, X), "torch jacrev, concatenated")
        case "tree":
            return entries(lambda c: lambda p, X, Y: over(jacrev(f), c)(p, X), "torch jacrev")
        case "fisher_diagonal":
            return entries(lambda c: lambda p, X, Y: fisher_diagonal(square, f, c, p, X), "torch jacrev, leaf by leaf")
        case "clipped_mean":
            return entries(lambda c: lambda p, X, Y: clipped_mean(square, f, c, p, X, Y), "torch grad, clipped")
        case "matvec":
            run = lambda: jvp(lambda p: vmap(lambda x: f(p, x))(square.X), (square.params,), (square.v,))[1]
            return [contender("torch jvp", "torch", run)]
    run = lambda: vjp(lambda p: vmap(lambda x: f(p, x))(square.X), square.params)[1](square.w)[0]
    return [contender("torch vjp", "torch", run)]


def over(function: Callable, chunk: int | None) -> Callable:
    return vmap(function, (None, 0), chunk_size=chunk)


def jacobian(f: Callable, params: dict[str, torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    found = jacrev(f)(params, x)
    return [found[key] for key in sorted(found)]


def parts(chunk: int | None, *arrays: torch.Tensor) -> Any:
    size = chunk or len(arrays[0])
    return zip(*(array.split(size) for array in arrays), strict=True)


def gram(square: Square, f: Callable) -> list[Contender]:
    task, X, params = square.task, square.X, square.params
    full = (task.D, *square.y, task.D, *square.y)

    def contraction():
        found = vmap(jacrev(f), (None, 0))(params, X)
        rows = [J.reshape(task.D * task.A, -1) for J in found.values()]
        return sum(J @ J.T for J in rows).reshape(full)

    def vector_products(chunk):
        """A vjp of the unit vectors of one sample, and jvps of another along the results, for all pairs."""
        units = torch.eye(task.A).reshape(task.A, *square.y)

        def pair(x1, x2):
            pull = vjp(lambda p: f(p, x1), params)[1]
            push = lambda unit: jvp(lambda p: f(p, x2), (params,), (pull(unit)[0],))[1]
            return vmap(push)(units)

        def run():
            found = vmap(lambda x1: vmap(lambda x2: pair(x1, x2))(X), chunk_size=chunk)(X)  # (D, D, A, *y)
            return found.transpose(1, 2).reshape(full)

        return run

    small = [c for c in square.chunks if c][:1]
    columns = [contender(named("torch vector products", c), "torch", vector_products(c)) for c in small]
    return [contender("torch jacrev, leaf by leaf", "torch", contraction), *columns]


def fisher_diagonal(square: Square, f: Callable, chunk: int | None, params: Any, X: torch.Tensor) -> Any:
    total: dict[str, torch.Tensor] = {}
    for (part,) in parts(chunk, X):
        found = vmap(jacrev(f), (None, 0))(params, part)
        for key, J in found.items():
            squares = J.pow(2).flatten(0, len(square.y)).sum(0)
            total[key] = total[key] + squares if key in total else squares
    return total


def clipped_mean(square: Square, f: Callable, chunk: int | None, params: Any, X: torch.Tensor, Y: torch.Tensor) -> Any:
    loss = lambda params, x, y: (f(params, x) - y).pow(2).sum() / 2
    total: dict[str, torch.Tensor] = {}
    for x, y in parts(chunk, X, Y):
        found = vmap(grad(loss), (None, 0, 0))(params, x, y)
        norms = sum(g.pow(2).flatten(1).sum(1) for g in found.values()).sqrt()
        scale = (square.max_norm / norms).clamp(max=1.0) / len(X)
        for key, g in found.items():
            clipped = torch.tensordot(scale, g, 1)
            total[key] = total[key] + clipped if key in total else clipped
    return total
