"""Flows as fluids in pipes: the models `links`, `fluid` and `fluid-fast`.

They differ in whether there are cards, which overheads count, and how exactly pipes are shared.
"""

from __future__ import annotations

from functools import partial

from sim.clock import Clock, Timer
from sim.network.flows import Flow
from sim.network.links import Links
from sim.network.overhead import Overhead
from sim.network.pipes import Pipe, PipeNetwork
from sim.network.sharing import max_min


class Fluid(PipeNetwork):
    """A flow moves at the lowest level on its way; only flows of pipes whose level has changed are
    looked at."""

    def __init__(
        self,
        clock: Clock,
        links: Links,
        nic_Bps: float | None,
        overhead: Overhead,
        unfelt: float,
    ) -> None:
        """`unfelt` is what `max_min` takes: EXACT or NEARLY."""
        super().__init__(clock, links, nic_Bps, overhead.payload_share)
        self._overhead = overhead
        self._unfelt = unfelt
        self._entered: list[Flow] = []
        """Since the last sharing."""
        self._cold: list[Flow] = []
        """Those of them that may begin slowly."""
        self._late: dict[Flow, Timer] = {}
        """Flows in slow start, which move after it."""

    def _enter(self, flow: Flow, now: float) -> None:
        is_alone = self._attach(flow, now)
        if is_alone and self._overhead.burst_bytes > 0.0:
            self._burst(flow, now)
        if self._is_cold(flow.way[0][0], now):
            self._cold.append(flow)
            self._alter(flow, now)
        elif is_alone:
            self._move_alone(flow, now)
        else:
            self._alter(flow, now)

    def _move_alone(self, flow: Flow, now: float) -> None:
        """What sharing would come to where nobody else is on the way."""
        for pipe, _ in flow.way:
            pipe.level_Bps = pipe.capacity_Bps
        self._give(flow, min([pipe.level_Bps for pipe, _ in flow.way]), now)
        self._rouse()

    def _alter(self, flow: Flow, now: float) -> None:
        super()._alter(flow, now)
        self._entered.append(flow)

    def _leave(self, flow: Flow, now: float) -> None:
        timer = self._late.pop(flow, None)
        if timer is not None:
            timer.cancel()
        super()._leave(flow, now)

    def _is_cold(self, link: Pipe, now: float) -> bool:
        """Whether TCP begins with a window that may be too small for this link."""
        if link.capacity_Bps * self._overhead.round_trip_s <= self._overhead.window_bytes:
            return False
        return len(link.flows) == 1 and now - link.idle_s > self._overhead.cold_after_s

    def _burst(self, flow: Flow, now: float) -> None:
        """On a way that nobody used, what is in all its buckets passes at once."""
        held_bytes = [self._held_bytes(pipe, now) for pipe, _ in flow.way]
        burst_bytes = min(flow.marks_bytes[-1] - flow.since_bytes, *held_bytes)
        for (pipe, _), pipe_bytes in zip(flow.way, held_bytes):
            pipe.spare_bytes = pipe_bytes - burst_bytes
        flow.leap(now, burst_bytes)
        self._timetable.update(flow)

    def _held_bytes(self, pipe: Pipe, now: float) -> float:
        """In the bucket of a pipe that has been idle up to now."""
        refilled_bytes = pipe.spare_bytes + (now - pipe.idle_s) * pipe.capacity_Bps
        return min(refilled_bytes, self._overhead.burst_bytes)

    def _share(self, now: float) -> None:
        if self._cold:
            self._begin_slowly(now)
        altered = [pipe for pipe in self._altered if pipe.flows]
        changed = max_min(altered, self._unfelt)
        self._altered.clear()
        for pipe in changed:
            level_Bps = pipe.level_Bps
            for flow, (one, two) in pipe.flows.items():
                rate_Bps = level_Bps if level_Bps < one.level_Bps else one.level_Bps
                if two.level_Bps < rate_Bps:
                    rate_Bps = two.level_Bps
                if rate_Bps != flow.rate_Bps:
                    self._give(flow, rate_Bps, now)
        # The pipes of a flow that came may have the levels that they had before.
        for flow in self._entered:
            if flow.way:
                self._give(flow, min([pipe.level_Bps for pipe, _ in flow.way]), now)
        self._entered.clear()

    def _begin_slowly(self, now: float) -> None:
        """Take out flows in slow start for as long as it makes them late, judged by an equal share
        among all that began with them."""
        late_s = [(flow, self._slow_start_s(flow)) for flow in self._cold if flow.way]
        self._cold.clear()
        for flow, wait_s in late_s:
            if wait_s > 0.0:
                self._leave(flow, now)
                self._late[flow] = self._clock.at(now + wait_s, partial(self._begin, flow))

    def _slow_start_s(self, flow: Flow) -> float:
        share_Bps = min([pipe.capacity_Bps / len(pipe.flows) for pipe, _ in flow.way])
        left_bytes = flow.marks_bytes[-1] - flow.since_bytes
        return self._overhead.slow_start_s(share_Bps, left_bytes)

    def _begin(self, flow: Flow) -> None:
        del self._late[flow]
        self._join(flow, self._clock.now)
