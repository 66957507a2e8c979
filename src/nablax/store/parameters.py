"""Parameters in a .npz file: a pytree of dicts, lists and arrays with its paths as names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nablax._errors import DataError
from nablax.store.inputs import open_numpy


def save_parameters(path: str | Path, tree: Any) -> None:
    """Write a pytree of dicts, lists, tuples and arrays to a .npz file.

    Args:
        path: the file, which is replaced.
        tree: keys are joined by "/" to the name of an array: ``{"out": [W, b]}`` becomes "out/0" and "out/1".

    Raises:
        DataError: a key is no string, or contains a "/".
    """
    arrays: dict[str, np.ndarray] = {}

    def walk(name: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, child in node.items():
                if not isinstance(key, str) or "/" in key or not key:
                    raise DataError(
                        f"the parameters have the key {key!r}; keys must be strings without '/' to be saved."
                    )
                walk(f"{name}/{key}", child)
        elif isinstance(node, list | tuple):
            for number, child in enumerate(node):
                walk(f"{name}/{number}", child)
        else:
            arrays[name[1:] or "value"] = np.asarray(node)

    walk("", tree)
    with Path(path).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)  # pyright: ignore[reportArgumentType]


def load_parameters(path: str | Path) -> Any:
    """Read what `save_parameters` wrote: names split at "/" into dicts; a level named 0, 1, 2, .. is a list.

    Raises:
        DataError: the file is missing, damaged, or holds pickled objects.
    """
    arrays = open_numpy(Path(path))
    if isinstance(arrays, np.ndarray):
        return arrays
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *above, last = name.split("/")
        level = tree
        for key in above:
            level = level.setdefault(key, {})
            if not isinstance(level, dict):
                raise DataError(f"{path}: {name!r} lies inside {'/'.join(above)!r}, which is an array itself.")
        level[last] = array
    if set(tree) == {"value"}:
        return tree["value"]
    return _lists(tree)


def _lists(node: Any) -> Any:
    """Dicts whose keys are 0 .. n-1 as lists."""
    if not isinstance(node, dict):
        return node
    children = {key: _lists(child) for key, child in node.items()}
    if set(children) == {str(k) for k in range(len(children))}:
        return [children[str(k)] for k in range(len(children))]
    return children
