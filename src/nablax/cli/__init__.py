"""The command line. JAX and zarr are imported when a command runs, so that ``--help`` answers at once."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

try:
    import tyro
except ImportError:  # the library itself does not need it
    sys.exit('The command line needs the extra "cli": pip install "nablax[cli]"')

from nablax._errors import NablaxError
from nablax.cli.options import DESCRIPTION, Completion, command_type


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for a check that failed, 2 for an error of the user, 130 after Ctrl-C
    and 143 after SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        status = _main(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read the output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _main(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        from nablax._version import __version__

        print(f"nablax {__version__}")
        return 0
    command = _parsed(arguments)
    if isinstance(command, Completion):
        return _parsed(["--tyro-print-completion", command.shell])
    from nablax.cli.commands import run

    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return run(command)
    except BrokenPipeError:
        raise
    except (NablaxError, OSError) as error:
        if command.debug:
            raise
        print(f"nablax: {type(error).__name__}: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        if command.debug:
            raise
        print(f"nablax: {interrupt if interrupt.args else 'interrupted.'}", file=sys.stderr)
        return 128 + getattr(interrupt, "number", 2)


def _parsed(arguments: list[str]) -> Any:
    return tyro.cli(
        command_type((arguments or [""])[0]),
        args=arguments,
        prog="nablax",
        description=DESCRIPTION,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"nablax: {category.__name__}: {_one_line(message)}", file=sys.stderr)


def _one_line(message: object) -> str:
    return " ".join(line.strip() for line in str(message).splitlines() if line.strip())
