"""Keeping watch over a peer: hello, status and probe as they go out, in virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from mpls.core import protocol
from mpls.core.beliefs import LINGER_PROGRESS_S, LINGER_S
from mpls.core.conductor import NEVER_S, Conductor
from mpls.core.messages import (
    Command,
    Drained,
    Event,
    LayerReceived,
    Progress,
    RecordNote,
    Replied,
    RequestFailed,
    RoundDue,
    SendRequest,
    Ticked,
    UpdateTaken,
)
from mpls.core.peers import QUARANTINE_S
from mpls.core.plan import Layer
from mpls.core.round import Rounds
from mpls.core.settings import PlanSettings, PullSettings
from mpls.core.spec import WorkerSpec
from mpls.core.watch import IDLE_WATCH_S, PROBE_LEAST_BYTES, REMIND_S, STALE_S

LATENCY_S = 0.01
LAYER_BYTES = 2_000_000
Answer = Callable[[protocol.Message, float], Event | None]


class Watch:
    """A worker and its only peer, whose `answer` to a message comes LATENCY_S later (or never, if
    it is None)."""

    def __init__(
        self,
        answer: Answer,
        status_s: float = 1.0,
        strategy: str = "mpls",
        deadline_floor_s: float = 2.0,
    ) -> None:
        self.answer = answer
        spec = WorkerSpec(
            name="w0",
            seed=1,
            peers=("w1",),
            layers=(Layer("fc", LAYER_BYTES),),
            model="m",
            histogram=(0.5, 0.5),
            samples=100,
            plan=PlanSettings(strategy=strategy),
            pull=PullSettings(status_s=status_s, deadline_floor_s=deadline_floor_s),
        )
        self.rounds = Rounds(spec)
        self.peer = self.rounds.peers["w1"]
        self.conductor = Conductor(self.rounds)
        self.sent: list[tuple[float, protocol.Message]] = []
        self.standings: list[tuple[float, str]] = []
        self.why = ""
        self._coming: list[tuple[float, int, Event]] = []
        self._carry_out(self.conductor.start(0.0), 0.0)

    def until(self, end_s: float) -> None:
        """Let time pass."""
        while (now := min(self._coming[0][0] if self._coming else NEVER_S, self.due_s())) <= end_s:
            due = self._coming and self._coming[0][0] == now
            self.tell(heapq.heappop(self._coming)[2] if due else Ticked(), now)

    def tell(self, event: Event, now: float) -> None:
        self._carry_out(self.conductor.handle(event, now), now)

    def due_s(self) -> float:
        return self.conductor.deadline()

    def times_s(self, kind: type[protocol.Message]) -> list[float]:
        """When messages of this kind were sent."""
        return [now for now, message in self.sent if isinstance(message, kind)]

    def _carry_out(self, commands: list[Command], now: float) -> None:
        for command in commands:
            if isinstance(command, RecordNote) and command.kind == "peer":
                self.standings.append((now, command.fields["standing"]))
                self.why = command.fields["why"]
            elif isinstance(command, SendRequest):
                self.sent.append((now, command.message))
                event = self.answer(command.message, now)
                if event is not None:
                    heapq.heappush(self._coming, (now + LATENCY_S, command.message.id, event))


def well(message: protocol.Message, now: float) -> Event | None:
    """A peer that answers everything, and sends a layer as soon as it is asked for."""
    if isinstance(message, protocol.Hello):
        return Replied(protocol.Welcome(message.id, "w1", "m", (0.25, 0.75), 100))
    if isinstance(message, protocol.Status):
        status = protocol.StatusOk(message.id, "running", int(now), 7, (2.0,), 0.001)
        return Replied(status)
    if isinstance(message, protocol.Probe):
        return Progress(message.id, message.bytes, 1)
    return LayerReceived(message.id, "fc", LAYER_BYTES, 7, 3, 0.0)


def silent(message: protocol.Message, now: float) -> Event | None:
    return None


def unreachable(message: protocol.Message, now: float) -> Event | None:
    return RequestFailed(message.id, "unreachable")


def refusing(code: str) -> Answer:
    return lambda message, now: Replied(protocol.Error(message.id, code, ""))


def pauses_s(times_s: list[float]) -> Iterator[float]:
    """Between an answer and the next message."""
    return (round(later - earlier - LATENCY_S, 6) for earlier, later in pairwise(times_s))


# --- hello and status -------------------------------------------------------------------------


def test_a_peer_is_greeted_once_and_then_asked_for_its_status_every_second() -> None:
    watch = Watch(well)
    watch.until(3.5)
    kinds = [type(message).__name__ for _, message in watch.sent]
    assert kinds == ["Hello", "Status", "Status", "Status"]
    assert set(pauses_s([now for now, _ in watch.sent])) == {1.0}


def test_what_the_answers_say_is_what_the_next_plan_is_made_from() -> None:
    watch = Watch(well)
    watch.until(0.5)
    assert watch.peer.view().histogram == (0.25, 0.75)
    assert watch.peer.view().progress is None
    watch.until(2.5)
    (view,) = watch.rounds.view().peers
    assert view.progress == (2.0,)
    assert (watch.peer.state, watch.peer.round, watch.peer.version) == ("running", 2, 7)
    assert watch.peer.round_trip_s() == pytest.approx(LATENCY_S)
    assert watch.rounds.view().downlink_Bps is None


def test_hello_is_repeated_with_growing_pauses_up_to_the_status_interval() -> None:
    watch = Watch(unreachable)
    watch.until(10.0)
    paused_s = list(pauses_s(watch.times_s(protocol.Hello)))
    longest_s = [0.2, 0.4, 0.8, *[1.0] * (len(paused_s) - 3)]
    assert all(most / 2 <= it <= most for it, most in zip(paused_s, longest_s))
    assert len(set(paused_s)) == len(paused_s), "nothing is drawn"
    assert watch.standings == [(LATENCY_S, "away")]


def test_a_silent_peer_is_given_up_after_the_stall_time_and_greeted_again() -> None:
    watch = Watch(silent)
    watch.until(7.0)
    first_s, second_s, third_s = watch.times_s(protocol.Hello)
    assert first_s == 0.0
    assert 3.1 <= second_s <= 3.2
    assert 3.2 <= third_s - second_s <= 3.4


def test_row_16_a_peer_away_for_hours_has_a_line_a_minute_and_is_back_at_once() -> None:
    watch = Watch(unreachable)
    watch.until(2 * 3600.0)
    watch.answer = well
    watch.until(2 * 3600.0 + 2.0)
    *lines, (back_s, back) = watch.standings
    assert {standing for _, standing in lines} == {"away"}
    assert all(REMIND_S <= b - a < REMIND_S + 2 for (a, _), (b, _) in pairwise(lines))
    assert (back, back_s < 2 * 3600.0 + 1.1) == ("ready", True)


def test_the_reasons_of_a_peer_that_stays_away_are_no_news_within_a_minute() -> None:
    def flickering(message: protocol.Message, now: float) -> Event | None:
        return unreachable(message, now) if int(now) % 2 else refusing("busy")(message, now)

    watch = Watch(flickering)
    watch.until(59.0)
    assert watch.standings == [(LATENCY_S, "away")]


def test_a_status_that_failed_leads_to_a_hello() -> None:
    watch = Watch(well)
    watch.until(1.5)
    watch.answer = unreachable
    watch.until(2.05)
    watch.answer = well
    watch.until(2.5)
    kinds = [type(message).__name__ for _, message in watch.sent]
    assert kinds == ["Hello", "Status", "Status", "Hello"]
    assert [standing for _, standing in watch.standings] == ["ready", "away", "ready"]


def test_after_a_hello_that_helped_the_pauses_are_short_again() -> None:
    watch = Watch(unreachable)
    watch.until(4.5)
    watch.answer = well
    watch.until(7.0)
    watch.answer = unreachable
    watch.until(9.0)
    first = next(now for now, standing in watch.standings[2:] if standing == "away")
    hellos_s = [now for now in watch.times_s(protocol.Hello) if now > first]
    assert first + 0.1 <= hellos_s[0] <= first + 0.2


def test_progress_of_before_is_forgotten_when_a_peer_is_greeted_anew() -> None:
    watch = Watch(well)
    watch.until(1.5)
    watch.answer = unreachable
    watch.until(2.05)
    watch.answer = well
    watch.until(2.5)
    assert watch.peer.view().progress is None


def test_row_52_a_histogram_that_is_none_leaves_the_peer_usable() -> None:
    def odd(message: protocol.Message, now: float) -> Event | None:
        if isinstance(message, protocol.Hello):
            return Replied(protocol.Welcome(message.id, "w1", "m", (0.5, 0.9), 100))
        return well(message, now)

    watch = Watch(odd)
    watch.until(0.5)
    (view,) = watch.rounds.view().peers
    assert view.histogram is None


LIES: dict[str, Answer] = {
    "a label histogram that is none": lambda message, now: Replied(
        protocol.Welcome(message.id, "w1", "m", (0.5, 0.9), 100)
    ),
    "a status that is none": lambda message, now: Replied(
        protocol.StatusOk(message.id, "running", 1, 1, (-1.0,), 0.001)
    ),
}


@pytest.mark.parametrize("why", LIES)
def test_row_52_a_peer_that_lies_about_itself_three_times_is_quarantined_for_ten_minutes_by_name(
    why: str,
) -> None:
    told = protocol.Hello if "histogram" in why else protocol.Status

    def lying(message: protocol.Message, now: float) -> Event | None:
        if isinstance(message, told):
            return LIES[why](message, now)
        refused = told is protocol.Hello and isinstance(message, protocol.Status)
        return unreachable(message, now) if refused else well(message, now)

    watch = Watch(lying)
    watch.until(10.0)
    assert (watch.standings[-1][1], watch.why) == ("quarantined", why)
    assert watch.rounds.view().peers == ()
    quarantined_s = watch.standings[-1][0]
    watch.answer = well
    watch.until(quarantined_s + QUARANTINE_S - 1.5)
    assert watch.rounds.view().peers == ()
    watch.until(quarantined_s + QUARANTINE_S + 1.1)
    assert len(watch.rounds.view().peers) == 1


@pytest.mark.parametrize("swapped", [protocol.Hello, protocol.Status])
def test_an_answer_to_another_question_does_not_count(swapped: type[protocol.Message]) -> None:
    def confused(message: protocol.Message, now: float) -> Event | None:
        if not isinstance(message, swapped):
            return well(message, now)
        if isinstance(message, protocol.Status):
            return Replied(protocol.Welcome(message.id, "w1", "m", (0.5, 0.5), 100))
        return Replied(protocol.StatusOk(message.id, "running", 1, 1, None, 0.001))

    watch = Watch(confused)
    watch.until(1.05)
    assert watch.standings[-1][1] in ("away", "quarantined")
    assert watch.rounds.view().peers == ()


def test_without_an_interval_only_a_peer_that_is_not_ready_is_asked() -> None:
    watch = Watch(well, status_s=0.0)
    watch.until(3 * IDLE_WATCH_S)
    assert [type(message) for _, message in watch.sent] == [protocol.Hello]
    watch.peer.missed()
    watch.until(5 * IDLE_WATCH_S)
    assert [type(message) for _, message in watch.sent] == [protocol.Hello, protocol.Status]
    assert watch.peer.standing == "ready"


# --- incompatible peers -----------------------------------------------------------------------


@pytest.mark.parametrize("code", ["refused", "unsupported"])
def test_a_peer_that_refuses_our_hello_is_incompatible_until_it_welcomes_us(code: str) -> None:
    watch = Watch(refusing(code))
    watch.until(10.0)
    assert watch.standings == [(LATENCY_S, "incompatible")]
    assert watch.rounds.view().peers == ()
    assert 0.5 < max(pauses_s(watch.times_s(protocol.Hello))) <= 1.0
    watch.answer = well
    watch.until(12.0)
    assert [standing for _, standing in watch.standings] == ["incompatible", "ready"]


def test_a_peer_that_comes_back_with_another_model_is_incompatible_and_can_recover() -> None:
    watch = Watch(well)
    watch.until(1.5)
    watch.answer = refusing("refused")
    watch.until(4.0)
    watch.answer = well
    watch.until(6.0)
    assert [s for _, s in watch.standings] == ["ready", "away", "incompatible", "ready"]


def test_a_busy_peer_is_away_not_incompatible() -> None:
    watch = Watch(refusing("busy"))
    watch.until(1.0)
    assert watch.peer.standing == "away"


# --- probes -----------------------------------------------------------------------------------


def test_a_peer_that_nobody_pulls_from_is_probed_when_its_bandwidth_is_stale() -> None:
    watch = Watch(well)
    watch.until(200.0)
    least = (now for now, it in watch.sent if getattr(it, "bytes", 0) == PROBE_LEAST_BYTES)
    probes_s = list(least)
    assert len(probes_s) >= 4
    assert all(STALE_S <= pause_s <= 1.5 * STALE_S + 2 for pause_s in pauses_s([0.0, *probes_s]))
    assert watch.peer.bandwidth.measured_s == pytest.approx(probes_s[-1] + 2 * LATENCY_S)
    assert len({round(pause_s, 1) for pause_s in pauses_s(probes_s)}) > 1


def test_pulls_keep_the_bandwidth_fresh_and_spare_the_probes() -> None:
    watch = Watch(well)
    for number in range(1, 11):
        watch.until(20.0 * number)
        watch.tell(RoundDue(number), 20.0 * number)
        watch.until(20.0 * number + 1.0)
        watch.tell(UpdateTaken(number), 20.0 * number + 1.0)
    assert len(watch.times_s(protocol.Pull)) == 10
    assert watch.times_s(protocol.Probe) == []


class Probed(Watch):
    """Whose peer has a link of `link_Bps`: a probe's answer comes when it would be through."""

    def __init__(self, link_Bps: float, believed_Bps: float = 12.5e6) -> None:
        super().__init__(well)
        self.probes: list[int] = []
        self.peer.bandwidth.value_Bps = believed_Bps
        self.answer = self._serve(link_Bps)

    def _serve(self, link_Bps: float) -> Answer:
        def answer(message: protocol.Message, now: float) -> Event | None:
            if not isinstance(message, protocol.Probe):
                return well(message, now)
            self.probes.append(message.bytes)
            event = Progress(message.id, message.bytes, 1)
            due_s = now + LATENCY_S + message.bytes / link_Bps
            heapq.heappush(self._coming, (due_s, message.id, event))
            return None

        return answer


@pytest.mark.parametrize("believed_Bps", [12.5e6, 1e4])
@pytest.mark.parametrize("link_Bps", [30e3, 100e3, 330e3, 1e6, 12.5e6, 50e6])
def test_probes_measure_any_link_without_stalling_on_it(
    link_Bps: float, believed_Bps: float
) -> None:
    watch = Probed(link_Bps, believed_Bps)
    watch.until(50.0)
    assert watch.probes[0] == PROBE_LEAST_BYTES
    assert max(watch.probes) <= protocol.PROBE_LIMIT_BYTES
    assert len(watch.probes) <= 3
    assert max(watch.probes) / link_Bps < 2.5, "would stall"
    assert watch.peer.bandwidth.value_Bps == pytest.approx(link_Bps, rel=0.05)
    assert watch.peer.bandwidth.measured_s is not None
    assert [standing for _, standing in watch.standings] == ["ready"]


def test_a_peer_that_does_not_answer_is_not_probed() -> None:
    watch = Watch(unreachable)
    watch.until(100.0)
    assert watch.times_s(protocol.Probe) == []


def test_a_probe_that_stalls_changes_no_belief_and_is_not_repeated_at_once() -> None:
    def no_probes(message: protocol.Message, now: float) -> Event | None:
        return None if isinstance(message, protocol.Probe) else well(message, now)

    watch = Watch(no_probes)
    watch.until(100.0)
    assert 2 <= len(watch.times_s(protocol.Probe)) <= 3
    assert (watch.peer.standing, watch.peer.bandwidth.measured_s) == ("ready", None)


# --- the end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [well, silent, unreachable])
@pytest.mark.parametrize("when_s", [0.0, 0.005, 0.5, 31.0])
def test_draining_ends_the_watch_whatever_it_waits_for(answer: Answer, when_s: float) -> None:
    watch = Watch(answer)
    watch.until(when_s)
    noted, sent = len(watch.standings), len(watch.sent)
    watch.tell(Drained(), when_s)
    assert watch.conductor.finished
    assert watch.due_s() == NEVER_S
    assert (len(watch.standings), len(watch.sent)) == (noted, sent)


def test_nobody_is_watched_when_nothing_is_ever_pulled() -> None:
    watch = Watch(well, strategy="local")
    watch.until(100.0)
    assert watch.sent == []


def training(state: str, round_number: Callable[[float], int]) -> Answer:
    """A peer in this state whose round is a function of time."""

    def answer(message: protocol.Message, now: float) -> Event | None:
        if not isinstance(message, protocol.Status):
            return well(message, now)
        return Replied(protocol.StatusOk(message.id, state, round_number(now), 7, None, 0.001))

    return answer


def test_a_finished_worker_waits_for_a_peer_that_still_trains() -> None:
    watch = Watch(training("running", int))
    watch.until(1000.0)
    assert watch.rounds.peers_training(1000.0)


def test_a_finished_worker_does_not_wait_for_one_that_has_finished_too() -> None:
    watch = Watch(training("draining", int))
    watch.until(100.0)
    assert not watch.rounds.peers_training(100.0)


def test_a_finished_worker_does_not_wait_for_one_that_was_never_heard() -> None:
    watch = Watch(silent)
    watch.until(100.0)
    assert not watch.rounds.peers_training(100.0)


def test_a_finished_worker_waits_ten_seconds_for_one_that_fell_silent() -> None:
    watch = Watch(training("running", int))
    watch.until(50.0)
    watch.answer = silent
    heard_s = watch.peer.heard_s
    assert watch.rounds.peers_training(heard_s + LINGER_S - 0.1)
    assert not watch.rounds.peers_training(heard_s + LINGER_S)


def test_a_finished_worker_waits_ten_minutes_for_one_that_answers_but_never_advances() -> None:
    watch = Watch(training("running", lambda now: 3))
    watch.until(LINGER_PROGRESS_S)
    assert watch.rounds.peers_training(LINGER_PROGRESS_S)
    watch.until(LINGER_PROGRESS_S + 5.0)
    assert not watch.rounds.peers_training(LINGER_PROGRESS_S + 5.0)


def test_row_10_a_peer_whose_answer_waits_behind_its_bytes_is_not_taken_for_dead() -> None:
    def hello_only(message: protocol.Message, _: float) -> Event | None:
        if isinstance(message, protocol.Hello):
            return Replied(protocol.Welcome(message.id, "w1", "m", (0.5, 0.5), 100))
        return None

    watch = Watch(hello_only, strategy="appg", deadline_floor_s=30.0)
    watch.until(0.5)
    watch.tell(RoundDue(1), 0.5)
    (pull,) = (message for _, message in watch.sent if isinstance(message, protocol.Pull))
    for half_seconds in range(2, 11):
        watch.until(half_seconds / 2)
        watch.tell(Progress(pull.id, half_seconds * 1_000, 1), half_seconds / 2)
    assert [standing for _, standing in watch.standings] == ["ready"]
    watch.until(5.0 + watch.rounds.spec.pull.stall_s)
    assert watch.standings[1] == (5.0 + watch.rounds.spec.pull.stall_s, "away")
