"""What is under way, and which flow reaches its next mark when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from sim.network.capacity import NEVER_S

if TYPE_CHECKING:
    from sim.network.pipes import Way

SPARE_ENTRIES = 64
"""The timetable holds at most so many entries more than four for each flow."""


class Flow:
    """A transfer from one worker to another.

    It moves at `rate_Bps` from where it was when it got that rate: as long as a rate holds, no
    rounding adds up, and bytes / rate is the time to the last digit.
    """

    __slots__ = (
        "dst",
        "due_s",
        "marks_bytes",
        "number",
        "passed",
        "queued_s",
        "rate_Bps",
        "reached",
        "since_bytes",
        "since_s",
        "src",
        "way",
    )

    def __init__(
        self,
        number: int,
        src: int,
        dst: int,
        marks_bytes: Sequence[float],
        reached: Callable[[int], None],
        now: float,
    ) -> None:
        self.number, self.src, self.dst = number, src, dst
        self.marks_bytes, self.reached = marks_bytes, reached
        self.passed = 0
        """Marks reached by now."""
        self.way: Way = ()
        """What it shares with others at present: nothing while it is paused."""
        self.rate_Bps, self.since_bytes, self.since_s = 0.0, 0.0, now
        self.due_s = NEVER_S
        """When it reaches its next mark."""
        self.queued_s = NEVER_S
        """The time of its entry in the timetable."""

    def position_bytes(self, now: float) -> float:
        """Moved by now: no less than the last mark it has reached, no more than all."""
        moved_bytes = self.since_bytes + (now - self.since_s) * self.rate_Bps
        if self.passed and moved_bytes < self.marks_bytes[self.passed - 1]:
            return self.marks_bytes[self.passed - 1]
        return min(moved_bytes, self.marks_bytes[-1])

    def go_on(self, now: float, rate_Bps: float) -> None:
        """At this rate from here."""
        self.since_bytes = self.position_bytes(now)
        self.since_s = now
        self.rate_Bps = rate_Bps
        self.plan()

    def plan(self) -> None:
        """When the next mark is due, at the rate it has."""
        left_bytes = self.marks_bytes[self.passed] - self.since_bytes
        if left_bytes <= 0.0:
            self.due_s = self.since_s
        elif self.rate_Bps > 0.0:
            self.due_s = self.since_s + left_bytes / self.rate_Bps
        else:
            self.due_s = NEVER_S


def _nobody(_: int) -> None:
    """Hears nothing."""


class Timetable:
    """All flows by the time of their next mark; of those due at once, the oldest flow first.

    A flow that has sped up gets a second entry, one that has slowed down keeps the early one, which
    is put right when it comes up: rates change far more often than marks are reached.
    """

    def __init__(self) -> None:
        self._flows: dict[int, Flow] = {}
        self._entries: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._flows)

    def __iter__(self) -> Iterator[Flow]:
        return iter(list(self._flows.values()))

    def __contains__(self, flow: Flow) -> bool:
        return flow.number in self._flows

    def add(self, flow: Flow) -> None:
        """A new flow, which may have no rate yet."""
        self._flows[flow.number] = flow

    def remove(self, flow: Flow) -> None:
        """It has ended. It forgets whom to tell, who mostly knows it: no garbage in circles."""
        del self._flows[flow.number]
        flow.reached = _nobody

    def update(self, flow: Flow) -> None:
        """Its next mark is due at another time than before."""
        if flow.due_s < flow.queued_s:
            flow.queued_s = flow.due_s
            heappush(self._entries, (flow.due_s, flow.number))
            if len(self._entries) > 4 * len(self._flows) + SPARE_ENTRIES:
                self._clear_out()

    def next_s(self) -> float:
        """When the next mark of any flow is due; infinite for never."""
        while self._entries:
            when_s, number = self._entries[0]
            flow = self._flows.get(number)
            if flow is not None and flow.due_s == when_s:
                return when_s
            heappop(self._entries)
            if flow is not None and flow.queued_s == when_s:
                flow.queued_s = NEVER_S
                self.update(flow)
        return NEVER_S

    def pop(self, now: float) -> Flow | None:
        """The next flow whose mark is due by now. It is out of the timetable until `update`."""
        if self.next_s() > now:
            return None
        flow = self._flows[heappop(self._entries)[1]]
        flow.queued_s = NEVER_S
        return flow

    def _clear_out(self) -> None:
        """Keep one entry a flow."""
        for flow in self._flows.values():
            flow.queued_s = flow.due_s
        self._entries = [(flow.due_s, flow.number) for flow in self if flow.due_s < NEVER_S]
        heapify(self._entries)
