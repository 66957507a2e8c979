"""The twins of `models.py` as torch modules: what torch.func, BackPACK and Opacus take."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.parameters.models import BLOCKS, CHANNELS, HEADS, HIDDEN, INNER, INPUT, TOKENS, WIDTH


class Block(nn.Module):
    """Attention and a gelu layer, each behind a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.project = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.wide, self.narrow = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.gelu = nn.GELU(approximate="tanh")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        q, k, v = (part(h).reshape(-1, TOKENS, HEADS, WIDTH // HEADS) for part in (self.query, self.key, self.value))
        scores = torch.softmax(torch.einsum("nihd,njhd->nhij", q, k) / (WIDTH / HEADS) ** 0.5, -1)
        x = x + self.project(torch.einsum("nhij,njhd->nihd", scores, v).reshape(-1, TOKENS, WIDTH))
        return x + self.narrow(self.gelu(self.wide(self.second(x))))


class Attention(nn.Module):
    """The blocks, the mean over tokens, a dense layer."""

    def __init__(self, A: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.head = nn.Linear(WIDTH, A)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(-2))


def mlp(A: int) -> nn.Module:
    widths = (*INPUT["mlp"], *HIDDEN)
    hidden = [part for a, b in zip(widths, HIDDEN, strict=False) for part in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*hidden, nn.Linear(HIDDEN[-1], A))


def conv(A: int) -> nn.Module:
    widths = (1, *CHANNELS)
    layers = [
        part
        for a, b in zip(widths, CHANNELS, strict=False)
        for part in (nn.Conv2d(a, b, 3, stride=2, padding=1), nn.Tanh())
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(CHANNELS[-1] * 4, A))


def module(name: str, A: int, params: dict[str, Any]) -> nn.Module:
    """The network with these weights; its output is (N, A), for A = 1 too."""
    made = {"mlp": mlp, "conv": conv, "attention": Attention}[name](A)
    made.load_state_dict(params)
    return made
