"""Links and cards as pipes that flows share.

A flow crosses its link's pipe in its direction and, where workers have cards, the uplink of its
source and the downlink of its destination. A pipe follows its capacity's changes only while a flow
uses it.
"""

from __future__ import annotations

import math
from functools import partial

from mpls.core.links import Link
from sim.clock import Clock, Timer
from sim.network.base import Network
from sim.network.capacity import NEVER_S, Capacity, Constant
from sim.network.flows import Flow
from sim.network.links import Links


class Pipe:
    """One direction of a link or of a card."""

    __slots__ = (
        "capacity_Bps",
        "factor",
        "flows",
        "holds_until_s",
        "idle_s",
        "level_Bps",
        "number",
        "queued",
        "source",
        "spare_bytes",
        "timer",
    )

    def __init__(self, number: int, source: Capacity) -> None:
        self.number = number
        self.source, self.factor = source, 1.0
        self.capacity_Bps = 0.0
        """By `source` and `factor`, up to `holds_until_s`."""
        self.holds_until_s = -math.inf
        self.level_Bps = math.inf
        """What a flow gets here if no other pipe limits it; infinite without flows."""
        self.flows: dict[Flow, Others] = {}
        self.queued = False
        """Whether its level waits to be computed."""
        self.timer: Timer | None = None
        """Its capacity's next change."""
        self.idle_s = -math.inf
        """Since when no flow has used it, and what its token bucket held then."""
        self.spare_bytes = 0.0


Others = tuple[Pipe, Pipe]
"""The two other pipes that a flow of a pipe crosses."""
Way = tuple[tuple[Pipe, Others], ...]
"""The pipes that a flow crosses, its link's first."""

OPEN = Pipe(-1, Constant(math.inf))
"""Limits nothing: stands where a flow crosses fewer than three pipes."""
OPEN.queued = True


class PipeNetwork(Network):
    """Flows over pipes. What a subclass decides is how the flows of a pipe share it."""

    def __init__(
        self, clock: Clock, links: Links, nic_Bps: float | None, payload_share: float = 1.0
    ) -> None:
        super().__init__(clock)
        self._links = links
        self._payload_share = payload_share
        self._nic = None if nic_Bps is None else Constant(nic_Bps)
        self._link_pipes: dict[Link, Pipe] = {}
        self._uplinks: dict[int, Pipe] = {}
        self._downlinks: dict[int, Pipe] = {}
        self._ways: dict[Link, Way] = {}
        self._pipes_laid = 0
        self._altered: dict[Pipe, None] = {}
        """Pipes whose flows or capacity have changed since the last sharing."""

    def _enter(self, flow: Flow, now: float) -> None:
        self._join(flow, now)

    def _leave(self, flow: Flow, now: float) -> None:
        for pipe, _ in flow.way:
            del pipe.flows[flow]
            if pipe.flows:
                self._altered[pipe] = None
                self._unsettle(now)
            else:
                pipe.level_Bps = math.inf
                pipe.idle_s = now
                if pipe.timer is not None:
                    pipe.timer.cancel()
                    pipe.timer = None
        flow.way = ()

    def _rescale(self, src: int, dst: int, now: float) -> None:
        pipe = self._link(src, dst)
        pipe.factor = self._factor(src, dst)
        pipe.holds_until_s = -math.inf
        if pipe.flows:
            self._change(pipe)

    def _join(self, flow: Flow, now: float) -> None:
        """Take a share of all the pipes on the way."""
        self._attach(flow, now)
        self._alter(flow, now)

    def _alter(self, flow: Flow, now: float) -> None:
        for pipe, _ in flow.way:
            self._altered[pipe] = None
        self._unsettle(now)

    def _attach(self, flow: Flow, now: float) -> bool:
        """Let the flow's pipes know of it; returns whether nobody else is on the way."""
        is_alone = True
        flow.way = self._way(flow.src, flow.dst)
        for pipe, others in flow.way:
            if pipe.flows:
                is_alone = False
            elif pipe.holds_until_s < NEVER_S:
                self._refresh(pipe, now)
            pipe.flows[flow] = others
        return is_alone

    def _way(self, src: int, dst: int) -> Way:
        way = self._ways.get((src, dst))
        if way is None:
            way = self._ways[src, dst] = self._lay(src, dst)
        return way

    def _lay(self, src: int, dst: int) -> Way:
        link = self._link(src, dst)
        if self._nic is None:
            return ((link, (OPEN, OPEN)),)
        up, down = self._card(self._uplinks, src), self._card(self._downlinks, dst)
        return (link, (up, down)), (up, (link, down)), (down, (link, up))

    def _link(self, src: int, dst: int) -> Pipe:
        pipe = self._link_pipes.get((src, dst))
        if pipe is None:
            pipe = self._link_pipes[src, dst] = self._pipe(self._links(src, dst))
        return pipe

    def _card(self, cards: dict[int, Pipe], worker: int) -> Pipe:
        assert self._nic is not None
        pipe = cards.get(worker)
        if pipe is None:
            pipe = cards[worker] = self._pipe(self._nic)
        return pipe

    def _pipe(self, source: Capacity) -> Pipe:
        self._pipes_laid += 1
        return Pipe(self._pipes_laid, source)

    def _refresh(self, pipe: Pipe, now: float) -> None:
        """Take over the capacity of this moment, and come back when it changes."""
        if pipe.timer is not None:
            pipe.timer.cancel()
            pipe.timer = None
        rate_Bps, pipe.holds_until_s = pipe.source.at(now)
        pipe.capacity_Bps = rate_Bps * pipe.factor * self._payload_share
        if pipe.holds_until_s < NEVER_S:
            pipe.timer = self._clock.at(pipe.holds_until_s, partial(self._change, pipe))

    def _change(self, pipe: Pipe) -> None:
        now = self._clock.now
        self._refresh(pipe, now)
        self._altered[pipe] = None
        self._unsettle(now)
