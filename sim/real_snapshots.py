"""Published weights of virtual workers: immutable, numbered, in buffers that are used again.

A buffer goes back to the pool when nothing refers to its snapshot any more: no worker that has it
as its latest, no flow that brings it, no peer's reference for g (Eq. 5). So memory follows what the
simulation really holds on to.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpls.core.mixing import squared_distance
from mpls.core.protocol import Vector
from mpls.model.manifest import Manifest

Weights = NDArray[Any]


class RealSnapshot:
    """One version of a worker's weights; a `mpls.core.serving.Snapshot`."""

    def __init__(
        self, layers: dict[str, Weights], version: int, round_number: int, path: Vector
    ) -> None:
        self.layers = layers
        """The values of each layer, read-only, in module order."""
        self.version = version
        self.round = round_number
        self.path = path
        self._distance: tuple[int, Vector] = (0, ())

    def squared_distance(self, older: RealSnapshot) -> Vector:
        """Eq. 5 for each layer; the last answer is remembered, since peers often share a t'."""
        if older.version != self._distance[0]:
            self._distance = (older.version, _squared_distances(self.layers, older.layers))
        return self._distance[1]


class SnapshotPool:
    """Makes snapshots of one model."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._free: list[Weights] = []
        self.made = 0
        """How many buffers exist: the most that were in use at once."""

    def publish(
        self, weights: Weights, version: int, round_number: int, before: RealSnapshot | None
    ) -> RealSnapshot:
        """A copy of the weights. With the snapshot before, the path goes on from there."""
        buffer = self._free.pop() if self._free else self._new_buffer()
        np.copyto(buffer, weights)
        layers = {layer.name: layer.values_in(buffer) for layer in self._manifest.layers}
        for values in layers.values():
            values.flags.writeable = False
        path: Vector = (0.0,) * len(layers)
        if before is not None:
            steps = _squared_distances(layers, before.layers)
            path = tuple(old + step for old, step in zip(before.path, steps))
        snapshot = RealSnapshot(layers, version, round_number, path)
        weakref.finalize(snapshot, self._free.append, buffer).atexit = False
        return snapshot

    def _new_buffer(self) -> Weights:
        self.made += 1
        return self._manifest.empty()


def _squared_distances(new: dict[str, Weights], old: dict[str, Weights]) -> Vector:
    return tuple(squared_distance(values, old[name]) for name, values in new.items())
