"""Ctrl-C and SIGTERM end a run between two units."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class RunInterrupted(KeyboardInterrupt):
    """A run ended early because it was asked to; what it says is how to go on.

    Attributes:
        number: of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Interrupts:
    """Whether the run was asked to end.

    Attributes:
        number: of the signal that asked, or None.
    """

    number: int | None = None


@contextlib.contextmanager
def noticed() -> Iterator[Interrupts]:
    """While it is open, the first SIGINT or SIGTERM is only noted; a second one does what it always does.

    Outside of the main thread, where Python does not allow it, signals do what they always do.
    """
    found = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: object) -> None:
        found.number = number
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield found
    finally:
        restore()
