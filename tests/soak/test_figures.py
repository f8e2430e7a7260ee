from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak.figures import slope, student, thinned
from tests.soak.goals import Findings, from_life_to_life, goals, within_lives
from tests.soak.kills import Outcome
from tests.soak.workers import Sample

HOUR_S = 3600.0


@given(st.floats(-100, 100), st.lists(st.floats(0, 1000), min_size=1, max_size=4))
def test_a_straight_line_has_its_slope_at_whatever_height(per_h, heights):
    groups = [[(t, at + per_h * t / HOUR_S) for t in range(0, 3600, 300)] for at in heights]
    found = slope(groups)
    assert found is not None
    assert found.per_h == pytest.approx(per_h, abs=1e-6)
    assert found.low == pytest.approx(found.high, abs=1e-5)
    assert found.span_s == 3300


def test_the_interval_has_the_true_slope_in_it_in_19_of_20_cases():
    inside = 0
    for seed in range(1000):
        draws = random.Random(seed)
        points = [(float(t), 5 * t / HOUR_S + draws.gauss(0, 1)) for t in range(0, 3600, 450)]
        found = slope([points])
        assert found is not None
        inside += found.low <= 5 <= found.high
    assert 930 <= inside <= 970


@pytest.mark.parametrize(
    ("freedom", "printed"), [(3, 3.182), (4, 2.776), (10, 2.228), (30, 2.042), (1000, 1.962)]
)
def test_the_quantile_is_that_of_the_tables(freedom, printed):
    assert student(freedom) == pytest.approx(printed, rel=0.01)


@pytest.mark.parametrize("groups", [[], [[(0, 1)]], [[(0, 1), (1, 2), (2, 3)]], [[(5, 1)] * 9]])
def test_too_few_points_have_no_slope(groups):
    assert slope(groups) is None


def test_neighbours_in_time_count_once():
    assert thinned([(0, 1), (1, 3), (10, 7)], 10) == [(0.5, 2), (10, 7)]


# --- goals --------------------------------------------------------------------------------


def sampled(memory_MB, files=30, worker="w0", lives=1):
    """An hour, a sample in ten seconds, of so many lives of the same length."""
    each_s = 3600 // lives
    return [
        Sample(float(t), worker, t // each_s, float(t % each_s), memory_MB(t), files, 9)
        for t in range(0, 3600, 10)
    ]


def wobble(t):
    """Up and down by a fifth of a MB, with no trend."""
    return 0.2 * random.Random(t).uniform(-1, 1)


def test_memory_that_grows_within_a_life_is_seen_where_lives_compare_well():
    samples = sampled(lambda t: 300 + 20 * (t % 1800) / HOUR_S + wobble(t), lives=2)
    within = within_lives(samples, 3600)
    assert within is not None
    assert within.low < 20 < within.high
    assert within.low > 18


def test_memory_that_grows_from_life_to_life_is_seen_where_no_life_grows():
    samples = sampled(lambda t: 300 + t // 60 * 0.5 + wobble(t), lives=60)
    across = from_life_to_life(samples)
    assert across is not None
    assert across.per_h == pytest.approx(30, rel=0.05)
    assert across.points == 60


WELL = Findings(
    total_s=3600,
    samples=sampled(lambda t: 300 + wobble(t)) + sampled(lambda t: 300 + wobble(t), lives=60),
    outcomes=[Outcome(10, "w0", 12, 10, 10, 4.0, 5.0, 6.0)],
    accuracies=[(t, 0.94) for t in range(0, 3600, 10)],
    last_accuracies={"w0": 0.94},
    state_sizes=[(3, 400_000)],
    cpu_s=900,
    whole=6,
)


def missed(**changes):
    return [goal.what for goal in goals(replace(WELL, **changes)) if goal.met is False]


def test_a_good_hour_meets_every_goal_and_each_is_judged():
    assert [goal.what for goal in goals(WELL) if goal.met is not True] == []


def test_each_thing_that_goes_wrong_misses_its_goal():
    leak = sampled(lambda t: 300 + 10 * t / HOUR_S + wobble(t))
    assert missed(samples=leak) == ["RSS within lives"]
    aging = sampled(lambda t: 300 + 10 * t / HOUR_S + wobble(t), lives=60)
    assert missed(samples=aging) == ["RSS from life to life"]
    leaking = [replace(s, files=30 + int(s.at_s // 600)) for s in WELL.samples]
    assert missed(samples=leaking) == ["open files"]
    assert missed(samples=[replace(s, threads=int(s.at_s)) for s in WELL.samples]) == ["threads"]
    assert missed(outcomes=[]) == ["kills survived"]
    assert missed(outcomes=[Outcome(1, "w0", 9, 9, None, None, None, None)]) == ["kills survived"]
    assert missed(accuracies=[]) == ["test accuracy at the end", "worst of the last half"]
    low_once = [(t, 0.90 if t == 2000 else 0.94) for t in range(0, 3600, 10)]
    assert missed(accuracies=low_once) == ["worst of the last half"]
    assert missed(state_sizes=[(6, 1)]) == ["a state folder"]
    assert missed(unasked=["w0-001 ended"]) == ["ends that nobody asked for"]
    assert missed(bad_exits=["w0: exit code 1"]) == ["exits at SIGTERM other than 0"]
    assert missed(damaged=["x"]) == ["checkpoints left that verify"]
    assert missed(whole=0) == ["checkpoints left that verify"]
    assert missed(wrong=["x"]) == ["faults in traces"]
    assert missed(unnamed=["x"]) == ["logs with a traceback"]
    assert missed(cpu_s=3700) == ["cores used"]


def test_memory_of_a_short_soak_is_told_and_not_judged():
    samples = [s for s in sampled(lambda t: 300 + 99 * t / HOUR_S) if s.at_s < 180]
    judged = {goal.what: goal for goal in goals(replace(WELL, samples=samples, total_s=180))}
    assert judged["RSS within lives"].met is None
    assert "+99.00 MB/h" in judged["RSS within lives"].found
