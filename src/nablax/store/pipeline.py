"""Reading, computing and writing at the same time, a few units in flight, in the order of the units."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

READ_AHEAD = 2
WRITERS = 2
IN_FLIGHT = READ_AHEAD + WRITERS + 1
"""The most units that are in memory at a time, inputs or results."""

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

    A thread reads ahead, this one computes, two write: zarr and the copies to and from a device let go of Python's
    lock. The first error ends it, after the units that were computed before it are written.
    """
    waiting, ahead, behind = iter(units), collections.deque[tuple[Unit, Future[Block]]](), collections.deque()
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(WRITERS, "write") as writer:

        def read_on(count: int) -> None:
            ahead.extend((unit, reader.submit(read, unit)) for unit in itertools.islice(waiting, count))

        read_on(READ_AHEAD)
        try:
            while ahead:
                unit, block = ahead.popleft()
                found = compute(unit, block.result())
                del block  # its memory is that of the next one
                read_on(1)
                behind.append(writer.submit(write, unit, found))
                del found
                while len(behind) >= WRITERS:
                    yield behind.popleft().result()
            while behind:
                yield behind.popleft().result()
        finally:
            reader.shutdown(cancel_futures=True)
