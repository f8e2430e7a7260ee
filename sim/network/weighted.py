"""Weighted max-min fairness with bounds, by filling, from scratch: the textbook's algorithm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from sim.network.pipes import Pipe


@dataclass(frozen=True)
class Demand:
    """What a flow asks of a sharing."""

    penalty: float
    """Where flows compete, their rates are in inverse proportion to it."""
    bound_Bps: float
    loads: Sequence[tuple[Pipe, float]]
    """The pipes it crosses, and how much of each a byte of it takes, above 0."""


class _Tank:
    """What is left of a pipe, or of one demand's bound, while levels rise."""

    def __init__(self, capacity_Bps: float) -> None:
        self.left_Bps = capacity_Bps
        self.rising: dict[int, float] = {}
        """Demands that have no rate yet: how fast each fills the tank."""

    def level(self) -> float:
        """Where it is full, if no demand stays behind before."""
        return max(0.0, self.left_Bps) / math.fsum(self.rising.values())


def weighted_max_min(demands: Sequence[Demand]) -> list[float]:
    """The rate of each demand in bytes per second. All levels, which are rate times penalty, rise
    together; a demand stays behind where a tank on its way is full."""
    rates_Bps = [0.0] * len(demands)
    tanks, ways = _tanks(demands)
    full = [(tank.level(), number) for number, tank in enumerate(tanks)]
    heapify(full)
    while full:
        level, number = heappop(full)
        rising = list(tanks[number].rising)
        if rising and tanks[number].level() > level:
            # Demands have stayed behind since: it lasts longer.
            heappush(full, (tanks[number].level(), number))
            continue
        for index in rising:
            rates_Bps[index] = level / demands[index].penalty
            for tank in ways[index]:
                tank.left_Bps -= level * tank.rising.pop(index)
    return rates_Bps


def _tanks(demands: Sequence[Demand]) -> tuple[list[_Tank], list[list[_Tank]]]:
    """All tanks, and for each demand those on its way."""
    bounds = [_Tank(demand.bound_Bps) for demand in demands]
    pipes: dict[Pipe, _Tank] = {}
    ways = []
    for index, (demand, bound) in enumerate(zip(demands, bounds)):
        bound.rising[index] = 1.0 / demand.penalty
        way = [bound]
        for pipe, load in demand.loads:
            tank = pipes.setdefault(pipe, _Tank(pipe.capacity_Bps))
            tank.rising[index] = load / demand.penalty
            way.append(tank)
        ways.append(way)
    return [*bounds, *pipes.values()], ways
