"""The link-speed estimator against windows counted tick by tick, and what plans rely on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.core.bandwidth import (
    SPANS,
    WINDOW_BYTES,
    WINDOW_S,
    BandwidthEstimator,
    DOUBTED_Bps,
    Stretch,
)
from mpls.core.streams import Stream

PRIOR_Bps = 12.5e6
TICK_S = 1 / 1024
"""Sums of such times are exact, so that the reference can count ticks."""
TIMES_S = st.integers(0, 10**12).map(lambda microseconds: microseconds / 1e6)


@dataclass(frozen=True)
class Seen:
    """A pull that was under way from tick `start` to tick `end`."""

    start: int
    end: int
    bytes: int

    def tell(self, estimator: BandwidthEstimator) -> None:
        estimator.observe(self.start * TICK_S, self.end * TICK_S, self.bytes)


@st.composite
def pulls(draw: st.DrawFn) -> list[Seen]:
    """Pulls in the order in which they end, overlapping as they like."""
    end, seen = 0, []
    for _ in range(draw(st.integers(1, SPANS))):
        end += draw(st.integers(0, 800))
        start = draw(st.integers(max(0, end - 1500), end))
        seen.append(Seen(start, end, draw(st.integers(1, 2_000_000))))
    return seen


def window_rates_Bps(seen: list[Seen]) -> Iterator[float]:
    """The rate of each window, from the set of ticks in which anything was under way."""
    busy: set[int] = set()
    window_bytes = window_ticks = 0
    for pull in seen:
        fresh = set(range(pull.start, pull.end)) - busy
        busy |= fresh
        window_bytes += pull.bytes
        window_ticks += len(fresh)
        full = window_bytes >= WINDOW_BYTES or window_ticks * TICK_S >= WINDOW_S
        if window_ticks and full:
            yield window_bytes / (window_ticks * TICK_S)
            window_bytes = window_ticks = 0


def steady(estimator: BandwidthEstimator, rate_Bps: float, windows: int, now: float = 0.0) -> float:
    """So many windows of a second at this rate, from `now` on; returns when they are over."""
    for _ in range(windows):
        estimator.observe(now, now + 1.0, int(rate_Bps))
        now += 1.0
    return now


@given(pulls())
def test_the_value_lies_between_the_rates_of_the_windows_seen(seen: list[Seen]) -> None:
    estimator = BandwidthEstimator(PRIOR_Bps)
    for count, pull in enumerate(seen, 1):
        pull.tell(estimator)
        rates_Bps = list(window_rates_Bps(seen[:count])) or [PRIOR_Bps]
        assert min(rates_Bps) * (1 - 1e-9) <= estimator.value_Bps <= max(rates_Bps) * (1 + 1e-9)


@given(pulls())
def test_the_first_window_replaces_the_prior(seen: list[Seen]) -> None:
    estimator = BandwidthEstimator(PRIOR_Bps)
    for count, pull in enumerate(seen, 1):
        pull.tell(estimator)
        if rates_Bps := list(window_rates_Bps(seen[:count])):
            assert estimator.value_Bps == pytest.approx(rates_Bps[0])
            assert estimator.measured_s == pull.end * TICK_S
            return
    assert (estimator.value_Bps, estimator.measured_s) == (PRIOR_Bps, None)


@given(st.lists(st.tuples(TIMES_S, TIMES_S, st.integers(0, 10**12))))
def test_nothing_it_says_is_ever_negative_or_no_number(
    told: list[tuple[float, float, int]],
) -> None:
    estimator = BandwidthEstimator(PRIOR_Bps)
    for a, b, received_bytes in told:
        estimator.observe(min(a, b), max(a, b), received_bytes)
        said = (estimator.value_Bps, estimator.cautious_Bps(), estimator.variance)
        assert all(isfinite(number) and number >= 0 for number in said)
        assert estimator.cautious_Bps() <= estimator.value_Bps
        assert estimator.sharers == pytest.approx(1.0)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=8))
def test_no_moment_counts_twice_in_whatever_order_it_is_told_of(
    told: list[tuple[int, int]],
) -> None:
    estimator = BandwidthEstimator(PRIOR_Bps)
    seen: set[int] = set()
    for start, ticks in told:
        fresh = set(range(start, start + ticks)) - seen
        assert estimator._fresh_s(float(start), float(start + ticks)) == len(fresh)
        seen |= fresh


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99)), min_size=30, max_size=60))
def test_pulls_one_after_another_are_counted_however_many_there_were(
    told: list[tuple[int, int]],
) -> None:
    estimator, end, seen = BandwidthEstimator(PRIOR_Bps), 0, []
    for pause, ticks in told:
        seen.append(Seen(end + pause, end + pause + ticks, 50_000))
        seen[-1].tell(estimator)
        end += pause + ticks
    rates_Bps = list(window_rates_Bps(seen))
    assert min(rates_Bps) * (1 - 1e-9) <= estimator.value_Bps <= max(rates_Bps) * (1 + 1e-9)


def test_a_smaller_window_keeps_the_old_value_and_is_not_forgotten() -> None:
    estimator = BandwidthEstimator(PRIOR_Bps)
    estimator.observe(0.0, 0.4, 999_999)
    assert (estimator.value_Bps, estimator.age_s(0.4)) == (PRIOR_Bps, float("inf"))
    estimator.observe(0.8, 0.9, 1)
    assert estimator.value_Bps == pytest.approx(1_000_000 / 0.5)


def test_a_megabyte_closes_a_window_and_so_does_half_a_second() -> None:
    large, long = BandwidthEstimator(PRIOR_Bps), BandwidthEstimator(PRIOR_Bps)
    large.observe(0.0, 0.25, WINDOW_BYTES)
    long.observe(0.0, WINDOW_S, 1_000)
    assert (large.value_Bps, long.value_Bps) == (4e6, 2e3)


def test_bytes_that_took_no_time_count_in_the_window_that_they_fall_into() -> None:
    estimator = BandwidthEstimator(PRIOR_Bps)
    estimator.observe(1.0, 1.0, 2_000_000)
    assert estimator.value_Bps == PRIOR_Bps
    estimator.observe(1.0, 2.0, 2_000_000)
    assert estimator.value_Bps == 4e6


def test_time_in_which_two_pulls_were_under_way_counts_once() -> None:
    estimator = BandwidthEstimator(PRIOR_Bps)
    estimator.observe(0.0, 0.25, 200_000)
    estimator.observe(0.125, 0.5, 300_000)
    assert estimator.value_Bps == 1e6


def test_a_pull_that_began_before_and_ended_after_another_counts_all_of_its_own_time() -> None:
    estimator = BandwidthEstimator(PRIOR_Bps)
    estimator.observe(0.25, 0.375, 100_000)
    estimator.observe(0.0, 0.5, 400_000)
    assert estimator.value_Bps == 1e6


def test_it_counts_how_many_pulls_shared_the_card() -> None:
    estimator = BandwidthEstimator(PRIOR_Bps)
    estimator.observe(0.0, 0.25, 100, sharers=1)
    estimator.observe(0.25, 1.0, 100, sharers=3)
    assert estimator.sharers == pytest.approx(2.5)


@pytest.mark.parametrize("after_Bps", [1e6, 7e6, 14e6, 100e6])
def test_a_sudden_change_is_believed_within_one_window(after_Bps: float) -> None:
    estimator = BandwidthEstimator(PRIOR_Bps)
    now = steady(estimator, 10e6, windows=20)
    steady(estimator, after_Bps, windows=1, now=now)
    assert estimator.value_Bps == after_Bps


@given(
    st.lists(st.floats(0.5, 1.6), min_size=1, max_size=40),
    st.sampled_from([0.1, 10.0]),
    st.floats(0.97, 1.03),
)
def test_a_tenfold_change_is_followed_within_two_windows_however_noisy_the_link_was(
    noise: list[float], factor: float, last: float
) -> None:
    estimator, now = BandwidthEstimator(PRIOR_Bps), 0.0
    for share in noise:
        now = steady(estimator, 10e6 * share, windows=1, now=now)
    now = steady(estimator, 10e6 * factor, windows=1, now=now)
    steady(estimator, 10e6 * factor * last, windows=1, now=now)
    assert estimator.value_Bps == pytest.approx(10e6 * factor, rel=0.05)


def test_what_came_side_by_side_is_one_window() -> None:
    estimator = BandwidthEstimator(PRIOR_Bps)
    estimator.observe_all([Stretch(0.0, 1.0, 4_000_000), Stretch(0.5, 1.5, 5_000_000)])
    assert estimator.value_Bps == 6e6


def test_a_small_change_moves_the_value_by_its_share_only() -> None:
    estimator = BandwidthEstimator(PRIOR_Bps)
    now = steady(estimator, 10e6, windows=20)
    steady(estimator, 11e6, windows=1, now=now)
    assert estimator.value_Bps == pytest.approx(10.3e6)


@pytest.mark.parametrize("seed", range(5))
def test_a_constant_rate_under_jitter_is_found_within_two_percent(seed: int) -> None:
    stream, estimator, now, errors = Stream(seed, "jitter"), BandwidthEstimator(3e6), 0.0, []
    for _ in range(300):
        seconds = 0.1 * stream.between(0.95, 1.05)
        estimator.observe(now, now + seconds, 1_250_000)
        now += seconds + 0.01
        errors.append(abs(estimator.value_Bps / 12.5e6 - 1))
    assert median(errors) < 0.02
    assert max(errors) < 0.06


def test_deadlines_count_on_less_the_less_the_rate_is_known() -> None:
    estimator = BandwidthEstimator(PRIOR_Bps)
    assert estimator.cautious_Bps() == PRIOR_Bps / 4
    now = steady(estimator, 10e6, windows=1)
    assert estimator.cautious_Bps() == pytest.approx(8e6)
    steady(estimator, 10e6, windows=60, now=now)
    assert 9.99e6 < estimator.cautious_Bps() <= 10e6


def test_doubt_leaves_a_quarter_and_the_next_window_is_believed_at_once() -> None:
    estimator = BandwidthEstimator(PRIOR_Bps)
    now = steady(estimator, 10e6, windows=3)
    estimator.doubt()
    assert estimator.value_Bps == pytest.approx(2.5e6)
    steady(estimator, 10e6, windows=1, now=now)
    assert estimator.value_Bps == pytest.approx(10e6)


def test_doubt_ends_before_nothing_is_left_and_never_raises_the_value() -> None:
    estimator = BandwidthEstimator(PRIOR_Bps)
    for _ in range(2_000):
        estimator.doubt()
    assert estimator.value_Bps == DOUBTED_Bps
    slower = BandwidthEstimator(DOUBTED_Bps / 2)
    slower.doubt()
    assert slower.value_Bps == DOUBTED_Bps / 2


def test_the_value_ages_from_the_end_of_the_last_window() -> None:
    estimator = BandwidthEstimator(PRIOR_Bps)
    assert estimator.age_s(5.0) == float("inf")
    now = steady(estimator, 10e6, windows=3)
    estimator.observe(now, now + 0.1, 10)
    assert estimator.age_s(10.0) == 7.0
