"""`lv08`: SimGrid's default network model, and CM02, its plain one: to check ours against SimGrid.

After docs/source/Models.rst and network_cm02.cpp of SimGrid 3.32: a flow first pays the latency
times a factor, then moves at no more than gamma / (2 latency), and shares each pipe in inverse
proportion to its penalty, the sum over its pipes of latency + S / bandwidth. Its acknowledgements
load the way back with a twentieth of its rate. Of the rate that it is given, `bandwidth_factor` is
payload. Without latency all penalties are 1 and nothing but the pipes bounds a rate.

SimGrid's constants were fitted long ago and elsewhere: to predict real links, calibrate `fluid`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from sim.clock import Clock, Timer
from sim.network.flows import Flow
from sim.network.links import Links
from sim.network.pipes import PipeNetwork, Way
from sim.network.weighted import Demand, weighted_max_min

GAMMA_BYTES = 4_194_304.0
"""The largest TCP window."""


@dataclass(frozen=True)
class Constants:
    """What tells SimGrid's models apart."""

    latency_factor: float
    bandwidth_factor: float
    weight_bytes: float
    """S: what a bandwidth weighs beside a latency."""
    cross_traffic: float
    """Load on the way back, as a share of the rate."""


LV08 = Constants(13.01, 0.97, 20_537.0, 0.05)
CM02 = Constants(1.0, 1.0, 0.0, 0.0)


class SimGridNetwork(PipeNetwork):
    """All rates are computed anew at each change: made for cross-checks, not for speed."""

    def __init__(
        self,
        clock: Clock,
        links: Links,
        nic_Bps: float | None,
        latency_s: float,
        constants: Constants,
    ) -> None:
        """`latency_s` is that of every link; cards have none."""
        super().__init__(clock, links, nic_Bps)
        self._latency_s = latency_s
        self._constants = constants
        self._paying: dict[Flow, Timer] = {}
        """Flows that have yet to pay their latency."""
        self._moving: dict[Flow, None] = {}

    def _enter(self, flow: Flow, now: float) -> None:
        latency_s = self._constants.latency_factor * self._latency_s
        if latency_s > 0.0:
            self._paying[flow] = self._clock.at(now + latency_s, partial(self._begin, flow))
        else:
            self._join(flow, now)

    def _begin(self, flow: Flow) -> None:
        del self._paying[flow]
        self._join(flow, self._clock.now)

    def _join(self, flow: Flow, now: float) -> None:
        super()._join(flow, now)
        self._moving[flow] = None

    def _leave(self, flow: Flow, now: float) -> None:
        timer = self._paying.pop(flow, None)
        if timer is not None:
            timer.cancel()
        self._moving.pop(flow, None)
        super()._leave(flow, now)

    def _lay(self, src: int, dst: int) -> Way:
        there = super()._lay(src, dst)
        return there + super()._lay(dst, src) if self._constants.cross_traffic else there

    def _share(self, now: float) -> None:
        self._altered.clear()
        demands = [self._demand(flow) for flow in self._moving]
        for flow, rate_Bps in zip(self._moving, weighted_max_min(demands)):
            self._give(flow, rate_Bps * self._constants.bandwidth_factor, now)

    def _demand(self, flow: Flow) -> Demand:
        pipes = [pipe for pipe, _ in flow.way]
        there = pipes[: len(pipes) // 2] if self._constants.cross_traffic else pipes
        back = pipes[len(there) :]
        loads = [*((p, 1.0) for p in there), *((p, self._constants.cross_traffic) for p in back)]
        if self._latency_s == 0.0:
            return Demand(1.0, math.inf, loads)
        weights_s = [self._constants.weight_bytes / pipe.capacity_Bps for pipe in there]
        return Demand(
            penalty=self._latency_s + math.fsum(weights_s),
            bound_Bps=GAMMA_BYTES / (2.0 * self._latency_s),
            loads=loads,
        )
