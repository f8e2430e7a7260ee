"""The pulling end of the earlier implementation's contract: a channel to each peer.

A pull is asked for in portions, one call after the other, so that no answer is larger than it must
be. What such a peer cannot say is unknown: its progress, its versions and its model, of which only
the lengths of the layers show whether it is ours. Nor is a single byte of an answer seen before its
last; so while a call goes on, heartbeats tell the Conductor that the peer lives.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import ceil, inf
from typing import Any

import grpc

from mpls.adapters import contract
from mpls.adapters import mpls_service_pb2 as messages
from mpls.adapters.answers import Layers, layers_in, parsed, probe_bytes, status_in, welcome_in
from mpls.adapters.contract import Catalogue
from mpls.adapters.credentials import Certificates
from mpls.core import protocol
from mpls.core.messages import (
    CancelRequest,
    Event,
    LayerReceived,
    LayerRefused,
    Progress,
    Replied,
    RequestFailed,
    SendRequest,
)
from mpls.core.spec import WorkerSpec
from mpls.errors import ProtocolError
from mpls.runtime.journal import Meter
from mpls.runtime.limits import Refusals
from mpls.runtime.mailbox import Bell
from mpls.runtime.sockets import OwnedByThread
from mpls.wire import Buffer, BufferPool

PORTION_BYTES = 4 * 2**20
"""Layers are asked for together up to this."""
_REASONS = {
    grpc.StatusCode.UNAVAILABLE: "unreachable",
    grpc.StatusCode.CANCELLED: "disconnected",
    grpc.StatusCode.DEADLINE_EXCEEDED: "timed-out",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "busy",
    grpc.StatusCode.INVALID_ARGUMENT: "bad-request",
    grpc.StatusCode.OUT_OF_RANGE: "bad-request",
    grpc.StatusCode.UNIMPLEMENTED: "unsupported",
    grpc.StatusCode.PERMISSION_DENIED: "refused",
    grpc.StatusCode.UNAUTHENTICATED: "refused",
}
"""What a status means to the Conductor; any other means "failed"."""
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 5000),
    ("grpc.max_send_message_length", contract.REQUEST_LIMIT_BYTES),
)


@dataclass(frozen=True)
class Reached:
    """A peer: its number in the contract, and host:port."""

    worker_id: int
    address: str


@dataclass
class _Request:
    """One of the Conductor's, while it is answered."""

    peer: str
    message: protocol.Message
    ahead: list[tuple[str, ...]] = field(default_factory=list)
    """Portions of a pull that are still to be asked for."""
    received_bytes: int = 0
    calls: dict[int, Any] = field(default_factory=dict)
    """Those under way, by their number."""
    beat_due_s: float = inf


@dataclass(frozen=True)
class _Call:
    """One call: what it asks, for which request, and which layers it is to bring."""

    method: str
    request_id: int
    layers: tuple[str, ...] = ()


class GrpcTransport(OwnedByThread):
    """Implements `runtime.transport.Transport`. `peers` maps names to where they are reached,
    `catalogue` has what of each layer travels, `round_number` says how far this worker is."""

    def __init__(
        self,
        worker_id: int,
        spec: WorkerSpec,
        peers: Mapping[str, Reached],
        catalogue: Catalogue,
        round_number: Callable[[], int],
        certificates: Certificates | None = None,
        pool: BufferPool | None = None,
    ) -> None:
        super().__init__()
        self.sent = Meter()
        self.received = Meter()
        self.dropped = 0
        """Answers that break the contract, and layers of them that are unusable."""
        self.refused = Refusals()
        self._worker_id = worker_id
        self._spec = spec
        self._peers = peers
        self._catalogue = catalogue
        self._round_number = round_number
        self._certificates = certificates
        self._pool = pool or BufferPool()
        self._beat_s = spec.pull.stall_s / 2
        self._requests: dict[int, _Request] = {}
        self._calls: dict[int, _Call] = {}
        self._arrived: dict[tuple[int, str], Buffer] = {}
        self._numbers = 0

    def open(self) -> None:
        self.adopt()
        self._bell: Bell[tuple[int, Any]] = Bell()
        longest_bytes = max(self._catalogue.longest_bytes(), PORTION_BYTES)
        limit = ("grpc.max_receive_message_length", longest_bytes + contract.REQUEST_LIMIT_BYTES)
        self._channels = {
            name: self._channel(name, peer.address, (*_OPTIONS, limit))
            for name, peer in self._peers.items()
        }

    def fileno(self) -> int:
        """Readable when there is something to `collect`."""
        return self._bell.fileno()

    def send(self, command: SendRequest) -> list[Event]:
        self.assert_owner()
        message = command.message
        request = self._requests[message.id] = _Request(command.peer, message)
        if isinstance(message, protocol.Pull):
            request.ahead = self._portions(message.layers)
            self._ask_for_more(request)
        elif isinstance(message, protocol.Probe):
            megabytes = ceil(message.bytes / 2**20)
            ask = messages.BandwidthRequest(requester_id=self._worker_id, payload_size_mb=megabytes)
            self._call(request, "MeasureBandwidth", ask, contract.PROBE_S)
        else:
            question = messages.MetadataRequest(requester_id=self._worker_id)
            self._call(request, "GetMetadata", question, contract.METADATA_S)
        return []

    def cancel(self, command: CancelRequest) -> None:
        self.assert_owner()
        self._drop(command.request_id)

    def wait(self, timeout_s: float, bell_fd: int) -> list[Event]:
        poller = select.poll()
        for number in (bell_fd, self._bell.fileno()):
            poller.register(number, select.POLLIN)
        left_s = min(timeout_s, max(0.0, self.due_s() - time.monotonic()))
        poller.poll(None if left_s == inf else ceil(left_s * 1000))
        return self.collect()

    def due_s(self) -> float:
        """When there is a heartbeat to send (time.monotonic)."""
        return min((request.beat_due_s for request in self._requests.values()), default=inf)

    def collect(self) -> list[Event]:
        """What happened; and the heartbeats that are due are sent."""
        self.assert_owner()
        events: list[Event] = []
        for number, future in self._bell.collect():
            call = self._calls.pop(number, None)
            if call is not None:
                self._requests[call.request_id].calls.pop(number)
                events += self._ended(call, future)
        now = time.monotonic()
        for request in list(self._requests.values()):
            if request.beat_due_s <= now:
                self._beat(request, now)
        return events

    def holds(self, request_id: int, layer: str) -> bool:
        """Whether this layer came this way."""
        return (request_id, layer) in self._arrived

    def claim(self, request_id: int, layer: str) -> Buffer:
        """Shorter than the layer where a BatchNorm belongs to it: only its first values travel."""
        return self._arrived.pop((request_id, layer))

    def forget(self) -> None:
        for buffer in self._arrived.values():
            self._pool.give(buffer)
        self._arrived.clear()
        self.refused.flush(time.monotonic())

    def recycle(self, buffer: Buffer) -> None:
        self._pool.give(buffer)

    def close(self) -> None:
        self.assert_owner()
        for request_id in list(self._requests):
            self._drop(request_id)
        for channel in self._channels.values():
            channel.close()
        self._bell.close()
        self.refused.flush(inf)

    # --- asking ---

    def _channel(self, name: str, address: str, options: Any) -> Any:
        target = f"dns:///{address}"
        if self._certificates is None:
            return grpc.insecure_channel(target, options)
        return self._certificates.channel(target, name, options)

    def _portions(self, layers: tuple[str, ...]) -> list[tuple[str, ...]]:
        portions: list[list[str]] = []
        for layer in layers:
            if portions and self._long([*portions[-1], layer]) <= PORTION_BYTES:
                portions[-1].append(layer)
            else:
                portions.append([layer])
        return [tuple(portion) for portion in portions]

    def _long(self, layers: list[str]) -> int:
        return self._catalogue.message_bytes(layers)

    def _ask_for_more(self, request: _Request) -> None:
        layers = request.ahead.pop(0)
        ask = messages.LayerRequest(
            requester_id=self._worker_id,
            layer_indices=map(self._catalogue.index, layers),
            iteration=self._round_number(),
        )
        self._call(request, "PullLayers", ask, contract.PULL_S, layers)

    def _call(
        self,
        request: _Request,
        method: str,
        message: Any,
        timeout_s: float,
        layers: tuple[str, ...] = (),
    ) -> None:
        """Begin a call; its end is heard by the bell, from a thread of gRPC's."""
        self._numbers += 1
        number, content = self._numbers, message.SerializeToString()
        path = f"/{contract.SERVICE}/{method}"
        future = self._channels[request.peer].unary_unary(path).future(content, timeout=timeout_s)
        self._calls[number] = _Call(method, request.message.id, layers)
        request.calls[number] = future
        if method in ("PullLayers", "MeasureBandwidth"):
            request.beat_due_s = time.monotonic() + self._beat_s
        self.sent.count(request.peer, method.lower(), len(content))
        future.add_done_callback(partial(_ring, self._bell, number))

    def _beat(self, request: _Request, now: float) -> None:
        request.beat_due_s = now + self._beat_s
        beat = messages.HeartbeatRequest(
            sender_id=self._worker_id, timestamp=int(time.time() * 1000)
        )
        self._call(request, "Heartbeat", beat, contract.HEARTBEAT_S)

    def _drop(self, request_id: int) -> None:
        request = self._requests.pop(request_id, None)
        for number, future in request.calls.items() if request else ():
            del self._calls[number]
            future.cancel()

    # --- what came of it ---

    def _ended(self, call: _Call, future: Any) -> list[Event]:
        request = self._requests[call.request_id]
        if future.code() is not grpc.StatusCode.OK:
            return [] if call.method == "Heartbeat" else self._failed(call, future)
        content: bytes = future.result()
        self.received.count(request.peer, call.method.lower(), len(content))
        try:
            return self._taken(call, request, content)
        except ProtocolError as error:
            return self._fail(call.request_id, f"protocol-{error.kind}", str(error))

    def _failed(self, call: _Call, future: Any) -> list[Event]:
        reason = _REASONS.get(future.code(), "failed")
        if reason == "busy" and "larger than max" in (future.details() or ""):
            return self._fail(call.request_id, "protocol-size", "an answer that is too long")
        return self._fail(call.request_id, reason)

    def _fail(self, request_id: int, reason: str, why: str = "") -> list[Event]:
        request = self._requests[request_id]
        if why:
            self._refuse(request.peer, reason.partition("-")[2], why)
        self._drop(request_id)
        return [RequestFailed(request_id, reason, request.received_bytes)]

    def _refuse(self, peer: str, kind: str, why: str) -> None:
        self.dropped += 1
        self.refused.note(peer, kind, why, time.monotonic())

    def _taken(self, call: _Call, request: _Request, content: bytes) -> list[Event]:
        number = self._peers[request.peer].worker_id
        if call.method == "Heartbeat":
            beat = parsed(messages.HeartbeatResponse, content, number)
            alive = Progress(call.request_id, request.received_bytes, 0)
            return [alive] if beat.alive else []
        if call.method == "PullLayers":
            return self._layers(call, request, layers_in(content, number, self._catalogue))
        event = self._small_answer(request, content, number)
        self._drop(call.request_id)
        return [event]

    @staticmethod
    def _small_answer(request: _Request, content: bytes, number: int) -> Event:
        asked = request.message
        if isinstance(asked, protocol.Hello):
            return Replied(welcome_in(content, number, request.peer, asked))
        if isinstance(asked, protocol.Status):
            return Replied(status_in(content, number, asked.id))
        assert isinstance(asked, protocol.Probe)
        came_bytes = probe_bytes(content, number)
        if came_bytes < asked.bytes:
            return RequestFailed(asked.id, "failed", came_bytes)
        return Progress(asked.id, came_bytes, 1)

    def _layers(self, call: _Call, request: _Request, came: Layers) -> list[Event]:
        events: list[Event] = []
        for layer in call.layers:
            if isinstance(found := came.found.get(layer, "missing"), str):
                self._refuse(request.peer, found, f"layer {layer}: {found}")
                events.append(LayerRefused(call.request_id, layer, found))
                continue
            buffer = self._arrived[call.request_id, layer] = self._pool.take(len(found))
            buffer.data[:] = found
            request.received_bytes += self._layer_bytes(layer)
            events.append(
                LayerReceived(call.request_id, layer, len(found), 0, came.round, 0.0, None)
            )
        if request.ahead:
            self._ask_for_more(request)
        else:
            self._drop(call.request_id)
        return events

    def _layer_bytes(self, layer: str) -> int:
        return next(each.bytes for each in self._spec.layers if each.name == layer)


def _ring(bell: Bell[tuple[int, Any]], number: int, future: Any) -> None:
    bell.post((number, future))
