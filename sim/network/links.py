"""Which capacity each direction of each link has: drawn, varying, or read from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mpls.core.links import Link, link_rate_Bps
from mpls.core.streams import Stream
from mpls.errors import BadInput
from mpls.units import BandwidthRange
from sim.network.capacity import Autoregressive, Capacity, Constant, Sine, Steps
from sim.network.rate_files import read_rates

Links = Callable[[int, int], Capacity]
"""The capacity from one worker to another."""


def constant_links(rates_Bps: Mapping[Link, float]) -> Links:
    """As `mpls.core.links.link_rates_Bps` draws them: keyed by (lower id, higher id)."""
    return lambda src, dst: Constant(rates_Bps[min(src, dst), max(src, dst)])


def drawn_links(spec: BandwidthRange, seed: int) -> Links:
    """One constant rate for each link, drawn from a range."""
    return lambda src, dst: Constant(link_rate_Bps(spec, (src, dst), seed))


def stepping_links(spec: BandwidthRange, seed: int, factors: Mapping[float, float]) -> Links:
    """Drawn, and from each time (seconds) on multiplied by that factor."""

    def capacity(src: int, dst: int) -> Capacity:
        rate_Bps = link_rate_Bps(spec, (src, dst), seed)
        later = {at_s: rate_Bps * factor for at_s, factor in factors.items()}
        return Steps(sorted({0.0: rate_Bps, **later}.items()))

    return capacity


def sine_links(
    spec: BandwidthRange, seed: int, swing: float, period_s: float, step_s: float
) -> Links:
    """The drawn rate is the mean, `swing` the amplitude as a share of it. Each link has its own
    phase."""

    def capacity(src: int, dst: int) -> Capacity:
        mean_Bps = link_rate_Bps(spec, (src, dst), seed)
        phase = Stream(seed, "sine", min(src, dst), max(src, dst)).uniform()
        return Sine(mean_Bps, swing * mean_Bps, period_s, step_s, phase)

    return capacity


def autoregressive_links(
    spec: BandwidthRange, seed: int, sd: float, correlation: float, step_s: float
) -> Links:
    """The drawn rate is the mean, `sd` the standard deviation as a share of it. Both directions of
    a link vary alike."""

    def capacity(src: int, dst: int) -> Capacity:
        mean_Bps = link_rate_Bps(spec, (src, dst), seed)
        draws = Stream(seed, "ar1", min(src, dst), max(src, dst))
        return Autoregressive(mean_Bps, sd * mean_Bps, correlation, step_s, draws)

    return capacity


def file_links(path: Path, links: Iterable[Link]) -> Links:
    """As a file of rates says, which has to name both directions of each of these links."""
    rates = read_rates(path)
    require_links(str(path), rates, links)
    return lambda src, dst: rates[src, dst]


def require_links(place: str, rates: Mapping[Link, Steps], links: Iterable[Link]) -> None:
    """BadInput that names the place where a direction of one of these links has no rate."""
    for a, b in links:
        for src, dst in ((a, b), (b, a)):
            if (src, dst) not in rates:
                raise BadInput(f"{place}: no rate from worker {src} to worker {dst}; add a row")
