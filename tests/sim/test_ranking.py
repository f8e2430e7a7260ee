"""Rankings: curves to times, seeds to intervals, contenders to an order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.ranking import CONTENDER, SETTING, common_accuracy, interval, ranking, seconds_to

FINITE = st.floats(-1e6, 1e6)


def row(strategy: str, seed: int, curve: list[tuple[float, float]], **own: Any) -> dict[str, Any]:
    names = dict.fromkeys((*SETTING, *CONTENDER), "same")
    last = curve[-1][1] if curve else None
    results = {"curve": curve, "accuracy": last, "bytes": 100, "seconds": 10.0}
    return {**names, "strategy": strategy, "seed": seed, **results, **own}


def test_between_two_tests_accuracy_rises_on_a_straight_line() -> None:
    assert seconds_to([(1.0, 0.2), (2.0, 0.4), (3.0, 0.8)], 0.5) == pytest.approx(2.25)


def test_before_the_first_test_nothing_is_known() -> None:
    assert seconds_to([(1.0, 0.6), (2.0, 0.9)], 0.5) == 1.0


def test_an_accuracy_that_was_never_seen_has_no_time() -> None:
    assert seconds_to([(1.0, 0.2), (2.0, 0.4)], 0.5) is None
    assert seconds_to([], 0.5) is None


def test_a_dip_after_the_target_changes_nothing() -> None:
    assert seconds_to([(1.0, 0.5), (2.0, 0.3), (3.0, 0.5)], 0.5) == 1.0


def test_the_common_accuracy_is_the_lowest_peak_rounded_down() -> None:
    rows = [row("a", 1, [(1, 0.9), (2, 0.8)]), row("b", 1, [(1, 0.87654)])]
    assert common_accuracy(rows) == 0.876


def test_who_pulls_nothing_does_not_lower_the_common_accuracy() -> None:
    rows = [row("a", 1, [(1, 0.9)]), row("local", 1, [(1, 0.5)], bytes=0)]
    assert common_accuracy(rows) == 0.9
    assert common_accuracy(rows[1:]) == 0.5


def test_without_accuracy_there_is_no_common_one() -> None:
    assert common_accuracy([row("a", 1, [])]) is None


@given(st.lists(FINITE, min_size=1, max_size=12))
def test_an_interval_holds_its_mean_and_stays_within_the_sample(values: list[float]) -> None:
    found = interval(values)
    slack = 1e-6 * (1 + max(map(abs, values)))
    assert min(values) - slack <= found["low"] <= found["mean"] + slack
    assert found["mean"] - slack <= found["high"] <= max(values) + slack


def test_an_interval_is_the_same_each_time_and_narrows_with_more_seeds() -> None:
    few, many = interval([1.0, 2.0, 3.0]), interval([1.0, 2.0, 3.0] * 20)
    assert few == interval([1.0, 2.0, 3.0])
    assert many["high"] - many["low"] < few["high"] - few["low"]


def test_the_first_to_reach_the_target_leads_and_who_misses_it_is_last() -> None:
    rows = [
        row("never", 1, [(1, 0.3)], bytes=0),
        row("slow", 1, [(9, 0.9)]),
        row("fast", 1, [(2, 0.95)]),
    ]
    (setting,) = ranking(rows)
    assert setting["target"] == 0.9
    assert [item["strategy"] for item in setting["contenders"]] == ["fast", "slow", "never"]
    assert setting["contenders"][2]["seconds_to_target"] is None


def test_one_seed_that_misses_an_asked_target_leaves_no_mean() -> None:
    rows = [row("a", 1, [(1, 0.9)]), row("a", 2, [(1, 0.7)])]
    (setting,) = ranking(rows, target=0.8)
    (contender,) = setting["contenders"]
    assert (contender["seconds_to_target"], contender["reached"]) == (None, 1)
    assert contender["seeds"] == [1, 2]


def test_where_accuracy_is_not_known_the_shorter_run_leads() -> None:
    rows = [row("long", 1, [], seconds=5.0), row("short", 1, [], seconds=2.0)]
    (setting,) = ranking(rows)
    assert [item["strategy"] for item in setting["contenders"]] == ["short", "long"]


def test_every_setting_is_ranked_by_itself() -> None:
    rows = [row("a", 1, [(1, 0.9)], bw="5MB"), row("a", 1, [(2, 0.8)], bw="9MB")]
    assert [(s["bw"], s["target"]) for s in ranking(rows)] == [("5MB", 0.9), ("9MB", 0.8)]
