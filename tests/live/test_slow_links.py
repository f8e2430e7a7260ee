"""Links that are slow, or become slow in the middle of a transfer: what arrives arrives, nobody is
taken for dead, and nobody waits for the slow one but once."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from mpls.core.trace import Record
from tests.live.fleet import Life, pull_deadlines_s, until
from tests.live.town import Town, town

RATE_Bps = 5e6
SLACK_S = 1.0


@pytest.fixture(scope="module")
def shared(network_of, tmp_path_factory) -> Iterator[Town]:
    with (
        network_of(["w0", "w1", "w2"], RATE_Bps) as network,
        town(network, tmp_path_factory.mktemp("slow"), {"mpls": {"strategy": "mpls"}}) as made,
    ):
        yield made


@pytest.fixture
def three(shared: Town) -> Town:
    shared.settle(RATE_Bps)
    return shared


def deadline_s(life: Life, peer: str, since: float) -> float:
    """Of the last pull from the peer that was begun before then."""
    life.look()
    deadlines = pull_deadlines_s(life.records, peer)
    return [length_s for t, length_s in deadlines if life.unix_s(t) <= since][-1]


def peer_score(life: Life, peer: str, since: float) -> float | None:
    """Eq. 4's of the peer in the last plan made from then on with it; None while there is none."""
    plans = [plan for plan in life.since(since, "plan") if plan["peer_score"].get(peer)]
    return plans[-1]["peer_score"][peer] if plans else None


def test_row_09_a_slow_peer_is_cut_at_the_deadline_and_scored_lower(three, measured):
    """Nobody but those who pull from it over the slow link is delayed, and they once."""
    life = three.fleet["w0"]
    before = peer_score(life, "w1", 0.0)
    began = three.in_mid_transfer("w0", "w1", 100_000)
    usual_s = max(three.fleet.waits_s("w2", began - 10.0, began), default=1.0)
    three.network.set_rate("w1", "w0", 0.1e6)
    until(lambda: ended_pull(life, began), "the end of the pull", 60.0)
    ended = time.time()
    limit_s = deadline_s(life, "w1", began)
    measured("0.1 MB/s: the pull is cut, to its deadline", ended - began, limit_s + SLACK_S)
    time.sleep(10.0)
    after = until(lambda: peer_score(life, "w1", ended), "a plan with it", 30.0)
    measured("0.1 MB/s: its score of Eq. 4, to before", after / before, 0.8, unit="")
    waits_s = three.fleet.waits_s("w0", began, time.time())
    held = [wait_s for wait_s in waits_s if wait_s > usual_s + SLACK_S]
    measured("0.1 MB/s: passes of w0 that were held back", len(held), 1, unit="")
    longest_s = max(three.fleet.waits_s("w2", began, time.time()))
    measured("0.1 MB/s: w2 waits at most", longest_s, usual_s + 2 * SLACK_S)


def ended_pull(life: Life, since: float) -> Record | None:
    ends = life.since(since, "attempt", peer="w1")
    return next((end for end in ends if life.unix_s(end["start_s"]) <= since), None)


def test_row_10_a_bandwidth_drop_by_ten_in_mid_transfer_kills_nobody(three, measured):
    """The pull comes to its end, or is given up by its deadline and planned anew; w1 answers all
    the time, and is not taken for dead."""
    life = three.fleet["w0"]
    began = three.in_mid_transfer("w0", "w1", 100_000)
    three.network.set_rate("w1", "w0", RATE_Bps / 10)
    until(lambda: ended_pull(life, began), "the end of the pull", 60.0)
    limit_s = deadline_s(life, "w1", began)
    measured("a tenth of the rate: the pull ends", time.time() - began, limit_s + SLACK_S)
    took_s = three.fleet.wait_until_pulling("w0", "w1", began, 90.0) - began
    measured("a tenth of the rate: something is here", took_s, 60.0)
    notes = [(note["standing"], note["why"]) for note in life.since(began, "peer", peer="w1")]
    assert not [note for note in notes if "pull" not in note[1] and note[0] == "away"], notes


def test_row_11_a_layer_of_45_MB_arrives_over_a_slow_link(network_of, tmp_path, measured):
    """Heartbeats, every second and given up after three, do not cut it."""
    tables = {"model": {"name": "tests.live.models:one_big_layer"}, "training": {"local_steps": 5}}
    with network_of(["w0", "w1"], RATE_Bps) as network, town(network, tmp_path, tables) as two:
        took_s = [record["end_s"] - record["start_s"] for record in big_pulls(two)]
        attempts = [a for by in ("w0", "w1") for a in two.fleet[by].since(0, "attempt")]
        # A worker that is asked before it has weights says that it is busy.
        assert {attempt["outcome"] for attempt in attempts} <= {"ok", "cancelled", "busy"}
        measured("45 MB at 5 MB/s: the layer is here", max(took_s), 30.0)


def big_pulls(two: Town) -> list[Record]:
    both = [(two.fleet["w0"], "w1"), (two.fleet["w1"], "w0")]
    return [
        record
        for life, peer in both
        for record in life.since(0, "pull", peer=peer, layer="fc2", outcome="applied")
    ]
