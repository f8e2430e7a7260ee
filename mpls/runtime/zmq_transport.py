"""The puller's end of ZeroMQ: one DEALER for each peer, all owned by the aggregation thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import ceil, inf
from typing import Any

import zmq

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
from mpls.errors import ProtocolError
from mpls.runtime.connection import Connection
from mpls.runtime.journal import Meter
from mpls.runtime.keys import Keychain
from mpls.runtime.limits import Refusals
from mpls.runtime.sockets import OwnedByThread
from mpls.wire import Accepted, Buffer, BufferPool, Incoming, decode, encode, refusal
from mpls.wire import LayerArrived as Arrived

MESSAGES_PER_TURN = 64
"""After so many messages of one peer the others have their turn."""


class ZmqTransport(OwnedByThread):
    """Implements `runtime.transport.Transport`. `addresses` maps peer names to host:port,
    `layer_bytes` the model's layers to their sizes; without `keys` it speaks plaintext."""

    def __init__(
        self,
        addresses: Mapping[str, str],
        layer_bytes: Mapping[str, int],
        stall_s: float,
        keys: Keychain | None = None,
    ) -> None:
        super().__init__()
        self.sent = Meter()
        self.received = Meter()
        self.dropped = 0
        """Messages that no live request waits for, or that break the protocol."""
        self.refused = Refusals()
        """Of these the ones that break the protocol, by kind."""
        self._addresses = addresses
        self._layer_bytes = layer_bytes
        self.report_s = stall_s / 2
        self._keys = keys
        self.pool = BufferPool()
        self._arrived: dict[tuple[int, str], Buffer] = {}

    def open(self) -> None:
        self.adopt()
        self._context = zmq.Context()
        self._context.setsockopt(zmq.BLOCKY, False)
        self._poller = zmq.Poller()
        self._channels: dict[str, _Channel] = {}
        self._by_socket: dict[Any, Callable[[], list[Event]]] = {}
        self._bell_fd = -1
        for name, address in self._addresses.items():
            self._connect(name, address)

    def reach(self, addresses: Mapping[str, str]) -> list[Event]:
        self.assert_owner()
        events: list[Event] = []
        elsewhere = [name for name, at in self._addresses.items() if addresses.get(name) != at]
        for name in elsewhere:
            failures = self._disconnect(self._channels.pop(name))
            events += failures if name in addresses else []
        self._addresses = dict(addresses)
        for name in addresses.keys() - self._channels.keys():
            self._connect(name, addresses[name])
        return events

    def send(self, command: SendRequest) -> list[Event]:
        self.assert_owner()
        return self._channels[command.peer].request(command.message)

    def cancel(self, command: CancelRequest) -> None:
        self.assert_owner()
        if command.peer in self._channels:
            self._channels[command.peer].cancel(command.request_id)

    def wait(self, timeout_s: float, bell_fd: int) -> list[Event]:
        self.assert_owner()
        if bell_fd != self._bell_fd:
            self._poller.register(bell_fd, zmq.POLLIN)
            self._bell_fd = bell_fd
        due_s = min((channel.due_s() for channel in self._channels.values()), default=inf)
        timeout_s = min(timeout_s, max(0.0, due_s - time.monotonic()))
        events: list[Event] = []
        # poll() truncates to whole milliseconds; rounding up spares a burst of early ticks.
        for source, _ in self._poller.poll(None if timeout_s == inf else ceil(timeout_s * 1000)):
            if source in self._by_socket:
                events += self._by_socket[source]()
        for channel in self._channels.values():
            events += channel.tend()
        return events

    def claim(self, request_id: int, layer: str) -> Buffer:
        return self._arrived.pop((request_id, layer))

    def forget(self) -> None:
        for buffer in self._arrived.values():
            self.pool.give(buffer)
        self._arrived.clear()
        for channel in self._channels.values():
            channel.drop_rest()
        self.refused.flush(time.monotonic())

    def recycle(self, buffer: Buffer) -> None:
        self.pool.give(buffer)

    def close(self) -> None:
        self.assert_owner()
        for channel in self._channels.values():
            channel.close()
        self.refused.flush(inf)
        self._context.term()

    def _connect(self, name: str, address: str) -> None:
        channel = _Channel(self, name, Connection(self._context, name, address, self._keys))
        self._channels[name] = channel
        self._by_socket[channel.connection.socket] = channel.read
        self._by_socket[channel.connection.monitor] = channel.read_monitor
        self._poller.register(channel.connection.socket, zmq.POLLIN)
        self._poller.register(channel.connection.monitor, zmq.POLLIN)

    def _disconnect(self, channel: _Channel) -> list[Event]:
        """For good; returns the failures of what was asked there."""
        for socket in (channel.connection.socket, channel.connection.monitor):
            self._poller.unregister(socket)
            del self._by_socket[socket]
        failures = channel.fail_all()
        channel.drop_rest()
        channel.close()
        return failures

    # --- for the channels ---

    def keep(self, request_id: int, arrived: Arrived) -> LayerReceived:
        self._arrived[request_id, arrived.layer] = arrived.buffer
        return LayerReceived(
            request_id,
            arrived.layer,
            arrived.buffer.nbytes,
            arrived.version,
            arrived.round,
            arrived.wait_s,
            arrived.progress,
        )

    def expect(self, pull: protocol.Pull) -> Incoming:
        return Incoming(pull, self._layer_bytes, self.pool)


class _Probing:
    """A probe under way."""

    def __init__(self) -> None:
        self.received_bytes = 0
        self.version = 1


class _Channel:
    """One peer: its connection, the requests in flight, and the pull that could be resumed."""

    def __init__(self, transport: ZmqTransport, peer: str, connection: Connection) -> None:
        self.connection = connection
        self._transport = transport
        self._peer = peer
        self._waiting: dict[int, Incoming | _Probing | None] = {}
        self._last_pull: Incoming | None = None
        self._reported_s: dict[int, float] = {}
        """Request -> when the Conductor last heard of its bytes."""
        self._unreported: dict[int, float] = {}
        """Request -> when it is to hear of those that came since."""

    def request(self, message: protocol.Message) -> list[Event]:
        """Send it, or say that the peer cannot be reached now, or that what is to be resumed is not
        here."""
        if isinstance(message, protocol.Pull) and not self._can_continue(message):
            return [RequestFailed(message.id, "gone")]
        if not self._send(message):
            return [RequestFailed(message.id, "unreachable")]
        if isinstance(message, protocol.Pull):
            self._waiting[message.id] = self._last_pull = self._incoming(message)
        elif isinstance(message, protocol.Probe):
            self._waiting[message.id] = _Probing()
        else:
            self._waiting[message.id] = None
        return []

    def cancel(self, request_id: int) -> None:
        self._forget(request_id)
        self._send(protocol.Cancel(request_id))

    def read(self) -> list[Event]:
        """Take what has come, up to MESSAGES_PER_TURN."""
        events: list[Event] = []
        for _ in range(MESSAGES_PER_TURN):
            try:
                frames = self.connection.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            events += self._take([frame.buffer for frame in frames])
        return events

    def read_monitor(self) -> list[Event]:
        """Follow whether there is a connection. When it is lost, nothing in flight will be
        answered."""
        return self.fail_all() if self.connection.look() else []

    def fail_all(self) -> list[Event]:
        events: list[Event] = [
            RequestFailed(request_id, "disconnected", *_position(waiting))
            for request_id, waiting in self._waiting.items()
        ]
        self._waiting.clear()
        self._unreported.clear()
        self._reported_s.clear()
        return events

    def due_s(self) -> float:
        """When there is something to `tend`."""
        return min([*self._unreported.values(), self.connection.due_s])

    def tend(self) -> list[Event]:
        """Do what is due."""
        if self.connection.tend():
            return self.fail_all()
        now = time.monotonic()
        due = [request_id for request_id, due_s in self._unreported.items() if due_s <= now]
        return [self._report(request_id) for request_id in due]

    def drop_rest(self) -> None:
        """Nobody comes back for what is here of a layer, unless its pull is still under way."""
        if self._last_pull is not None and self._last_pull.pull.id not in self._waiting:
            self._last_pull.drop_partial()
            self._last_pull = None

    def close(self) -> None:
        self.connection.close()

    def _send(self, message: protocol.Message) -> bool:
        """Whether it is on its way. For a moment after a loss ZeroMQ would still accept a message,
        and lose it."""
        if not self.connection.is_up:
            return False
        frames = encode(message)
        try:
            self.connection.socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        kind = type(message).__name__.lower()
        self._transport.sent.count(self._peer, kind, sum(map(len, frames)))
        return True

    def _can_continue(self, pull: protocol.Pull) -> bool:
        last = self._last_pull
        return pull.offset == 0 or (last is not None and last.can_resume(pull))

    def _incoming(self, pull: protocol.Pull) -> Incoming:
        if pull.offset == 0 or self._last_pull is None:
            if self._last_pull is not None:
                self._last_pull.drop_partial()
            return self._transport.expect(pull)
        self._last_pull.resume(pull)
        return self._last_pull

    def _take(self, frames: list[memoryview]) -> list[Event]:
        try:
            message = decode(frames)
            kind = type(message).__name__.lower()
            self._transport.received.count(self._peer, kind, sum(map(len, frames)))
            if message.id not in self._waiting:
                self._transport.dropped += 1
                return []
            return self._answer(message)
        except ProtocolError as error:
            self._transport.dropped += 1
            why = refusal(error).message
            self._transport.refused.note(self._peer, error.kind, why, time.monotonic())
            return self._broken(error)

    def _answer(self, message: protocol.Message) -> list[Event]:
        waiting = self._waiting[message.id]
        if isinstance(message, protocol.Chunk) and isinstance(waiting, Incoming):
            return self._chunk(message, waiting)
        if isinstance(message, protocol.ProbeData) and isinstance(waiting, _Probing):
            waiting.received_bytes = len(message.data)
            report = self._report(message.id)
            self._forget(message.id)
            return [report]
        answers = isinstance(message, (protocol.Welcome, protocol.StatusOk)) and waiting is None
        if answers or isinstance(message, protocol.Error):
            self._forget(message.id)
            return [Replied(message)]  # type: ignore[arg-type]
        raise ProtocolError(f"{type(message).__name__} is no answer", request_id=message.id)

    def _chunk(self, chunk: protocol.Chunk, pull: Incoming) -> list[Event]:
        accepted = pull.accept(chunk)
        if accepted.credit_bytes:
            self._send(protocol.Credit(chunk.id, accepted.credit_bytes))
        event = self._layer_or_progress(chunk.id, accepted)
        if pull.ended:
            self._end_pull(chunk.id, pull)
        return [event] if event else []

    def _layer_or_progress(self, request_id: int, accepted: Accepted) -> Event | None:
        """The first bytes of a pull are told at once, later ones every half stall_s; a layer tells
        of its bytes itself."""
        now, layer = time.monotonic(), accepted.layer
        if layer is None:
            last_s = self._reported_s.get(request_id, -inf)
            due_s = self._unreported.setdefault(request_id, last_s + self._transport.report_s)
            return self._report(request_id) if due_s <= now else None
        self._reported_s[request_id] = now
        if isinstance(layer, Arrived):
            return self._transport.keep(request_id, layer)
        return LayerRefused(request_id, layer.layer, layer.reason)

    def _end_pull(self, request_id: int, pull: Incoming) -> None:
        self._forget(request_id)
        if not pull.complete:
            self._send(protocol.Cancel(request_id))

    def _report(self, request_id: int) -> Progress:
        self._unreported.pop(request_id, None)
        self._reported_s[request_id] = time.monotonic()
        return Progress(request_id, *_position(self._waiting.get(request_id)))

    def _broken(self, error: ProtocolError) -> list[Event]:
        """A peer that breaks the protocol in mid-answer has ended that answer."""
        request_id = error.request_id
        if request_id is None or request_id not in self._waiting:
            return []
        position = _position(self._waiting[request_id])
        self.cancel(request_id)
        return [RequestFailed(request_id, f"protocol-{error.kind}", *position)]

    def _forget(self, request_id: int) -> None:
        self._waiting.pop(request_id, None)
        self._unreported.pop(request_id, None)
        self._reported_s.pop(request_id, None)


def _position(waiting: Incoming | _Probing | None) -> tuple[int, int]:
    """How far an answer has come; nowhere before its first chunk told the version."""
    if waiting is None or not waiting.version:
        return 0, 0
    return waiting.received_bytes, waiting.version
