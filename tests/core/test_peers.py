"""What a worker believes of a peer: standing, pauses, strikes, and what it refuses to believe."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.core.bandwidth import BandwidthEstimator
from mpls.core.effects import Outcome
from mpls.core.peers import QUARANTINE_S, STRIKES, Peer
from mpls.core.protocol import StatusOk, Welcome


def peer(standing: str = "ready") -> Peer:
    return Peer("w1", BandwidthEstimator(12.5e6), standing)


# --- standing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("unknown", "ready"),
        ("ready", "ready"),
        ("away", "ready"),
        ("quarantined", "ready"),
        ("incompatible", "incompatible"),
    ],
)
def test_an_answer_makes_a_peer_ready_unless_it_is_incompatible(before: str, after: str) -> None:
    it = peer(before)
    it.answered(5.0)
    assert (it.standing, it.heard_s) == (after, 5.0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("unknown", "away"),
        ("ready", "away"),
        ("away", "away"),
        ("quarantined", "quarantined"),
        ("incompatible", "incompatible"),
    ],
)
@pytest.mark.parametrize("failure", ["question", "pull"])
def test_a_failure_sends_a_peer_away_unless_it_is_out_for_worse(
    before: str, after: str, failure: str
) -> None:
    it = peer(before)
    it.missed() if failure == "question" else it.failed_pull(5.0)
    assert it.standing == after
    assert it.heard_s == -inf


def test_each_further_failed_pull_is_followed_by_a_longer_pause() -> None:
    it = peer()
    pauses_s = []
    for now in range(100, 160, 10):
        it.failed_pull(float(now))
        pauses_s.append(it.out_until_s - now)
    assert pauses_s == [0.0, 1.0, 2.0, 4.0, 8.0, 8.0]


def test_a_peer_may_fail_for_months() -> None:
    it = peer()
    for hour in range(5000):
        it.failed_pull(hour * 3600.0)
    assert it.out_until_s == 4999 * 3600.0 + 8.0


def test_answers_do_not_help_before_the_pause_is_over() -> None:
    it = peer()
    for _ in range(3):
        it.failed_pull(10.0)
    it.answered(11.9)
    assert it.standing == "away"
    it.answered(12.0)
    assert it.standing == "ready"


def test_a_pull_that_came_whole_ends_the_row_of_failures() -> None:
    it = peer()
    for _ in range(4):
        it.failed_pull(10.0)
    it.delivered(20.0)
    it.failed_pull(30.0)
    assert (it.misses, it.out_until_s, it.heard_s) == (1, 30.0, 20.0)


def test_the_third_strike_quarantines_until_ten_minutes_have_passed() -> None:
    it = peer()
    assert [it.strike(10.0) for _ in range(STRIKES)] == [False, False, True]
    it.answered(10.0 + QUARANTINE_S - 0.1)
    assert it.standing == "quarantined"
    it.answered(10.0 + QUARANTINE_S)
    assert it.standing == "ready"


def test_after_a_quarantine_strikes_are_counted_anew() -> None:
    it = peer()
    for _ in range(STRIKES):
        it.strike(0.0)
    it.answered(QUARANTINE_S)
    assert [it.strike(700.0) for _ in range(STRIKES)] == [False, False, True]


def test_a_failed_pull_does_not_shorten_a_quarantine() -> None:
    it = peer()
    for _ in range(STRIKES):
        it.strike(0.0)
    it.failed_pull(1.0)
    assert it.out_until_s == QUARANTINE_S


def test_whose_weights_stand_out_is_left_out_for_twice_as_long_each_time_in_a_row() -> None:
    it = peer()
    pauses_s = []
    for _ in range(14):
        it.stood_out(100.0)
        pauses_s.append(it.out_until_s - 100.0)
    assert pauses_s == [*(2.0**number for number in range(10)), *[QUARANTINE_S] * 4]
    it.answered(100.0 + QUARANTINE_S - 0.1)
    assert it.standing == "away"
    it.answered(100.0 + QUARANTINE_S)
    assert it.standing == "ready"


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_pauses_are_cut_by_the_share_that_was_drawn(share: float) -> None:
    failed, outlying = peer(), peer()
    for _ in range(3):
        failed.failed_pull(10.0, share)
        outlying.stood_out(10.0, share)
    assert failed.out_until_s == 10.0 + 2.0 * share
    assert outlying.out_until_s == 10.0 + 4.0 * share


# --- beliefs ----------------------------------------------------------------------------------


def test_a_label_histogram_is_believed() -> None:
    it = peer()
    assert it.believe_histogram((0.25, 0.75, 0.0), classes=3)
    assert it.view().histogram == (0.25, 0.75, 0.0)


@pytest.mark.parametrize(
    "histogram",
    [
        (),
        (1.0,),
        (0.5, 0.25, 0.25),
        (0.5, 0.4),
        (0.5, 0.5 + 1e-5),
        (1.5, -0.5),
        (nan, 1.0),
        (inf, 0.0),
        (inf, -inf),
        (1e308, 1e308),
    ],
)
def test_what_is_no_label_histogram_leaves_it_unknown(histogram: tuple[float, ...]) -> None:
    it = peer()
    it.believe_histogram((0.5, 0.5), classes=2)
    assert not it.believe_histogram(histogram, classes=2)
    assert it.view().histogram is None


@given(st.lists(st.floats(), max_size=6).map(tuple), st.integers(0, 6))
def test_whatever_is_believed_as_a_histogram_is_one(
    histogram: tuple[float, ...], classes: int
) -> None:
    it = peer()
    if it.believe_histogram(histogram, classes):
        assert len(histogram) == classes
        assert all(0 <= share < 1.001 for share in histogram)
        assert sum(histogram) == pytest.approx(1)


def test_the_shares_of_any_counted_labels_are_believed() -> None:
    counts = [3, 7, 0, 1, 13]
    assert peer().believe_histogram(tuple(count / 24 for count in counts), classes=5)


@pytest.mark.parametrize("samples", [-1, 10**12 + 1])
def test_a_welcome_that_claims_an_impossible_number_of_samples_is_none(samples: int) -> None:
    assert peer().believe_welcome(Welcome(1, "w1", "m", (0.5, 0.5), 10**12), classes=2)
    assert not peer().believe_welcome(Welcome(1, "w1", "m", (0.5, 0.5), samples), classes=2)


@pytest.mark.parametrize("step_s", [nan, inf, -1e-9])
def test_a_status_whose_step_time_is_none_is_none(step_s: float) -> None:
    assert peer().believe_status(StatusOk(1, "running", 3, 4, None, 0.0), layers=1, now=5.0)
    assert not peer().believe_status(StatusOk(1, "running", 3, 4, None, step_s), 1, 5.0)


def test_a_status_tells_how_far_the_peer_is_and_since_when() -> None:
    it = peer()
    assert it.believe_status(StatusOk(1, "running", 3, 4, (2.0,), 0.1), layers=1, now=5.0)
    assert it.believe_status(StatusOk(1, "running", 3, 9, (2.0,), 0.1), layers=1, now=6.0)
    assert (it.state, it.round, it.version, it.progress) == ("running", 3, 9, (2.0,))
    assert it.advanced_s == 5.0
    assert not it.believe_status(StatusOk(1, "running", 3, 9, (-2.0,), 0.1), layers=1, now=6.0)
    assert it.progress is None


def test_progress_is_believed() -> None:
    it = peer()
    assert it.believe_progress((0.0, 1e308), layers=2)
    assert it.view().progress == (0.0, 1e308)


@pytest.mark.parametrize(
    "progress", [(), (1.0,), (1.0, 2.0, 3.0), (nan, 1.0), (1.0, -1e-9), (inf, 1)]
)
def test_what_is_no_progress_leaves_it_unknown(progress: tuple[float, ...]) -> None:
    it = peer()
    it.believe_progress((1.0, 1.0), layers=2)
    assert not it.believe_progress(progress, layers=2)
    assert it.view().progress is None


def test_a_peer_that_says_nothing_of_its_progress_is_believed_in_that() -> None:
    it = peer()
    it.believe_progress((1.0, 1.0), layers=2)
    assert it.believe_progress(None, layers=2)
    assert it.view().progress is None


def test_the_round_trip_is_the_shortest_of_the_last_eight_answers() -> None:
    it = peer()
    assert it.round_trip_s() == 0.0
    for seconds in (0.01, *[0.05] * 7):
        it.time_round_trip(Outcome("", 1.0, 1.0 + seconds))
    assert it.round_trip_s() == pytest.approx(0.01)
    it.time_round_trip(Outcome("", 1.0, 1.07))
    assert it.round_trip_s() == pytest.approx(0.05)
