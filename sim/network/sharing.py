"""How flows share pipes: max-min fairly.

A pipe's *level* is what a flow gets there if nothing else limits it, and a flow moves at the lowest
level on its way. Rates are max-min fair if and only if every level is what its own pipe's flows
leave over: the rates of flows with lower levels elsewhere are taken off the capacity, and the rest
share what remains equally. Each level thus depends on its neighbours' only, and a change is
followed from pipe to pipe, lowest level first, for as far as it is felt. Since the flows that
matter to a level are those with lower ones, levels come to rest from the lowest up.

Levels are computed from sorted values, so that rates do not depend on labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from sim.network.pipes import Pipe

EXACT = 1e-13
"""As a relative change of a level: only rounding."""
NEARLY = 0.05
"""A pipe may be over- or underbooked by so much; most flows' times are within 1 % of exact ones."""
MOST_CHANGES = 1_000
"""Of one pipe's level in one go; ten were the most seen among 300 flows."""


def max_min(altered: Iterable[Pipe], unfelt: float) -> list[Pipe]:
    """Set the levels of pipes whose flows or capacity have changed, and all that this changes by
    more than `unfelt`, relatively. Returns the pipes whose level is another now, in a fixed order.
    """
    waiting = [(pipe.level_Bps, pipe.number, pipe) for pipe in altered]
    heapify(waiting)
    for _, _, pipe in waiting:
        pipe.queued = True
    changed: dict[Pipe, int] = {}
    while waiting:
        pipe = heappop(waiting)[2]
        pipe.queued = False
        before_Bps, level_Bps = pipe.level_Bps, fair_level_Bps(pipe)
        if abs(level_Bps - before_Bps) <= unfelt * level_Bps:
            continue
        pipe.level_Bps = level_Bps
        changed[pipe] = changed.get(pipe, 0) + 1
        assert changed[pipe] <= MOST_CHANGES
        lower_Bps = min(before_Bps, level_Bps)
        for one, two in pipe.flows.values():
            # One takes less or more of this flow only if neither it nor two holds the flow below.
            if lower_Bps < one.level_Bps and lower_Bps < two.level_Bps:
                for other in (one, two):
                    if not other.queued and len(other.flows) > 1:
                        other.queued = True
                        heappush(waiting, (other.level_Bps, other.number, other))
    return list(changed)


def fair_level_Bps(pipe: Pipe) -> float:
    """What the flows that nothing else limits get here, each; where all are limited elsewhere, what
    the fastest of them could have."""
    left_Bps, sharers = pipe.capacity_Bps, len(pipe.flows)
    if sharers == 1:
        return left_Bps
    limits_Bps = [
        one.level_Bps if one.level_Bps < two.level_Bps else two.level_Bps
        for one, two in pipe.flows.values()
    ]
    for limit_Bps in sorted(limits_Bps):
        if limit_Bps * sharers >= left_Bps or sharers == 1:
            break
        left_Bps -= limit_Bps
        sharers -= 1
    return left_Bps / sharers
