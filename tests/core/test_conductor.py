"""The Conductor on its own: small stories, events in, commands out, in virtual time."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from mpls.core import protocol
from mpls.core.conductor import NEVER_S, Conductor
from mpls.core.effects import Gather, Note, Outcome, Publish, Request, Sleep, Story
from mpls.core.messages import (
    CancelRequest,
    Drained,
    LayerReceived,
    Progress,
    PublishUpdate,
    RecordNote,
    Replied,
    RequestFailed,
    RoundDue,
    SendRequest,
    Ticked,
    UpdateTaken,
)

PULL = protocol.Pull(0, ("a", "b"), 0, 0, 1000)


class Told:
    """Stories made of a function each."""

    stall_s = 3.0

    def __init__(self, *opening: Story, round_story: Story | None = None) -> None:
        self._opening = opening
        self._round = round_story

    def opening(self, now: float) -> Iterable[Story]:
        return self._opening

    def round(self, number: int, now: float) -> Story:
        assert self._round is not None
        return self._round


def ask(results: list[Outcome], timeout_s: float = 10.0, what: object = PULL) -> Story:
    outcome = yield Request("w1", what, timeout_s)  # type: ignore[arg-type]
    results.append(outcome)
    return outcome.reason


def layer(request_id: int, name: str) -> LayerReceived:
    return LayerReceived(request_id, name, 10, 1, 1, 0.0)


def test_a_request_ends_when_all_its_layers_have_come() -> None:
    results: list[Outcome] = []
    conductor = Conductor(Told(ask(results)))
    (sent,) = conductor.start(0.0)
    assert isinstance(sent, SendRequest)
    assert sent.message.id == 1
    conductor.handle(layer(1, "b"), 1.0)
    assert not results
    conductor.handle(layer(1, "a"), 2.0)
    assert [got.layer for got in results[0].layers] == ["b", "a"]
    assert results[0].arrivals_s == (1.0, 2.0)
    assert results[0].reason == ""


def test_a_layer_that_comes_twice_or_was_not_asked_for_is_dropped() -> None:
    results: list[Outcome] = []
    conductor = Conductor(Told(ask(results)))
    conductor.start(0.0)
    for name in ("a", "a", "z"):
        conductor.handle(layer(1, name), 1.0)
    assert not results
    assert conductor.dropped == 2


def test_replies_to_unknown_requests_are_counted_and_change_nothing() -> None:
    conductor = Conductor(Told())
    conductor.start(0.0)
    strangers = [layer(9, "a"), Progress(9, 5, 1), RequestFailed(9, "lost")]
    strangers.append(Replied(protocol.Error(9, "busy", "")))  # type: ignore[arg-type]
    assert [conductor.handle(event, 1.0) for event in strangers] == [[], [], [], []]
    assert conductor.dropped == 4


def test_a_pull_without_a_byte_stalls_and_one_with_bytes_lives_to_its_deadline() -> None:
    results: list[Outcome] = []
    conductor = Conductor(Told(ask(results)))
    conductor.start(0.0)
    assert conductor.deadline() == 3.0
    for now in (2.0, 4.0, 6.0, 8.0, 9.5):
        conductor.handle(Progress(1, int(now), 1), now)
    commands = conductor.handle(Ticked(), 10.0)
    assert commands == [CancelRequest("w1", 1)]
    assert results[0].reason == "timed-out"
    assert results[0].received_bytes == 9


def test_silence_after_some_bytes_is_a_stall() -> None:
    results: list[Outcome] = []
    conductor = Conductor(Told(ask(results)))
    conductor.start(0.0)
    conductor.handle(Progress(1, 5, 7), 2.0)
    conductor.handle(Ticked(), 4.9)
    assert not results
    conductor.handle(Ticked(), 5.0)
    assert (results[0].reason, results[0].received_bytes, results[0].version) == ("stalled", 5, 7)


def test_a_question_does_not_stall_but_times_out() -> None:
    results: list[Outcome] = []
    conductor = Conductor(Told(ask(results, 7.0, protocol.Status(0))))
    conductor.start(0.0)
    assert conductor.deadline() == 7.0


def test_an_early_tick_is_harmless() -> None:
    results: list[Outcome] = []
    conductor = Conductor(Told(ask(results)))
    conductor.start(0.0)
    assert conductor.handle(Ticked(), 0.1) == []
    assert conductor.deadline() == 3.0


def test_gather_returns_results_in_the_order_of_its_stories() -> None:
    gathered: list[list[str]] = []

    def both() -> Story:
        gathered.append((yield Gather([ask([]), ask([])], timeout_s=5.0)))

    conductor = Conductor(Told(both()))
    conductor.start(0.0)
    conductor.handle(RequestFailed(2, "second"), 1.0)
    conductor.handle(RequestFailed(1, "first"), 2.0)
    assert gathered == [["first", "second"]]


def test_a_gather_that_runs_out_of_time_keeps_what_came_and_ends_the_rest() -> None:
    gathered: list[list[str]] = []

    def all_three() -> Story:
        gathered.append((yield Gather([ask([]), ask([]), ask([])], timeout_s=2.0)))
        yield Sleep(1.0)
        yield Note("after", {})

    conductor = Conductor(Told(all_three()))
    conductor.start(0.0)
    conductor.handle(RequestFailed(2, "lost"), 1.0)
    commands = conductor.handle(Ticked(), 2.0)
    assert commands == [CancelRequest("w1", 1), CancelRequest("w1", 3)]
    assert gathered == [["timed-out", "lost", "timed-out"]]
    assert conductor.handle(Ticked(), 3.0) == [RecordNote("after", {})]


def test_an_empty_gather_returns_at_once() -> None:
    gathered: list[list[str]] = []

    def none() -> Story:
        gathered.append((yield Gather([], timeout_s=1.0)))

    Conductor(Told(none())).start(0.0)
    assert gathered == [[]]


def test_publish_waits_until_the_update_of_its_round_is_taken() -> None:
    taken: list[UpdateTaken | None] = []

    def publishing() -> Story:
        taken.append((yield Publish(4, ())))

    conductor = Conductor(Told(round_story=publishing()))
    conductor.start(0.0)
    assert conductor.handle(RoundDue(4), 0.0) == [PublishUpdate(4, ())]
    conductor.handle(UpdateTaken(3), 1.0)
    assert taken == []
    conductor.handle(UpdateTaken(4), 2.0)
    assert taken == [UpdateTaken(4)]


def test_draining_ends_every_story_and_lets_each_say_how_it_ended() -> None:
    results: list[Outcome] = []

    def stubborn() -> Story:
        for _ in range(3):
            yield Sleep(100.0)
            yield from ask(results)
        yield Note("ended", {"taken": (yield Publish(1, ()))})

    conductor = Conductor(Told(ask(results), stubborn()))
    conductor.start(0.0)
    commands = conductor.handle(Drained(), 1.0)
    assert commands == [CancelRequest("w1", 1), RecordNote("ended", {"taken": None})]
    assert [outcome.reason for outcome in results] == ["cancelled"] * 4
    assert conductor.finished
    assert conductor.deadline() == NEVER_S


def test_after_draining_no_round_begins() -> None:
    conductor = Conductor(Told(round_story=ask([])))
    conductor.start(0.0)
    conductor.handle(Drained(), 1.0)
    assert conductor.handle(RoundDue(1), 2.0) == []
    assert conductor.finished


def test_time_that_runs_backwards_is_an_error_of_the_driver() -> None:
    conductor = Conductor(Told())
    conductor.start(5.0)
    with pytest.raises(AssertionError, match="backwards"):
        conductor.handle(Ticked(), 4.0)


def test_a_probe_ends_when_its_bytes_are_here() -> None:
    results: list[Outcome] = []
    conductor = Conductor(Told(ask(results, 10.0, protocol.Probe(0, 100))))
    conductor.start(0.0)
    conductor.handle(Progress(1, 60, 1), 1.0)
    assert not results
    conductor.handle(Progress(1, 100, 1), 2.0)
    assert (results[0].reason, results[0].received_bytes) == ("", 100)


def test_pulls_remember_how_many_shared_the_card_with_them() -> None:
    results: list[Outcome] = []

    def all_three() -> Story:
        yield Gather([ask(results), ask(results), ask(results)], timeout_s=9.0)

    conductor = Conductor(Told(all_three(), ask([], 9.0, protocol.Status(0))))
    conductor.start(0.0)
    conductor.handle(RequestFailed(2, "lost"), 1.0)
    assert results[0].sharers == 3
