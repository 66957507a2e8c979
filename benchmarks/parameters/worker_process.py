"""The command's side of a worker: starting it, its turns, its time limit."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any

from benchmarks.parameters.task import Task
from benchmarks.versions import ROOT

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "NETKET_ENABLE_X64": "0", "PYTHONWARNINGS": "ignore"}


class BrokenError(Exception):
    """A worker that died or took too long; `busy` is the contender that it was at."""

    def __init__(self, busy: str | None, problem: str) -> None:
        super().__init__(problem)
        self.busy = busy


class Worker:
    """A process that runs `benchmarks.parameters.MODULE` on a task."""

    def __init__(self, python: str, module: str, task: Task, limit: float) -> None:
        file = Path(task.folder) / f"{module}.json"
        task.write(file)
        self.log = open(Path(task.folder) / f"{module}.log", "w+")  # noqa: SIM115 - closed in `close`
        self.process = subprocess.Popen(
            [python, "-m", f"benchmarks.parameters.{module}", str(file)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=os.environ | QUIET,
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
                raise BrokenError(self.busy, self.obituary())
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
            raise BrokenError(name, self.obituary()) from None
        return self.answer()

    def obituary(self) -> str:
        self.process.wait()
        self.log.seek(0)
        last = (self.log.read().strip().splitlines() or ["no message"])[-1]
        code = self.process.returncode
        self.close()
        return f"killed by signal {-code}" if code < 0 else f"the worker broke off: {last[:300]}"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        if not self.log.closed:
            self.log.close()
