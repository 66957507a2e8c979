"""Reports as JSON has them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any


def as_json(node: Any) -> Any:
    """Dataclasses as dicts, sequences as lists, and null for a number that is not finite."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {field.name: as_json(getattr(node, field.name)) for field in dataclasses.fields(node)}
    if isinstance(node, dict):
        return {key: as_json(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [as_json(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node
