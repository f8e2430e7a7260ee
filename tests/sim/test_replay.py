"""Recorded runs simulated again: their seconds, progress, accuracies and transfers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import fsum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.config import ClusterConfig, changed, dumps
from mpls.core import trace
from mpls.core.trace import Record
from mpls.errors import BadInput
from sim import calibration
from sim.clock import Clock
from sim.network import make_network
from sim.point import Point, simulate
from sim.record import Recorder
from sim.recorded import Movement, Pass, RecordedRun, Transfer, read_run
from sim.replayed_times import (
    RecordedTransfers,
    demand_transfers,
    recorded_delays,
    recorded_durations,
    recorded_timings,
)
from sim.replaying import Replaying, demand_replayable
from sim.timing import IDEAL, Timing
from sim.twin import Twin
from tests.sim import federations

LIVE = read_run(Path(__file__).with_name("live-run"))
CALIBRATION = calibration.load()
FASTEST = 1e-9


def replayed(run: RecordedRun, **how: Any) -> Point:
    return Point(run.config, CALIBRATION, "replay", of=run, labels={"seed": 1}, **how)


def with_config(run: RecordedRun, tables: dict[str, Any]) -> RecordedRun:
    return replace(run, config=changed(run.config, tables))


def with_workers(run: RecordedRun, **fields: Any) -> RecordedRun:
    return replace(run, workers=tuple(replace(worker, **fields) for worker in run.workers))


# --- determinism --------------------------------------------------------------------------------


def test_the_hash_of_a_replay_is_the_same_on_every_machine_and_python() -> None:
    """A change of this value is a change of what the twin decides or records."""
    assert simulate(replayed(LIVE, net="trace", full_trace=True))["trace_sha256"] == GOLDEN


GOLDEN = "580c7b43e43bd3dc9fdfde313ab6642202478c4eedb7e8b7b962686d3e06722e"


# --- a simulated run, simulated again -----------------------------------------------------------


def recorded(tmp_path: Path, config: ClusterConfig, timing: Timing) -> RecordedRun:
    """A simulated run, left in a folder as `python -m sim --trace full` leaves it."""
    run = federations.simulate(config, net="links", timing=timing)
    run.recorder.write(tmp_path)
    (tmp_path / "cluster.toml").write_text(dumps(config))
    return read_run(tmp_path)


def again(run: RecordedRun) -> dict[str, list[Record]]:
    timing = recorded_delays(run, IDEAL)
    recorder = Recorder()
    durations = recorded_durations(run, timing.one_way_s)
    Twin(
        run.config,
        Replaying(run, run.config),
        lambda clock: make_network("trace", clock, duration_s=durations),
        recorded_timings(run, timing),
        recorder,
    ).run()
    return recorder.records


TIMING = Timing(one_way_s=0.002, serve_s=0.003, mix_s=0.01, publish_s=0.005)


@pytest.mark.parametrize("strategy", ["mpls", "appg", "rand-mpls"])
def test_a_simulated_run_replayed_makes_the_same_plans_at_the_same_times(
    strategy: str, tmp_path: Path
) -> None:
    config = federations.cluster(4, strategy, rounds=8, topology="full", status_s=0.05)
    run = recorded(tmp_path, config, TIMING)
    for name, records in again(run).items():
        first = list(trace.read(tmp_path / f"{name}.trace.jsonl"))
        for kind in ("plan", "pull", "mix"):
            before = [record for record in first if record["kind"] == kind]
            after = [record for record in records if record["kind"] == kind]
            assert [record["t"] for record in after] == pytest.approx(
                [record["t"] for record in before], abs=1e-9
            )
        plans = [[r["assignment"] for r in of if r["kind"] == "plan"] for of in (first, records)]
        assert plans[0] == plans[1]
        assert any(plans[0])


def test_a_full_trace_of_a_point_can_be_replayed(tmp_path: Path) -> None:
    config = changed(LIVE.config, {"training": {"rounds": 4}})
    simulate(Point(config, CALIBRATION, "model", full_trace=True), tmp_path)
    run = read_run(tmp_path)
    assert simulate(replayed(run, net="trace"))["rounds"] == 4
    assert trace.replay(trace.read(tmp_path / "w0.trace.jsonl")) is None


# --- learning ------------------------------------------------------------------------------------


def test_passes_take_the_recorded_seconds_and_leave_the_recorded_losses() -> None:
    learning = Replaying(LIVE, LIVE.config)
    for one in LIVE.workers[1].passes:
        assert learning.begin(1, one.steps, True) == one.seconds
        assert learning.end(1, one.steps) == one.loss


def test_a_stretch_of_other_length_takes_the_seconds_of_as_many_steps() -> None:
    run = with_workers(LIVE, passes=(Pass(8, steps=4, seconds=2.0, loss=None),))
    learning = Replaying(run, LIVE.config)
    assert [learning.begin(0, steps, False) for steps in (2, 4, 6)] == [1.0, 2.0, 3.0]


def test_tests_give_what_was_recorded_for_their_round_and_nothing_else() -> None:
    learning = Replaying(LIVE, LIVE.config)
    found = {}
    learning.snapshot(0, 1, 0)
    for number in range(1, 9):
        learning.begin(0, 83, True)
        found[number, "local"] = learning.evaluate(0)
        learning.mix(0, [])
        learning.snapshot(0, number + 1, number)
        found[number, "mixed"] = learning.evaluate(0)
    known = {key: scores for key, scores in found.items() if scores is not None}
    assert known == {(test.round, test.which): test.scores for test in LIVE.workers[0].tests}


def test_layers_model_and_shards_are_those_of_the_header() -> None:
    learning = Replaying(LIVE, LIVE.config)
    spec = LIVE.workers[2].spec
    assert (learning.layers, learning.model) == (spec.layers, spec.model)
    shard = learning.shards[2]
    assert (shard.histogram, shard.samples) == (spec.histogram, spec.samples)
    assert shard.pass_steps == LIVE.workers[2].passes[0].steps


def moving(*movements: Movement) -> Replaying:
    """A replay of LIVE in which only these were told, by anybody."""
    first, *others = LIVE.workers
    told = [replace(first, movements=movements), *(replace(w, movements=()) for w in others)]
    return Replaying(replace(LIVE, workers=tuple(told)), LIVE.config)


def distance(learning: Replaying, worker: int, since: int, until: int) -> tuple[float, ...]:
    older, newer = (learning.snapshot(worker, version, 0) for version in (since, until))
    return newer.squared_distance(older)


def test_a_pair_of_versions_that_was_told_has_that_very_progress() -> None:
    learning = moving(Movement("w1", 2, 4, (0.1, 0.7)), Movement("w1", 2, 3, (0.3, 0.3)))
    assert distance(learning, 1, 2, 4) == (0.1, 0.7)
    assert distance(learning, 1, 2, 3) == (0.3, 0.3)


def test_other_pairs_lay_the_shortest_spans_end_to_end() -> None:
    learning = moving(
        Movement("w1", 1, 5, (80.0, 80.0)),
        Movement("w1", 2, 3, (2.0, 20.0)),
        Movement("w1", 3, 5, (6.0, 60.0)),
    )
    # Version 1 to 2 is only in the span of four steps of 20; 3 to 5 are two steps of 3.
    assert distance(learning, 1, 1, 4) == (20.0 + 2.0 + 3.0, 20.0 + 20.0 + 30.0)


def test_what_nobody_was_told_moves_as_the_nearest_that_was() -> None:
    learning = moving(Movement("w1", 3, 4, (1.0, 2.0)), Movement("w1", 6, 7, (3.0, 4.0)))
    assert distance(learning, 1, 1, 3) == (2.0, 4.0)
    assert distance(learning, 1, 4, 6) == (2.0, 4.0)
    assert distance(learning, 1, 7, 9) == (6.0, 8.0)


def test_a_worker_that_told_nobody_moves_as_the_mean_of_the_others() -> None:
    learning = moving(Movement("w1", 1, 2, (1.0, 2.0)), Movement("w2", 1, 2, (3.0, 6.0)))
    assert distance(learning, 0, 1, 2) == (2.0, 4.0)


@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 5), st.floats(0.0, 1e6)),
        min_size=1,
        max_size=12,
    )
)
def test_paths_never_go_back(told: list[tuple[int, int, float]]) -> None:
    movements = [Movement("w1", since, since + span, (g, 2 * g)) for since, span, g in told]
    learning = moving(*movements)
    paths = [learning.snapshot(1, version, 0).path for version in range(1, 25)]
    assert paths[0] == (0.0, 0.0)
    assert all(a <= b for old, new in pairwise(paths) for a, b in zip(old, new))


# --- transfers -----------------------------------------------------------------------------------


def transfer(size: int, seconds: float, peer: str = "w1", whole: bool = True) -> Transfer:
    return Transfer(peer, 0.0, seconds, 0.25, size, whole)


def durations(*to_w0: Transfer) -> RecordedTransfers:
    first, *others = LIVE.workers
    without = [replace(first, transfers=to_w0), *(replace(w, transfers=()) for w in others)]
    return RecordedTransfers(replace(LIVE, workers=tuple(without)), one_way_s=0.25)


def test_the_nth_transfer_lasts_as_long_as_the_nth_recorded_one_did() -> None:
    found = durations(transfer(1000, 1.5), transfer(1000, 2.5), transfer(9, 9.0, "w2"))
    assert [found.seconds(1, 0, 1000.0, nth) for nth in (0, 1)] == [1.0, 2.0]


def test_a_transfer_of_another_size_moves_at_the_mean_rate_of_its_direction() -> None:
    found = durations(transfer(1000, 1.5), transfer(2000, 2.5))
    assert found.seconds(1, 0, 500.0, 0) == 0.5
    assert found.seconds(1, 0, 500.0, 7) == 0.5


def test_one_that_broke_off_counts_for_its_place_and_not_for_the_rate() -> None:
    found = durations(transfer(100, 99.0, whole=False), transfer(1000, 1.5))
    assert found.seconds(1, 0, 100.0, 0) == 0.1
    assert found.seconds(1, 0, 1000.0, 1) == 1.0


def test_a_direction_that_was_never_used_moves_as_its_sender_did_or_else_all() -> None:
    found = durations(transfer(1000, 1.5, "w1"), transfer(3000, 1.5, "w2"))
    assert found.mean_Bps(2, 1) == 3000.0
    assert found.mean_Bps(0, 1) == 2000.0


def test_waits_longer_than_the_transfer_leave_it_some_time() -> None:
    assert durations(transfer(1000, 0.1)).seconds(1, 0, 1000.0, 0) == FASTEST


def test_pulls_on_the_network_of_a_run_last_as_recorded() -> None:
    point = replayed(LIVE, net="trace", full_trace=True)
    recorder: list[float] = []
    clock = Clock()
    of = RecordedTransfers(LIVE, 0.0)
    net = make_network("trace", clock, duration_s=of.seconds)
    first = next(one for one in LIVE.workers[0].transfers if one.peer == "w1")
    net.start(1, 0, [float(first.bytes)], lambda _: recorder.append(clock.now))
    clock.run()
    assert recorder == pytest.approx([first.seconds - first.wait_s])
    assert simulate(point)["accuracy"] == pytest.approx(
        fsum(worker.tests[-1].scores.accuracy for worker in LIVE.workers) / 3
    )


def test_without_pacing_or_another_wish_links_are_as_fast_as_recorded() -> None:
    unpaced = with_config(LIVE, {"network": {"emulate": ""}})
    asked = with_config(LIVE, {"network": {"emulate": "1MB"}})
    assert replayed(unpaced).has_recorded_links
    assert not replayed(asked).has_recorded_links
    bytes_of = {simulate(replayed(run))["bytes"] for run in (unpaced, asked)}
    hashes = {simulate(replayed(run))["trace_sha256"] for run in (unpaced, asked)}
    assert (len(hashes), min(bytes_of) > 0) == (2, True)


# --- what cannot be replayed ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "line"),
    [
        ({"training": {"rounds": 9}}, "w0 recorded 8 rounds, 9 are asked for; --rounds 8 replays"),
        ({"workers": [{"id": 0, "address": "127.0.0.1:0"}]}, "recorded 3 workers, 1 are asked"),
    ],
)
def test_a_cluster_that_asks_for_more_than_was_recorded_is_refused(
    tables: dict[str, Any], line: str
) -> None:
    with pytest.raises(BadInput, match=line):
        demand_replayable(LIVE, changed(LIVE.config, tables))


def test_a_run_in_which_nobody_pulled_twice_has_no_progress() -> None:
    mute = with_workers(LIVE, movements=())
    with pytest.raises(BadInput, match=r"no progress of layers \(g\) was recorded"):
        demand_replayable(mute, LIVE.config)
    demand_replayable(mute, changed(LIVE.config, {"mpls": {"strategy": "local"}}))


def test_a_run_without_transfers_says_nothing_of_links() -> None:
    with pytest.raises(BadInput, match="no transfer was recorded"):
        demand_transfers(with_workers(LIVE, transfers=()))


def test_a_run_without_passes_is_refused() -> None:
    with pytest.raises(BadInput, match="w0 recorded no local pass"):
        demand_replayable(with_workers(LIVE, passes=()), LIVE.config)
