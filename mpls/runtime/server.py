"""The serving thread: a ROUTER that answers peers from the latest snapshot.

It never touches the model being trained. A pull is sent chunk by chunk, never more than its reader
granted; where links are emulated, each chunk leaves when it would have left over the real link.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil, inf

import zmq

from mpls.core import protocol
from mpls.core.serving import RESUME_S, Condition, Serving, Transfer
from mpls.errors import ProtocolError
from mpls.runtime.emulation import Pacing
from mpls.runtime.journal import Clock, Meter
from mpls.runtime.mailbox import Bell
from mpls.runtime.snapshots import Snapshot, SnapshotStore
from mpls.runtime.sockets import OwnedByThread, router
from mpls.wire import ChunkPlan, Outgoing, decode, encode, refusal

MESSAGES_PER_TURN = 256
"""After so many requests the chunks that are due go first."""
EXPIRE_S = 5.0
RETRY_S = 0.005
"""When a peer's send queue is full, how soon it is tried again."""
PULLS_LIMIT = 4
"""Pulls and probes of one connection that are served at once."""


@dataclass(frozen=True)
class Listening:
    """Where the server binds; `fd` is a TCP socket that already listens there."""

    host: str
    port: int
    fd: int | None = None


class _Sending:
    """A pull being served."""

    def __init__(self, transfer: Transfer, snapshot: Snapshot, came_s: float) -> None:
        self.snapshot = snapshot
        self.outgoing = Outgoing(transfer.pull, [n for _, n in transfer.layers], snapshot.version)
        self.came_s = came_s
        self.heard_s = came_s
        """When the puller last gave credit."""
        self.wait_s: float | None = None
        """From the request's arrival to its first byte."""


@dataclass
class _Leaving:
    """A message on the emulated link, and when its last byte is through."""

    frames: list[bytes | memoryview]
    kind: str
    leaves_s: float


@dataclass
class _Client:
    """One connection: who it is, and what it still gets."""

    route: bytes
    name: str = ""
    sendings: deque[_Sending] = field(default_factory=deque)
    probes: deque[protocol.ProbeData] = field(default_factory=deque)
    leaving: _Leaving | None = None

    def is_full(self) -> bool:
        """Whether it has asked for all that it may at once."""
        return len(self.sendings) + len(self.probes) >= PULLS_LIMIT


class Server(OwnedByThread):
    """Serves until `stop`. Problems with a peer are counted by kind, and never end it."""

    def __init__(
        self,
        serving: Serving,
        store: SnapshotStore,
        condition: Callable[[], Condition],
        listening: Listening,
        pacing: Pacing,
        clock: Clock,
    ) -> None:
        super().__init__()
        self.sent = Meter()
        self.received = Meter()
        self.refusals: dict[str, int] = {}
        self._serving = serving
        self._store = store
        self._condition = condition
        self._listening = listening
        self._pacing = pacing
        self._clock = clock
        self._clients: dict[bytes, _Client] = {}
        self._bell: Bell[str] = Bell()

    def stop(self) -> None:
        """From any thread."""
        self._bell.post("stop")

    def run(self, ready: Callable[[], None]) -> None:
        """Bind, say so, and serve."""
        self.adopt()
        context = zmq.Context()
        at = self._listening
        self._socket = router(context, f"{at.host}:{at.port}", at.fd)
        try:
            ready()
            self._serve()
        finally:
            self._socket.close(0)
            context.term()
            self._bell.close()

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._bell.fileno(), zmq.POLLIN)
        expire_s = self._clock.now() + EXPIRE_S
        while True:
            readable = self._poll(poller)
            if self._bell.fileno() in readable and "stop" in self._bell.collect():
                return
            if self._socket in readable:
                self._read()
            for client in list(self._clients.values()):
                self._pump(client)
            if (now := self._clock.now()) >= expire_s:
                self._expire(now)
                expire_s = now + EXPIRE_S

    def _expire(self, now: float) -> None:
        """Let go of snapshots that nobody comes back for, and of pulls that nobody reads."""
        self._serving.expire(now)
        for client in self._clients.values():
            read = [sending for sending in client.sendings if now - sending.heard_s <= RESUME_S]
            client.sendings = deque(read)

    def _poll(self, poller: zmq.Poller) -> dict[object, int]:
        """Wait for a request or for the next chunk that is due. poll() knows whole milliseconds
        only; the rest of a paced chunk's time is slept, lest every chunk leave late."""
        due_s = min((c.leaving.leaves_s for c in self._clients.values() if c.leaving), default=inf)
        left_s = max(0.0, due_s - self._clock.now())
        if left_s >= EXPIRE_S:
            return dict(poller.poll(ceil(EXPIRE_S * 1000)))
        readable = dict(poller.poll(int(left_s * 1000)))
        if not readable and 0 < (rest_s := due_s - self._clock.now()) < 0.001:
            time.sleep(rest_s)
        return readable

    # --- requests ---

    def _read(self) -> None:
        for _ in range(MESSAGES_PER_TURN):
            try:
                route, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            client = self._clients.get(route) or _Client(route)
            try:
                request = decode(frames)
                self._handle(client, request)
                kind = type(request).__name__.lower()
                self.received.count(client.name, kind, sum(map(len, frames)))
            except ProtocolError as error:
                self.refusals[error.kind] = self.refusals.get(error.kind, 0) + 1
                self._post(client, refusal(error))

    def _handle(self, client: _Client, request: protocol.Message) -> None:
        if isinstance(request, (protocol.Credit, protocol.Cancel)):
            self._steer(client, request)
            return
        now = self._clock.now()
        asker = request.name if isinstance(request, protocol.Hello) else client.name
        reply = self._serving.answer(asker, request, self._store.latest(), self._condition(), now)
        if isinstance(reply, protocol.Welcome):
            self._meet(client, asker)
        if isinstance(reply, (Transfer, protocol.ProbeData)) and client.is_full():
            self._post(client, protocol.Error(request.id, "busy", f"{PULLS_LIMIT} at a time"))
        elif isinstance(reply, Transfer):
            assert isinstance(reply.snapshot, Snapshot)
            client.sendings.append(_Sending(reply, reply.snapshot, now))
        elif isinstance(reply, protocol.ProbeData):
            client.probes.append(reply)
        else:
            self._post(client, reply)

    def _meet(self, client: _Client, name: str) -> None:
        """In plaintext a peer is whoever it says it is. One that says hello on a new connection
        has left the old one, whose pulls nobody reads any more. Nobody else is remembered, so
        there are never more clients than peers."""
        for route, other in list(self._clients.items()):
            if other is not client and other.name == name:
                del self._clients[route]
        client.name = name
        self._clients[client.route] = client

    def _steer(self, client: _Client, request: protocol.Credit | protocol.Cancel) -> None:
        """Credit and cancel concern a pull under way; for one that has ended they mean nothing."""
        for sending in client.sendings:
            if sending.outgoing.pull.id == request.id:
                break
        else:
            return
        if isinstance(request, protocol.Cancel):
            client.sendings.remove(sending)
            return
        sending.outgoing.grant(request.bytes)
        sending.heard_s = self._clock.now()
        if sending.outgoing.confirmed:
            self._serving.confirm(client.name, sending.snapshot)
            client.sendings.remove(sending)

    # --- replies ---

    def _pump(self, client: _Client) -> None:
        """Send what is due, and put the next chunk on the link: it begins when the one before had
        left, however late that was noticed."""
        begins_s = self._clock.now()
        while True:
            if client.leaving is None and not self._load(client, begins_s):
                return
            assert client.leaving is not None
            if client.leaving.leaves_s > self._clock.now():
                return
            if not self._send(client, client.leaving.frames, client.leaving.kind):
                client.leaving.leaves_s = self._clock.now() + RETRY_S
                return
            begins_s = client.leaving.leaves_s
            client.leaving = None

    def _load(self, client: _Client, begins_s: float) -> bool:
        """Put a probe or the next chunk of one of the client's pulls, each in turn, on the link."""
        if client.probes:
            probe = client.probes.popleft()
            _, leaves_s = self._pacing.carry(client.name, begins_s, len(probe.data))
            client.leaving = _Leaving(encode(probe), "probedata", leaves_s)
            return True
        for _ in range(len(client.sendings)):
            sending = client.sendings[0]
            client.sendings.rotate(-1)
            plan = sending.outgoing.next_chunk()
            if plan is not None:
                client.leaving = self._cut(client, sending, plan, begins_s)
                return True
        return False

    def _cut(
        self, client: _Client, sending: _Sending, plan: ChunkPlan, begins_s: float
    ) -> _Leaving:
        begins_s = max(begins_s, sending.came_s)
        begins_s, leaves_s = self._pacing.carry(client.name, begins_s, plan.length)
        if sending.wait_s is None:
            sending.wait_s = begins_s - sending.came_s
        snapshot = sending.snapshot
        chunk = protocol.Chunk(
            id=sending.outgoing.pull.id,
            layer=plan.layer,
            version=snapshot.version,
            round=snapshot.round,
            offset=plan.offset,
            total=plan.total,
            wait_s=sending.wait_s,
            data=snapshot.layer(plan.layer)[plan.offset : plan.offset + plan.length],
            sum=snapshot.checksum(plan.layer) if plan.ends_layer else None,
            progress=self._serving.progress_for(client.name, snapshot) if plan.ends_pull else None,
            last=plan.ends_pull,
        )
        return _Leaving(encode(chunk), "chunk", leaves_s)

    def _post(self, client: _Client, reply: protocol.Message) -> None:
        """A small reply, at once; a peer that does not read its answers loses them."""
        self._send(client, encode(reply), type(reply).__name__.lower())

    def _send(self, client: _Client, frames: list[bytes | memoryview], kind: str) -> bool:
        try:
            self._socket.send_multipart([client.route, *frames], zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._clients.pop(client.route, None)
            client.sendings.clear()
        else:
            self.sent.count(client.name, kind, sum(map(len, frames)))
        return True
