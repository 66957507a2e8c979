"""Whether a run would go on where another one stopped: the same model, parameters, samples, wants and versions."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import nablax
from nablax._types import Model, PyTree

Identity = dict[str, str]
"""What is compared -> what it is, or a digest of it."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def digest_of_model(model: Model, arguments: tuple[PyTree, ...], x: jax.ShapeDtypeStruct) -> str:
    """Digest of the program that the model is, wherever its source is: functions that it calls count, comments not.

    Args:
        model: the model of one sample.
        arguments: what it takes before x.
        x: shape and dtype of one sample.
    """
    program = jax.make_jaxpr(model)(*arguments, x)
    found = _digest()
    found.update(_ADDRESS.sub("", str(program.jaxpr)).encode())
    for value in program.consts:
        _add(found, value)
    return found.hexdigest()


def digest_of_tree(tree: PyTree) -> str:
    """Digest of the structure, shapes, dtypes and values of a tree of arrays."""
    found = _digest()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        found.update(jax.tree_util.keystr(path).encode())
        _add(found, leaf)
    return found.hexdigest()


def versions() -> dict[str, str]:
    """The programs that results may depend on, in their last digits."""
    return {
        "nablax": nablax.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs, in words; empty if nothing does."""
    lines = []
    for name in sorted({*stored, *now}):
        before, after = stored.get(name), now.get(name)
        if before != after:
            digests = all(isinstance(each, str) and re.fullmatch("[0-9a-f]{32}", each) for each in (before, after))
            lines.append(f"other {name}" if digests else f"{name}: {before} there, {after} here")
    return "; ".join(lines)


def _digest() -> Any:
    return hashlib.blake2b(digest_size=16)


def _add(found: Any, value: Any) -> None:
    array = np.asarray(value)
    found.update(f"{array.dtype}{array.shape}".encode())
    found.update(np.ascontiguousarray(array).view(np.uint8) if array.dtype.kind != "O" else repr(value).encode())
