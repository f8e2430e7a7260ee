"""`wifi`: one radio channel, shared by all.

A flow between two stations crosses the air twice, each time at that station's own rate, so a byte
from one to the other takes 1/rate + 1/rate of the only second there is. Max-min fairness under one
constraint: all flows move at the same rate, and a slow station slows everybody down.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from sim.clock import Clock
from sim.network.base import Network
from sim.network.flows import Flow

Stations = Callable[[int], float]
"""Bytes per second that a worker's radio reaches from where it stands."""


class Airtime(Network):
    """Where links are scaled, the byte takes so much more of the air."""

    def __init__(self, clock: Clock, stations_Bps: Stations) -> None:
        super().__init__(clock)
        self._stations_Bps = stations_Bps
        self._sending: dict[Flow, float] = {}
        """Seconds of air that a byte of each flow takes."""

    def _enter(self, flow: Flow, now: float) -> None:
        self._sending[flow] = self._seconds_of_air(flow.src, flow.dst)
        self._unsettle(now)

    def _leave(self, flow: Flow, now: float) -> None:
        if self._sending.pop(flow, None) is not None:
            self._unsettle(now)

    def _rescale(self, src: int, dst: int, now: float) -> None:
        for flow in self._sending:
            if (flow.src, flow.dst) == (src, dst):
                self._sending[flow] = self._seconds_of_air(src, dst)
        self._unsettle(now)

    def _share(self, now: float) -> None:
        if self._sending:
            rate_Bps = 1.0 / math.fsum(self._sending.values())
            for flow in self._sending:
                self._give(flow, rate_Bps, now)

    def _seconds_of_air(self, src: int, dst: int) -> float:
        both_s = 1.0 / self._stations_Bps(src) + 1.0 / self._stations_Bps(dst)
        return both_s / self._factor(src, dst)
