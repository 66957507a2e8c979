"""What the command hands to a worker."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Task:
    """One square for one worker.

    Attributes:
        model: name in `models.MODELS`.
        A: outputs.
        D: samples.
        want: name in `wants.WANTS`.
        families: which contenders run: "nablax", "jax", "netket", "nt", "torch", "backpack", "opacus".
        chunks: chunk sizes besides the whole batch.
        folder: scratch folder; the float64 reference is kept there for the workers that come later.
        torch_compile: whether torch.compile is tried.
        skip: contenders that are not run, with the reason.
        only: the one contender whose peak memory is measured; None: build and check all, then wait for turns.
    """

    model: str
    A: int
    D: int
    want: str
    families: list[str]
    chunks: list[int]
    folder: str
    torch_compile: bool = True
    skip: dict[str, str] = field(default_factory=dict)
    only: str | None = None

    @property
    def reference(self) -> Path:
        return Path(self.folder) / "reference.npz"

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(path: str) -> Task:
        return Task(**json.loads(Path(path).read_text()))
