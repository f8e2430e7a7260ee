"""Every link has one rate, whoever asks, and whoever else is there."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from mpls.core.links import link_rate_Bps, link_rates_Bps
from mpls.units import BandwidthRange

SPEC = BandwidthRange(10e6, 15e6)
SEEDS = st.integers(0, 2**63 - 1)
PAIRS = st.lists(st.integers(0, 999), min_size=2, max_size=2, unique=True)


@given(SEEDS, PAIRS)
def test_both_directions_of_a_link_have_the_same_rate(seed: int, pair: list[int]) -> None:
    here, there = pair
    assert link_rate_Bps(SPEC, (here, there), seed) == link_rate_Bps(SPEC, (there, here), seed)


@given(SEEDS, PAIRS, st.floats(1.0, 1e12), st.floats(1.0, 1e12))
def test_every_rate_is_within_the_range(seed: int, pair: list[int], a: float, b: float) -> None:
    spec = BandwidthRange(min(a, b), max(a, b))
    assert spec.low_Bps <= link_rate_Bps(spec, (pair[0], pair[1]), seed) <= spec.high_Bps


@given(SEEDS, st.integers(2, 8))
def test_a_worker_that_joins_shifts_no_other_link(seed: int, workers: int) -> None:
    before = link_rates_Bps(SPEC, combinations(range(workers), 2), seed)
    after = link_rates_Bps(SPEC, combinations(range(workers + 1), 2), seed)
    assert before == {link: after[link] for link in before}
    assert len(after) == len(before) + workers


def test_the_rates_of_different_links_and_seeds_differ() -> None:
    rates = [
        rate
        for seed in (1, 2)
        for rate in link_rates_Bps(SPEC, combinations(range(6), 2), seed).values()
    ]
    assert len(set(rates)) == len(rates)


def test_links_are_keyed_by_the_lower_id_first() -> None:
    assert list(link_rates_Bps(SPEC, [(3, 1), (0, 2)], seed=1)) == [(1, 3), (0, 2)]


def test_a_range_of_one_rate_gives_every_link_that_rate() -> None:
    assert link_rate_Bps(BandwidthRange(5e6, 5e6), (0, 1), seed=1) == 5e6


def test_the_rate_drawn_for_a_link_is_that_of_every_machine() -> None:
    assert link_rate_Bps(SPEC, (0, 1), seed=1) == 13570027.858530656
