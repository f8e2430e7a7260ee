"""The trainer's turns, one by one: who waits for whom, what is published, what is evaluated."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.core.pacing import (
    AskRound,
    AwaitUpdate,
    Evaluate,
    Mix,
    PublishSnapshot,
    Train,
    Turn,
    training,
)
from mpls.core.settings import PaceSettings


def turns(
    pace: PaceSettings,
    pass_steps: int,
    waiting: Iterable[bool] = repeat(True),
    done: int = 0,
    begun: int = 0,
) -> list[Turn]:
    """The whole story. Whoever only looks for an update finds one when `waiting` says so next; the
    update of round k is the text `update k`."""
    story, there, result = training(pace, pass_steps, done, begun), iter(waiting), None
    taken: list[Turn] = []
    while True:
        try:
            turn = story.send(result)
        except StopIteration:
            return taken
        taken.append(turn)
        result = None
        if isinstance(turn, AwaitUpdate) and (turn.wait or next(there)):
            result = f"update {turn.round}"


def commit(number: int) -> list[Turn]:
    return [Mix(number, f"update {number}"), PublishSnapshot(number)]


def evaluated_commit(number: int) -> list[Turn]:
    return [Evaluate(number, "local"), *commit(number), Evaluate(number, "mixed")]


def test_overlap_asks_for_the_round_before_the_pass_that_hides_it() -> None:
    assert turns(PaceSettings(rounds=2), pass_steps=5) == [
        PublishSnapshot(0),
        *(AskRound(1), Train(5), AwaitUpdate(1), *commit(1)),
        *(AskRound(2), Train(5), AwaitUpdate(2), *evaluated_commit(2)),
    ]


def test_sequential_trains_and_then_pulls() -> None:
    assert turns(PaceSettings(rounds=2, pace="sequential"), pass_steps=5) == [
        PublishSnapshot(0),
        *(Train(5), AskRound(1), AwaitUpdate(1), *commit(1)),
        *(Train(5), AskRound(2), AwaitUpdate(2), *evaluated_commit(2)),
    ]


def test_free_mixes_an_update_that_waits_at_a_step_boundary_and_never_waits_for_one() -> None:
    waiting = [False, True, False, False, True]
    train, look = Train(5, until_update=True), AwaitUpdate
    assert turns(PaceSettings(rounds=2, pace="free"), 5, waiting) == [
        PublishSnapshot(0),
        AskRound(1),
        *(train, look(1, wait=False)),
        *(train, look(1, wait=False), *commit(1), AskRound(2)),
        *(train, look(2, wait=False)),
        *(train, look(2, wait=False)),
        *(train, look(2, wait=False), *evaluated_commit(2)),
    ]


def test_free_publishes_every_few_steps_while_no_update_waits() -> None:
    pace = PaceSettings(rounds=1, pace="free", publish_steps=2)
    train, look = Train(2, until_update=True), AwaitUpdate(1, wait=False)
    assert turns(pace, 5, [False, False, True]) == [
        *(PublishSnapshot(0), AskRound(1)),
        *(train, look, PublishSnapshot(0)),
        *(train, look, PublishSnapshot(0)),
        *(train, look, *evaluated_commit(1)),
    ]


@pytest.mark.parametrize(
    ("steps", "local_pass"),
    [
        (5, [Train(2), PublishSnapshot(0), Train(2), PublishSnapshot(0), Train(1)]),
        (4, [Train(2), PublishSnapshot(0), Train(2)]),
        (2, [Train(2)]),
        (1, [Train(1)]),
    ],
)
def test_a_long_pass_publishes_in_its_middle_but_not_just_before_mixing(
    steps: int, local_pass: list[Turn]
) -> None:
    assert turns(PaceSettings(rounds=1, publish_steps=2), steps) == [
        *(PublishSnapshot(0), AskRound(1)),
        *local_pass,
        *(AwaitUpdate(1), *evaluated_commit(1)),
    ]


def test_snapshots_in_the_middle_of_a_pass_belong_to_the_last_finished_round() -> None:
    pace = PaceSettings(rounds=2, publish_steps=3)
    published = [turn.round for turn in turns(pace, 6) if isinstance(turn, PublishSnapshot)]
    assert published == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("pace", ["overlap", "sequential", "free"])
def test_local_steps_say_how_long_a_pass_is(pace: str) -> None:
    settings = PaceSettings(rounds=2, pace=pace, local_steps=7)
    steps = [turn.steps for turn in turns(settings, 5) if isinstance(turn, Train)]
    assert steps == [7, 7]


@pytest.mark.parametrize("pace", ["overlap", "sequential", "free"])
def test_every_tenth_round_and_the_last_are_evaluated_before_and_after_mixing(pace: str) -> None:
    settings = PaceSettings(rounds=25, pace=pace, eval_every=10)
    evaluations = [turn for turn in turns(settings, 1) if isinstance(turn, Evaluate)]
    assert evaluations == [
        Evaluate(number, which) for number in (10, 20, 25) for which in ("local", "mixed")
    ]


@pytest.mark.parametrize("pace", ["overlap", "sequential", "free"])
def test_a_last_round_that_is_due_anyway_is_evaluated_once(pace: str) -> None:
    settings = PaceSettings(rounds=4, pace=pace, eval_every=2)
    evaluations = [turn for turn in turns(settings, 1) if isinstance(turn, Evaluate)]
    assert [turn.round for turn in evaluations] == [2, 2, 4, 4]


@given(
    st.builds(
        PaceSettings,
        rounds=st.integers(1, 8),
        pace=st.sampled_from(["overlap", "sequential", "free"]),
        local_steps=st.integers(0, 9),
        publish_steps=st.integers(0, 9),
        eval_every=st.integers(1, 9),
    ),
    st.integers(1, 9),
    st.lists(st.booleans(), max_size=20),
)
def test_every_round_is_asked_for_awaited_mixed_and_published_in_this_order(
    pace: PaceSettings, pass_steps: int, waiting: list[bool]
) -> None:
    story = turns(pace, pass_steps, [*waiting, *[True] * pace.rounds])
    kinds = (AskRound, Mix)
    handed = [(type(turn), turn.round) for turn in story if isinstance(turn, kinds)]
    assert handed == [(kind, number) for number in range(1, pace.rounds + 1) for kind in kinds]
    for before, turn in pairwise(story):
        if isinstance(before, Mix):
            assert turn == PublishSnapshot(before.round)
    steps = sum(turn.steps for turn in story if isinstance(turn, Train))
    if pace.pace != "free":
        assert steps == pace.rounds * (pace.local_steps or pass_steps)


@given(
    st.integers(1, 12),
    st.integers(0, 5),
    st.integers(0, 12),
    st.sampled_from(["overlap", "sequential"]),
)
def test_whoever_is_restarted_in_a_pass_does_the_rest_of_it_and_the_rounds_to_come(
    pass_steps: int, publish_steps: int, begun: int, pace: str
) -> None:
    settings = PaceSettings(rounds=4, pace=pace, publish_steps=publish_steps)
    begun = min(begun, pass_steps)
    again = turns(settings, pass_steps, done=2, begun=begun)
    assert again[0] == PublishSnapshot(2)
    assert [turn.round for turn in again if isinstance(turn, Mix)] == [3, 4]
    steps = [turn.steps for turn in again if isinstance(turn, Train)]
    assert all(count > 0 for count in steps)
    assert sum(steps) == 2 * pass_steps - begun
    whole = turns(settings, pass_steps)
    assert again[-3:] == whole[-3:]
