"""Where in the user's program an equation comes from."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import jax

_PLACES = (
    sysconfig.get_path("stdlib"),
    sysconfig.get_path("purelib"),
    Path(jax.__file__).parent,
    Path(__file__).parents[1],
)
# A frame may name either: an environment may be a link.
_LIBRARIES = tuple({name for place in _PLACES for name in (str(place), str(Path(place).resolve()))})


def line_of(*tracebacks: Any) -> str:
    """``file:line`` of the innermost frame that belongs to no library, or an empty text.

    The traceback of an equation inside a call may end at the border of what was called, which may be a library;
    those of the calls around it follow, innermost first.
    """
    for traceback in tracebacks:
        frames = traceback.frames if traceback is not None else ()
        for frame in frames:
            if not frame.file_name.startswith((*_LIBRARIES, "<frozen")):
                return f"{Path(frame.file_name).name}:{frame.line_num}"
    return ""
