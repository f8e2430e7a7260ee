"""Whole runs of a worker's core among unreliable peers: what must hold whatever happens."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from mpls.core.conductor import Conductor
from mpls.core.messages import RecordNote, Replied, SendRequest
from mpls.core.plan import Layer
from mpls.core.protocol import Welcome
from mpls.core.round import Rounds
from mpls.core.settings import PaceSettings, PlanSettings, PullSettings
from mpls.core.spec import WorkerSpec
from mpls.core.trace import replay
from tests.core.toy_network import ToyFederation

Pairs = list[tuple[str, str]]
SEEDS = st.integers(0, 10_000)
ROUNDS = 6
LAYERS = (Layer("conv", 40_000), Layer("fc", 900_000), Layer("out", 3_000))


def spec(strategy: str = "mpls", status_s: float = 1.0, pace: str = "overlap") -> WorkerSpec:
    return WorkerSpec(
        "w0",
        3,
        ("w1", "w2", "w3"),
        LAYERS,
        "m",
        (0.5, 0.5),
        100,
        PlanSettings(strategy=strategy, interval_s=0.3),
        PullSettings(status_s=status_s),
        PaceSettings(pace=pace),
    )


@cache
def run(seed: int, strategy: str = "mpls", coming_and_going: bool = False) -> ToyFederation:
    federation = ToyFederation(spec(strategy), seed, ROUNDS, coming_and_going=coming_and_going)
    federation.run()
    return federation


@given(SEEDS, st.booleans())
def test_every_planned_pull_ends_exactly_once_and_says_how(seed: int, changing: bool) -> None:
    notes = [note for _, note in run(seed, coming_and_going=changing).notes]
    for number in range(1, ROUNDS + 1):
        planned, again = asked_in(notes, number)
        pulls = [n.fields for n in notes if n.kind == "pull" and n.fields["round"] == number]
        ended = sorted((pull["peer"], pull["layer"]) for pull in pulls)
        assert ended == sorted(planned + again)
        (end,) = [n.fields for n in notes if n.kind == "round" and n.fields["round"] == number]
        assert (end["planned"], end["again"]) == (len(planned), len(again))
        assert sum(end["ends"].values()) == len(ended)


@given(SEEDS)
def test_no_copy_is_published_twice_or_without_having_been_planned(seed: int) -> None:
    federation = run(seed)
    notes = [note for _, note in federation.notes]
    for update in federation.published:
        copies = [(source.peer, source.layer) for source in update.sources]
        planned, again = asked_in(notes, update.round)
        assert len(set(copies)) == len(copies)
        assert set(copies) <= {*planned, *again}


@given(SEEDS)
def test_row_55_only_a_spoilt_layer_is_asked_for_again_and_of_another_peer(seed: int) -> None:
    notes = [note for _, note in run(seed).notes]
    for number in range(1, ROUNDS + 1):
        planned, again = asked_in(notes, number)
        refused = {
            (n.fields["peer"], n.fields["layer"])
            for n in notes
            if n.kind == "pull" and n.fields["round"] == number
            if n.fields["outcome"] == "checksum"
        }
        assert not set(planned) & set(again)
        assert all(any(layer == bad for _, bad in refused) for _, layer in again)
        assert len({layer for _, layer in again}) == len(again)


def asked_in(notes: list[RecordNote], number: int) -> tuple[Pairs, Pairs]:
    """(peer, layer) of a round: planned, and asked for again."""
    of_round = [note for note in notes if note.fields.get("round") == number]
    plan = next(note.fields["assignment"] for note in of_round if note.kind == "plan")
    again = [note.fields for note in of_round if note.kind == "again"]
    return (
        [(peer, layer) for peer, layers in plan.items() for layer in layers],
        [(one["peer"], layer) for one in again for layer in one["layers"]],
    )


@given(SEEDS)
def test_only_who_is_a_peer_now_is_asked_and_comings_and_goings_replay(seed: int) -> None:
    # That only peers are asked is what the toy federation asserts.
    assert replay(run(seed, coming_and_going=True).records) is None


@given(SEEDS)
def test_plans_use_peers_only_that_were_last_recorded_as_ready(seed: int) -> None:
    standing: dict[str, str] = {}
    for _, note in run(seed).notes:
        if note.kind == "peer":
            standing[note.fields["peer"]] = note.fields["standing"]
        elif note.kind == "plan":
            used = [peer for peer, layers in note.fields["assignment"].items() if layers]
            assert {standing.get(peer) for peer in used} <= {"ready"}


@given(SEEDS)
def test_no_pull_outlives_its_deadline(seed: int) -> None:
    federation = run(seed)
    for _, note in federation.notes:
        if note.kind == "pull":
            seconds = note.fields["end_s"] - note.fields["start_s"]
            assert seconds <= federation.spec.pull.round_s + 1e-9


@given(SEEDS)
def test_request_ids_are_never_used_again(seed: int) -> None:
    ids = [command.message.id for command in run(seed).sent]
    assert ids == sorted(set(ids))


@given(SEEDS)
def test_replaying_the_trace_gives_the_identical_commands(seed: int) -> None:
    assert replay(run(seed).records) is None


@given(SEEDS, st.data())
def test_a_trace_that_was_tampered_with_does_not_replay(seed: int, data: st.DataObject) -> None:
    records = [dict(record) for record in run(seed).records]
    commands = [i for i, record in enumerate(records) if record["kind"] == "send"]
    index = data.draw(st.sampled_from(commands))
    records[index] = {**records[index], "t": -1.0}
    difference = replay(records)
    assert difference is not None
    assert difference.recorded == records[index]


@given(SEEDS)
@example_settings(max_examples=20)
def test_the_same_seed_gives_the_same_trace(seed: int) -> None:
    again = ToyFederation(spec(), seed, ROUNDS)
    again.run()
    assert again.records == run(seed).records


@given(SEEDS)
@example_settings(max_examples=20)
def test_notes_that_nobody_keeps_are_not_made_and_change_nothing_else(seed: int) -> None:
    left_out = {"plan", "pull", "attempt"}
    quiet = ToyFederation(spec(), seed, ROUNDS, lambda kind: kind not in left_out)
    quiet.run()
    assert quiet.records == [rec for rec in run(seed).records if rec["kind"] not in left_out]


@pytest.mark.parametrize(
    "strategy",
    ["mpls-peer", "mpls-layer", "rand-mpls", "mpls-sampled", "appg", "netmax", "gossip", "local"],
)
@given(seed=SEEDS)
@example_settings(max_examples=15)
def test_row_53_every_strategy_survives_unreliable_peers(strategy: str, seed: int) -> None:
    federation = run(seed, strategy)
    assert len(federation.published) == ROUNDS
    assert replay(federation.records) is None


def test_local_never_speaks_to_anybody() -> None:
    assert run(1, "local").sent == []


@given(SEEDS)
@example_settings(max_examples=15)
def test_without_status_questions_a_peer_that_was_left_out_still_comes_back(seed: int) -> None:
    federation = ToyFederation(spec(status_s=0.0), seed, 30)
    federation.run()
    left_out, back = set(), set()
    for _, note in federation.notes:
        if note.kind == "peer" and note.fields["standing"] == "away":
            left_out.add(note.fields["peer"])
        elif note.kind == "peer" and note.fields["standing"] == "ready":
            back |= left_out & {note.fields["peer"]}
    assert back


@given(SEEDS)
@example_settings(max_examples=15)
def test_with_free_pace_rounds_keep_their_distance(seed: int) -> None:
    federation = ToyFederation(spec(pace="free"), seed, ROUNDS)
    federation.run()
    starts = [t for t, note in federation.notes if note.kind == "plan"]
    ends = [t for t, note in federation.notes if note.kind == "round"]
    assert all(start - end >= 0.3 - 1e-9 for end, start in zip(ends, starts[1:]))


@pytest.mark.parametrize("other", [{"name": "w9"}, {"model": "another"}, {"v": 2}])
def test_whoever_answers_for_a_peer_with_another_name_model_or_version_is_not_used(other) -> None:
    rounds = Rounds(spec())
    conductor = Conductor(rounds)
    asked = [c for c in conductor.start(0.0) if isinstance(c, SendRequest)]
    for command in asked:
        mine = Welcome(command.message.id, command.peer, "m", (0.5, 0.5), 10)
        conductor.handle(Replied(replace(mine, **other)), 0.1)
    assert {peer.standing for peer in rounds.peers.values()} == {"incompatible"}
