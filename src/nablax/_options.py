"""What users may say about a transform, checked before anything is traced."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np

from nablax._errors import OptionError
from nablax._types import WANTS, Model, kind_of
from nablax.batching.axes import InAxes
from nablax.graph.classify import JAX, Table
from nablax.planning import bytes_of
from nablax.strategies import BUILT_IN, Wants

default_table = JAX


@dataclass(frozen=True)
class Options:
    """The options that all transforms have in common, checked."""

    wrt: int | None
    in_axes: InAxes
    out_axes: Any
    strategy: str
    chunk_size: int | str | None
    has_aux: bool
    memory_budget: int | str | None = None
    table: Table | None = None

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> Options:
        """Take the options out of the ``locals()`` of a transform."""
        return cls(**{field.name: arguments[field.name] for field in fields(cls) if field.name in arguments})

    def __post_init__(self) -> None:
        names = ["auto", "autotune", *(s.name for s in BUILT_IN)]
        if self.strategy not in names:
            raise OptionError(f"strategy={self.strategy!r} is unknown; use one of {', '.join(names)}.")
        for name in ("wrt", "chunk_size", "memory_budget"):
            if isinstance(getattr(self, name), np.integer):
                object.__setattr__(self, name, int(getattr(self, name)))
        size = self.chunk_size
        if size not in (None, "auto") and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise OptionError(
                f'chunk_size={size!r} must be a positive int, "auto", or None for the whole batch at once.'
            )
        if self.wrt is not None and (isinstance(self.wrt, bool) or not isinstance(self.wrt, int)):
            raise OptionError(f"wrt={self.wrt!r} must be the number of one argument, or None.")
        if isinstance(self.in_axes, bool) or not isinstance(self.in_axes, int | tuple | list | None):
            raise OptionError(
                f"in_axes={self.in_axes!r} must be an int, None, or a tuple with one entry for each argument."
            )
        object.__setattr__(self, "memory_budget", self.budget)
        if not isinstance(self.table, Table | None):
            raise OptionError(
                f"table is {kind_of(self.table)}; it must be a nablax.Table, for example "
                "nablax.default_table.extended(elementwise=[my_primitive]), or None."
            )

    @property
    def budget(self) -> int | None:
        """The memory budget in bytes."""
        return None if self.memory_budget is None else bytes_of(self.memory_budget)

    @property
    def key(self) -> Any:
        """The options as a hashable value: trees of axes by structure and leaves."""
        leaves, treedef = jax.tree.flatten((self.in_axes, self.out_axes), is_leaf=lambda a: a is None)
        rest = self.strategy, self.chunk_size, self.has_aux, self.memory_budget, self.table
        return self.wrt, treedef, tuple(leaves), *rest


def checked_model(name: str, model: Model, of: str = "one sample") -> Model:
    """The model, unless it is something that cannot be one."""
    if not callable(model) or isinstance(model, type):
        given = f"the class {model.__name__}" if isinstance(model, type) else kind_of(model)
        raise OptionError(f"{name} was given {given} as its model; it needs a function of {of}, model(params, x).")
    return model


def checked_wants(name: str, wants: tuple[str, ...], weights: Any) -> Wants:
    """What the transform `name` was asked for, by name."""
    if not wants:
        raise OptionError(f"{name} was asked for nothing; name some of {', '.join(WANTS)} after the model.")
    for want in wants:
        if want not in WANTS:
            raise OptionError(f"{name} was asked for {want!r}; it knows {', '.join(WANTS)}.")
    if weights is not None and "laplacian" not in wants:
        raise OptionError(
            'weights were given, which belong to the want "laplacian"; add it to the wants, or leave the weights out.'
        )
    return Wants(frozenset(wants))
