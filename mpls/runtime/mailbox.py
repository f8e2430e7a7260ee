"""The two mailboxes between a worker's threads, and the bell that wakes a polling thread.

No lock guards a tensor: what passes through a mailbox is immutable (a snapshot) or handed over for
good (an update), and only references move.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Slot(Generic[T]):
    """Holds the latest value; readers get it whole, writers swap the reference."""

    def __init__(self) -> None:
        self._value: T | None = None

    def put(self, value: T) -> None:
        """From now on readers get this one."""
        self._value = value

    def get(self) -> T | None:
        """The latest, or None before the first."""
        return self._value


class Handover(Generic[T]):
    """Takes one value at a time from one thread to another."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._value: T | None = None
        self._closed = False

    def put(self, value: T) -> None:
        """Leave the value; the one before must have been taken."""
        with self._changed:
            assert self._value is None, "the update before was not taken"
            self._value = value
            self._changed.notify()

    def take(self, wait: bool = True) -> T | None:
        """The value, which is then gone. Without one: waits, or returns None when `wait` is false
        or the handover was closed."""
        with self._changed:
            while wait and self._value is None and not self._closed:
                self._changed.wait()
            value, self._value = self._value, None
            return value

    def waiting(self) -> bool:
        """Whether a value is there to be taken."""
        return self._value is not None

    def close(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Bell(Generic[T]):
    """A queue whose owner sleeps in poll(): posting makes `fileno` readable."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        self._open = True
        self._closing = threading.Lock()

    def fileno(self) -> int:
        """To be polled for reading."""
        return self._read_fd

    def post(self, item: T) -> None:
        """Queue an item and wake the owner; from any thread. Once closed nothing is heard."""
        self._items.append(item)
        # The number of a closed pipe is soon that of another file, which must not be written to.
        with self._closing, suppress(BlockingIOError):  # a full pipe has wake-ups enough
            if self._open:
                os.write(self._write_fd, b"!")

    def collect(self) -> list[T]:
        """All that was posted, in order; for the owner only."""
        try:
            os.read(self._read_fd, 65536)
        except BlockingIOError:
            return []
        return [self._items.popleft() for _ in range(len(self._items))]

    def close(self) -> None:
        """Give the pipe back."""
        with self._closing:
            self._open = False
            os.close(self._read_fd)
            os.close(self._write_fd)
