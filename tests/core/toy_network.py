"""Unreliable peers in virtual time, for property tests: everything that can happen to a request
happens here, drawn from a seed. The core under test is the real one."""

from __future__ import annotations

import heapq
import json
from typing import Any

from mpls.core import messages, protocol
from mpls.core.beliefs import Recorded, everything
from mpls.core.conductor import Conductor
from mpls.core.messages import Command, Event, PublishUpdate, RecordNote, SendRequest
from mpls.core.round import Rounds
from mpls.core.spec import WorkerSpec
from mpls.core.streams import Stream
from mpls.core.trace import Record, command_record, event_record, header

FATES = ("whole", "whole", "whole", "silence", "cut", "error", "late", "twice", "refused", "slow")


class ToyFederation:
    """One worker's core among peers whose answers are drawn from `seed`; its trainer takes updates
    after a while and asks for the next round. With `coming_and_going` its peers change now and
    then."""

    def __init__(
        self,
        spec: WorkerSpec,
        seed: int,
        rounds: int,
        recorded: Recorded = everything,
        coming_and_going: bool = False,
    ) -> None:
        self.spec = spec
        self.records: list[Record] = [header(spec, 0.0)]
        self.notes: list[tuple[float, RecordNote]] = []
        self.published: list[PublishUpdate] = []
        self.sent: list[SendRequest] = []
        self._draw = Stream(seed, "toy")
        self._rounds = rounds
        self._sizes = {layer.name: layer.bytes for layer in spec.layers}
        self._queue: list[tuple[float, int, Event]] = []
        self._pushed = 0
        self._coming_and_going = coming_and_going
        self.peers = spec.peers
        self.conductor = Conductor(Rounds(spec, recorded=recorded))

    def run(self) -> None:
        """Until the last round's update was taken, or time is up; then drain."""
        self.records.append({"t": 0.0, "kind": "start"})
        self._carry_out(self.conductor.start(0.0), 0.0)
        self._push(0.0, messages.RoundDue(1))
        self._change_peers(0.0)
        now = 0.0
        while len(self.published) < self._rounds or self._queue:
            now = self._step()
            assert now < 1e5, "the worker never finishes"
        self._handle(messages.Drained(), now)
        assert self.conductor.finished

    def _step(self) -> float:
        deadline_s = self.conductor.deadline()
        if self._queue and self._queue[0][0] <= deadline_s:
            now, _, event = heapq.heappop(self._queue)
        else:
            now, event = deadline_s, messages.Ticked()
        self._handle(event, now)
        return now

    def _change_peers(self, now: float) -> None:
        if self._coming_and_going:
            names = [name for name in (*self.spec.peers, "w8", "w9") if self._draw.uniform() < 0.6]
            when_s = now + self._draw.between(0.0, 2.0)
            self._push(when_s, messages.PeersChanged(tuple(names)))

    def _handle(self, event: Event, now: float) -> None:
        if isinstance(event, messages.PeersChanged):
            self.peers = event.peers
            self._change_peers(now)
        self.records.append(event_record(event, now))
        self._carry_out(self.conductor.handle(event, now), now)

    def _carry_out(self, commands: list[Command], now: float) -> None:
        for command in commands:
            self.records.append(json.loads(json.dumps(command_record(command, now))))
            if isinstance(command, SendRequest):
                assert command.peer in self.peers, "asks somebody who is no peer"
                self.sent.append(command)
                self._answer(command.peer, command.message, now)
            elif isinstance(command, PublishUpdate):
                self._take(command, now)
            elif isinstance(command, RecordNote):
                self.notes.append((now, command))

    def _take(self, command: PublishUpdate, now: float) -> None:
        self.published.append(command)
        taken_s = now + self._draw.between(0.0, 0.5)
        refused = tuple(
            messages.LayerRefused(source.request_id, source.layer, "not-finite")
            for source in command.sources
            if self._draw.uniform() < 0.1
        )
        self._push(taken_s, messages.UpdateTaken(command.round, refused))
        if command.round < self._rounds:
            self._push(taken_s, messages.RoundDue(command.round + 1))

    def _push(self, when_s: float, event: Event) -> None:
        if len(self.published) < self._rounds or isinstance(event, messages.UpdateTaken):
            self._pushed += 1
            heapq.heappush(self._queue, (when_s, self._pushed, event))

    def _answer(self, peer: str, message: Any, now: float) -> None:
        fate = self._draw.pick(FATES)
        if fate == "silence":
            return
        delay_s = self._draw.between(0.0, 8.0 if fate == "late" else 0.2)
        if fate == "error":
            code = self._draw.pick(protocol.ERROR_CODES)
            self._push(now + delay_s, messages.Replied(protocol.Error(message.id, code, "")))
        elif isinstance(message, protocol.Pull):
            self._serve(message, now + delay_s, fate)
        else:
            self._push(now + delay_s, messages.Replied(self._reply(peer, message)))

    def _reply(self, peer: str, message: Any) -> Any:
        if isinstance(message, protocol.Hello):
            return protocol.Welcome(message.id, peer, "m", (0.25, 0.75), 10)
        progress = tuple(self._draw.uniforms(len(self.spec.layers)).tolist())
        return protocol.StatusOk(message.id, "running", self._draw.below(9), 1, progress, 0.001)

    def _serve(self, pull: protocol.Pull, when_s: float, fate: str) -> None:
        version = pull.version or 1 + self._draw.below(3)
        position = pull.offset
        for layer in pull.layers:
            when_s += self._draw.between(0.0, 2.5 if fate == "slow" else 0.3)
            if fate == "cut" and self._draw.uniform() < 0.5:
                part = position + self._draw.below(self._sizes[layer] + 1)
                lost = messages.RequestFailed(pull.id, "disconnected", part, version)
                self._push(when_s, lost)
                return
            position += self._sizes[layer]
            if fate == "refused" and self._draw.uniform() < 0.5:
                self._push(when_s, messages.LayerRefused(pull.id, layer, "checksum"))
                continue
            event = messages.LayerReceived(
                pull.id, layer, self._sizes[layer], version, 1, 0.0, None
            )
            for _ in range(2 if fate == "twice" else 1):
                self._push(when_s, event)
