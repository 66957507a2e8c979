"""The command's side of a worker: starting it, its turns, its time limit."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.versions import ROOT


class BrokenError(Exception):
    """A worker that died or took too long.

    Attributes:
        busy: the contender that it was at.
        own: a Python error that reached the top: the worker is at fault, not the contender.
    """

    def __init__(self, busy: str | None, problem: str, own: bool = False) -> None:
        super().__init__(problem)
        self.busy, self.own = busy, own


class Worker:
    """A process that runs `benchmarks.MODULE`: it answers first with what it has, then each turn with its times.

    Args:
        module: which; its last name names the log.
        arguments: of the module.
        folder: scratch folder of the log.
        limit: seconds without a word after which it is given up.
        python: the interpreter.
        quiet: what is added to the environment.
    """

    def __init__(
        self,
        module: str,
        arguments: list[str],
        folder: Path,
        limit: float,
        python: str = sys.executable,
        quiet: Mapping[str, str] | None = None,
    ) -> None:
        name = module.rpartition(".")[2]
        self.log = open(folder / f"{name}.log", "w+")  # noqa: SIM115 - closed in `close`
        self.process = subprocess.Popen(
            [python, "-m", f"benchmarks.{module}", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ | (quiet or {}),
        )
        self.limit, self.busy = limit, None
        self.lines: queue.Queue[str | None] = queue.Queue()
        output = self.process.stdout
        threading.Thread(target=lambda: [*map(self.lines.put, output), self.lines.put(None)], daemon=True).start()

    def answer(self) -> Any:
        """The next message of the worker; the clock starts anew with each contender that it names."""
        while True:
            try:
                line = self.lines.get(timeout=self.limit)
            except queue.Empty:
                self.close()
                raise BrokenError(self.busy, f"longer than the limit of {self.limit:g} s") from None
            if line is None:
                raise self.obituary()
            if line.startswith("@"):
                self.busy = line[1:].strip()
            elif line.startswith("="):
                return json.loads(line[1:])

    def turn(self, name: str, seconds: float) -> list[float]:
        """Let the contender run for so long, at least once: the seconds of each run."""
        self.busy = name
        try:
            self.process.stdin.write(f"{seconds} {name}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self.obituary() from None
        return self.answer()

    def obituary(self) -> BrokenError:
        self.process.wait()
        self.log.seek(0)
        last = (self.log.read().strip().splitlines() or ["no message"])[-1]
        code = self.process.returncode
        self.close()
        problem = f"killed by signal {-code}" if code < 0 else f"the worker broke off: {last[:300]}"
        return BrokenError(self.busy, problem, own=code >= 0)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # of a line that it died before it could read
            self.process.stdin.close()
        if not self.log.closed:
            self.log.close()


def start(begin: Callable[[], Worker], skip: dict[str, str]) -> tuple[Worker, Any]:
    """A worker and its first answer; it is begun again without a contender that hangs or kills it.

    Args:
        begin: starts a worker that leaves out the contenders in `skip`.
        skip: name -> reason; what has to be left out is entered here.

    Raises:
        BrokenError: where that does not help.
    """
    while True:
        worker = begin()
        try:
            return worker, worker.answer()
        except BrokenError as broken:
            worker.close()
            print(f"    {broken.busy}: {broken}", flush=True)
            if broken.own or broken.busy in (None, "reference") or broken.busy in skip:
                raise
            skip[broken.busy] = str(broken)
