"""The Conductor: turns stories (generators) into events in, commands and a deadline out.

The law of this file: time comes in as an argument; nothing here knows sockets, clocks, threads,
tensors or SimPy. Timeouts, stalls, fan-out, cancellation, late and duplicate replies are
interpreted here and nowhere else, so that a live worker and its twin cannot differ in them.

What a driver does, in this order:
1. `commands = conductor.start(now)`, and carries the commands out;
2. waits for an event, but never longer than until `conductor.deadline()`;
3. `commands = conductor.handle(event, now)`, with `Ticked()` when the deadline came first;
4. goes on with 2 until `conductor.finished` (some time after it handed in `Drained()`).
`now` never decreases. A tick that comes early is harmless. One thread calls all of this.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol

from mpls.core import messages, protocol
from mpls.core.effects import Gather, Outcome, Publish, Request, Sleep, Story
from mpls.core.messages import CancelRequest, Command, Event, PublishUpdate, RecordNote, SendRequest
from mpls.core.tasks import Attempt, Group, Task

NEVER_S = float("inf")


class Stories(Protocol):
    """What a worker has to tell: stories that run from the start, and one for each round."""

    stall_s: float

    def opening(self, now: float) -> Iterable[Story]:
        """The stories that begin with the worker and end when it drains."""

    def round(self, number: int, now: float) -> Story:
        """The story of one aggregation round."""

    def change_peers(self, names: tuple[str, ...], now: float) -> Iterable[Story]:
        """These are the peers now; stories that begin with that."""


class Conductor:
    """See the module's text for the caller's duties."""

    def __init__(self, stories: Stories) -> None:
        self._stories = stories
        self._attempts: dict[int, Attempt] = {}
        self._timers: list[tuple[float, int, Task, int]] = []
        self._ready: deque[tuple[Task, Any]] = deque()
        self._out: list[Command] = []
        self._tasks: dict[Task, None] = {}
        self._publishing: tuple[int, Task] | None = None
        self._now = 0.0
        self._next_id = 1
        self._timer_count = 0
        self._busy = False
        self.draining = False
        self.dropped = 0
        """Late, duplicate and unknown replies so far."""

    # --- the three methods of the contract ---

    def start(self, now: float) -> list[Command]:
        """Begin the opening stories."""
        self._now = now
        for story in self._stories.opening(now):
            self._spawn(story)
        self._run()
        return self._handed_out()

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in one event; what it causes is returned in order."""
        assert not self._busy, "handle() was re-entered"
        assert now >= self._now, f"time ran backwards: {now} after {self._now}"
        self._now = now
        _HANDLERS[type(event)](self, event)
        if self._ready:
            self._run()
        if self._timers and self._timers[0][0] <= now:
            self._fire_timers()
            self._run()
        return self._handed_out()

    def deadline(self) -> float:
        """When `Ticked` is due at the latest, on the clock of `now`; infinite if nothing waits."""
        timers = self._timers
        while timers:
            when_s, _, task, wait = timers[0]
            if task.wait == wait:
                return when_s
            heapq.heappop(timers)
        return NEVER_S

    @property
    def finished(self) -> bool:
        """Whether it was drained and every story has come to its end."""
        return self.draining and not self._tasks

    # --- events ---

    def _on_reply(self, event: messages.Replied) -> None:
        attempt = self._live(event.reply.id)
        if attempt is not None:
            self._end(attempt, attempt.objection(event.reply), event.reply)

    def _on_progress(self, event: messages.Progress) -> None:
        attempt = self._live(event.request_id)
        if attempt is not None:
            self._note_bytes(attempt, event.received_bytes, event.version)
            attempt.marks.append((self._now, event.received_bytes))
            if not isinstance(attempt.request.ask, protocol.Pull) and attempt.is_complete():
                self._end(attempt, "")

    def _on_layer(self, event: messages.LayerReceived | messages.LayerRefused) -> None:
        attempt = self._live(event.request_id)
        if attempt is None:
            return
        if not attempt.awaits(event.layer):
            self.dropped += 1
        elif isinstance(event, messages.LayerRefused):
            attempt.refused.append(event)
            attempt.ended.add(event.layer)
            attempt.last_byte_s = self._now
        else:
            attempt.layers.append(event)
            attempt.ended.add(event.layer)
            attempt.arrivals_s.append(self._now)
            attempt.version = event.version
            attempt.last_byte_s = self._now
        if attempt.is_complete():
            self._end(attempt, attempt.refused[0].reason if attempt.refused else "")

    def _on_failure(self, event: messages.RequestFailed) -> None:
        attempt = self._live(event.request_id)
        if attempt is not None:
            if event.received_bytes > attempt.received_bytes:
                self._note_bytes(attempt, event.received_bytes, event.version)
            self._end(attempt, event.reason)

    def _on_round_due(self, event: messages.RoundDue) -> None:
        if not self.draining:
            self._spawn(self._stories.round(event.round, self._now))

    def _on_update_taken(self, event: messages.UpdateTaken) -> None:
        if self._publishing is not None and self._publishing[0] == event.round:
            self._resume(self._publishing[1], event)
            self._publishing = None

    def _on_peers_changed(self, event: messages.PeersChanged) -> None:
        if self.draining:
            return
        for story in self._stories.change_peers(event.peers, self._now):
            self._spawn(story)
        for attempt in list(self._attempts.values()):
            if attempt.request.peer not in event.peers:
                self._cancel(attempt, "removed")

    def _on_drained(self, _: messages.Drained) -> None:
        self.draining = True
        for task in list(self._tasks):
            self._stop(task, "cancelled")

    def _on_tick(self, _: messages.Ticked) -> None:
        """Nothing: due timers fire after every event."""

    def _live(self, request_id: int) -> Attempt | None:
        attempt = self._attempts.get(request_id)
        if attempt is None:
            self.dropped += 1
        return attempt

    def _note_bytes(self, attempt: Attempt, received_bytes: int, version: int) -> None:
        attempt.received_bytes = received_bytes
        attempt.version = version
        attempt.last_byte_s = self._now

    # --- stories ---

    def _spawn(self, story: Story, group: Group | None = None, index: int = 0) -> Task:
        task = Task(story, group, index)
        self._tasks[task] = None
        self._ready.append((task, None))
        return task

    def _run(self) -> None:
        """Step every task that can go on, in order."""
        self._busy = True
        while self._ready:
            self._step(*self._ready.popleft())
        self._busy = False

    def _handed_out(self) -> list[Command]:
        commands, self._out = self._out, []
        return commands

    def _step(self, task: Task, value: Any) -> None:
        waits = False
        while not waits:
            try:
                effect = task.story.send(value)
            except StopIteration as stop:
                self._finish(task, stop.value)
                return
            value = None
            if isinstance(effect, RecordNote):
                self._out.append(effect)
            elif isinstance(effect, Request) and task.stopped:
                value = Outcome(task.stopped, self._now, self._now)
            elif isinstance(effect, Sleep) and (task.stopped or effect.seconds <= 0):
                value = task.stopped
            elif not (isinstance(effect, Publish) and task.stopped == "cancelled"):
                _EFFECTS[type(effect)](self, task, effect)
                waits = True

    def _finish(self, task: Task, result: Any) -> None:
        del self._tasks[task]
        group = task.group
        if group is None:
            return
        group.results[task.index] = result
        group.running -= 1
        if group.running == 0:
            group.children.clear()  # who know their group: no garbage in circles
            self._resume(group.parent, group.results)

    def _resume(self, task: Task, value: Any) -> None:
        task.wait += 1
        task.waiting_for = None
        self._ready.append((task, value))

    def _stop(self, task: Task, reason: str) -> None:
        """From now on every request of the task and its children ends at once with `reason`."""
        task.stopped = task.stopped or reason
        waiting = task.waiting_for
        if isinstance(waiting, Attempt):
            self._cancel(waiting, task.stopped)
        elif isinstance(waiting, Sleep):
            self._resume(task, task.stopped)
        elif isinstance(waiting, Group):
            for child in waiting.children:
                self._stop(child, reason)
        elif isinstance(waiting, Publish) and reason == "cancelled":
            self._publishing = None
            self._resume(task, None)

    # --- effects ---

    def _do_request(self, task: Task, request: Request) -> None:
        request_id = self._next_id
        self._next_id += 1
        ask = request.ask
        # A status has nothing but its id, and is asked for most often by far.
        known = type(ask) is protocol.Status
        ask = protocol.Status(request_id) if known else replace(ask, id=request_id)
        request = Request(request.peer, ask, request.timeout_s)
        attempt = Attempt(request_id, task, request, self._now)
        self._attempts[request_id] = attempt
        if attempt.moves_bytes:
            self._count_sharers()
        task.waiting_for = attempt
        self._out.append(SendRequest(request.peer, ask))
        self._set_timer(task, self._attempt_due_s(attempt))

    def _do_sleep(self, task: Task, sleep: Sleep) -> None:
        task.waiting_for = sleep
        self._set_timer(task, self._now + sleep.seconds)

    def _do_gather(self, task: Task, gather: Gather) -> None:
        group = Group(task, running=len(gather.stories), results=[None] * len(gather.stories))
        task.waiting_for = group
        group.children = [
            self._spawn(story, group, index) for index, story in enumerate(gather.stories)
        ]
        for child in group.children:
            child.stopped = task.stopped
        if not group.children:
            self._resume(task, [])
        else:
            self._set_timer(task, self._now + gather.timeout_s)

    def _do_publish(self, task: Task, publish: Publish) -> None:
        assert self._publishing is None, "two updates at once"
        task.waiting_for = publish
        self._publishing = (publish.round, task)
        self._out.append(PublishUpdate(publish.round, publish.sources))

    # --- attempts and timers ---

    def _count_sharers(self) -> None:
        """Each pull under way remembers the largest company it had."""
        pulls = [attempt for attempt in self._attempts.values() if attempt.moves_bytes]
        for attempt in pulls:
            attempt.sharers = max(attempt.sharers, len(pulls))

    def _attempt_due_s(self, attempt: Attempt) -> float:
        end_s = attempt.start_s + attempt.request.timeout_s
        if not attempt.moves_bytes:
            return end_s
        return min(end_s, attempt.last_byte_s + self._stories.stall_s)

    def _end(self, attempt: Attempt, reason: str, reply: Any = None) -> None:
        del self._attempts[attempt.request_id]
        outcome = Outcome(
            reason,
            attempt.start_s,
            self._now,
            attempt.request_id,
            reply,
            tuple(attempt.layers),
            tuple(attempt.arrivals_s),
            tuple(attempt.refused),
            attempt.received_bytes,
            attempt.version,
            attempt.last_byte_s,
            attempt.sharers,
            tuple(attempt.marks),
        )
        self._resume(attempt.task, outcome)

    def _cancel(self, attempt: Attempt, reason: str) -> None:
        self._out.append(CancelRequest(attempt.request.peer, attempt.request_id))
        self._end(attempt, reason)

    def _set_timer(self, task: Task, when_s: float) -> None:
        if when_s < NEVER_S:
            self._timer_count += 1
            heapq.heappush(self._timers, (when_s, self._timer_count, task, task.wait))

    def _fire_timers(self) -> None:
        while self.deadline() <= self._now:
            task = heapq.heappop(self._timers)[2]
            waiting = task.waiting_for
            if isinstance(waiting, Sleep):
                self._resume(task, "")
            elif isinstance(waiting, Group):
                for child in waiting.children:
                    self._stop(child, "timed-out")
            elif isinstance(waiting, Attempt):
                self._attempt_timer(waiting)

    def _heard_s(self, peer: str) -> float:
        """When the last byte of anything came from it that is under way now. An answer may wait
        behind these bytes: who sends them is not dead."""
        under_way = (other for other in self._attempts.values() if other.request.peer == peer)
        return max((it.last_byte_s for it in under_way if it.last_byte_s > it.start_s), default=0.0)

    def _attempt_timer(self, attempt: Attempt) -> None:
        due_s = self._attempt_due_s(attempt)
        if not attempt.moves_bytes:
            due_s = max(due_s, self._heard_s(attempt.request.peer) + attempt.request.timeout_s)
        if due_s > self._now:
            self._set_timer(attempt.task, due_s)
        elif due_s < attempt.start_s + attempt.request.timeout_s:
            self._cancel(attempt, "stalled")
        else:
            self._cancel(attempt, "timed-out")


_HANDLERS: dict[type, Any] = {
    messages.Replied: Conductor._on_reply,
    messages.Progress: Conductor._on_progress,
    messages.LayerReceived: Conductor._on_layer,
    messages.LayerRefused: Conductor._on_layer,
    messages.RequestFailed: Conductor._on_failure,
    messages.RoundDue: Conductor._on_round_due,
    messages.UpdateTaken: Conductor._on_update_taken,
    messages.PeersChanged: Conductor._on_peers_changed,
    messages.Drained: Conductor._on_drained,
    messages.Ticked: Conductor._on_tick,
}
_EFFECTS: dict[type, Any] = {
    Request: Conductor._do_request,
    Sleep: Conductor._do_sleep,
    Gather: Conductor._do_gather,
    Publish: Conductor._do_publish,
}
