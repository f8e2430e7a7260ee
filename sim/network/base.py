"""What all network models share: flows that begin, reach their marks, pause and end.

Rates are settled once for all that happens at one moment: what a driver starts, cancels or pauses
in one go costs one computation, and the order in which it does so changes no rate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

from mpls.core.links import Link
from sim.clock import Clock, Timer
from sim.network.capacity import NEVER_S
from sim.network.flows import Flow, Timetable


class Network(ABC):
    """Moves bytes between workers, in virtual time. What a subclass decides is the rates."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timetable = Timetable()
        self._started = 0
        self._cut: set[Link] = set()
        self._factors: dict[Link, float] = {}
        self._alarm: Timer | None = None
        self._alarm_s = NEVER_S
        self._unsettled = False
        self._reaching = False

    def start(
        self,
        src: int,
        dst: int,
        marks_bytes: Sequence[float],
        reached: Callable[[int], None],
        lag_s: float = 0.0,
    ) -> Flow:
        """Begin a transfer from worker `src` to worker `dst`. `marks_bytes` are positions in
        ascending order, at least one: `lag_s` after each was reached, `reached` is called with its
        index, never from within `start`. The last one ends the flow and is told of at once."""
        assert src != dst
        assert len(marks_bytes) > 0
        assert marks_bytes[0] >= 0.0
        assert list(marks_bytes) == sorted(marks_bytes)
        now = self._clock.now
        flow = Flow(self._started, src, dst, marks_bytes, reached, lag_s, now)
        self._started += 1
        self._timetable.add(flow)
        if (src, dst) not in self._cut:
            self._enter(flow, now)
        return flow

    def position(self, flow: Flow) -> float:
        """Bytes moved by now; of a flow that is over, by its end."""
        return flow.position_bytes(self._clock.now)

    def cancel(self, flow: Flow) -> None:
        """End a flow where it is: it reaches no further mark. Nothing happens if it is over."""
        if flow in self._timetable:
            self._timetable.remove(flow)
            self._halt(flow, self._clock.now)

    def pause(self, src: int, dst: int) -> None:
        """Cut one direction of a link: its flows, and those that begin meanwhile, keep their
        position."""
        self._cut.add((src, dst))
        for flow in self._timetable:
            if (flow.src, flow.dst) == (src, dst):
                self._halt(flow, self._clock.now)

    def resume(self, src: int, dst: int) -> None:
        """Undo `pause`."""
        if (src, dst) in self._cut:
            self._cut.remove((src, dst))
            for flow in self._timetable:
                if (flow.src, flow.dst) == (src, dst):
                    self._enter(flow, self._clock.now)

    def scale(self, link: Link, factor: float) -> None:
        """Make both directions of a link that much of what they were at first; 1 heals it."""
        assert factor > 0.0
        for direction in (link, (link[1], link[0])):
            self._factors[direction] = factor
            self._rescale(*direction, self._clock.now)

    @abstractmethod
    def _enter(self, flow: Flow, now: float) -> None:
        """A flow begins, or goes on after a pause."""

    @abstractmethod
    def _leave(self, flow: Flow, now: float) -> None:
        """A flow that may have entered ends or pauses; its rate is 0 already."""

    @abstractmethod
    def _rescale(self, src: int, dst: int, now: float) -> None:
        """The factor of one direction has changed."""

    @abstractmethod
    def _share(self, now: float) -> None:
        """Give a rate to every flow whose rate has to change."""

    def _factor(self, src: int, dst: int) -> float:
        return self._factors.get((src, dst), 1.0)

    def _give(self, flow: Flow, rate_Bps: float, now: float) -> None:
        """The flow's rate from now on."""
        if rate_Bps != flow.rate_Bps:
            flow.go_on(now, rate_Bps)
            self._timetable.update(flow)

    def _halt(self, flow: Flow, now: float) -> None:
        flow.go_on(now, 0.0)
        self._leave(flow, now)

    def _unsettle(self, now: float) -> None:
        """Rates have to be computed before time goes on."""
        if not self._unsettled and not self._reaching:
            self._clock.at(now, self._settle)
        self._unsettled = True

    def _rouse(self) -> None:
        """A mark may be due earlier than before, and nothing else has to be computed."""
        if not self._unsettled and not self._reaching:
            self._set_alarm(self._timetable.next_s())

    def _settle(self) -> None:
        if self._unsettled:
            self._unsettled = False
            self._share(self._clock.now)
        self._set_alarm(self._timetable.next_s())

    def _set_alarm(self, next_s: float) -> None:
        """Be called then, when the next mark is due."""
        if next_s != self._alarm_s:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = None if next_s == NEVER_S else self._clock.at(next_s, self._reach)
            self._alarm_s = next_s

    def _reach(self) -> None:
        """Pass all marks that are due."""
        now = self._clock.now
        self._alarm, self._alarm_s = None, NEVER_S
        self._reaching = True
        while (next_s := self._timetable.next_s()) <= now:
            self._pass_mark(self._timetable.pop(), now)
        self._reaching = False
        if self._unsettled:
            self._settle()
        else:
            self._set_alarm(next_s)

    def _pass_mark(self, flow: Flow, now: float) -> None:
        if flow.ends:
            self._end(flow, now)
            return
        index = flow.tell()
        flow.plan()
        self._timetable.update(flow)
        flow.reached(index)

    def _end(self, flow: Flow, now: float) -> None:
        reached, last = flow.reached, len(flow.marks_bytes) - 1
        while flow.passed < last:  # word of these is still on its way
            due_s = flow.crossing_s(flow.passed) + flow.lag_s
            self._clock.at(max(now, due_s), partial(reached, flow.tell()))
        flow.passed = last + 1
        flow.since_bytes, flow.since_s, flow.rate_Bps = flow.marks_bytes[-1], now, 0.0
        self._timetable.remove(flow)
        self._leave(flow, now)
        reached(last)
