"""A pull whose link is cut, or whose peer restarts, is busy or breaks the protocol."""

from __future__ import annotations

import heapq
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from mpls.core import protocol
from mpls.core.conductor import Conductor
from mpls.core.messages import (
    CancelRequest,
    Command,
    Event,
    LayerReceived,
    Progress,
    PublishUpdate,
    RecordNote,
    Replied,
    RequestFailed,
    RoundDue,
    SendRequest,
    Ticked,
)
from mpls.core.plan import Layer
from mpls.core.round import Rounds
from mpls.core.settings import PullSettings
from mpls.core.spec import WorkerSpec

RATE_Bps = 10e6
LATENCY_S = 0.01
REPORT_S = 0.25
BYTES = 20_000_000
BUDGET_S = 3 * (LATENCY_S + BYTES / (12.5e6 / 4))


class Cut:
    """A worker that pulls 20 MB from its only peer, over a link that is gone in some spans of time.
    What came before a cut is kept; the peer answers at once when it can be reached. `latest` is
    the version that it serves from when the link is back, `remembers` whether it has older ones."""

    def __init__(
        self, *cuts: tuple[float, float], latest: int = 7, remembers: bool = True, seed: int = 1
    ) -> None:
        spec = WorkerSpec(
            *("w0", seed, ("w1",), (Layer("fc", BYTES),), "m", (0.5, 0.5), 100),
            pull=PullSettings(status_s=1.0),
        )
        self.rounds = Rounds(spec)
        self.peer = self.rounds.peers["w1"]
        self.conductor = Conductor(self.rounds)
        self.cuts = cuts
        self.latest, self.remembers = latest, remembers
        self.sent: list[tuple[float, protocol.Message]] = []
        self.notes: list[tuple[float, RecordNote]] = []
        self.published: list[tuple[float, PublishUpdate]] = []
        self.moved_bytes = 0
        self.now = 0.0
        self._coming: list[tuple[float, int, Event]] = []
        self._count = 0
        self._serving: tuple[protocol.Pull, float, int] | None = None
        for begin_s, _ in cuts:
            self._push(begin_s, RequestFailed(0, "cut"))
        self._carry_out(self.conductor.start(0.0))
        self.until(0.5)
        self._handle(RoundDue(1))

    def until(self, end_s: float) -> None:
        while True:
            coming_s = self._coming[0][0] if self._coming else float("inf")
            self.now = min(coming_s, self.conductor.deadline())
            if self.now > end_s:
                self.now = end_s
                return
            due = coming_s <= self.now
            event = heapq.heappop(self._coming)[2] if due else Ticked()
            if isinstance(event, RequestFailed) and event.reason == "cut":
                self._cut()
            else:
                self._handle(event)

    def pulls(self) -> list[protocol.Pull]:
        return [message for _, message in self.sent if isinstance(message, protocol.Pull)]

    def outcomes(self) -> list[str]:
        return [note.fields["outcome"] for _, note in self.notes if note.kind == "attempt"]

    def standings(self) -> list[tuple[str, str]]:
        kept = [note.fields for _, note in self.notes if note.kind == "peer"]
        return [(one["standing"], one["why"]) for one in kept]

    def reachable(self) -> bool:
        return not any(begin_s <= self.now < end_s for begin_s, end_s in self.cuts)

    def _push(self, when_s: float, event: Event) -> None:
        self._count += 1
        heapq.heappush(self._coming, (when_s, self._count, event))

    def _handle(self, event: Event) -> None:
        self._carry_out(self.conductor.handle(event, self.now))

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, SendRequest):
                self.sent.append((self.now, command.message))
                self._answer(command.message)
            elif isinstance(command, RecordNote):
                self.notes.append((self.now, command))
            elif isinstance(command, PublishUpdate):
                self.published.append((self.now, command))
            elif isinstance(command, CancelRequest):
                self._stop_serving()

    def _answer(self, message: protocol.Message) -> None:
        if not self.reachable():
            self._push(self.now, RequestFailed(message.id, "unreachable"))
        elif isinstance(message, protocol.Hello):
            welcome = protocol.Welcome(message.id, "w1", "m", (0.5, 0.5), 100)
            self._push(self.now + LATENCY_S, Replied(welcome))
        elif isinstance(message, protocol.Status):
            status = protocol.StatusOk(message.id, "running", 1, 7, None, 0.001)
            self._push(self.now + LATENCY_S, Replied(status))
        elif isinstance(message, protocol.Pull):
            self._serve(message)

    def _serve(self, pull: protocol.Pull) -> None:
        if pull.version and pull.version != self.latest and not self.remembers:
            self._push(self.now, Replied(protocol.Error(pull.id, "gone", "")))
            return
        version = pull.version or self.latest
        pull = replace(pull, version=version)
        self._serving = pull, self.now, pull.offset
        whole_s = self.now + LATENCY_S + (BYTES - pull.offset) / RATE_Bps
        for number in range(1, int((whole_s - self.now) / REPORT_S)):
            at_s = self.now + LATENCY_S + number * REPORT_S
            position = pull.offset + int(number * REPORT_S * RATE_Bps)
            self._push(at_s, Progress(pull.id, position, version))
        self._push(whole_s, LayerReceived(pull.id, "fc", BYTES, version, 3, 0.0))

    def _cut(self) -> None:
        """All that is under way is lost; the position of a pull is told."""
        serving, position = self._serving, self._stop_serving()
        for _, _, event in self._coming:
            if isinstance(event, Replied):
                self._push(self.now, RequestFailed(event.reply.id, "disconnected"))
        answered = (Replied, Progress, LayerReceived)
        self._coming = [one for one in self._coming if not isinstance(one[2], answered)]
        heapq.heapify(self._coming)
        if serving is not None and position < BYTES:
            pull = serving[0]
            lost = RequestFailed(pull.id, "disconnected", position, pull.version)
            self._push(self.now, lost)

    def _stop_serving(self) -> int:
        if self._serving is None:
            return 0
        _, since_s, offset = self._serving
        self._serving = None
        came = max(0, int((self.now - since_s - LATENCY_S) * RATE_Bps))
        self.moved_bytes += min(came, BYTES - offset)
        return min(BYTES, offset + came)


@pytest.mark.parametrize("cut_s", [2.0, 5.0, 8.0])
def test_a_pull_that_is_cut_goes_on_at_the_next_missing_byte_of_the_same_version(
    cut_s: float,
) -> None:
    seen = Cut((1.5, 1.5 + cut_s))
    seen.until(60.0)
    first, resumed = seen.pulls()[:2]
    assert (resumed.layers, resumed.version) == (("fc",), 7)
    assert resumed.offset == pytest.approx((1.0 - LATENCY_S) * RATE_Bps, abs=2)
    assert first.offset == 0
    assert seen.outcomes() == ["disconnected", "ok"]
    (published_s, update), *_ = seen.published
    assert [source.version for source in update.sources] == [7]
    rest_s = BYTES / RATE_Bps - 1.0
    assert published_s < 1.5 + cut_s + rest_s + 1.1, "it noticed too late that the link was back"


@given(
    st.lists(st.tuples(st.floats(0.1, 3.0), st.floats(0.05, 6.0)), min_size=1, max_size=5),
    st.integers(1, 50),
)
@example_settings(max_examples=60)
def test_however_a_link_is_cut_no_pull_outlives_its_deadline_and_no_byte_comes_twice(
    spans: list[tuple[float, float]], seed: int
) -> None:
    cuts, at_s = [], 0.5
    for whole_s, gone_s in spans:
        cuts.append((at_s + whole_s, at_s + whole_s + gone_s))
        at_s += whole_s + gone_s
    seen = Cut(*cuts, seed=seed)
    seen.until(100.0)
    ((published_s, update),) = seen.published
    assert published_s <= 0.5 + BUDGET_S + 1e-6
    offsets = [pull.offset for pull in seen.pulls()]
    assert offsets == sorted(offsets)
    assert seen.moved_bytes <= BYTES
    lost_s = sum(gone_s + 1.2 for _, gone_s in spans)
    if BYTES / RATE_Bps + lost_s < BUDGET_S - 1:
        assert len(update.sources) == 1, "the deadline allowed it to come whole"


def test_a_link_that_stays_cut_holds_a_round_back_by_one_deadline_and_then_no_more() -> None:
    seen = Cut((1.0, 1e6))
    seen.until(60.0)
    ((published_s, update),) = seen.published
    assert update.sources == ()
    assert 0.5 + BUDGET_S - 0.2 < published_s <= 0.5 + BUDGET_S
    assert seen.standings()[1] == ("away", "pull disconnected")
    assert seen.rounds.view().peers == ()


def test_a_peer_is_usable_a_second_after_its_link_is_back() -> None:
    seen = Cut((1.0, 300.0))
    seen.until(300.0)
    assert seen.peer.standing == "away"
    seen.until(301.1)
    assert seen.peer.standing == "ready"


@pytest.mark.parametrize("seed", range(4))
def test_while_a_peer_is_gone_it_is_tried_with_pauses_of_up_to_a_second(seed: int) -> None:
    seen = Cut((1.0, 9.0), seed=seed)
    seen.until(8.9)
    tries = [at_s for at_s, message in seen.sent if isinstance(message, protocol.Hello)]
    assert 10 <= len(tries) <= 40
    assert all(later - earlier <= 1.0 + 1e-9 for earlier, later in pairwise(tries[1:]))


def test_workers_that_lose_the_same_peer_do_not_come_back_at_the_same_times() -> None:
    times_s = []
    for seed in (1, 2):
        seen = Cut((1.0, 9.0), seed=seed)
        seen.until(8.9)
        times_s.append({at_s for at_s, it in seen.sent if at_s > 1.01})
    assert not times_s[0] & times_s[1]


def test_a_version_that_is_gone_begins_anew_at_once_and_costs_no_retry() -> None:
    seen = Cut((1.5, 2.5), (3.9, 4.4), latest=7, remembers=False)
    seen.until(1.6)
    seen.latest = 8
    seen.until(3.9)
    seen.latest = 9
    seen.until(60.0)
    assert seen.outcomes() == ["disconnected", "gone", "disconnected", "gone", "ok"]
    assert [(p.version, p.offset > 0) for p in seen.pulls()][1:3] == [(7, True), (0, False)]
    assert [source.version for source in seen.published[0][1].sources] == [9]


class Answering(Cut):
    """A peer that answers pulls with these events before it serves any."""

    def __init__(self, *first: str) -> None:
        self.first = list(first)
        super().__init__()

    def _serve(self, pull: protocol.Pull) -> None:
        if not self.first:
            super()._serve(pull)
            return
        reason = self.first.pop(0)
        if reason in protocol.ERROR_CODES:
            self._push(self.now + LATENCY_S, Replied(protocol.Error(pull.id, reason, "")))
        else:
            self._push(self.now + LATENCY_S, RequestFailed(pull.id, reason))


def test_a_busy_peer_is_asked_again_until_the_deadline() -> None:
    seen = Answering(*["busy"] * 8)
    seen.until(60.0)
    assert seen.outcomes() == ["busy"] * 8 + ["ok"]
    assert len(seen.published[0][1].sources) == 1


@pytest.mark.parametrize("reason", ["refused", "protocol-order", "unknown-layer"])
def test_what_does_not_pass_by_waiting_is_tried_a_few_times_at_most(reason: str) -> None:
    seen = Answering(*[reason] * 20)
    seen.until(60.0)
    assert len(seen.outcomes()) <= 3
    assert seen.published[0][1].sources == ()
    assert seen.published[0][0] < 3.0


def test_an_asker_that_is_told_to_say_hello_does_so_and_goes_on() -> None:
    seen = Answering("refused")
    seen.until(60.0)
    kinds = [type(message) for at_s, message in seen.sent if 0.5 <= at_s < 1.0]
    assert kinds[:3] == [protocol.Pull, protocol.Hello, protocol.Pull]
    assert seen.outcomes() == ["refused", "ok"]


def test_a_peer_that_breaks_the_protocol_three_times_is_quarantined_and_says_why() -> None:
    seen = Answering(*["protocol-order"] * 3)
    seen.until(5.0)
    notes = [note.fields for _, note in seen.notes if note.kind == "peer"]
    assert notes[-1]["standing"] == "quarantined"
    assert notes[-1]["why"] == "protocol-order"
    assert notes[-1]["until_s"] == pytest.approx(600.0, abs=2.0)
    assert seen.rounds.view().peers == ()
    seen.until(notes[-1]["until_s"] + 1.1)
    assert seen.standings()[-1][0] == "ready"
