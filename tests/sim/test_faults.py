"""Faults in the twin: each does what it says, and the real core copes with all of them."""

from __future__ import annotations

import pytest

from mpls.config import changed
from mpls.core.plan import Layer
from mpls.core.trace import replay
from mpls.errors import BadInput
from sim.fault_effects import Faults
from sim.faults import KINDS, Fault, random_faults, read_faults
from sim.fitted import Fit
from sim.network.capacity import Constant
from tests.sim.federations import cluster, simulate

LAYERS = (Layer("small", 1_000), Layer("big", 20_000_000))
"""Two seconds at 10 MB/s; so is a pass, and a round begins about every two seconds."""


class Disturbed:
    """Two workers that pull all of each other's layers, and what became of them."""

    def __init__(
        self,
        *faults: Fault,
        rounds: int = 6,
        workers: int = 2,
        every_rounds: int = 1,
        overrides: dict[str, dict[str, object]] | None = None,
    ) -> None:
        self.faults = Faults(faults, seed=1)
        config = cluster(workers, "appg", rounds, topology="full")
        config = changed(
            config, {"checkpoint": {"every_rounds": every_rounds}, **(overrides or {})}
        )
        self.run = simulate(
            config,
            net="links",
            links=lambda src, dst: Constant(10e6),
            layers=LAYERS,
            fit=Fit(step_s=0.1, step_spread=0.0),
            prepare=self._prepare,
        )

    def _prepare(self, twin):
        self.twin = twin
        self.faults.apply(twin)

    def of(self, kind, worker="w0"):
        return [one for one in self.run.recorder.records[worker] if one["kind"] == kind]

    def attempts(self, worker="w0"):
        """Outcome and time of each attempt to pull."""
        return [(one["outcome"], one["t"]) for one in self.of("attempt", worker)]

    def messages(self, kind):
        """What w0 sent of this kind, with the time."""
        sent = [(one["t"], one["command"]["message"]) for one in self.of("send")]
        return [(at_s, message) for at_s, message in sent if message["is"] == kind]


def test_row_01_a_crash_in_mid_pull_is_noticed_at_once_and_the_others_go_on():
    seen = Disturbed(Fault(5.0, "crash", worker=1), workers=3)
    assert ("disconnected", 5.0) in seen.attempts()
    assert seen.run.ended.rounds == (6, 2, 6)
    assert all(one["peer"] == "w2" for one in seen.of("pull") if one["start_s"] > 5.0)


def test_a_restarted_worker_goes_on_after_its_checkpoint_with_the_beliefs_of_it():
    seen = Disturbed(Fault(5.0, "restart", worker=1, for_s=3.0), every_rounds=2)
    assert seen.run.ended.rounds == (6, 6)
    assert [one["round"] for one in seen.of("mix", "w1")] == [1, 2, 3, 4, 5, 6]
    versions = [one["version"] for one in seen.of("snapshot", "w1")]
    assert versions == list(range(1, len(versions) + 1))
    believed = seen.of("header", "w1")[1]["resumed"]["peers"]["w0"]["bandwidth"]
    assert believed["measured"]
    assert seen.of("plan", "w1")[2]["bandwidth_Bps"] == {"w0": believed["value_Bps"]}


def test_what_was_done_after_the_newest_checkpoint_is_done_again():
    seen = Disturbed(Fault(5.0, "restart", worker=1, for_s=3.0), every_rounds=10)
    assert [one["round"] for one in seen.of("mix", "w1")] == [1, 2, 1, 2, 3, 4, 5, 6]
    assert seen.run.ended.rounds == (6, 6)
    again = [one for one in seen.of("plan", "w1") if one["t"] == 8.0]
    assert [one["bandwidth_Bps"] for one in again] == [{}]


def test_a_restarted_worker_is_used_again_after_the_pause_of_its_peers():
    seen = Disturbed(Fault(5.0, "restart", worker=1, for_s=3.0))
    assert seen.faults.downs[0, 1] == [5.0]
    # 0.1 s after the crash, and then after pauses that double: the last of them finds it again.
    assert seen.faults.ups[0, 1] == [pytest.approx(5.0 + 0.1 + 0.2 + 0.4 + 0.8 + 1.6)]
    assert seen.attempts()[-1][0] == "ok"


def test_each_life_of_a_restarted_worker_replays():
    records = Disturbed(Fault(5.0, "restart", worker=1, for_s=3.0)).run.recorder.records["w1"]
    starts = [index for index, one in enumerate(records) if one["kind"] == "header"]
    assert len(starts) == 2
    assert replay(records[: starts[1]]) is None
    assert replay(records[starts[1] :]) is None


def test_row_02_a_long_freeze_is_noticed_after_heartbeats_and_a_short_one_only_takes_time():
    assert Disturbed(Fault(5.0, "freeze", worker=1, for_s=6.0)).faults.downs[0, 1] == [8.4]
    short = Disturbed(Fault(5.0, "freeze", worker=1, for_s=2.0))
    assert not short.faults.downs[0, 1]
    assert {outcome for outcome, _ in short.attempts()} == {"ok"}


def test_a_frozen_worker_trains_nothing_and_sees_its_timers_late():
    plain = Disturbed()
    seen = Disturbed(Fault(5.0, "freeze", worker=1, for_s=6.0))
    assert not [one for one in seen.run.recorder.records["w1"] if 5.0 < one["t"] < 11.0]
    late_s = seen.of("pass", "w1")[2]["t"] - plain.of("pass", "w1")[2]["t"]
    assert late_s == pytest.approx(6.0)
    assert ("stalled", 11.0) in seen.attempts("w1")


def test_a_slow_worker_takes_longer_for_a_pass():
    seen = Disturbed(Fault(3.0, "slow-worker", worker=0, for_s=5.0, factor=3.0))
    passes_s = [one["seconds"] for one in seen.of("pass")]
    assert passes_s == pytest.approx([2.0, 2.0, 6.0, 2.0, 2.0, 2.0])


def test_row_06_a_cut_of_two_seconds_lets_the_pull_go_on_where_it_was():
    seen = Disturbed(Fault(5.0, "cut", link=(0, 1), for_s=2.0))
    assert not seen.faults.downs
    assert {outcome for outcome, _ in seen.attempts()} == {"ok"}
    across = seen.of("attempt")[1]
    assert across["seconds"] == pytest.approx(2.0001 + 2.0)


def test_row_06_after_a_longer_cut_a_pull_says_hello_on_the_new_connection_and_resumes_by_version():
    seen = Disturbed(Fault(5.0, "cut", link=(0, 1), for_s=3.7))
    assert seen.faults.downs[0, 1] == [8.4]
    assert seen.faults.ups[0, 1] == [pytest.approx(8.7)]
    resumed_s, pull = seen.messages("Pull")[3]
    assert (pull["version"], pull["offset"]) == (3, 9_998_000)
    assert [at_s for at_s, _ in seen.messages("Hello") if 8.7 < at_s <= resumed_s]
    last = next(one for one in seen.of("attempt") if one["request"] == pull["id"])
    assert last["outcome"] == "ok"
    assert last["bytes"] == 20_000_000 - 9_998_000


@pytest.mark.parametrize("cut_s", [5.0, 10.0])
def test_row_06_a_long_cut_is_resumed_by_version_while_the_deadline_of_the_pull_allows(cut_s):
    seen = Disturbed(Fault(3.0, "cut", link=(0, 1), for_s=cut_s))
    back_s = seen.faults.ups[0, 1][0]
    whole = next(one for one in seen.of("attempt") if one["outcome"] == "ok")
    assert back_s < whole["start_s"] < back_s + 1.1
    resumed = next(pull for _, pull in seen.messages("Pull") if pull["id"] == whole["request"])
    assert (resumed["layers"], resumed["version"]) == (["big"], 2)
    assert whole["bytes"] == 20_000_000 - resumed["offset"] < 10_500_000
    assert all(one["ends"] == {"applied": 2} for one in seen.of("round")[1:])


def test_a_cut_of_five_seconds_takes_the_peer_out_of_plans_until_it_is_heard_again():
    seen = Disturbed(Fault(5.0, "cut", link=(0, 1), for_s=5.0))
    ready_s = [one["t"] for one in seen.of("peer") if one["standing"] == "ready"][-1]
    assert seen.faults.ups[0, 1][0] <= ready_s < 10.0 + 5.0
    assert seen.attempts()[-1][0] == "ok"
    assert seen.run.ended.rounds == (6, 6)


def test_row_05_a_cut_one_way_loses_messages_one_way_and_the_connections_of_both():
    seen = Disturbed(Fault(5.0, "cut-one-way", link=(0, 1), for_s=5.0))
    assert seen.faults.downs == {(0, 1): [8.4], (1, 0): [8.4]}
    assert seen.run.ended.rounds == (6, 6)


def test_row_09_a_slow_link_makes_pulls_last_longer():
    seen = Disturbed(Fault(3.0, "slow-link", link=(0, 1), for_s=2.0, factor=0.5))
    assert seen.of("attempt")[0]["seconds"] == pytest.approx(2.0001 + 0.5, abs=0.6)
    assert seen.of("attempt")[0]["seconds"] > 2.4


def test_row_07_a_flapping_link_moves_half_as_much_and_keeps_its_connections():
    seen = Disturbed(Fault(4.0, "flapping", worker=1, for_s=5.0))
    assert not seen.faults.downs
    across = next(one for one in seen.of("attempt") if one["t"] > 5.0)
    assert across["seconds"] > 3.0


def test_row_08_a_partition_cuts_the_links_between_its_groups_only():
    seen = Disturbed(Fault(5.0, "partition", groups=((0, 1),), for_s=5.0), workers=4)
    assert set(seen.faults.downs) == {(a, b) for a in (0, 1) for b in (2, 3)} | {
        (b, a) for a in (0, 1) for b in (2, 3)
    }
    assert seen.run.ended.rounds == (6, 6, 6, 6)


def test_row_12_lost_messages_are_missed_after_the_stall_time():
    seen = Disturbed(Fault(4.5, "loss", link=(0, 1), for_s=4.0, factor=1.0))
    news = [(one["standing"], one["why"]) for one in seen.of("peer") if 7.0 < one["t"] < 9.0]
    assert news[0] == ("away", "timed-out")
    assert not seen.faults.downs


def test_row_13_a_reply_that_comes_twice_is_dropped_and_changes_nothing():
    seen = Disturbed(Fault(3.0, "duplicate", link=(0, 1), for_s=9.0))
    assert seen.twin.workers[0].conductor.dropped > 0
    assert seen.run.ended == Disturbed().run.ended


def test_row_13_a_late_reply_is_dropped_after_its_request_has_ended():
    seen = Disturbed(Fault(5.0, "late", link=(0, 1), for_s=3.0))
    assert seen.twin.workers[0].conductor.dropped > 0
    assert seen.run.ended.rounds == (6, 6)


def test_row_21_while_a_disk_fails_no_checkpoint_is_written_and_training_goes_on():
    disk = Fault(3.0, "disk", worker=1, for_s=4.0)
    seen = Disturbed(disk, Fault(7.5, "restart", worker=1, for_s=1.0))
    saved = [(one["round"], one.get("failed")) for one in seen.of("checkpoint", "w1")]
    assert saved[:3] == [(1, None), (2, "disk"), (3, "disk")]
    assert [one["round"] for one in seen.of("mix", "w1")] == [1, 2, 3, 2, 3, 4, 5, 6]
    assert seen.faults.befell["disk"] == 1


def test_row_22_a_damaged_checkpoint_is_set_aside_for_the_one_before():
    torn = Fault(7.0, "torn", worker=1)
    seen = Disturbed(torn, Fault(7.5, "restart", worker=1, for_s=1.0))
    assert [one["round"] for one in seen.of("mix", "w1")] == [1, 2, 3, 3, 4, 5, 6]


def test_who_has_no_whole_checkpoint_begins_anew():
    torn = Fault(3.0, "torn", worker=1)
    seen = Disturbed(torn, Fault(3.5, "restart", worker=1, for_s=1.0))
    assert [one["round"] for one in seen.of("mix", "w1")] == [1, 1, 2, 3, 4, 5, 6]
    assert Disturbed(Fault(0.5, "torn", worker=1)).faults.befell["torn"] == 0


RESTART = Fault(7.5, "restart", worker=1, for_s=1.0)


def decisions(seen, worker):
    """What a worker's lives asked for, and what they planned with: when, from the first's start."""
    records = seen.run.recorder.records[worker]
    life, zero_s, decided = 0, 0.0, []
    for one in records:
        if one["kind"] == "header":
            life += 1
            zero_s = one["t"] - (8.5 if life == 2 else 0.0)
        if one["kind"] in ("send", "cancel", "publish", "plan", "peer"):
            what = {key: value for key, value in one.items() if key != "t"}
            decided.append((life, round(one["t"] - zero_s, 6), what))
    return decided


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_row_28_a_wall_clock_that_jumps_and_another_zero_after_a_reboot_change_no_decision(jump_s):
    plain = Disturbed(RESTART)
    seen = Disturbed(Fault(4.0, "clock", worker=1, jump_s=jump_s), RESTART)
    first, second = seen.of("header", "w1")
    assert (first["t"], second["t"]) == (3600.0, 0.0)
    for worker in ("w0", "w1"):
        assert _rounded(decisions(seen, worker)) == _rounded(decisions(plain, worker))
    assert seen.run.ended.rounds == plain.run.ended.rounds
    _, newest = (one.saved_unix_s for one in seen.twin.workers[1].generations._kept)
    assert newest == pytest.approx(seen.of("checkpoint", "w1")[-1]["t"] + 8.5 + jump_s)


def _rounded(value):
    """Clocks that began elsewhere round differently in the last digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, (list, tuple)) else value


def test_each_life_replays_whatever_its_clock_shows():
    seen = Disturbed(Fault(4.0, "clock", worker=1, jump_s=60.0), RESTART)
    records = seen.run.recorder.records["w1"]
    again = [index for index, one in enumerate(records) if one["kind"] == "header"][1]
    assert replay(records[:again]) is None
    assert replay(records[again:]) is None


def test_a_swizzle_cuts_workers_off_one_by_one_and_lets_them_back_in_another_order():
    seen = Disturbed(Fault(3.0, "swizzle", groups=((2, 0, 1),), for_s=20.0), workers=4, rounds=12)
    first_lost_s = {
        worker: min(seen.faults.downs[worker, 3] + seen.faults.downs[3, worker])
        for worker in (0, 1, 2)
    }
    assert first_lost_s[2] < first_lost_s[0] < first_lost_s[1] < 13.0 + 3.4
    last_back_s = {worker: max(seen.faults.ups[worker, 3]) for worker in (0, 1, 2)}
    assert sorted(last_back_s, key=last_back_s.get) != [2, 0, 1]
    assert seen.run.ended.rounds == (12,) * 4
    assert seen.faults.befell["swizzle"] == 1


def test_a_worker_that_joins_is_used_once_the_others_are_told_and_not_asked_before():
    seen = Disturbed(Fault(5.0, "join", worker=2), workers=3, rounds=8)
    assert seen.run.ended.rounds == (8, 8, 8)
    (told,) = [one["t"] for one in seen.of("event") if one["event"]["is"] == "PeersChanged"]
    assert 5.0 <= told <= 6.0
    asked = [one["t"] for one in seen.of("send") if one["command"]["peer"] == "w2"]
    assert min(asked) == told
    assert any(it["peer"] == "w2" and it["outcome"] == "applied" for it in seen.of("pull"))
    assert seen.of("header", "w2")[0]["t"] == 5.0
    for worker in ("w0", "w1", "w2"):
        assert replay(seen.run.recorder.records[worker]) is None


def test_a_worker_that_leaves_drains_and_is_asked_nothing_once_the_others_are_told():
    seen = Disturbed(Fault(5.0, "leave", worker=2), workers=3, rounds=8)
    assert seen.run.ended.rounds == (8, 8, 2)
    assert seen.of("state", "w2")[-1]["state"] == "stopped"
    (told,) = [one["t"] for one in seen.of("event") if one["event"]["is"] == "PeersChanged"]
    asked = [one["t"] for one in seen.of("send") if one["command"]["peer"] == "w2"]
    assert max(asked) <= told
    assert ("w2", "removed") in [(it["peer"], it["standing"]) for it in seen.of("peer")]
    assert replay(seen.run.recorder.records["w0"]) is None


def test_a_newcomer_that_bootstraps_begins_with_its_peers_mean_in_the_twin_too():
    overrides = {"training": {"bootstrap": "peers"}}
    seen = Disturbed(Fault(9.0, "join", worker=2), workers=3, rounds=8, overrides=overrides)
    first, second, *_ = seen.of("mix", "w2")
    assert (first["round"], first["copies"]) == (0, 4)
    assert second["round"] == 1
    assert seen.of("snapshot", "w2")[0]["t"] >= first["t"]
    assert seen.of("mix")[0]["copies"] == 0  # of the first two nobody had weights to begin with


def test_faults_that_overlap_end_when_the_last_of_them_ends():
    cuts = (Fault(5.0, "cut", link=(0, 1), for_s=1.0), Fault(5.5, "cut", worker=0, for_s=1.5))
    assert Disturbed(*cuts).of("attempt")[1]["seconds"] == pytest.approx(2.0001 + 2.0)
    freezes = (Fault(5.0, "freeze", worker=1, for_s=1.0), Fault(5.5, "freeze", worker=1, for_s=1.5))
    assert Disturbed(*freezes).faults.rests["w1"] == [(5.0, 7.0)]


def test_drawn_faults_are_about_ten_a_run_of_every_kind_and_the_same_for_the_same_seed():
    links = cluster(8, topology="k-regular").links()
    runs = [random_faults(seed, 8, links, 20.0) for seed in range(200)]
    assert 10 < sum(map(len, runs)) / len(runs) < 12
    assert {fault.kind for faults in runs for fault in faults} == set(KINDS)
    assert runs[7] == random_faults(7, 8, links, 20.0) != runs[8]


GOOD = '[[fault]]\nat_s = 1\nkind = "cut"\nlink = [0, 1]\nfor_s = 2.5\n'


def test_a_fault_file_says_what_befalls_whom_and_when(tmp_path):
    path = tmp_path / "faults.toml"
    path.write_text(GOOD + '[[fault]]\nat_s = 2\nkind = "crash"\nworker = 2\n')
    path.write_text(path.read_text() + '[[fault]]\nat_s = 3\nkind = "clock"\nworker = 0\n')
    first, second, third = read_faults(path)
    assert third == Fault(3.0, "clock", worker=0, jump_s=3600.0)
    assert first == Fault(1.0, "cut", link=(0, 1), for_s=2.5)
    assert second == Fault(2.0, "crash", worker=2)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[[fault]", "fault file"),
        ("[fault]\n", "[[fault]] only"),
        ("[weather]\n", "weather"),
        (GOOD.replace("cut", "flood"), "must be one of crash, restart"),
        (GOOD.replace("at_s = 1", "at_s = -1"), "at_s = -1: must be from 0"),
        (GOOD.replace("at_s = 1", "at_s = nan"), "at_s"),
        (GOOD.replace("for_s = 2.5", ""), "for_s = null"),
        (GOOD.replace("for_s", "fors"), '"fors": a cut has at_s, kind, worker, link, for_s'),
        (GOOD.replace("[0, 1]", "[0, 0]"), "must be two workers' ids"),
        (GOOD.replace("[0, 1]", "[0, true]"), "must be a worker's id"),
        (GOOD + "worker = 1\n", "a cut needs worker or link"),
        (GOOD + "factor = 2\n", '"factor"'),
        (
            GOOD.replace("cut", "partition").replace("link", "groups"),
            "must be like [[0, 1], [2, 3]]",
        ),
        (
            GOOD.replace("cut", "swizzle").replace("link = [0, 1]", "groups = [[0, 1], [2]]"),
            "one group",
        ),
        (GOOD.replace("cut", "clock"), '"link": a clock has at_s, kind, worker, jump_s'),
        (GOOD.replace("cut", "loss") + "factor = 1.5\n", "factor = 1.5: must be from 0 to 1"),
    ],
)
def test_a_wrong_fault_file_is_refused_in_one_line_that_names_what_is_wrong(tmp_path, text, named):
    path = tmp_path / "faults.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        read_faults(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", [Fault(1.0, "crash", worker=9), Fault(1.0, "cut", link=(0, 9))])
def test_a_fault_of_a_worker_or_link_that_is_not_there_is_refused(fault):
    with pytest.raises(BadInput, match=r"number 1: .*9"):
        Disturbed(fault)
