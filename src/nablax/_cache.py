"""Compiled functions that outlive the transform that made them, without ever answering for a model that has changed.

``nablax.hessian(model)(params, X)`` makes a new transform each time; this cache finds the program of the last one.
JAX's own cache is keyed by the function object alone, so a global array that the model reads could change without
anybody noticing. Here the objects that a Python function captures are part of the key.
"""

from __future__ import annotations

import functools
import sys
import types
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import numpy as np

from nablax.batching.axes import in_whole_batches

_BY_OBJECT: dict[int, tuple[weakref.ref[Any], dict[Hashable, tuple[list[Any], Callable[..., Any]]]]] = {}
_BY_VALUE: OrderedDict[Hashable, Callable[..., Any]] = OrderedDict()
_MOST_BY_VALUE = 256


def split_model(model: Any) -> tuple[list[Any], Any]:
    """A model as (its arrays, the rest): a plain function has no arrays, an equinox module has its weights.

    The arrays become arguments of the compiled function, so that a module with new weights is not compiled again.
    """
    leaves, treedef = jax.tree.flatten(model)
    is_array = tuple(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves)
    arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]
    static = tuple(None if array else leaf for leaf, array in zip(leaves, is_array, strict=True))
    return arrays, (treedef, is_array, static)


def join_model(arrays: list[Any], rest: Any) -> Any:
    """The inverse of `split_model`."""
    treedef, is_array, static = rest
    array = iter(arrays)
    return jax.tree.unflatten(treedef, [next(array) if a else leaf for a, leaf in zip(is_array, static, strict=True)])


def compiled(
    model: Any, options: Hashable, build: Callable[[Callable[[list[Any]], Any]], Callable[..., Any]]
) -> Callable[..., Any]:
    """The compiled function for `model` and `options`, from the cache or by ``build(rebuild)``.

    `rebuild(arrays)` is the model with the given arrays in place; it refers to a plain function only weakly, so that
    the cache keeps no model alive.
    """
    options = options, in_whole_batches()
    if jax.tree.structure(model) != jax.tree.structure(0):
        _, rest = split_model(model)
        key = (rest, options)
        if key not in _BY_VALUE:
            _BY_VALUE[key] = build(lambda arrays: join_model(arrays, rest))
            while len(_BY_VALUE) > _MOST_BY_VALUE:
                _BY_VALUE.popitem(last=False)
        _BY_VALUE.move_to_end(key)
        return _BY_VALUE[key]

    anchor, rebuild = _anchor(model)
    if anchor is None:
        return build(lambda arrays: model)
    if id(anchor) not in _BY_OBJECT:
        number = id(anchor)
        _BY_OBJECT[number] = weakref.ref(anchor, lambda _, entries=_BY_OBJECT: entries.pop(number, None)), {}
    entries = _BY_OBJECT[id(anchor)][1]
    key = (getattr(model, "__func__", None), options)
    seen = _fingerprint(model, anchor)
    if key not in entries or not _same(entries[key][0], seen):
        entries[key] = seen, build(rebuild)
    return entries[key][1]


def _anchor(model: Any) -> tuple[Any, Callable[[list[Any]], Any]]:
    """The object whose life the cache entry shares, and how to get the model back from a weak reference to it."""
    owner = model.__self__ if isinstance(model, types.MethodType) else model
    try:
        reference = weakref.ref(owner)
    except TypeError:
        return None, lambda arrays: model
    if owner is model:
        return owner, lambda arrays: reference()
    function = model.__func__
    return owner, lambda arrays: types.MethodType(function, reference())


def _same(old: list[Any], new: list[Any]) -> bool:
    return len(old) == len(new) and all(
        a is b or (type(a) is type(b) and isinstance(a, _PLAIN) and a == b) for a, b in zip(old, new, strict=True)
    )


_PLAIN = bool | int | float | complex | str | bytes | None | np.generic


class _Digest(int):
    """The contents of an array that can change, as a number."""


def _fingerprint(model: Any, anchor: Any) -> list[Any]:
    """Everything that the result of `model` may depend on besides its arguments.

    Arrays of JAX cannot change, so the object stands for its contents; a NumPy array can, so its contents are read.
    Modules, and what installed libraries define, are taken as they are.
    """
    found: list[Any] = []
    visited = {id(anchor), id(model)}
    waiting = list(_parts(model))
    while waiting:
        value = waiting.pop()
        if isinstance(value, np.ndarray):
            found.append(_digest(value))
            continue
        if id(value) in visited and not isinstance(value, _PLAIN):
            continue
        visited.add(id(value))
        found.append(value)
        if not isinstance(value, _PLAIN | jax.Array | types.ModuleType | type | types.CodeType):
            walk = isinstance(value, _CONTAINERS) or hasattr(value, "__wrapped__") or not _is_library(type(value))
            waiting.extend(_parts(value) if walk else ())
    return found


def _digest(array: np.ndarray) -> _Digest:
    contents = array.tobytes() if array.dtype != object else repr(array.tolist()).encode()
    return _Digest(zlib.crc32(contents, hash((array.shape, str(array.dtype))) & 0xFFFFFFFF))


_CONTAINERS = (
    types.FunctionType
    | types.MethodType
    | functools.partial
    | dict
    | tuple
    | list
    | set
    | frozenset
    | types.SimpleNamespace
)


def _parts(value: Any) -> Iterator[Any]:
    """The objects one step inside `value`."""
    if isinstance(value, types.MethodType):
        yield value.__func__
        yield from _attributes(value.__self__)
    elif isinstance(value, types.FunctionType):
        yield value.__code__
        if "site-packages" not in value.__code__.co_filename:
            yield from _captured_by(value)
    elif isinstance(value, functools.partial):
        yield value.func
        yield from value.args
        yield from value.keywords.values()
    elif isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, tuple | list | set | frozenset):
        yield from value
    elif hasattr(value, "__wrapped__"):
        yield value.__wrapped__
    else:
        yield from _attributes(value)


def _attributes(value: Any) -> Iterator[Any]:
    """What the attributes of an object hold, those in slots too."""
    yield from vars(value).values() if hasattr(value, "__dict__") else ()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__weakref__", "__dict__") and hasattr(value, name):
                yield getattr(value, name)


def _captured_by(function: types.FunctionType) -> Iterator[Any]:
    """Defaults, closure and globals of a Python function."""
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            yield function.__globals__[name]


@functools.lru_cache(maxsize=4096)
def _is_library(kind: type) -> bool:
    """Whether a class is defined by Python or an installed package, whose objects we take as they are."""
    module = sys.modules.get(kind.__module__)
    return kind.__module__.split(".")[0] in sys.stdlib_module_names or "site-packages" in (
        getattr(module, "__file__", None) or ""
    )


@functools.lru_cache(maxsize=4096)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    """The names that a code object, and the functions defined inside it, may look up globally."""
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _global_names(constant)
    return tuple(dict.fromkeys(names))
