"""Rows of the fault table in virtual time that `test_faults.py` has no kind of fault for, or that
take several: the real core, and what it makes of them."""

from __future__ import annotations

import time
from itertools import cycle

import pytest

from mpls.config import changed
from mpls.core.messages import LayerReceived, LayerRefused
from mpls.core.trace import replay
from sim.faults import Fault
from sim.fitted import Fit, Fitted
from sim.learning import Shard
from sim.network import Overhead, make_network
from sim.network.capacity import Constant
from sim.record import Recorder
from sim.timing import IDEAL, Timing
from sim.twin import Twin
from tests.sim.federations import cluster
from tests.sim.test_faults import LAYERS, Disturbed

WHOLE = {layer.name: layer.bytes for layer in LAYERS}


def pulls_from(seen: Disturbed, peer: str, worker: str = "w0", after_s: float = 0.0):
    """Outcomes of its layers that a pull begun later than that asked for."""
    return [
        one for one in seen.of("pull", worker) if one["peer"] == peer and one["start_s"] > after_s
    ]


def test_row_10_a_bandwidth_that_drops_by_ten_in_mid_pull_makes_nobody_dead():
    """The pull ends by its deadline at the latest, and later ones come at the lower rate."""
    seen = Disturbed(Fault(3.0, "slow-link", link=(0, 1), for_s=1e6, factor=0.1), rounds=30)
    assert not seen.faults.downs
    standings = [(one["standing"], one["why"]) for one in seen.of("peer") if one["t"] > 0.1]
    assert all("pull" in why for standing, why in standings if standing == "away"), standings
    assert seen.run.ended.rounds == (30, 30)
    believed = seen.of("plan")[-1]["bandwidth_Bps"]["w1"]
    assert believed < 0.5 * seen.of("plan")[1]["bandwidth_Bps"]["w1"]
    assert any(one["outcome"] == "applied" for one in pulls_from(seen, "w1", after_s=3.0))


def test_row_14_a_peer_that_restarts_in_mid_pull_is_pulled_from_anew_and_never_in_part():
    seen = Disturbed(Fault(5.0, "restart", worker=1, for_s=3.0), rounds=10)
    cut, *after = [one for one in seen.of("attempt") if one["t"] >= 5.0]
    assert (cut["outcome"], cut["t"]) == ("disconnected", 5.0)
    assert 0 < cut["bytes"] < WHOLE["big"]
    whole = [one for one in after if one["arrived"]]
    assert whole
    for one in whole:
        assert one["bytes"] == sum(WHOLE[layer] for layer in one["arrived"])


def test_row_15_a_pull_during_which_its_server_trains_on_is_of_one_version():
    """A pull takes two seconds, and every three a version is published, often in mid-pull."""
    seen = Disturbed(Fault(0.0, "slow-worker", worker=1, for_s=1e6, factor=1.5), rounds=10)
    published_s = [one["t"] for one in seen.of("snapshot", "w1")]
    crossed = 0
    pulls = pulls_from(seen, "w1")
    for number in {one["round"] for one in pulls}:
        layers = [one for one in pulls if one["round"] == number]
        assert len({one["version"] for one in layers}) == 1
        begin_s, end_s = min(o["start_s"] for o in layers), max(o["end_s"] for o in layers)
        crossed += any(begin_s < at_s < end_s for at_s in published_s)
    assert crossed >= 3


@pytest.mark.parametrize("away_s", [300.0, pytest.param(7200.0, marks=pytest.mark.slow)])
def test_row_16_with_all_peers_away_for_long_it_trains_alone_and_joins_within_10_s(away_s):
    back_s = 5.0 + away_s
    rounds = int(back_s / 2) + 20
    away = Fault(5.0, "cut", worker=0, for_s=away_s)
    seen = Disturbed(away, rounds=rounds, workers=3, every_rounds=0)
    alone = [one for one in seen.of("mix") if 20.0 < one["t"] < back_s]
    assert len(alone) > away_s / 2.1 - 10
    for peer in ("w1", "w2"):
        notes = [one for one in seen.of("peer") if one["peer"] == peer and one["t"] < back_s]
        assert len(notes) < away_s / 60 + 10
        assert seen.of("plan")[100]["assignment"].get(peer, []) == []
        ready_s = [
            one["t"]
            for one in seen.of("peer")
            if one["peer"] == peer and one["standing"] == "ready" and one["t"] > back_s
        ]
        assert ready_s[0] < back_s + 10.0
        assert pulls_from(seen, peer, after_s=back_s)[0]["outcome"] == "applied"


def test_row_28_a_wall_clock_that_jumps_changes_no_record_of_a_simulation(monkeypatch):
    plain = Disturbed().run.recorder.sha256()
    jumps, real = cycle((3600.0, -3600.0)), time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    assert Disturbed().run.recorder.sha256() == plain


def test_row_41_readers_that_stop_in_mid_pull_cost_the_others_nothing():
    """Frozen, they grant no more credit: what they leave of the link is the others'."""
    plain = Disturbed(rounds=8, workers=4)
    stalled = (Fault(5.0, "freeze", worker=2, for_s=1e6), Fault(5.1, "freeze", worker=3, for_s=1e6))
    ends = (Fault(60.0, "crash", worker=2), Fault(60.0, "crash", worker=3))
    seen = Disturbed(*stalled, *ends, rounds=8, workers=4)
    assert [seen.run.ended.rounds[worker] for worker in (0, 1)] == [8, 8]
    usual_s = max(one["seconds"] for one in plain.of("attempt") if one["peer"] == "w1")
    theirs = [one for one in seen.of("attempt") if one["peer"] == "w1" and one["t"] > 5.0]
    assert theirs
    assert max(one["seconds"] for one in theirs) <= usual_s + 1e-6


TIMING = Timing(one_way_s=0.002, mix_s=0.01, publish_s=0.005)


def federation(
    strategy: str,
    histograms: list[tuple[float, ...]],
    rounds: int = 8,
    timing: Timing = TIMING,
):
    """Workers that say this of their labels; the records of each, and the twin."""
    config = changed(
        cluster(len(histograms), strategy, rounds, topology="full"), {"network": {"status_s": 0.5}}
    )
    shards = [Shard(histogram, 100, 20) for histogram in histograms]
    learning = Fitted(LAYERS, "m", shards, [1.0] * len(shards), Fit(0.1, 0.0), 1)
    recorder = Recorder()

    def network(clock):
        return make_network("links", clock, lambda src, dst: Constant(10e6), None, Overhead.none())

    twin = Twin(config, learning, network, timing, recorder)
    return twin, recorder


EVEN = (0.25, 0.25, 0.25, 0.25)
LIES = {"of fewer labels": (0.5, 0.5), "of more labels": (0.125,) * 8}
"""Others do not travel: the wire refuses what is negative, or no shares."""


@pytest.mark.parametrize("lie", LIES)
def test_row_52_a_peer_that_lies_about_its_labels_wins_nothing_and_stays_usable(lie):
    twin, recorder = federation("mpls", [EVEN, EVEN, LIES[lie]])
    twin.run()
    for name in ("w0", "w1"):
        records = recorder.records[name]
        scores = [one["peer_score"] for one in records if one["kind"] == "plan"]
        assert any(score.get("w2") for score in scores), "it is used"
        others = [(score["w2"], max(score.values())) for score in scores if score.get("w2")]
        assert all(its_own <= 1.001 * best for its_own, best in others)
        assert [one["round"] for one in records if one["kind"] == "mix"] == list(range(1, 9))
        assert replay(records) is None


@pytest.mark.parametrize("strategy", ["mpls", "rand-mpls", "gossip", "appg", "netmax"])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_row_53_with_one_peer_or_none_at_all_every_round_has_its_plan(strategy, workers):
    """The others crash before they can be pulled from twice, so that nobody is left."""
    if workers == 1:
        seen = Disturbed(Fault(0.0, "crash", worker=1), rounds=4)
    else:
        crashes = [Fault(4.5, "crash", worker=number) for number in range(1, workers)]
        seen = Disturbed(*crashes, rounds=6, workers=workers)
    plans = seen.of("plan")
    assert [plan["round"] for plan in plans] == [one["round"] for one in seen.of("mix")]
    assert not any(plans[-1]["assignment"].values())
    assert seen.run.ended.rounds[0] == len(plans)


@pytest.mark.parametrize("timing", [TIMING, IDEAL], ids=["usual", "ideal"])
def test_row_55_a_layer_whose_sum_is_wrong_is_asked_for_again_of_another_peer_and_counts_once(
    timing,
):
    """On the way from w1 the first copy of the big layer of a round is spoilt. On an ideal machine
    the last layer is there at the very moment at which two statuses are due: what is asked for at
    that event goes out before the trainer, which takes no time there, has mixed."""
    twin, recorder = federation("mpls", [EVEN] * 3, rounds=10, timing=timing)
    puller = twin.workers[0]
    handle, spoilt = puller.handle, []

    def on_the_way(event):
        if isinstance(event, LayerReceived) and event.layer == "big" and len(spoilt) < 1:
            spoilt.append(event)
            event = LayerRefused(event.request_id, event.layer, "checksum")
        handle(event)

    puller.handle = on_the_way
    twin.run()
    records = recorder.records["w0"]
    again = [one for one in records if one["kind"] == "again"]
    (refused,) = (o for o in records if o["kind"] == "pull" and o["outcome"] == "checksum")
    assert [one["layers"] for one in again] == [["big"]]
    assert again[0]["peer"] != refused["peer"]
    pulled = [o for o in records if o["kind"] == "pull" and o["round"] == refused["round"]]
    applied = [o["peer"] for o in pulled if o["outcome"] == "applied" and o["layer"] == "big"]
    assert applied == [again[0]["peer"]]
    assert replay(records) is None
