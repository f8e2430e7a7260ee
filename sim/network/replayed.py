"""`trace`: transfers take as long as they took in a recorded run."""

from __future__ import annotations

from collections.abc import Callable

from mpls.core.links import Link
from sim.clock import Clock
from sim.network.base import Network
from sim.network.flows import Flow

Duration = Callable[[int, int, float, int], float]
"""Seconds of the n-th transfer (from 0) of so many bytes from one worker to another."""
SHORTEST_S = 1e-9


class Replayed(Network):
    """No flow feels another; each moves evenly."""

    def __init__(self, clock: Clock, duration_s: Duration) -> None:
        super().__init__(clock)
        self._duration_s = duration_s
        self._begun: dict[Link, int] = {}
        self._recorded_Bps: dict[Flow, float] = {}
        """What each flow was recorded at, paused ones included."""

    def _enter(self, flow: Flow, now: float) -> None:
        if flow not in self._recorded_Bps:
            self._recorded_Bps[flow] = self._recorded(flow)
        self._move(flow, now)

    def _leave(self, flow: Flow, now: float) -> None:
        if flow not in self._timetable:
            self._recorded_Bps.pop(flow, None)

    def _rescale(self, src: int, dst: int, now: float) -> None:
        for flow in self._recorded_Bps:
            if (flow.src, flow.dst) == (src, dst) and flow.rate_Bps > 0.0:
                self._move(flow, now)

    def _share(self, now: float) -> None:
        """Nothing is shared: a flow has its rate from the moment on that it enters."""

    def _move(self, flow: Flow, now: float) -> None:
        rate_Bps = self._recorded_Bps[flow] * self._factor(flow.src, flow.dst)
        self._give(flow, rate_Bps, now)
        self._rouse()

    def _recorded(self, flow: Flow) -> float:
        nth = self._begun.get((flow.src, flow.dst), 0)
        self._begun[flow.src, flow.dst] = nth + 1
        total_bytes = flow.marks_bytes[-1]
        duration_s = self._duration_s(flow.src, flow.dst, total_bytes, nth)
        # An empty flow needs some rate, too, to be over at all.
        return max(total_bytes, 1.0) / max(duration_s, SHORTEST_S)
