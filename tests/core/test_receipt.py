"""What a pull has brought and what it asks for next, against a peer that breaks off anywhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.core import protocol
from mpls.core.conductor import Conductor
from mpls.core.effects import Outcome
from mpls.core.messages import (
    Command,
    Drained,
    LayerReceived,
    LayerRefused,
    PublishUpdate,
    RecordNote,
    Replied,
    RequestFailed,
    RoundDue,
    SendRequest,
    Ticked,
    UpdateTaken,
)
from mpls.core.plan import Layer
from mpls.core.protocol import Pull
from mpls.core.receipt import (
    FAST_WINDOW_BYTES,
    LAYERS_PER_PULL,
    LEAST_WINDOW_BYTES,
    WINDOW_BYTES,
    Receipt,
    window_bytes,
)
from mpls.core.round import Rounds
from mpls.core.settings import PullSettings
from mpls.core.spec import WorkerSpec

CREDIT = 1000


# --- against a model --------------------------------------------------------------------------


@dataclass(frozen=True)
class Fate:
    """What becomes of one attempt. The connection breaks after `cut` bytes; the layers in `bad`
    have a wrong checksum; the peer has version `latest`, and no older one if `forgets`; the puller
    is told how far it came only if `reports`."""

    cut: int
    bad: frozenset[str]
    latest: int
    forgets: bool
    reports: bool


class Pulling:
    """A peer and the driver that pulls from it, byte by byte: the driver keeps a layer that broke
    off, and can only go on with just that."""

    def __init__(self, layer_bytes: dict[str, int]) -> None:
        self.layer_bytes = layer_bytes
        self.partial: tuple[str, int, int] | None = None
        self.whole: dict[str, int] = {}
        self.requests = 0

    def attempt(self, ask: Pull, fate: Fate) -> tuple[Outcome, int]:
        """How it ends, and the bytes that it really moved."""
        self._resume(ask)
        self.requests += 1
        if ask.version and fate.forgets:
            return Outcome("gone", 0.0, 1.0), 0
        version, position, end = ask.version or fate.latest, ask.offset, ask.offset + fate.cut
        layers, refused, before = [], [], 0
        for layer in ask.layers:
            if end < before + self.layer_bytes[layer]:
                self._break_off(layer, version, end - before)
                position = end
                break
            before = position = before + self.layer_bytes[layer]
            self.partial = None
            if layer in fate.bad:
                refused.append(LayerRefused(self.requests, layer, "checksum"))
            else:
                self.whole[layer] = version
                layers.append(LayerReceived(self.requests, layer, 0, version, 1, 0.0))
        ended = len(layers) + len(refused) == len(ask.layers)
        known = bool(layers) or (fate.reports and position > ask.offset)
        outcome = Outcome(
            reason=("checksum" if refused else "") if ended else "disconnected",
            start_s=0.0,
            now=1.0,
            layers=tuple(layers),
            arrivals_s=(1.0,) * len(layers),
            refused=tuple(refused),
            received_bytes=position if fate.reports and position > ask.offset else 0,
            version=version if known else 0,
        )
        return outcome, position - ask.offset

    def _resume(self, ask: Pull) -> None:
        if ask.offset == 0:
            self.partial = None
            return
        assert self.partial is not None, "nothing is here to continue"
        layer, version, reached = self.partial
        assert (ask.layers[0], ask.version) == (layer, version), "another layer or version"
        assert ask.offset <= reached, "a gap"
        self.partial = (layer, version, ask.offset)

    def _break_off(self, layer: str, version: int, reached: int) -> None:
        self.partial = (layer, version, reached) if reached else None


@st.composite
def sizes(draw: st.DrawFn) -> dict[str, int]:
    return {name: draw(st.integers(1, 50)) for name in "abcd"[: draw(st.integers(1, 4))]}


FATES = st.builds(
    Fate,
    cut=st.integers(0, 150),
    bad=st.frozensets(st.sampled_from("abcd"), max_size=2),
    latest=st.integers(1, 3),
    forgets=st.booleans(),
    reports=st.booleans(),
)
ALL_WELL = Fate(10**9, frozenset(), latest=9, forgets=False, reports=True)


@given(sizes(), st.lists(FATES, max_size=8))
def test_a_pull_resumes_where_it_broke_off_and_never_asks_for_what_is_here(
    layer_bytes: dict[str, int], fates: list[Fate]
) -> None:
    pulling, receipt = Pulling(layer_bytes), Receipt("w1", tuple(layer_bytes), layer_bytes)
    for fate in [*fates, ALL_WELL]:
        missing = [layer for layer in layer_bytes if layer not in pulling.whole]
        assert list(receipt.missing()) == missing
        if not missing:
            return
        ask = receipt.next_pull(CREDIT)
        assert sorted(ask.layers) == missing
        outcome, moved_bytes = pulling.attempt(ask, fate)
        booked_bytes = receipt.take(ask, outcome)
        assert 0 <= booked_bytes <= moved_bytes
        if fate.reports:
            assert booked_bytes == moved_bytes
    assert [(source.layer, source.version) for source in receipt.sources()] == [
        (layer, pulling.whole[layer]) for layer in layer_bytes
    ]


@given(sizes(), st.lists(FATES, max_size=8))
def test_all_that_was_reported_of_a_broken_layer_is_not_asked_for_again(
    layer_bytes: dict[str, int], fates: list[Fate]
) -> None:
    pulling, receipt = Pulling(layer_bytes), Receipt("w1", tuple(layer_bytes), layer_bytes)
    for fate in fates:
        if not receipt.missing():
            return
        ask = receipt.next_pull(CREDIT)
        outcome, _ = pulling.attempt(ask, fate)
        receipt.take(ask, outcome)
        again = receipt.next_pull(CREDIT)
        if fate.reports and outcome.reason == "disconnected" and pulling.partial is not None:
            assert (again.layers[0], again.version, again.offset) == pulling.partial


@given(sizes(), st.lists(FATES, min_size=1, max_size=8), st.booleans(), st.data())
def test_every_wanted_layer_ends_once_and_in_one_way(
    layer_bytes: dict[str, int], fates: list[Fate], mixed: bool, data: st.DataObject
) -> None:
    pulling, receipt = Pulling(layer_bytes), Receipt("w1", tuple(layer_bytes), layer_bytes)
    for fate in fates:
        if receipt.missing():
            ask = receipt.next_pull(CREDIT)
            receipt.take(ask, pulling.attempt(ask, fate)[0])
    late = data.draw(st.sets(st.sampled_from(sorted(layer_bytes))))
    refused = tuple(
        LayerRefused(source.request_id, source.layer, "not-finite")
        for source in receipt.sources()
        if source.layer in late
    )
    ends = receipt.ends(UpdateTaken(1, refused) if mixed else None)
    counts = Counter(ends.values())
    assert list(ends) == list(layer_bytes)
    assert counts["not-finite"] == (len(refused) if mixed else 0)
    assert (
        counts["applied" if mixed else "cancelled"] == len(receipt.sources()) - counts["not-finite"]
    )
    assert set(ends.values()) <= {
        *("applied", "cancelled", "not-finite"),
        *("checksum", "disconnected", "gone"),
    }


def test_a_refusal_that_came_with_another_request_is_not_the_peers() -> None:
    receipt = Receipt("w1", ("fc",), {"fc": 80})
    ask = receipt.next_pull(CREDIT)
    receipt.take(ask, Outcome("", 0.0, 1.0, layers=(layer(7, "fc"),), arrivals_s=(0.5,)))
    others = [LayerRefused(8, "fc", "not-finite"), LayerRefused(7, "conv", "not-finite")]
    assert receipt.own(others) == []
    assert receipt.ends(UpdateTaken(1, tuple(others))) == {"fc": "applied"}


def test_a_layer_whose_bytes_all_came_but_not_the_word_that_it_is_whole_begins_anew() -> None:
    receipt = Receipt("w1", ("fc",), {"fc": 80})
    ask = receipt.next_pull(CREDIT)
    receipt.take(ask, Outcome("stalled", 0.0, 1.0, received_bytes=80, version=7))
    assert receipt.next_pull(CREDIT) == Pull(0, ("fc",), 0, 0, CREDIT)


def test_the_trace_keeps_when_and_how_each_layer_came() -> None:
    receipt = Receipt("w1", ("conv", "fc"), {"conv": 20, "fc": 80})
    ask = receipt.next_pull(CREDIT)
    came = Outcome(
        *("disconnected", 1.0, 4.0, 7),
        layers=(layer(7, "conv"),),
        arrivals_s=(2.0,),
        received_bytes=50,
        version=3,
    )
    moved_bytes = receipt.take(ask, came)
    about = {"round": 5, "peer": "w1", "start_s": 1.0}
    assert receipt.pull_records(5, UpdateTaken(5)) == [
        {
            **about,
            **{"layer": "conv", "bytes": 20, "end_s": 2.0, "version": 3, "peer_round": 2},
            "outcome": "applied",
        },
        {
            **about,
            **{"layer": "fc", "bytes": 80, "end_s": 4.0, "version": 0, "peer_round": 0},
            "outcome": "disconnected",
        },
    ]
    assert receipt.attempt_record(ask, came, moved_bytes) == {
        "peer": "w1",
        "request": 7,
        "layers": ["conv", "fc"],
        "arrived": ["conv"],
        "version": 3,
        "bytes": 50,
        "start_s": 1.0,
        "seconds": 3.0,
        "outcome": "disconnected",
    }


# --- through the Conductor --------------------------------------------------------------------


class Worker:
    """A worker in round 1, which wants all of its layers from its only peer."""

    def __init__(self, layer_bytes: dict[str, int]) -> None:
        layers = tuple(Layer(*item) for item in layer_bytes.items())
        quiet = PullSettings(status_s=0.0)
        spec = WorkerSpec("w0", 1, ("w1",), layers, "m", (0.5, 0.5), 100, pull=quiet)
        self.conductor = Conductor(Rounds(spec))
        self.sent: list[Pull] = []
        self.notes: list[RecordNote] = []
        self.published: list[PublishUpdate] = []
        self.hellos: list[int] = []
        self._keep(self.conductor.start(0.0))
        self.tell(RoundDue(1), 0.0)

    def tell(self, event: object, now: float) -> None:
        """Hand in an event; the peer is there, and answers each hello at once."""
        while self.hellos:
            welcome = protocol.Welcome(self.hellos.pop(), "w1", "m", (0.5, 0.5), 100)
            self._keep(self.conductor.handle(Replied(welcome), now))
        self._keep(self.conductor.handle(event, now))  # type: ignore[arg-type]
        if self.hellos:
            self.tell(Ticked(), now)

    def wait_until(self, now: float) -> None:
        while (due_s := self.conductor.deadline()) <= now:
            self.tell(Ticked(), due_s)

    def outcomes(self) -> list[object]:
        return [note.fields["outcome"] for note in self.notes if note.kind == "attempt"]

    def _keep(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, RecordNote):
                self.notes.append(command)
            elif isinstance(command, PublishUpdate):
                self.published.append(command)
            elif isinstance(command, SendRequest) and isinstance(command.message, Pull):
                self.sent.append(command.message)
            elif isinstance(command, SendRequest):
                self.hellos.append(command.message.id)


def layer(request_id: int, name: str) -> LayerReceived:
    return LayerReceived(request_id, name, 0, 3, 2, 0.0)


def test_more_layers_than_one_pull_may_name_are_asked_for_in_several() -> None:
    worker = Worker({f"l{number}": 1000 for number in range(600)})
    now = 0.0
    while not worker.published:
        pull = worker.sent[-1]
        for name in pull.layers:
            now += 0.0001
            worker.tell(layer(pull.id, name), now)
    assert [len(pull.layers) for pull in worker.sent] == [LAYERS_PER_PULL, LAYERS_PER_PULL, 88]
    asked = [name for pull in worker.sent for name in pull.layers]
    assert sorted(asked) == sorted(f"l{number}" for number in range(600))
    assert [source.layer for source in worker.published[0].sources] == asked
    assert worker.outcomes() == ["ok", "ok", "ok"]


def test_a_full_request_that_went_well_costs_no_retry() -> None:
    worker = Worker({f"l{number}": 1000 for number in range(300)})
    worker.tell(RequestFailed(worker.sent[-1].id, "protocol-order"), 0.1)
    worker.wait_until(0.35)
    for name in worker.sent[-1].layers:
        worker.tell(layer(worker.sent[-1].id, name), 0.4)
    assert len(worker.sent) == 3
    worker.tell(RequestFailed(worker.sent[-1].id, "protocol-order"), 0.5)
    worker.wait_until(1.35)
    assert worker.sent[-1].layers == worker.sent[-2].layers
    worker.tell(RequestFailed(worker.sent[-1].id, "bad-request"), 1.4)
    assert [len(update.sources) for update in worker.published] == [LAYERS_PER_PULL]


def test_a_refused_layer_is_asked_for_again_and_those_that_came_are_not() -> None:
    worker = Worker({"a": 100, "b": 200, "c": 300})
    first = worker.sent[-1]
    worker.tell(layer(first.id, "c"), 0.1)
    worker.tell(LayerRefused(first.id, "b", "checksum"), 0.2)
    worker.tell(layer(first.id, "a"), 0.3)
    worker.wait_until(0.55)
    assert (worker.sent[-1].layers, worker.sent[-1].version) == (("b",), 0)
    worker.tell(layer(worker.sent[-1].id, "b"), 0.6)
    assert worker.outcomes() == ["checksum", "ok"]
    assert len(worker.published[0].sources) == 3


def test_after_a_refused_layer_and_a_cut_the_layer_that_broke_off_comes_first() -> None:
    worker = Worker({"a": 100, "b": 200})
    first = worker.sent[-1]
    assert first.layers == ("b", "a")
    worker.tell(LayerRefused(first.id, "b", "checksum"), 0.1)
    worker.tell(RequestFailed(first.id, "disconnected", 230, 7), 0.2)
    worker.wait_until(0.45)
    again = worker.sent[-1]
    assert (again.layers, again.version, again.offset) == (("a", "b"), 7, 30)


def test_a_layer_that_was_resumed_and_then_refused_begins_anew() -> None:
    worker = Worker({"a": 100})
    worker.tell(RequestFailed(worker.sent[-1].id, "disconnected", 30, 7), 0.1)
    worker.wait_until(0.35)
    assert (worker.sent[-1].version, worker.sent[-1].offset) == (7, 30)
    worker.tell(LayerRefused(worker.sent[-1].id, "a", "checksum"), 0.4)
    worker.wait_until(1.25)
    assert (worker.sent[-1].version, worker.sent[-1].offset) == (0, 0)


def test_a_reply_that_does_not_answer_a_pull_ends_the_attempt_and_nothing_else() -> None:
    worker = Worker({"a": 100})
    reply = protocol.StatusOk(worker.sent[-1].id, "running", 1, 1, None, 0.001)
    worker.tell(Replied(reply), 0.1)
    assert worker.outcomes() == ["protocol-answer"]
    worker.wait_until(0.35)
    assert len(worker.sent) == 2


def test_an_update_that_nobody_took_before_the_drain_counts_as_cancelled() -> None:
    worker = Worker({"a": 100, "b": 200})
    for name in worker.sent[-1].layers:
        worker.tell(layer(worker.sent[-1].id, name), 0.1)
    assert len(worker.published) == 1
    worker.tell(Drained(), 0.2)
    worker.tell(UpdateTaken(1), 0.3)
    assert worker.notes[-1].fields == {
        "round": 1,
        "planned": 2,
        "again": 0,
        "ends": {"cancelled": 2},
    }
    assert worker.conductor.finished


def test_the_round_counts_copies_that_were_refused_when_they_were_mixed() -> None:
    worker = Worker({"a": 100, "b": 200})
    request_id = worker.sent[-1].id
    for name in worker.sent[-1].layers:
        worker.tell(layer(request_id, name), 0.1)
    worker.tell(UpdateTaken(1, (LayerRefused(request_id, "a", "not-finite"),)), 0.2)
    assert worker.notes[-1].fields["ends"] == {"applied": 1, "not-finite": 1}


# --- the window -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bandwidth_Bps", "window"),
    [
        (1.0, LEAST_WINDOW_BYTES),
        (1e6, 1_000_000),
        (12.5e6, WINDOW_BYTES),
        (100e6, WINDOW_BYTES),
        (101e6, FAST_WINDOW_BYTES),
    ],
)
def test_a_second_s_worth_is_in_flight_within_limits(bandwidth_Bps: float, window: int) -> None:
    assert window_bytes(bandwidth_Bps) == window


@given(st.floats(float(LEAST_WINDOW_BYTES), 100e6))
def test_a_chunk_takes_at_most_a_quarter_of_a_second(bandwidth_Bps: float) -> None:
    assert window_bytes(bandwidth_Bps) / 4 <= 0.25 * bandwidth_Bps
