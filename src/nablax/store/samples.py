"""Samples that are read piece by piece, in one dtype, without the file growing into the memory of the process."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np


class Samples:
    """An array whose pieces are copied and converted as they are read: shape (D, ...), samples on axis 0.

    Attributes:
        shape, dtype: of the whole; the dtype is the one that pieces are converted to.
        chunks: shape of what is read at a time, if the array comes in such pieces.
    """

    def __init__(self, array: Any, dtype: Any = None) -> None:
        self._array = array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.chunks: tuple[int, ...] | None = getattr(array, "chunks", None)
        # JAX takes no byte order but the machine's own.
        self.dtype: np.dtype[Any] = np.dtype(array.dtype if dtype is None else dtype).newbyteorder("=")

    def __getitem__(self, index: Any) -> np.ndarray:
        piece = np.array(self._array[index], dtype=self.dtype)
        _forget_pages(self._array)
        return piece


def _forget_pages(array: Any) -> None:
    """Let go of the pages of a memory-mapped file: they count as memory of this process until somebody needs them.

    Only of files that were mapped for reading, where a page that is needed again is read again. In the other modes a
    page may hold changes.
    """
    if not isinstance(array, np.memmap) or array.mode != "r":
        return
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)
