"""Reading, computing and writing at the same time, a few units in flight, in the order of the units."""

from __future__ import annotations

import collections
import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import jax

IN_FLIGHT = 4
"""The most units that are in memory at a time, inputs or results."""

COMPUTING = 2
"""The most units that are computed at a time: while one begins or ends, the device has the other to work on."""

Unit = TypeVar("Unit")
Block = TypeVar("Block")
Found = TypeVar("Found")
Written = TypeVar("Written")


def stream(
    units: Iterable[Unit],
    read: Callable[[Unit], Block],
    compute: Callable[[Unit, Block], Found],
    write: Callable[[Unit, Found], Written],
) -> Iterator[Written]:
    """``write(unit, compute(unit, read(unit)))`` for all units.

    Each unit in flight has a thread: zarr, the device and the copies to and from it let go of Python's lock. The first
    error ends it, after the units that had begun are written.
    """
    device = threading.Semaphore(COMPUTING)

    def work(unit: Unit) -> Written:
        block = read(unit)
        with device:
            found = compute(unit, block)
        del block  # its memory is that of the next one
        return write(unit, found)

    waiting, begun = iter(units), collections.deque()
    with ThreadPoolExecutor(IN_FLIGHT, "unit", initializer=_settings()) as threads:
        begun.extend(threads.submit(work, unit) for unit in itertools.islice(waiting, IN_FLIGHT))
        while begun:
            yield begun.popleft().result()
            begun.extend(threads.submit(work, unit) for unit in itertools.islice(waiting, 1))


def _settings() -> Callable[[], None]:
    """Gives another thread what ``with jax.enable_x64(..):`` and its like have set in this one."""
    names = ("enable_x64", "default_matmul_precision", "numpy_rank_promotion", "numpy_dtype_promotion")
    values = {name: getattr(jax.config, f"jax_{name}") for name in names}

    def take_over() -> None:
        stack = contextlib.ExitStack()
        for name, value in values.items():
            stack.enter_context(getattr(jax, name)(value))

    return take_over
