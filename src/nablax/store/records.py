"""What is known of the units of a run that are complete: a small file for each, written last.

A unit is complete when its record is there. The record is renamed to its place after the results of the unit are on
the disk, so that neither a killed process nor a power failure leaves a record without results.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = ".nablax"
"""Folder of the records inside of the store, until the run is complete."""


class Records:
    """The records of one store."""

    def __init__(self, store: Path) -> None:
        self._store, self._folder = store, store / FOLDER

    def add(self, number: int, content: dict[str, Any], results: Iterable[Path]) -> None:
        """Put the files `results` of a unit on the disk for good, and then its record."""
        for path in results:
            sync(path)
        write_durably(self._folder / f"{number:06d}.json", json.dumps(content))

    def numbers(self) -> frozenset[int]:
        """The units that are complete."""
        if not self._folder.is_dir():
            return frozenset()
        return frozenset(int(path.stem) for path in self._folder.glob("*.json"))

    def read(self) -> list[dict[str, Any]]:
        """All records, in the order of the units."""
        return [json.loads(path.read_text()) for path in sorted(self._folder.glob("*.json"))]

    def start(self) -> None:
        """Make place for the records, and remove what a process that was killed has left half-written."""
        self._folder.mkdir(exist_ok=True)
        for path in self._store.rglob("*.partial"):
            path.unlink()

    def remove(self) -> None:
        """The run is complete: the store itself says so from now on."""
        shutil.rmtree(self._folder)


def write_durably(path: Path, text: str) -> None:
    """Write a file so that it is there as a whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
