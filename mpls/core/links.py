"""The rate of each link, drawn from the run's seed: one rate for both directions of a pair.

Live pacing, the shaped test rig and the twin all draw here, and so see the same links.
"""

from __future__ import annotations

from collections.abc import Iterable

from mpls.core.streams import Stream
from mpls.units import BandwidthRange

Link = tuple[int, int]


def link_rate_Bps(spec: BandwidthRange, link: Link, seed: int) -> float:
    """The rate of one link. Each link has a stream of its own: a worker that joins shifts no
    other link's rate."""
    low, high = sorted(link)
    return Stream(seed, "links", low, high).between(spec.low_Bps, spec.high_Bps)


def link_rates_Bps(spec: BandwidthRange, links: Iterable[Link], seed: int) -> dict[Link, float]:
    """The rate of every link, keyed by (lower id, higher id)."""
    return {(min(link), max(link)): link_rate_Bps(spec, link, seed) for link in links}
