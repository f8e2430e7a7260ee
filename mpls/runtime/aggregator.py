"""The aggregation thread: drives the Conductor with ZeroMQ events, and adds up what arrived."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from mpls.core.conductor import NEVER_S, Conductor
from mpls.core.messages import (
    CancelRequest,
    Drained,
    Event,
    PeersChanged,
    PublishUpdate,
    RecordNote,
    SendRequest,
    Ticked,
    UpdateTaken,
)
from mpls.core.round import Rounds
from mpls.core.trace import command_record, event_record
from mpls.runtime.health import Pulse
from mpls.runtime.journal import Clock, Journal
from mpls.runtime.keeper import CorePart, Keeper
from mpls.runtime.mailbox import Bell, Handover
from mpls.runtime.transport import Transport
from mpls.runtime.updates import LayerUpdate, add_up

log = logging.getLogger("mpls")

TELL_PERIODS = 1.5
"""Status periods that a finished worker stays at least, so that its peers hear of it."""


class Aggregator:
    """One thread: it alone touches the Conductor and the transport."""

    def __init__(
        self,
        rounds: Rounds,
        transport: Transport,
        update: Handover[LayerUpdate],
        own_layer: Callable[[str], NDArray[Any]],
        norm_clip: float,
        journal: Journal,
        clock: Clock,
        keeper: Keeper | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        self.rounds = rounds
        self.bell: Bell[Event] = Bell()
        self._conductor = Conductor(rounds)
        self._transport = transport
        self._update = update
        self._own_layer = own_layer
        self._norm_clip = norm_clip
        self._journal = journal
        self._clock = clock
        self._keeper = keeper
        self._pulse = pulse or Pulse(clock)
        self._leave: tuple[float, Callable[[], None]] | None = None
        self._reachable: deque[Mapping[str, str]] = deque()
        """Where the peers are, for each PeersChanged that was posted and not yet handled."""

    def post(self, event: Event) -> None:
        """Hand in an event; from any thread."""
        self.bell.post(event)

    def change_peers(self, addresses: Mapping[str, str]) -> None:
        """These are the peers from now on, at host:port; from any thread."""
        self._reachable.append(addresses)
        self.post(PeersChanged(tuple(addresses)))

    def when_peers_are_done(self, call: Callable[[], None]) -> None:
        """Call this (in the aggregation thread) as soon as no peer that can be heard still trains,
        but not before all have had the time to ask for this worker's state."""
        told_s = self._clock.now() + TELL_PERIODS * self.rounds.spec.pull.status_s
        self._leave = (told_s, call)

    def run(self) -> None:
        """Until it has drained."""
        self._transport.open()
        try:
            self._drive()
        finally:
            self._pulse.end("aggregation")
            self._transport.close()
            self.bell.close()

    def _drive(self) -> None:
        now = self._clock.now()
        self._journal.note("start", now)
        self._carry_out(self._conductor.start(now), now)
        while not self._conductor.finished:
            self._pulse.beat("aggregation")
            for event in self._wait():
                self._handle(event)
            self._look_whether_peers_are_done()

    def _wait(self) -> list[Event]:
        deadline_s = self._conductor.deadline()
        left_s = deadline_s - self._clock.now() if deadline_s < NEVER_S else 0.5
        events = self._transport.wait(min(0.5, max(0.0, left_s)), self.bell.fileno())
        events += self.bell.collect()
        if self._clock.now() >= deadline_s:
            events.append(Ticked())
        return events

    def _handle(self, event: Event) -> None:
        moved: list[Event] = []
        if isinstance(event, PeersChanged):
            moved = self._transport.reach(self._reachable.popleft())
        now = self._clock.now()
        self._journal.write(event_record(event, now))
        self._carry_out(self._conductor.handle(event, now), now)
        for failure in moved:
            self._handle(failure)
        keeper = self._keeper
        if keeper is not None and isinstance(event, UpdateTaken) and keeper.due(event.round):
            keeper.put(self.state(event.round))

    def state(self, round_number: int) -> CorePart:
        """What the core believes after this round; for the aggregation thread, or once that has
        ended."""
        return CorePart(round_number, self.rounds.memory(self._clock.now()))

    def _carry_out(self, commands: list[Any], now: float) -> None:
        failures: list[Event] = []
        for command in commands:
            self._journal.write(command_record(command, now))
            if isinstance(command, SendRequest):
                failures += self._transport.send(command)
            elif isinstance(command, CancelRequest):
                self._transport.cancel(command)
            elif isinstance(command, PublishUpdate):
                self._publish(command)
            elif isinstance(command, RecordNote) and command.kind == "peer":
                _log_peer(command.fields)
        for failure in failures:
            self._handle(failure)

    def _publish(self, command: PublishUpdate) -> None:
        # First weights, which nobody has trained, are no measure of anything.
        norm_clip = self._norm_clip if command.round > 0 else 0.0
        update = add_up(
            command.round,
            command.sources,
            self._transport.claim,
            self._own_layer,
            norm_clip,
            self.rounds.gate,
        )
        self._transport.forget()
        self._update.put(update)

    def _look_whether_peers_are_done(self) -> None:
        now = self._clock.now()
        if self._leave and now >= self._leave[0] and not self.rounds.peers_training(now):
            self._leave[1]()
            self._leave = None

    def drain(self) -> None:
        """End every story; from any thread."""
        self.post(Drained())


def _log_peer(about: dict[str, Any]) -> None:
    """The core notes each change, and once a minute who stays out."""
    ready = about["standing"] == "ready"
    why = f" ({about['why']})" if about["why"] else ""
    level = logging.INFO if ready else logging.WARNING
    log.log(level, "%s is %s%s", about["peer"], about["standing"], why)
