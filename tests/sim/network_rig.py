"""Transfers to run over network models, and what their rates and times have to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate, pairwise
from math import fsum
from typing import Any

from hypothesis import strategies as st

from mpls.core.links import Link
from sim.clock import Clock
from sim.network import Flow, Links, Network, Overhead, make_network
from sim.network.capacity import Constant
from sim.network.fluid import Fluid
from sim.network.sharing import EXACT

Make = Callable[[Clock], Network]


@dataclass(frozen=True)
class Transfer:
    """So many bytes, in parts of equal size, from a moment on."""

    at_s: float
    src: int
    dst: int
    total_bytes: float
    parts: int = 1

    def marks_bytes(self) -> list[float]:
        return list(accumulate([self.total_bytes / self.parts] * self.parts))


@dataclass
class Record:
    """When each transfer reached which of its marks."""

    marks: list[list[tuple[float, int]]] = field(default_factory=list)

    def ends_s(self) -> list[float]:
        return [passed[-1][0] for passed in self.marks]


def play(make: Make, transfers: Sequence[Transfer], lag_s: float = 0.0) -> Record:
    """Run transfers until nothing happens any more."""
    clock = Clock()
    network = make(clock)
    record = Record([[] for _ in transfers])

    def begin(number: int, transfer: Transfer) -> None:
        def reached(index: int) -> None:
            record.marks[number].append((clock.now, index))

        network.start(transfer.src, transfer.dst, transfer.marks_bytes(), reached, lag_s)

    for number, transfer in enumerate(transfers):
        clock.at(transfer.at_s, lambda n=number, t=transfer: begin(n, t))  # type: ignore[misc]
    clock.run()
    return record


def ends_s(make: Make, *transfers: Transfer) -> list[float]:
    return play(make, transfers).ends_s()


def moved_bytes(make: Make, transfers: Sequence[Transfer]) -> list[float]:
    """The integral of each transfer's rate over its life."""
    rates: dict[int, list[tuple[float, float]]] = {}

    def watched(clock: Clock) -> Network:
        network = make(clock)
        give = network._give

        def logged(flow: Flow, rate_Bps: float, now: float) -> None:
            rates.setdefault(flow.number, []).append((now, rate_Bps))
            give(flow, rate_Bps, now)

        network._give = logged  # type: ignore[method-assign]
        return network

    ends = ends_s(watched, *transfers)
    in_order = sorted(range(len(transfers)), key=lambda i: transfers[i].at_s)
    moved = [0.0] * len(transfers)
    for number, i in enumerate(in_order):
        phases = [*rates[number], (ends[i], 0.0)]
        moved[i] = fsum(rate * (till - since) for (since, rate), (till, _) in pairwise(phases))
    return moved


def model(
    name: str,
    links: Links,
    nic_Bps: float | None = None,
    overhead: Overhead | None = None,
    **more: Any,
) -> Make:
    """A network model without overhead, unless some is given."""
    overhead = overhead or Overhead.none()
    return lambda clock: make_network(name, clock, links, nic_Bps, overhead, **more)


def steady(rate_Bps: float) -> Links:
    """All links alike, for ever."""
    return lambda src, dst: Constant(rate_Bps)


def uneven(rates_Bps: dict[Link, float], otherwise_Bps: float = 10e6) -> Links:
    """Each direction of each link as named."""
    return lambda src, dst: Constant(rates_Bps.get((src, dst), otherwise_Bps))


def fair_rates_Bps(
    flows: Sequence[Link], link_Bps: Callable[[int, int], float], nic_Bps: float | None
) -> list[float]:
    """Max-min fair rates in exact arithmetic, by raising water: all rates grow together by as much
    as the tightest link or card allows, then the flows that cross it stop."""
    ways = [
        [("link", *flow), *([("up", flow[0]), ("down", flow[1])] if nic_Bps else [])]
        for flow in flows
    ]
    left = {
        place: Fraction(link_Bps(*place[1:]) if place[0] == "link" else nic_Bps)
        for way in ways
        for place in way
    }
    rates, growing = [Fraction(0)] * len(flows), list(range(len(flows)))
    while growing:
        users = {place: [i for i in growing if place in ways[i]] for place in left}
        step = min(left[place] / len(who) for place, who in users.items() if who)
        for place, who in users.items():
            left[place] -= step * len(who)
        for i in growing:
            rates[i] += step
        growing = [i for i in growing if all(left[place] > 0 for place in ways[i])]
    return [float(rate) for rate in rates]


class AuditedFluid(Fluid):
    """Compares its rates with those of `fair_rates_Bps` whenever time is about to go on."""

    def __init__(
        self,
        clock: Clock,
        rates_Bps: dict[Link, float],
        nic_Bps: float | None,
        unfelt: float = EXACT,
    ) -> None:
        super().__init__(clock, uneven(rates_Bps), nic_Bps, Overhead.none(), unfelt)
        self._rates_of = rates_Bps
        self._card_Bps = nic_Bps
        self.audits = 0
        self.worst = 0.0

    def _set_alarm(self, next_s: float) -> None:
        super()._set_alarm(next_s)
        flows = [flow for flow in self._timetable if flow.way]
        for flow, exact_Bps in zip(flows, self._exact_Bps(flows)):
            self.worst = max(self.worst, abs(flow.rate_Bps / exact_Bps - 1.0))
        self.audits += 1

    def _exact_Bps(self, flows: Sequence[Flow]) -> list[float]:
        def link_Bps(src: int, dst: int) -> float:
            return self._rates_of.get((src, dst), 10e6) * self._factor(src, dst)

        return fair_rates_Bps([(flow.src, flow.dst) for flow in flows], link_Bps, self._card_Bps)


RATES_BPS = st.one_of(st.sampled_from([1e6, 2e6, 10e6, 12.5e6]), st.floats(1e5, 1e8))
NICS_BPS = st.one_of(st.none(), RATES_BPS)
PAIRS = st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda pair: pair[0] != pair[1])
TIMES_S = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0.0, 3.0))
SIZES_BYTES = st.one_of(st.sampled_from([1e6, 2e6]), st.floats(1.0, 1e7))
LINK_RATES = st.dictionaries(PAIRS, RATES_BPS)


@st.composite
def transfers(draw: st.DrawFn, most: int = 25, parts: int = 4) -> list[Transfer]:
    """Some at once, some later, several on one link."""
    count = draw(st.integers(1, most))
    return [
        Transfer(draw(TIMES_S), *draw(PAIRS), draw(SIZES_BYTES), draw(st.integers(1, parts)))
        for _ in range(count)
    ]
