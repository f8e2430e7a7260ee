"""The seam for other transports than ZeroMQ: what a worker tells an adapter of itself, and what it
gets back. Which adapter, if any, is not this room's to know: it comes with the worker's Place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from mpls.config import ClusterConfig
from mpls.core.links import link_rate_Bps
from mpls.core.serving import Condition, Serving
from mpls.core.spec import WorkerSpec
from mpls.runtime.emulation import Pacing
from mpls.runtime.journal import Clock, Meter
from mpls.runtime.keys import Keychain
from mpls.runtime.limits import Refusals
from mpls.runtime.server import Listening, Server
from mpls.runtime.snapshots import SnapshotStore
from mpls.runtime.transport import Transport
from mpls.runtime.zmq_transport import ZmqTransport


class Carrier(Transport, Protocol):
    """A transport that counts what it carries."""

    @property
    def sent(self) -> Meter:
        """Requests."""

    @property
    def received(self) -> Meter:
        """Answers."""

    @property
    def dropped(self) -> int:
        """Answers that nobody waits for, or that break the protocol."""

    @property
    def refused(self) -> Refusals:
        """Of these the ones that break the protocol."""


class ServingEnd(Protocol):
    """What answers a worker's peers, in a thread of its own."""

    @property
    def sent(self) -> Meter:
        """Answers."""

    @property
    def received(self) -> Meter:
        """Requests."""

    @property
    def refusals(self) -> dict[str, int]:
        """How many messages were refused, by kind."""

    def run(self, ready: Callable[[], None]) -> None:
        """Bind, say so, and serve until `stop`."""

    def change_peers(self, names: tuple[str, ...]) -> None:
        """These may ask from now on, and nobody else; from any thread."""

    def stop(self) -> None:
        """From any thread."""


@dataclass(frozen=True)
class Outfit:
    """One worker: who it is, and what it serves from."""

    config: ClusterConfig
    worker_id: int
    spec: WorkerSpec
    serving: Serving
    store: SnapshotStore
    condition: Callable[[], Condition]
    clock: Clock
    listen_fd: int
    """A TCP socket that listens at the worker's address; shared, if ZeroMQ is not served there."""
    keychain: Keychain | None
    plain_values: Callable[[], Mapping[str, int]]
    """Layer -> how many of its values, from the first, are weight and bias of a convolution or
    linear layer; the rest is a BatchNorm's. Raises Refused if there are layers of other kinds."""

    @cached_property
    def pacing(self) -> Pacing:
        """The links from here, emulated or not; whatever sends, they are the same."""
        nic = self.config.network.nic
        return Pacing(paced_links(self.config, self.worker_id), nic.low_Bps if nic else None)

    def addresses(self, transport: str) -> dict[str, str]:
        """host:port of the peers that are reached by this transport, by name."""
        peers = map(self.config.worker, self.config.peers_of(self.worker_id))
        return {p.name: p.address for p in peers if self.config.transport_of(p.id) == transport}

    def zmq_transport(self) -> ZmqTransport:
        """To the peers that are reached by ZeroMQ."""
        layer_bytes = {layer.name: layer.bytes for layer in self.spec.layers}
        stall_s = self.spec.pull.stall_s
        return ZmqTransport(self.addresses("zmq"), layer_bytes, stall_s, self.keychain)

    def zmq_server(self) -> Server:
        """At the worker's address."""
        me = self.config.worker(self.worker_id)
        at = Listening(me.host, me.port, self.listen_fd, self.keychain)
        return Server(self.serving, self.store, self.condition, at, self.pacing, self.clock)


def paced_links(config: ClusterConfig, me: int) -> dict[str, float]:
    """Bytes per second to each worker that this one may talk to, by name; none where links are not
    emulated."""
    emulate, seed = config.network.emulate, config.cluster.seed
    if emulate is None:
        return {}
    ends = (link for link in config.links() if me in link)
    return {config.workers[a + b - me].name: link_rate_Bps(emulate, (a, b), seed) for a, b in ends}


Adapter = Callable[[Outfit], tuple[Carrier, ServingEnd]]
"""Chooses a worker's transport and its server."""


def by_zmq(outfit: Outfit) -> tuple[Carrier, ServingEnd]:
    """Where the whole cluster speaks ZeroMQ."""
    return outfit.zmq_transport(), outfit.zmq_server()
