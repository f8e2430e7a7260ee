"""What a worker answers to its peers: pure, one decision for each request.

The serving thread (or the twin) decodes a request, asks `Serving.answer`, and sends what comes
back; a `Transfer` it hands to the chunking of `mpls.wire`. Snapshots are whatever the driver's are:
immutable, numbered, and kept alive by being referenced here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Protocol, Union

from mpls.core import protocol
from mpls.core.protocol import Vector
from mpls.core.settings import PROGRESS_MODES
from mpls.core.spec import WorkerSpec

REFERENCES_LIMIT_BYTES = 256_000_000
"""`progress = "auto"` keeps whole snapshots as references up to this, and path lengths beyond."""
RESUME_S = 60.0
"""A snapshot that a pull started with stays available for resuming this long."""


class Snapshot(Protocol):
    """Published weights, immutable."""

    version: int
    round: int
    path: Vector
    """For each layer the sum of squared steps between successive snapshots, since version 1."""

    def squared_distance(self, older: Any) -> Vector:
        """Eq. 5, squared L2 norm of the difference, for each layer."""


@dataclass(frozen=True)
class Condition:
    """How the serving worker is, for status replies."""

    state: str
    round: int
    step_s: float


@dataclass(frozen=True)
class Transfer:
    """A pull that was accepted: send these layers of this snapshot."""

    pull: protocol.Pull
    snapshot: Snapshot
    layers: tuple[tuple[str, int], ...]
    """Name and bytes of each, in the order asked for."""


Reply = Union[
    protocol.Welcome, protocol.StatusOk, protocol.Pong, protocol.ProbeData, protocol.Error
]


class Serving:
    """Answers requests, and remembers for each asker which version it last pulled (t' of Eq. 5)."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._layer_bytes = {layer.name: layer.bytes for layer in spec.layers}
        self._greeted: set[str] = set()
        self._resumable: dict[str, tuple[float, Snapshot]] = {}
        self._references: dict[str, Snapshot | Vector] = {}
        self._progress: dict[str, tuple[int, Vector | None]] = {}
        """Asker -> g of its last answer, and the version that it is of: asked for every second."""
        self._resumed: dict[str, Vector] = {}
        """Asker -> g when the life before this one was saved: until it has pulled again."""
        self.progress_mode = choose_progress_mode(
            spec.plan.progress, sum(self._layer_bytes.values()), len(spec.peers)
        )

    def answer(
        self,
        asker: str,
        request: protocol.Message,
        snapshot: Snapshot | None,
        condition: Condition,
        now: float,
    ) -> Reply | Transfer:
        """The reply to one request; `snapshot` is the latest, None before the first. An asker that
        has not said hello is refused everything else, and so is one whose last hello was refused.
        """
        if isinstance(request, protocol.Hello):
            return self._welcome(asker, request)
        if isinstance(request, protocol.Ping):
            return protocol.Pong(request.id, request.time_s)
        if asker not in self._greeted:
            return protocol.Error(request.id, "refused", "say hello first")
        if snapshot is None:
            return protocol.Error(request.id, "busy", "starting: there are no weights yet")
        if isinstance(request, protocol.Status):
            progress = self.progress_for(asker, snapshot)
            return protocol.StatusOk(
                request.id,
                condition.state,
                condition.round,
                snapshot.version,
                progress,
                condition.step_s,
            )
        if isinstance(request, protocol.Pull):
            return self._transfer(asker, request, snapshot, now)
        if isinstance(request, protocol.Probe):
            return protocol.ProbeData(request.id, bytes(request.bytes))
        return protocol.Error(request.id, "unsupported", f"{type(request).__name__} is no request")

    def progress_for(self, asker: str, snapshot: Snapshot) -> Vector | None:
        """g since the asker's last successful pull; None before the first, and when the weights
        have grown beyond what can be squared: the protocol has no infinity."""
        reference = self._references.get(asker)
        if reference is None:
            return self._resumed.get(asker)
        version, progress = self._progress.get(asker, (0, None))
        if version != snapshot.version:
            progress = self._since(reference, snapshot)
            self._progress[asker] = snapshot.version, progress
        return progress

    @staticmethod
    def _since(reference: Snapshot | Vector, snapshot: Snapshot) -> Vector | None:
        if isinstance(reference, tuple):
            progress = tuple(new - old for new, old in zip(snapshot.path, reference))
        else:
            progress = snapshot.squared_distance(reference)
        if not all(map(isfinite, progress)):
            return None
        # Of two pulls at once, the one of the older snapshot may end last.
        return tuple(max(0.0, g) for g in progress)

    def confirm(self, asker: str, snapshot: Snapshot) -> None:
        """The asker has all that it pulled of this snapshot: its t' advances."""
        self._references[asker] = snapshot.path if self.progress_mode == "path" else snapshot
        self._progress.pop(asker, None)
        self._resumable.pop(asker, None)

    def memory(self, snapshot: Snapshot) -> dict[str, Vector]:
        """What `restore` takes: each asker's g now. May be called from another thread."""
        known = {asker: self._since(it, snapshot) for asker, it in dict(self._references).items()}
        return {**self._resumed, **{asker: g for asker, g in known.items() if g is not None}}

    def restore(self, memory: Mapping[str, Sequence[float]]) -> None:
        """A worker that was restarted is not at the beginning: peers hear of the progress that it
        had made since they pulled from it, until they do again."""
        layers = len(self._spec.layers)
        self._resumed = {
            asker: tuple(g)
            for asker, g in memory.items()
            if asker in self._spec.peers and len(g) == layers
        }

    def change_peers(self, names: tuple[str, ...]) -> None:
        """These may ask now, and nobody else; who left is forgotten."""
        self._spec = replace(self._spec, peers=names)
        for known in (self._resumable, self._references, self._progress, self._resumed):
            for asker in known.keys() - set(names):
                del known[asker]  # type: ignore[attr-defined]
        self._greeted &= set(names)

    def part(self, asker: str) -> None:
        """The asker's connection is gone; on a new one it has to say hello again."""
        self._greeted.discard(asker)

    def expire(self, now: float) -> None:
        """Let go of snapshots that nobody came back for."""
        old = [asker for asker, (since_s, _) in self._resumable.items() if now - since_s > RESUME_S]
        for asker in old:
            del self._resumable[asker]

    def keep_newest(self, versions: int) -> None:
        """Let go of all but so many versions that could be resumed."""
        held = sorted({snapshot.version for _, snapshot in self._resumable.values()})
        for asker, (_, snapshot) in list(self._resumable.items()):
            if snapshot.version in held[:-versions]:
                del self._resumable[asker]

    def _welcome(self, asker: str, hello: protocol.Hello) -> protocol.Welcome | protocol.Error:
        spec = self._spec
        self._greeted.discard(asker)
        if hello.v != protocol.PROTOCOL_VERSION:
            text = f"you speak protocol {hello.v}, I speak {protocol.PROTOCOL_VERSION}"
            return protocol.Error(hello.id, "unsupported", text)
        if hello.model != spec.model:
            text = f"your model is {hello.model[:16]}, mine is {spec.model[:16]}"
            return protocol.Error(hello.id, "refused", text)
        if asker not in spec.peers:
            return protocol.Error(hello.id, "refused", f"{asker[:64]} is not a peer of {spec.name}")
        self._greeted.add(asker)
        return protocol.Welcome(hello.id, spec.name, spec.model, spec.histogram, spec.samples)

    def _transfer(
        self, asker: str, pull: protocol.Pull, latest: Snapshot, now: float
    ) -> Transfer | protocol.Error:
        unknown = [layer for layer in pull.layers if layer not in self._layer_bytes]
        if unknown:
            return protocol.Error(pull.id, "unknown-layer", f"no layer {unknown[0][:64]}")
        layers = tuple((layer, self._layer_bytes[layer]) for layer in pull.layers)
        if pull.offset and pull.offset >= layers[0][1]:
            text = f"offset {pull.offset} is not within the {layers[0][1]} bytes of {layers[0][0]}"
            return protocol.Error(pull.id, "bad-request", text)
        snapshot = self._version(asker, pull.version, latest)
        if snapshot is None:
            return protocol.Error(pull.id, "gone", f"version {pull.version} is gone")
        self._resumable[asker] = (now, snapshot)
        return Transfer(pull, snapshot, layers)

    def _version(self, asker: str, version: int, latest: Snapshot) -> Snapshot | None:
        if version in (0, latest.version):
            return latest
        held = self._resumable.get(asker)
        return held[1] if held is not None and held[1].version == version else None


def choose_progress_mode(mode: str, model_bytes: int, peers: int) -> str:
    """`auto` is displacement while a reference for each peer fits in REFERENCES_LIMIT_BYTES."""
    assert mode in PROGRESS_MODES
    if mode != "auto":
        return mode
    return "displacement" if model_bytes * peers <= REFERENCES_LIMIT_BYTES else "path"
