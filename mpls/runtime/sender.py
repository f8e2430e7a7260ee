"""The serving thread's way out: chunk by chunk, as credit and the emulated link allow."""

from __future__ import annotations

import zmq

from mpls.core import protocol
from mpls.core.serving import Serving
from mpls.runtime.clients import Client, Leaving, Sending
from mpls.runtime.emulation import Pacing
from mpls.runtime.journal import Clock, Meter
from mpls.wire import ChunkPlan, encode

RETRY_S = 0.005
"""When a peer's send queue is full, how soon it is tried again."""


class Sender:
    """Sends to clients whatever they are owed. `open` hands it the server's socket."""

    def __init__(self, serving: Serving, pacing: Pacing, clock: Clock) -> None:
        self.sent = Meter()
        self._serving = serving
        self._pacing = pacing
        self._clock = clock

    def open(self, socket: zmq.Socket[bytes]) -> None:
        """From now on, by this one."""
        self._socket = socket

    def pump(self, client: Client) -> None:
        """Send what is due, and put the next chunk on the link: it begins when the one before had
        left, however late that was noticed."""
        begins_s = self._clock.now()
        while True:
            if client.leaving is None and not self._load(client, begins_s):
                return
            assert client.leaving is not None
            if client.leaving.leaves_s > self._clock.now():
                return
            if not self._send(client, client.leaving):
                client.leaving.leaves_s = self._clock.now() + RETRY_S
                return
            begins_s = client.leaving.leaves_s
            client.leaving = None

    def _load(self, client: Client, begins_s: float) -> bool:
        """Put a probe or the next chunk of one of the client's pulls, each in turn, on the link."""
        probe = client.next_probe()
        if probe is not None:
            _, leaves_s = self._pacing.carry(client.name, begins_s, len(probe.data))
            client.leaving = Leaving(encode(probe), "probedata", leaves_s, len(probe.data))
            return True
        found = client.next_chunk()
        if found is None:
            return False
        sending, plan = found
        client.leaving = self._cut(client, sending, plan, begins_s)
        return True

    def _cut(self, client: Client, sending: Sending, plan: ChunkPlan, begins_s: float) -> Leaving:
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
        return Leaving(encode(chunk), "chunk", leaves_s, plan.length, sending)

    def post(self, client: Client, reply: protocol.Message) -> None:
        """A small reply, at once; a peer that does not read its answers loses them."""
        self._send(client, Leaving(encode(reply), type(reply).__name__.lower()))

    def _send(self, client: Client, leaving: Leaving) -> bool:
        frames = [client.route, *leaving.frames]
        copy = leaving.kind == "chunk" and client.may_copy(leaving)
        try:
            sent = self._socket.send_multipart(
                frames, zmq.NOBLOCK, copy=copy, track=leaving.data_bytes > 0 and not copy
            )
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            client.leave()
        else:
            self.sent.count(client.name, leaving.kind, sum(map(len, leaving.frames)))
            client.note_sent(leaving, sent, copy)
        return True
