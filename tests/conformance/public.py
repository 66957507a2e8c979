"""The public functions of JAX that take arrays, under the names that users call them by."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import jax.scipy.stats

MODULES = (
    "jax.nn",
    "jax.numpy",
    "jax.numpy.linalg",
    "jax.numpy.fft",
    "jax.lax",
    "jax.lax.linalg",
    "jax.ops",
    "jax.image",
    "jax.scipy.special",
    "jax.scipy.linalg",
    "jax.scipy.fft",
    "jax.scipy.signal",
    "jax.scipy.ndimage",
    "jax.scipy.integrate",
    "jax.scipy.cluster.vq",
    "jax.scipy.optimize",
    "jax.scipy.sparse.linalg",
    "jax.scipy.stats",
    *(f"jax.scipy.stats.{m.name}" for m in pkgutil.iter_modules(jax.scipy.stats.__path__) if m.name[0] != "_"),
)


def functions() -> dict[str, dict[str, Callable[..., Any]]]:
    """Module -> name -> function, as the installed version of JAX has them."""
    return {module: _public(importlib.import_module(module)) for module in MODULES}


def _public(module: Any) -> dict[str, Callable[..., Any]]:
    names = getattr(module, "__all__", None) or dir(module)
    found = {name: getattr(module, name, None) for name in sorted(names) if not name.startswith("_")}
    return {name: f for name, f in found.items() if callable(f) and _is_function(f)}


def _is_function(f: Any) -> bool:
    """Not a class, not a type for annotations."""
    return not inspect.isclass(f) and not type(f).__module__.startswith("typing")
