"""Metric 2: the bytes between a live worker and its peers, counted again from its decisions.

What a worker asked for and what it was answered is in its trace; what that weighs on the wire is
known in closed form (`mpls.wire`). A live worker counts the bytes that it really sent and received,
by peer and type. A pull that was broken off leaves chunks that no trace tells of: the chunks and
credits of such a peer are not compared, and it is said of how many pulls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mpls.core import protocol
from mpls.core.messages import LayerReceived, Progress, Replied, RequestFailed, from_plain
from mpls.core.trace import Record
from sim.traffic import chunk_and_credit_bytes, message_bytes

Weights = Counter[tuple[str, str]]
"""(peer, type of message) -> bytes, both directions together."""
EXACT = ("hello", "welcome", "pull", "chunk", "credit", "cancel")
"""Types that decisions alone fix, to the byte."""
TIMED = ("status", "statusok", "probe", "probedata", "error")
"""Types of which a few more or less come and go with the moment of stopping."""


@dataclass
class Payload:
    """Of one worker: what it counted, and what is counted again."""

    worker: str
    counted: Weights = field(default_factory=Counter)
    again: Weights = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    """Peer -> pulls that did not come whole."""

    def differences(self) -> dict[tuple[str, str], int]:
        """(peer, type) -> bytes counted again less those counted, of EXACT types that differ."""
        keys = [key for key in {*self.counted, *self.again} if self._is_exact(*key)]
        gaps = {key: self.again[key] - self.counted[key] for key in sorted(keys)}
        return {key: gap for key, gap in gaps.items() if gap}

    def timed_error(self) -> float:
        """Bytes of TIMED types counted again, over those counted, less 1."""
        counted, again = (
            sum(size for (_, kind), size in weights.items() if kind in TIMED)
            for weights in (self.counted, self.again)
        )
        return again / counted - 1 if counted else float(again > 0)

    def exact_bytes(self) -> int:
        """Of EXACT types, as counted and compared."""
        return sum(size for key, size in self.counted.items() if self._is_exact(*key))

    def _is_exact(self, peer: str, kind: str) -> bool:
        unknown = self.broken[peer] and kind in ("chunk", "credit")
        return kind in EXACT and not unknown


def weigh_again(worker: str, records: Iterable[Record]) -> Payload:
    """From a live trace."""
    scales = _Scales(worker)
    for record in records:
        scales.take(record)
    return scales.payload


@dataclass
class _Pull:
    peer: str
    ask: protocol.Pull
    layers: list[LayerReceived] = field(default_factory=list)


class _Scales:
    """Follows a trace and weighs what it tells of."""

    def __init__(self, worker: str) -> None:
        self.payload = Payload(worker)
        self._sizes: dict[str, int] = {}
        self._peers: dict[int, str] = {}
        self._messages: dict[int, Any] = {}
        self._pulls: dict[int, _Pull] = {}
        self._kinds = {
            "header": self._header,
            "send": self._send,
            "cancel": self._cancel,
            "event": self._event,
            "served": self._served,
        }

    def take(self, record: Record) -> None:
        """The next record."""
        kind = self._kinds.get(record["kind"])
        if kind is not None:
            kind(record)

    def _header(self, record: Record) -> None:
        self._sizes = dict(record["spec"]["layers"])

    def _send(self, record: Record) -> None:
        command = from_plain(record["command"])
        message = command.message
        self._peers[message.id], self._messages[message.id] = command.peer, message
        self._weigh(command.peer, message)
        if isinstance(message, protocol.Pull):
            self._pulls[message.id] = _Pull(command.peer, message)
            self.payload.broken[command.peer] += 1

    def _cancel(self, record: Record) -> None:
        command = from_plain(record["command"])
        self._weigh(command.peer, protocol.Cancel(command.request_id))

    def _event(self, record: Record) -> None:
        event = from_plain(record["event"])
        if isinstance(event, Replied):
            self._weigh(self._peers[event.reply.id], event.reply)
        elif isinstance(event, LayerReceived):
            self._layer(event)
        elif isinstance(event, Progress):
            self._probed(event)
        elif isinstance(event, RequestFailed) and event.reason in ("unreachable", "gone"):
            self._unsent(event.request_id)

    def _layer(self, event: LayerReceived) -> None:
        pull = self._pulls.get(event.request_id)
        if pull is None:
            return
        pull.layers.append(event)
        if len(pull.layers) == len(pull.ask.layers):
            del self._pulls[event.request_id]
            self._whole(pull)

    def _whole(self, pull: _Pull) -> None:
        last = pull.layers[-1]
        progress_layers = None if last.progress is None else len(last.progress)
        sizes = tuple(self._sizes[layer] for layer in pull.ask.layers)
        chunks, credits = chunk_and_credit_bytes(
            pull.ask, sizes, last.version, last.round, progress_layers
        )
        self.payload.again[pull.peer, "chunk"] += chunks
        self.payload.again[pull.peer, "credit"] += credits
        self.payload.broken[pull.peer] -= 1

    def _probed(self, event: Progress) -> None:
        probe = self._messages.get(event.request_id)
        if isinstance(probe, protocol.Probe) and event.received_bytes >= probe.bytes:
            answer = protocol.ProbeData(probe.id, bytes(probe.bytes))
            self._weigh(self._peers[probe.id], answer)

    def _unsent(self, request_id: int) -> None:
        """The transport refused to send it: nothing went over the wire."""
        peer, message = self._peers[request_id], self._messages[request_id]
        self._weigh(peer, message, -1)
        if self._pulls.pop(request_id, None) is not None:
            self.payload.broken[peer] -= 1

    def _served(self, record: Record) -> None:
        for direction in ("asked", "answered"):
            for peer, kinds in record[direction].items():
                for kind, (_, size) in kinds.items():
                    self.payload.counted[peer, kind] += size

    def _weigh(self, peer: str, message: Any, sign: int = 1) -> None:
        kind = type(message).__name__.lower()
        self.payload.again[peer, kind] += sign * message_bytes(message)
