"""Parameters in a .npz file: a pytree of dicts, lists and arrays with its paths as names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from nablax._errors import DataError
from nablax.store.inputs import open_numpy

ROOT = "."
"""Name in the file of parameters that are a single array."""


def save_parameters(path: str | Path, tree: Any) -> None:
    """Write a pytree of dicts, lists, tuples and arrays to a .npz file.

    Args:
        path: the file, which is replaced once all of it is written.
        tree: keys are joined by "/" to the name of an array: ``{"out": [W, b]}`` becomes "out/0" and "out/1".
            Tuples come back as lists.

    Raises:
        DataError: the tree would not come back as it is (its keys, an empty level, a leaf that is no array of
            numbers), or the file cannot be written.

    Example:
        >>> import numpy as np, tempfile
        >>> from nablax import store
        >>> folder = tempfile.TemporaryDirectory()
        >>> store.save_parameters(f"{folder.name}/params.npz", {"out": [np.ones((2, 3)), np.zeros(2)]})
        >>> W, b = store.load_parameters(f"{folder.name}/params.npz")["out"]
        >>> W.shape, b.shape
        ((2, 3), (2,))
    """
    arrays: dict[str, np.ndarray] = {}

    def walk(name: str, node: Any) -> None:
        if problem := _problem(node):
            raise DataError(f"the parameters cannot be saved: {name[1:] or 'the tree'} {problem}")
        if isinstance(node, dict | list | tuple):
            for key, child in node.items() if isinstance(node, dict) else enumerate(node):
                walk(f"{name}/{key}", child)
        else:
            arrays[name[1:] or ROOT] = np.asarray(node)

    walk("", tree)
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)  # pyright: ignore[reportArgumentType]
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{path}: the parameters cannot be written ({error}).") from error


def load_parameters(path: str | Path) -> Any:
    """Read what `save_parameters` wrote: names split at "/" into dicts; a level named 0, 1, 2, .. is a list.

    Raises:
        DataError: the file is missing, damaged, holds pickled objects, or arrays that are no numbers.
    """
    arrays = open_numpy(Path(path))
    named = {ROOT: arrays} if isinstance(arrays, np.ndarray) else arrays
    for name, array in named.items():
        if array.dtype.kind not in "fciub":
            raise DataError(f"{path}: {name!r} has dtype {array.dtype}; parameters must be numbers.")
    if set(named) == {ROOT}:
        return named[ROOT]
    tree: dict[str, Any] = {}
    for name, array in sorted(named.items()):  # an array before what claims to lie inside it
        *above, last = name.split("/")
        level = tree
        for key in above:
            level = level.setdefault(key, {})
            if not isinstance(level, dict):
                raise DataError(f"{path}: {name!r} lies inside {'/'.join(above)!r}, which is an array itself.")
        level[last] = array
    return _lists(tree)


def _problem(node: Any) -> str:
    """Why a part of a tree would not come back from the file as it is; empty if it does."""
    if isinstance(node, dict | list | tuple) and not node:
        return f"is empty ({node!r}), and nothing in the file would say so; leave it out."
    if isinstance(node, dict):
        for key in node:
            if not isinstance(key, str) or "/" in key or key in ("", ROOT):
                return f"has the key {key!r}; keys must be strings without '/' to be saved."
        if _numbered(node):
            return f"has the keys {', '.join(node)}, which would come back as a list; use a list, or other keys."
    elif not isinstance(node, list | tuple):
        try:
            dtype = np.asarray(node).dtype
        except (TypeError, ValueError):
            dtype = np.dtype(object)
        if dtype.kind not in "fciub":
            what = f"a {type(node).__name__}" if dtype.kind == "O" else f"an array of {dtype}"
            return f"is {what}; the file takes arrays of numbers in the dtypes of NumPy."
    return ""


def _numbered(node: dict[str, Any]) -> bool:
    return set(node) == {str(k) for k in range(len(node))}


def _lists(node: Any) -> Any:
    """Dicts whose keys are 0 .. n-1 as lists."""
    if not isinstance(node, dict):
        return node
    children = {key: _lists(child) for key, child in node.items()}
    return [children[str(k)] for k in range(len(children))] if _numbered(children) else children
