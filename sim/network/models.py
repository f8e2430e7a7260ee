"""The network models by name."""

from __future__ import annotations

from sim.clock import Clock
from sim.network.airtime import Airtime, Stations
from sim.network.base import Network
from sim.network.fluid import Fluid
from sim.network.links import Links
from sim.network.lv08 import CM02, LV08, SimGridNetwork
from sim.network.overhead import Overhead
from sim.network.replayed import Duration, Replayed
from sim.network.sharing import EXACT, NEARLY

NETWORKS = ("links", "fluid", "wifi", "fluid-fast", "lv08", "trace")


def make_network(
    name: str,
    clock: Clock,
    links: Links | None = None,
    nic_Bps: float | None = None,
    overhead: Overhead | None = None,
    *,
    latency_s: float = 1e-4,
    stations_Bps: Stations | None = None,
    duration_s: Duration | None = None,
) -> Network:
    """One of NETWORKS, or `cm02`, which is SimGrid's plain model and only for comparison.

    - `links`: every direction of a link alone, as Eq. 7 has it; no cards, no overhead.
    - `fluid`: max-min fair over links and cards, with overhead.
    - `fluid-fast`: the same to within 5 % of a pipe, for thousands of busy workers.
    - `wifi`: one channel for all; takes `stations_Bps` instead of links and cards.
    - `lv08`, `cm02`: links of `latency_s` and cards, after SimGrid.
    - `trace`: transfers last `duration_s` instead.

    `nic_Bps` is the rate of each worker's card, uplink and downlink each; None for no cards.
    `overhead` is by default that of a shaped Linux link.
    """
    if name == "wifi":
        assert stations_Bps is not None
        return Airtime(clock, stations_Bps)
    if name == "trace":
        assert duration_s is not None
        return Replayed(clock, duration_s)
    assert links is not None, f"{name} has links"
    if overhead is None:
        overhead = Overhead()
    if name == "links":
        return Fluid(clock, links, None, Overhead.none(), EXACT)
    if name == "fluid":
        return Fluid(clock, links, nic_Bps, overhead, EXACT)
    if name == "fluid-fast":
        return Fluid(clock, links, nic_Bps, overhead, NEARLY)
    assert name in ("lv08", "cm02"), name
    constants = LV08 if name == "lv08" else CM02
    return SimGridNetwork(clock, links, nic_Bps, latency_s, constants)
