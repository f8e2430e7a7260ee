"""Receive buffers to use again."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

Buffer = npt.NDArray[np.uint8]


class BufferPool:
    """One buffer for each layer on its way, used again because fresh memory costs page faults.

    At most `spares` of each size wait here. Taking and giving may be done by different threads.
    """

    def __init__(self, spares: int = 16) -> None:
        self._spares = spares
        self._waiting: dict[int, deque[Buffer]] = {}

    def take(self, size_bytes: int) -> Buffer:
        """A buffer with arbitrary content."""
        try:
            return self._waiting[size_bytes].pop()
        except (KeyError, IndexError):
            return np.empty(size_bytes, np.uint8)

    def give(self, buffer: Buffer) -> None:
        """Nobody reads this buffer any more."""
        self._waiting.setdefault(buffer.nbytes, deque(maxlen=self._spares)).append(buffer)
