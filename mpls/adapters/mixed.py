"""gRPC beside ZeroMQ, or in its place: what a worker of a mixed federation pulls by and serves on.

`adapt` is what a worker is given (`runtime.outfit.Adapter`) where its cluster file says gRPC.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from mpls.adapters.contract import Catalogue
from mpls.adapters.credentials import Certificates
from mpls.adapters.grpc_server import GrpcServer, Served
from mpls.adapters.grpc_transport import GrpcTransport, Reached
from mpls.core.messages import CancelRequest, Event, SendRequest
from mpls.errors import Refused
from mpls.runtime.journal import Meter
from mpls.runtime.limits import Refusals
from mpls.runtime.outfit import Carrier, Outfit, ServingEnd
from mpls.runtime.server import Server
from mpls.runtime.zmq_transport import ZmqTransport
from mpls.wire import Buffer


def adapt(outfit: Outfit) -> tuple[Carrier, ServingEnd]:
    """A transport that reaches each peer its own way, and a server for whom this worker is to
    serve. Raises BadInput or Refused for certificates that cannot be used."""
    certificates = certificates_of(outfit.config.network, outfit.spec.name)
    catalogue = Catalogue(outfit.plain_values())
    return _transport(outfit, catalogue, certificates), _server(outfit, catalogue, certificates)


def certificates_of(network: Any, name: str) -> Certificates | None:
    """Of the worker of this name, as the `[network]` table has it; None where there are none."""
    if not network.grpc_cert:
        return None
    paths = (network.grpc_ca, network.grpc_cert, network.grpc_key)
    authority, chain, key = (path.replace("{name}", name) for path in paths)
    return Certificates.read(authority, chain, key, network.grpc_mutual)


def _transport(
    outfit: Outfit, catalogue: Catalogue, certificates: Certificates | None
) -> MixedTransport:
    ids = {worker.name: worker.id for worker in outfit.config.workers}
    addresses = outfit.addresses("grpc")
    peers = {name: Reached(ids[name], address) for name, address in addresses.items()}
    zmq = outfit.zmq_transport()
    grpc = GrpcTransport(
        outfit.worker_id,
        outfit.spec,
        peers,
        catalogue,
        lambda: outfit.condition().round,
        certificates,
        zmq.pool,
    )
    grpc.sent, grpc.received, grpc.refused = zmq.sent, zmq.received, zmq.refused
    return MixedTransport(zmq, grpc, frozenset(peers))


def _server(outfit: Outfit, catalogue: Catalogue, certificates: Certificates | None) -> ServingEnd:
    config, me = outfit.config, outfit.config.worker(outfit.worker_id)
    instead = config.transport_of(me.id) == "grpc"
    if not instead and not me.grpc_port:
        return outfit.zmq_server()
    served = Served(
        worker_id=me.id,
        names={worker.id: worker.name for worker in config.workers},
        speed=me.speed,
        spec=outfit.spec,
        catalogue=catalogue,
        store=outfit.store,
        condition=outfit.condition,
        pacing=outfit.pacing,
        clock=outfit.clock,
    )
    grpc = GrpcServer(served, certificates)
    beside = f"{me.host}:{me.grpc_port}"
    if instead:
        addresses = [me.address, beside] if me.grpc_port else [me.address]
        return GrpcEnd(grpc, addresses, outfit.listen_fd)
    return BothEnds(outfit.zmq_server(), grpc, beside)


class MixedTransport:
    """Dispatches by peer. Owned by one thread, as both of its parts are."""

    def __init__(self, zmq: ZmqTransport, grpc: GrpcTransport, by_grpc: frozenset[str]) -> None:
        self._zmq = zmq
        self._grpc = grpc
        self._by_grpc = by_grpc

    @property
    def sent(self) -> Meter:
        """Both parts count here."""
        return self._zmq.sent

    @property
    def received(self) -> Meter:
        """Both parts count here."""
        return self._zmq.received

    @property
    def dropped(self) -> int:
        """By both."""
        return self._zmq.dropped + self._grpc.dropped

    @property
    def refused(self) -> Refusals:
        """Both parts count here."""
        return self._zmq.refused

    def open(self) -> None:
        self._zmq.open()
        self._grpc.open()
        self._bell_fd = -1
        self._either = select.epoll()
        self._either.register(self._grpc.fileno(), select.EPOLLIN)

    def reach(self, addresses: Mapping[str, str]) -> list[Event]:
        _refuse_to_change()

    def send(self, command: SendRequest) -> list[Event]:
        return self._part(command.peer).send(command)

    def cancel(self, command: CancelRequest) -> None:
        self._part(command.peer).cancel(command)

    def wait(self, timeout_s: float, bell_fd: int) -> list[Event]:
        """The part that sleeps hears both bells as one."""
        if bell_fd != self._bell_fd:
            self._either.register(bell_fd, select.EPOLLIN)
            self._bell_fd = bell_fd
        left_s = min(timeout_s, max(0.0, self._grpc.due_s() - time.monotonic()))
        return self._zmq.wait(left_s, self._either.fileno()) + self._grpc.collect()

    def claim(self, request_id: int, layer: str) -> Buffer:
        part = self._grpc if self._grpc.holds(request_id, layer) else self._zmq
        return part.claim(request_id, layer)

    def forget(self) -> None:
        self._grpc.forget()
        self._zmq.forget()

    def recycle(self, buffer: Buffer) -> None:
        self._zmq.recycle(buffer)

    def close(self) -> None:
        self._either.close()
        self._grpc.close()
        self._zmq.close()

    def _part(self, peer: str) -> ZmqTransport | GrpcTransport:
        return self._grpc if peer in self._by_grpc else self._zmq


class GrpcEnd:
    """Serves by gRPC only; the socket `listen_fd` held the first address so far."""

    def __init__(self, grpc: GrpcServer, addresses: Sequence[str], listen_fd: int) -> None:
        self._grpc = grpc
        self._addresses = addresses
        self._listen_fd = listen_fd
        self._stopped = threading.Event()
        self.sent = grpc.sent
        self.received = grpc.received

    @property
    def refusals(self) -> dict[str, int]:
        """How many calls were refused, by kind."""
        return self._grpc.refusals

    def run(self, ready: Callable[[], None]) -> None:
        """Until `stop`."""
        self._grpc.open(*self._addresses, shared=True)
        os.close(self._listen_fd)
        try:
            ready()
            self._stopped.wait()
        finally:
            self._grpc.close()

    def change_peers(self, names: tuple[str, ...]) -> None:
        """Not while it runs."""
        _refuse_to_change()

    def stop(self) -> None:
        """From any thread."""
        self._stopped.set()


class BothEnds:
    """Serves by ZeroMQ as ever, and by gRPC at another port."""

    def __init__(self, zmq: Server, grpc: GrpcServer, address: str) -> None:
        self._zmq = zmq
        self._grpc = grpc
        self._address = address

    @property
    def sent(self) -> Meter:
        """By both."""
        return _together(self._zmq.sent, self._grpc.sent)

    @property
    def received(self) -> Meter:
        """By both."""
        return _together(self._zmq.received, self._grpc.received)

    @property
    def refusals(self) -> dict[str, int]:
        """By both, by kind."""
        kinds = {**self._zmq.refusals, **self._grpc.refusals}
        both = (self._zmq.refusals, self._grpc.refusals)
        return {kind: sum(some.get(kind, 0) for some in both) for kind in kinds}

    def run(self, ready: Callable[[], None]) -> None:
        """Until `stop`."""
        self._grpc.open(self._address)
        try:
            self._zmq.run(ready)
        finally:
            self._grpc.close()

    def change_peers(self, names: tuple[str, ...]) -> None:
        """Not while it runs."""
        _refuse_to_change()

    def stop(self) -> None:
        """From any thread."""
        self._zmq.stop()


def _refuse_to_change() -> NoReturn:
    raise Refused("in a cluster with gRPC workers are taken up at the start only; restart this one")


def _together(*meters: Meter) -> Meter:
    whole = Meter()
    for meter in meters:
        whole.messages += meter.messages
        whole.bytes += meter.bytes
        whole.total_bytes += meter.total_bytes
    return whole
