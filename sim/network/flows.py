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

    Word of a mark gets out `lag_s` later, so that a caller for whom a layer is there a while after
    its last byte needs no event of its own for that. Only the last mark, with which the flow ends,
    is told of at once.
    """

    __slots__ = (
        "_end_s",
        "crossed_s",
        "dst",
        "due_s",
        "ends",
        "lag_s",
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
        lag_s: float,
        now: float,
    ) -> None:
        self.number, self.src, self.dst = number, src, dst
        self.marks_bytes, self.reached, self.lag_s = marks_bytes, reached, lag_s
        self.passed = 0
        """Marks whose word is out."""
        self.crossed_s: list[float] = []
        """When the marks after these were crossed, as far as a rate decided it that is over."""
        self.way: Way = ()
        """What it shares with others at present: nothing while it is paused."""
        self.rate_Bps, self.since_bytes, self.since_s = 0.0, 0.0, now
        self.due_s = NEVER_S
        """When word of its next mark gets out."""
        self._end_s = NEVER_S
        """When it reaches the last."""
        self.ends = False
        """Whether that is the last one."""
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
        if self.lag_s:
            self._cross(now)
        self.since_bytes = self.position_bytes(now)
        self.since_s = now
        self.rate_Bps = rate_Bps
        self._end_s = self._crosses_s(len(self.marks_bytes) - 1)
        self.plan()

    def leap(self, now: float, more_bytes: float) -> None:
        """Move so far in no time."""
        self.go_on(now, self.rate_Bps)
        self.since_bytes += more_bytes
        self._end_s = self._crosses_s(len(self.marks_bytes) - 1)
        self.plan()

    def plan(self) -> None:
        """When word of the next mark gets out, at the rate it has."""
        self.due_s, self.ends = self._end_s, True
        if self.passed < len(self.marks_bytes) - 1:
            word_s = self.crossing_s(self.passed) + self.lag_s
            if word_s <= self._end_s:
                self.due_s, self.ends = word_s, False

    def crossing_s(self, index: int) -> float:
        """When it crosses, or crossed, a mark whose word is not out."""
        ahead = index - self.passed
        return self.crossed_s[ahead] if ahead < len(self.crossed_s) else self._crosses_s(index)

    def tell(self) -> int:
        """Word of the next mark is out; returns its index."""
        if self.crossed_s:
            del self.crossed_s[0]
        self.passed += 1
        return self.passed - 1

    def _crosses_s(self, index: int) -> float:
        """By the rate it has."""
        left_bytes = self.marks_bytes[index] - self.since_bytes
        if left_bytes <= 0.0:
            return self.since_s
        return self.since_s + left_bytes / self.rate_Bps if self.rate_Bps > 0.0 else NEVER_S

    def _cross(self, now: float) -> None:
        """Remember when the marks behind it were crossed: the rate that says so is over."""
        for index in range(self.passed + len(self.crossed_s), len(self.marks_bytes) - 1):
            at_s = self._crosses_s(index)
            if at_s > now:
                return
            self.crossed_s.append(at_s)


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

    def pop(self) -> Flow:
        """The flow whose mark is due at `next_s()`, which was just asked for. It is out of the
        timetable until `update`."""
        flow = self._flows[heappop(self._entries)[1]]
        flow.queued_s = NEVER_S
        return flow

    def _clear_out(self) -> None:
        """Keep one entry a flow."""
        for flow in self._flows.values():
            flow.queued_s = flow.due_s
        self._entries = [(flow.due_s, flow.number) for flow in self if flow.due_s < NEVER_S]
        heapify(self._entries)
