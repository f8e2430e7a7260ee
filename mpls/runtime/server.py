"""The serving thread: a ROUTER that answers peers from the latest snapshot.

It never touches the model being trained. A pull is sent chunk by chunk, never more than its reader
granted; where links are emulated, each chunk leaves when it would have left over the real link.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf

import zmq

from mpls.core import protocol
from mpls.core.serving import RESUME_S, Condition, Serving, Transfer
from mpls.errors import ProtocolError
from mpls.runtime.clients import PULLS_LIMIT, Client, Sending
from mpls.runtime.emulation import Pacing
from mpls.runtime.floods import Floods
from mpls.runtime.journal import Clock, Meter
from mpls.runtime.keys import Keychain
from mpls.runtime.limits import RATES, REQUEST_TOKENS, Allowance, Allowances, Rates, Refusals
from mpls.runtime.mailbox import Bell
from mpls.runtime.sender import RETRY_S, Sender
from mpls.runtime.snapshots import Snapshot, SnapshotStore
from mpls.runtime.sockets import OwnedByThread, router
from mpls.runtime.zap import Door, Session, check_caller
from mpls.wire import decode, refusal
from mpls.wire.frames import CHUNK_LEAST_BYTES

MESSAGES_PER_TURN = 256
"""After so many requests the chunks that are due go first."""
EXPIRE_S = 5.0
VERSIONS_LIMIT_BYTES = 1_000_000_000
VERSIONS_LEAST = 4
"""All versions of the model that are being pulled, or may be resumed, together take no more than
that; but so many are kept, however large the model is."""


@dataclass(frozen=True)
class Listening:
    """Where the server binds; `fd` is a TCP socket that already listens there. Without keys it
    speaks plaintext."""

    host: str
    port: int
    fd: int | None = None
    keys: Keychain | None = None


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
        rates: Rates = RATES,
    ) -> None:
        super().__init__()
        self._sender = Sender(serving, pacing, clock)
        self.sent = self._sender.sent
        self.received = Meter()
        self._refused = Refusals()
        self._serving = serving
        self._store = store
        self._condition = condition
        self._listening = listening
        self._clock = clock
        self._allowances = Allowances(rates)
        self._floods = Floods()
        self._clients: dict[bytes, Client] = {}
        self._bell: Bell[tuple[str, ...] | None] = Bell()
        """What is posted: the peers from now on, or None to stop."""
        self._door: Door | None = None

    @property
    def refusals(self) -> dict[str, int]:
        """How many messages were refused, by kind."""
        return self._refused.counts

    def stop(self) -> None:
        """From any thread."""
        self._bell.post(None)

    def change_peers(self, names: tuple[str, ...]) -> None:
        """These may ask from now on, and nobody else; from any thread."""
        self._bell.post(names)

    def run(self, ready: Callable[[], None]) -> None:
        """Bind, say so, and serve."""
        self.adopt()
        context = zmq.Context()
        at = self._listening
        if at.keys is not None:
            self._door = Door(context, at.keys, self._refused)
        self._socket = router(context, f"{at.host}:{at.port}", at.fd, at.keys)
        self._sender.open(self._socket)
        try:
            ready()
            self._serve()
        finally:
            self._refused.flush(inf)
            self._socket.close(0)
            if self._door is not None:
                self._door.close()
            context.term()
            self._bell.close()

    def _serve(self) -> None:
        self._poller = zmq.Poller()
        self._poller.register(self._bell.fileno(), zmq.POLLIN)
        self._poller.register(self._socket, zmq.POLLIN)
        if self._door is not None:
            self._poller.register(self._door.socket, zmq.POLLIN)
        expire_s = self._clock.now() + EXPIRE_S
        while True:
            readable = self._poll()
            if self._bell.fileno() in readable and not self._heed(self._bell.collect()):
                return
            if self._door is not None:
                self._mind(self._door)
            if self._socket in readable:
                self._read()
            for client in list(self._clients.values()):
                self._sender.pump(client)
                if client.has_left:
                    del self._clients[client.route]
            if (now := self._clock.now()) >= expire_s:
                self._expire(now)
                expire_s = now + EXPIRE_S

    def _heed(self, posted: list[tuple[str, ...] | None]) -> bool:
        """Whether to go on."""
        for names in posted:
            if names is None:
                return False
            self._serving.change_peers(names)
            self._put_out({client.name for client in self._clients.values()} - set(names))
        return True

    def _mind(self, door: Door) -> None:
        """Let in who may come in, and put out whose key was taken off the list."""
        door.answer(self._clock.now())
        self._put_out(door.gone())

    def _put_out(self, names: set[str]) -> None:
        """With keys a client's caller is its name."""
        for client in list(self._clients.values()):
            if {client.caller, client.name} & names:
                del self._clients[client.route]
                if client.session is not None:
                    client.session.hang_up()

    def _let_go_of_the_oldest(self, now: float) -> None:
        """Else peers that stop in mid-pull, each of another version, would keep whole models."""
        most = max(VERSIONS_LEAST, VERSIONS_LIMIT_BYTES // self._store.model_bytes)
        self._serving.keep_newest(most)
        pulls = [
            (client, sending) for client in self._clients.values() for sending in client.sendings
        ]
        versions = sorted({sending.snapshot.version for _, sending in pulls})
        for client, sending in pulls:
            if sending.snapshot.version in versions[:-most]:
                client.end(sending)
                text = f"version {sending.snapshot.version} is too old by now"
                why = protocol.Error(sending.outgoing.pull.id, "gone", text)
                self._refuse(client, why.code, why, now)

    def _expire(self, now: float) -> None:
        """Let go of snapshots that nobody comes back for, and of pulls that nobody reads."""
        self._serving.expire(now)
        self._refused.flush(now)
        for client in self._clients.values():
            for sending in [s for s in client.sendings if now - s.heard_s > RESUME_S]:
                client.end(sending)

    def _poll(self) -> dict[object, int]:
        """Wait for a request or for the next chunk that is due. poll() knows whole milliseconds
        only; the rest of a paced chunk's time is slept, lest every chunk leave late."""
        due_s = min(map(self._due_s, self._clients.values()), default=inf)
        left_s = max(0.0, due_s - self._clock.now())
        if left_s >= EXPIRE_S:
            return dict(self._poller.poll(ceil(EXPIRE_S * 1000)))
        readable = dict(self._poller.poll(int(left_s * 1000)))
        if not readable and 0 < (rest_s := due_s - self._clock.now()) < 0.001:
            time.sleep(rest_s)
        return readable

    def _due_s(self, client: Client) -> float:
        if client.leaving is not None:
            return client.leaving.leaves_s
        return self._clock.now() + RETRY_S if client.waits else inf

    # --- requests ---

    def _read(self) -> None:
        for _ in range(MESSAGES_PER_TURN):
            try:
                first, client, frames = self._receive()
            except zmq.Again:
                return
            now = self._clock.now()
            allowance = self._allowances.of(client.name, client.caller)
            if allowance.messages.take(now):
                self._take(client, allowance, frames, now)
                continue
            self._drop(client, allowance, now)
            self._floods.note(first)

    def _receive(self) -> tuple[zmq.Frame, Client, list[bytes]]:
        """The next message: the frame with its routing id, the connection that it came by, and the
        rest. Raises zmq.Again if none came."""
        first = self._socket.recv(zmq.NOBLOCK, copy=False)
        frames = self._socket.recv_multipart()
        client = self._clients.get(first.bytes)
        if client is None and self._door is not None:
            caller, session = self._door.caller(first), Session.of(first)
            client = Client(first.bytes, caller=caller, session=session)
        return first, client or Client(first.bytes), frames

    def _drop(self, client: Client, allowance: Allowance, now: float) -> None:
        """One of too many messages, unread. Now and then its sender hears of it."""
        why = "you send too much; wait"
        self._refused.note(client.name or client.caller, "flood", why, now)
        if allowance.warnings.take(now):
            self._sender.post(client, protocol.Error(0, "busy", why))

    def _take(self, client: Client, allowance: Allowance, frames: list[bytes], now: float) -> None:
        """Do what the message says, if it is one and its sender may ask for it now."""
        try:
            request = decode(frames)
            if isinstance(request, (protocol.Credit, protocol.Cancel)):
                if self._steer(client, request):
                    allowance.messages.give_back()
            elif not allowance.messages.take(now, REQUEST_TOKENS - 1):
                raise ProtocolError("too many requests", "busy", kind="busy", request_id=request.id)
            else:
                self._handle(client, request, now)
            kind = type(request).__name__.lower()
            self.received.count(client.name, kind, sum(map(len, frames)))
        except ProtocolError as error:
            if error.kind != "busy":
                allowance.messages.charge(REQUEST_TOKENS - 1)
            self._refuse(client, error.kind, refusal(error), now)

    def _refuse(self, client: Client, kind: str, why: protocol.Error, now: float) -> None:
        self._refused.note(client.name or client.caller, kind, why.message, now)
        self._sender.post(client, why)

    def _admit(self, client: Client, request: protocol.Message) -> None:
        """With keys, a peer is its key."""
        others: list[Session] = []
        if isinstance(request, protocol.Hello):
            for other in self._clients.values():
                if other is not client and other.caller == client.caller and other.session:
                    others.append(other.session)
        check_caller(request, client.caller, others)

    def _handle(self, client: Client, request: protocol.Message, now: float) -> None:
        if self._door is not None:
            self._admit(client, request)
        asker = request.name if isinstance(request, protocol.Hello) else client.name
        reply = self._serving.answer(asker, request, self._store.newest(), self._condition(), now)
        if isinstance(reply, protocol.Welcome):
            self._meet(client, asker)
        if isinstance(reply, (Transfer, protocol.ProbeData)) and client.is_full():
            reply = protocol.Error(request.id, "busy", f"{PULLS_LIMIT} at a time")
        if isinstance(reply, Transfer):
            assert isinstance(reply.snapshot, Snapshot)
            client.sendings.append(Sending(reply, reply.snapshot, now))
            self._let_go_of_the_oldest(now)
        elif isinstance(reply, protocol.ProbeData):
            client.probes.append(reply)
        elif isinstance(reply, protocol.Error):
            self._refuse(client, reply.code, reply, now)
        else:
            self._sender.post(client, reply)

    def _meet(self, client: Client, name: str) -> None:
        """In plaintext a peer is whoever it says it is. One that says hello on a new connection
        has left the old one, whose pulls nobody reads any more. Nobody else is remembered, so
        there are never more clients than peers."""
        for route, other in list(self._clients.items()):
            if other is not client and other.name == name:
                del self._clients[route]
        client.name = name
        self._clients[client.route] = client

    def _steer(self, client: Client, request: protocol.Credit | protocol.Cancel) -> bool:
        """Credit and cancel concern a pull under way; for one that has ended they mean nothing.
        Returns whether a chunk was paid for, or the end of a pull: so many are never too many."""
        for sending in client.sendings:
            if sending.outgoing.pull.id == request.id:
                break
        else:
            return False
        if isinstance(request, protocol.Cancel):
            client.end(sending)
            return False
        sending.outgoing.grant(request.bytes)
        sending.heard_s = self._clock.now()
        if sending.outgoing.confirmed:
            self._serving.confirm(client.name, sending.snapshot)
            client.note_read(sending)
            client.end(sending)
            return True
        return request.bytes >= CHUNK_LEAST_BYTES
