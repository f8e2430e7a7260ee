from __future__ import annotations

from collections import Counter

import pytest

from tests.soak.kills import Kill, Life, outcome, schedule

NAMES = ["w0", "w1", "w2"]


def test_each_period_has_one_kill_and_half_of_the_time_each_of_two_is_spared():
    dues = list(schedule(NAMES, 3600, 20, seed=1))
    assert [int(due.at_s // 20) for due in dues] == list(range(180))
    early = {name for due in dues if due.at_s < 1800 for name in due.whom}
    late = {name for due in dues if due.at_s >= 1800 for name in due.whom}
    assert (early, late) == ({"w1", "w2"}, {"w0", "w2"})
    first = Counter(due.whom[0] for due in dues)
    assert min(first.values()) >= 30


def test_the_same_seed_kills_in_the_same_order_and_another_does_not():
    assert list(schedule(NAMES, 60, 5, 7)) == list(schedule(NAMES, 60, 5, 7))
    assert list(schedule(NAMES, 60, 5, 7)) != list(schedule(NAMES, 60, 5, 8))


def life(origin_s, resumed, running_at_s=1.0, rounds=0, saved=(), pulls=()):
    """One whose trace begins then; `pulls` are (seconds after that, peer)."""
    made = Life()
    made.take({"t": 0.0, "kind": "header", "started_unix_s": origin_s})
    made.take({"t": 0.5, "kind": "snapshot", "round": resumed})
    made.take({"t": running_at_s, "kind": "state", "state": "running"})
    for done in range(1, rounds + 1):
        made.take({"t": 1.0 + done, "kind": "mix", "round": resumed + done})
    for number in saved:
        made.take({"t": 2.0, "kind": "checkpoint", "round": number})
    for at_s, peer in pulls:
        made.take(
            {"t": at_s + 0.1, "kind": "pull", "outcome": "applied", "peer": peer, "start_s": at_s}
        )
    return made


FIRST = life(100, 0, rounds=12, saved=(5, 10))
PEER = life(100, 0, pulls=[(5, "w0"), (33, "w0"), (40, "w0")])
KILL = Kill(120.0, "w0", 0)


def after(*lives, peer=PEER):
    return outcome(KILL, {"w0": [FIRST, *lives], "w1": [peer]}, began_unix_s=90.0)


def test_a_kill_is_survived_by_who_goes_on_where_it_saved_and_exchanges_again():
    found = after(life(125, 10, running_at_s=2.0, pulls=[(4, "w1")]))
    assert found.why_not() == ""
    assert (found.at_s, found.round, found.saved_round, found.resumed_round) == (30, 12, 10, 10)
    assert (found.back_s, found.pulled_s) == (7, 9)
    assert found.served_s == 13, "the pull at 105 was of the life before"


def test_a_checkpoint_that_was_just_being_told_of_counts_as_well():
    assert after(life(125, 12, pulls=[(4, "w1")])).why_not() == ""


@pytest.mark.parametrize(
    ("lives", "why"),
    [
        ([], "never ran again"),
        ([Life()], "never ran again"),
        ([life(125, 5, pulls=[(4, "w1")])], "went on after round 5, had saved 10"),
        ([life(125, 0, pulls=[(4, "w1")])], "went on after round 0, had saved 10"),
        ([life(125, 10)], "never pulled from a peer again"),
        ([life(145, 10, pulls=[(4, "w1")])], "no peer pulled from it again"),
    ],
)
def test_what_is_missing_for_a_survived_kill_is_named(lives, why):
    assert after(*lives).why_not() == why


def test_who_was_killed_again_before_it_ran_may_come_back_in_the_life_after():
    found = after(Life(), life(128, 10, pulls=[(3, "w1")]))
    assert found.why_not() == ""
    assert found.back_s == 9


def test_a_checkpoint_that_failed_and_a_pull_that_was_refused_do_not_count():
    one = life(100, 0)
    one.take({"t": 3.0, "kind": "checkpoint", "round": 5, "failed": "disk full"})
    one.take({"t": 3.0, "kind": "pull", "outcome": "refused", "peer": "w1", "start_s": 2.0})
    assert one.saved_round == -1
    assert one.pulls_unix_s == {}
