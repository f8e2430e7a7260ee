"""Whom the server serves: for each connection of a peer, what is on its way to it.

A reader that stops costs its server one window and one probe, however much it asked for: all of
its pulls together may have CREDIT_LIMIT_BYTES in flight, and a pull begins only when there is room
for its whole window. Were the room given out chunk by chunk, each of several pulls could wait for
ever for its window to be filled so far that credit comes back.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import zmq

from mpls.core import protocol
from mpls.core.serving import Transfer
from mpls.runtime.snapshots import Snapshot
from mpls.runtime.zap import Session
from mpls.wire import CREDIT_LIMIT_BYTES, ChunkPlan, Outgoing

PULLS_LIMIT = 4
"""Pulls and probes of one connection that are known at once."""
COPIED_BYTES = 256 * 1024
"""Chunks up to this size are copied into ZeroMQ's queue. To hand over larger ones as they lie in
memory is faster, but each then wakes one more thread of Python when it has left, which costs the
training more than the copy."""
COPIES_LIMIT_BYTES = 2**20
"""Of what is copied for a connection, so much at most is not surely read: nothing else tells when
ZeroMQ has handed it on."""


class Sending:
    """A pull being served."""

    def __init__(self, transfer: Transfer, snapshot: Snapshot, came_s: float) -> None:
        self.snapshot = snapshot
        self.outgoing = Outgoing(transfer.pull, [n for _, n in transfer.layers], snapshot.version)
        self.came_s = came_s
        self.heard_s = came_s
        """When the puller last gave credit."""
        self.wait_s: float | None = None
        """From the request's arrival to its first byte."""

        self.last_sent: zmq.MessageTracker | None = None
        """Tells when ZeroMQ has handed on the last chunk that it got."""
        self.copied_until = 0
        """How much had been copied for its connection when its last chunk was sent."""

    def reserved_bytes(self) -> int:
        """The most that will be in flight for it from now on."""
        outgoing = self.outgoing
        return min(outgoing.pull.credit, outgoing.total_bytes - outgoing.confirmed_bytes)


@dataclass
class Leaving:
    """A message on the emulated link, and when its last byte is through."""

    frames: list[bytes | memoryview]
    kind: str
    leaves_s: float = 0.0
    data_bytes: int = 0
    sending: Sending | None = None
    """The pull that it is a chunk of."""


@dataclass
class Client:
    """One connection: who it is, and what it still gets."""

    route: bytes
    name: str = ""
    caller: str = ""
    """The worker whose key it has, where there are keys."""
    session: Session | None = None
    """With keys, its TCP connection."""
    sendings: deque[Sending] = field(default_factory=deque)
    probes: deque[protocol.ProbeData] = field(default_factory=deque)
    leaving: Leaving | None = None
    has_left: bool = False
    waits: bool = False
    """Something could leave, were there not so much in ZeroMQ's queue for which no credit comes."""
    _copied_bytes: int = 0
    """Chunks that ZeroMQ got as copies, all together; and how much of that was surely read."""
    _read_bytes: int = 0
    _queued: list[tuple[int, zmq.MessageTracker]] = field(default_factory=list)
    """Bytes of that, and what tells when ZeroMQ has handed them on."""

    def is_full(self) -> bool:
        """Whether it has asked for all that it may at once."""
        return len(self.sendings) + len(self.probes) >= PULLS_LIMIT

    def end(self, sending: Sending) -> None:
        """Send no more of this pull. What ZeroMQ has of it cannot be called back."""
        self.sendings.remove(sending)
        self._queue(sending.outgoing.in_flight_bytes, sending.last_sent)

    def leave(self) -> None:
        """It is not there any more: nothing is owed to it."""
        self.has_left = True
        self.sendings.clear()
        self.probes.clear()

    def note_sent(self, message: Leaving, sent: zmq.MessageTracker | None, copied: bool) -> None:
        """ZeroMQ has it now, and `sent` tells when it has handed it on, unless it is a copy."""
        sending = message.sending
        self._copied_bytes += message.data_bytes if copied else 0
        if sending is not None:
            sending.copied_until = self._copied_bytes
            sending.last_sent = sent or sending.last_sent
        if sending not in self.sendings:
            self._queue(message.data_bytes, sent)

    def may_copy(self, message: Leaving) -> bool:
        """Whether this one may be copied into ZeroMQ's queue."""
        unread_bytes = self._copied_bytes - self._read_bytes
        small = message.data_bytes <= COPIED_BYTES
        return small and unread_bytes + message.data_bytes <= COPIES_LIMIT_BYTES

    def note_read(self, sending: Sending) -> None:
        """All of a pull was confirmed, and so was read whatever was sent before its end."""
        self._read_bytes = max(self._read_bytes, sending.copied_until)

    def next_probe(self) -> protocol.ProbeData | None:
        """The probe whose turn it is, once the one before has left."""
        if not self.probes or self._queued_bytes():
            self.waits = bool(self.probes)
            return None
        return self.probes.popleft()

    def next_chunk(self) -> tuple[Sending, ChunkPlan] | None:
        """The next chunk that may leave, of one pull after the other."""
        for _ in range(len(self.sendings)):
            sending = self.sendings[0]
            self.sendings.rotate(-1)
            begun = sending.outgoing.sent_bytes > 0
            if begun or self._has_room_for(sending.reserved_bytes()):
                plan = sending.outgoing.next_chunk()
                if plan is not None:
                    return sending, plan
        return None

    def _queue(self, further_bytes: int, sent: zmq.MessageTracker | None) -> None:
        if sent is not None:
            self._queued.append((further_bytes, sent))

    def _has_room_for(self, further_bytes: int) -> bool:
        queued_bytes = self._queued_bytes()
        begun_bytes = sum(s.reserved_bytes() for s in self.sendings if s.outgoing.sent_bytes)
        has_room = queued_bytes + begun_bytes + further_bytes <= CREDIT_LIMIT_BYTES
        self.waits = self.waits or (queued_bytes > 0 and not has_room)
        return has_room

    def _queued_bytes(self) -> int:
        self._queued = [(size, sent) for size, sent in self._queued if not sent.done]
        return sum(size for size, _ in self._queued)
