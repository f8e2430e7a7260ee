"""Published weights: immutable, numbered, from a small pool of reference-counted buffers.

A frame handed to ZeroMQ refers to live memory until it was really sent, long after `send` returned;
and a reader may be slower than many training steps. So a buffer goes back to the pool only when
nothing refers to it: neither the store, nor a pull in progress, nor a frame in flight. Python's
own reference counts say when: each snapshot is one array object over a pooled buffer, every frame
is cut from a memoryview of that object, and a finalizer returns the buffer when the last is gone.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from mpls.core.mixing import squared_distance
from mpls.core.protocol import Vector

FloatArray = NDArray[Any]
Spans = Mapping[str, tuple[int, int]]
"""For each layer, in module order, where it starts and stops in the flat buffer, in bytes."""


class SnapshotPool:
    """Buffers of one size; a new one is made only when none is free."""

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        self._size = size
        self._dtype = dtype
        self._free: list[memoryview] = []
        self._lent: dict[int, tuple[weakref.ref[FloatArray], memoryview]] = {}
        """Of each array that somebody has: what tells of its end, by that one's id."""
        self._come_back = _returning(self._lent, self._free)
        self.made = 0
        """How many buffers exist: the most that were in use at once."""

    def take(self) -> FloatArray:
        """A buffer nobody else can see, with arbitrary contents; it comes back by itself when the
        returned array and every view cut from its memory are gone."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = np.empty(self._size, self._dtype).data
            self.made += 1
        # Not a view of an array: what is cut from that refers to the array, no longer to the view.
        view: FloatArray = np.frombuffer(buffer, self._dtype)
        # weakref.finalize would do the same, in twice the time of copying a small model.
        ending = weakref.ref(view, self._come_back)
        self._lent[id(ending)] = ending, buffer
        return view


def _returning(
    lent: dict[int, tuple[weakref.ref[FloatArray], memoryview]], free: list[memoryview]
) -> Callable[[weakref.ref[FloatArray]], None]:
    """What is called when an array is gone. It knows the lists and not the pool: no circle."""

    def come_back(ending: weakref.ref[FloatArray]) -> None:
        free.append(lent.pop(id(ending))[1])

    return come_back


class Snapshot:
    """One version of a worker's weights."""

    __slots__ = (
        "__weakref__",
        "_bytes",
        "_distances",
        "_spans",
        "_sums",
        "flat",
        "path",
        "round",
        "version",
    )

    def __init__(
        self,
        flat: FloatArray,
        version: int,
        round_number: int,
        spans: Spans,
        path: Vector = (),
    ) -> None:
        flat.setflags(write=False)
        self.flat = flat
        self.version = version
        self.round = round_number
        self.path = path
        self._spans = spans
        self._bytes: memoryview | None = None
        self._sums: dict[str, int] = {}
        self._distances: dict[int, Vector] = {}

    def layer(self, name: str) -> memoryview:
        """The layer's wire bytes; keeps the buffer alive as long as it exists."""
        if self._bytes is None:
            self._bytes = memoryview(self.flat).cast("B")  # type: ignore[arg-type]
        start, stop = self._spans[name]
        return self._bytes[start:stop]

    def checksum(self, name: str) -> int:
        """XXH3-64 of the layer, computed once."""
        if name not in self._sums:
            self._sums[name] = xxhash.xxh3_64_intdigest(self.layer(name))
        return self._sums[name]

    def squared_distance(self, older: Snapshot) -> Vector:
        """Eq. 5 for each layer: squared L2 norm of what changed since `older`."""
        if older.version not in self._distances:
            self._distances = {
                older.version: _squared_distances(self.flat, older.flat, self._spans)
            }
        return self._distances[older.version]


def _squared_distances(new: FloatArray, old: FloatArray, spans: Spans) -> Vector:
    item = new.itemsize
    return tuple(
        squared_distance(new[start // item : stop // item], old[start // item : stop // item])
        for start, stop in spans.values()
    )


class SnapshotStore:
    """Where the trainer publishes and everybody else reads."""

    def __init__(self, spans: Spans, size: int, dtype: np.dtype[Any]) -> None:
        self._spans = spans
        self.pool = SnapshotPool(size, dtype)
        self.model_bytes = size * dtype.itemsize
        self._latest: Snapshot | None = None
        self._published = threading.Event()

    def publish(self, weights: FloatArray, round_number: int, keep_path: bool) -> Snapshot:
        """Copy the weights once and make the copy the latest version. `keep_path` also adds up the
        squared steps (the "path" measure of progress)."""
        before = self._latest
        flat = self.pool.take()
        np.copyto(flat, weights)
        version = before.version + 1 if before else 1
        path = self._path(before, flat) if keep_path else ()
        snapshot = Snapshot(flat, version, round_number, self._spans, path)
        self._latest = snapshot
        if before is None:
            self._published.set()
        return snapshot

    def newest(self) -> Snapshot | None:
        """The newest version; None before the first."""
        return self._latest

    def latest(self) -> Snapshot:
        """The newest version; waits for the first."""
        self._published.wait()
        assert self._latest is not None
        return self._latest

    def _path(self, before: Snapshot | None, flat: FloatArray) -> Vector:
        if before is None:
            return (0.0,) * len(self._spans)
        steps = _squared_distances(flat, before.flat, self._spans)
        return tuple(old + step for old, step in zip(before.path, steps))
