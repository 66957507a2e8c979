"""What the command hands to a worker, and what a worker hands back, as JSON."""

from __future__ import annotations

import contextlib
import fcntl
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Task:
    """One square of the grid for one worker.

    Attributes:
        cell: name in `benchmarks.cells`.
        want: "jacobian", "hessian", "hessian_diagonal" or "laplacian".
        gradient: the gradient of a loss through the want, instead of the want.
        D: samples.
        families: which contenders run.
        chunks: chunk sizes; None is the whole batch.
        rounds: turns for each contender.
        seconds: time for each contender.
        folder: scratch folder; the float64 reference is kept there for the torch worker.
        torch_compile: whether torch.compile is tried.
        turn: a file that is locked while contenders are timed, where several squares run at once.
        skip: contenders that already hung or crashed, with the reason.
    """

    cell: str
    want: str
    gradient: bool
    D: int
    families: list[str]
    chunks: list[int | None]
    rounds: int
    seconds: float
    folder: str
    torch_compile: bool = True
    turn: str | None = None
    skip: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.cell} {'gradient through ' if self.gradient else ''}{self.want}"

    @property
    def reference(self) -> Path:
        return Path(self.folder) / f"{self.cell}-{self.want}-{self.gradient}.npz"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No other square is timed meanwhile; others may compile."""
        if self.turn is None:
            yield
            return
        with open(self.turn, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(path: str) -> Task:
        return Task(**json.loads(Path(path).read_text()))


def event(name: str) -> None:
    """Tell the parent which contender is busy; each call starts its clock anew."""
    print("@" + name, flush=True)


def hand_back(answer: Any) -> None:
    """Answer the parent."""
    print("=" + json.dumps(answer), flush=True)


def obey(turns: dict[str, Callable[[float], list[float]]]) -> None:
    """Let the parent say who runs: each line holds the seconds of a turn and the name of a contender."""
    for line in sys.stdin:
        seconds, name = line.rstrip("\n").split(" ", 1)
        hand_back(turns[name](float(seconds)))


def failure(name: str, family: str, error: Exception) -> dict[str, Any]:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{name}: {reason[:2000]}", file=sys.stderr)
    return {"name": name, "family": family, "status": "failed", "reason": reason[:300]}
