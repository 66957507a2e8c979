"""Peak memory of one run, from the resident set of this process (Linux)."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any


def resident(which: str) -> int:
    """Bytes of "VmRSS", the resident set, or of "VmHWM", its highest mark."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {which} in /proc/self/status")


def peak(run: Callable[[], Any]) -> int:
    """How far one run, its result included, lifts the resident set.

    A first run leaves behind what is made once (threads, code); freed pages go back to the system before the second.
    """
    run()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew
    before = resident("VmRSS")
    result = run()
    lifted = resident("VmHWM") - before
    del result
    return lifted
