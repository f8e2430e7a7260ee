"""A worker's trace file, its clock, and its traffic counters: what all of its threads share."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from mpls.core.trace import Record, line_of

log = logging.getLogger("mpls")
WAITING_LIMIT_BYTES = 64_000_000
"""Of lines that cannot be written now: hours of a usual trace."""


class Clock:
    """Seconds since the worker began; never runs backwards, whatever the wall clock does."""

    def __init__(self) -> None:
        self._origin_s = time.monotonic()

    def now(self) -> float:
        """In seconds."""
        return time.monotonic() - self._origin_s


class Journal:
    """Appends records to the trace from any thread; each line is in the file when `write` returns,
    so that whoever follows the file sees it and a crash loses nothing. Where the disk is full,
    lines wait in memory until it has room. The trace of a life before this one is kept under
    another name."""

    def __init__(self, path: Path) -> None:
        if path.exists():
            path.rename(_of_an_earlier_life(path))
        self._file = path.open("wb", buffering=0)
        self._lock = threading.Lock()
        self._path = path
        self._waiting = bytearray()
        self.trouble = ""
        """Why lines wait; empty if none does."""

    def write(self, record: Record) -> None:
        """Keep one record. Raises OSError if too many wait already."""
        with self._lock:
            self._waiting += line_of(record).encode()
            self._put()

    def _put(self) -> None:
        """Write what can be written."""
        try:
            while self._waiting:
                del self._waiting[: self._file.write(self._waiting)]
            self.trouble = ""
        except OSError as error:
            if len(self._waiting) > WAITING_LIMIT_BYTES:
                raise
            self.trouble = f"trace: {self._path}: {error.strerror or error}"

    def note(self, kind: str, now: float, **fields: Any) -> None:
        """A record of the driver's own."""
        self.write({"t": now, "kind": kind, **fields})

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._waiting:
            log.error("the last %d bytes are lost of %s", len(self._waiting), self.trouble)
        self._file.close()


def _of_an_earlier_life(path: Path) -> Path:
    """w0.trace.1.jsonl for the first of w0.trace.jsonl."""
    names = (path.with_suffix(f".{life}{path.suffix}") for life in count(1))
    return next(name for name in names if not name.exists())


class Meter:
    """Bytes of messages by peer and type, in one direction. Written by one thread only."""

    def __init__(self) -> None:
        self.messages: Counter[tuple[str, str]] = Counter()
        self.bytes: Counter[tuple[str, str]] = Counter()
        self.total_bytes = 0

    def count(self, peer: str, kind: str, message_bytes: int) -> None:
        """One message to or from the peer."""
        self.messages[peer, kind] += 1
        self.bytes[peer, kind] += message_bytes
        self.total_bytes += message_bytes

    def as_plain(self) -> dict[str, dict[str, list[int]]]:
        """Peer -> type -> [messages, bytes]."""
        plain: dict[str, dict[str, list[int]]] = {}
        for (peer, kind), number in sorted(self.messages.items()):
            plain.setdefault(peer, {})[kind] = [number, self.bytes[peer, kind]]
        return plain
