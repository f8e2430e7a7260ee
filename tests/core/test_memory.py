"""What a worker remembers of its peers when it is started again."""

from __future__ import annotations

import json
from math import inf

from mpls.core.peers import QUARANTINE_S, STRIKES, Peer
from mpls.core.plan import Layer
from mpls.core.round import Rounds
from mpls.core.serving import Serving
from mpls.core.spec import WorkerSpec

SPEC = WorkerSpec("w0", 1, ("w1", "w2"), (Layer("fc", 100),), "hash", (0.5, 0.5), 10)


def lived() -> Rounds:
    """With a measured peer, one in quarantine, a vote, and draws behind it."""
    rounds = Rounds(SPEC)
    measured, outcast = rounds.peers["w1"], rounds.peers["w2"]
    measured.bandwidth.observe(0.0, 1.0, 3_000_000)
    rounds.downlink.observe(0.0, 1.0, 5_000_000)
    outcast.standing = "ready"
    for _ in range(STRIKES):
        outcast.strike(100.0)
    rounds.gate.allowed("w1", "fc", 0.25)
    rounds.gate.allowed("w2", "fc", inf)
    for stream in (rounds.draws, rounds.jitter):
        stream.uniform()
    rounds.share()
    return rounds


def reborn(old: Rounds, now: float, born_s: float = 0.0) -> Rounds:
    """Through JSON, as a checkpoint and a trace have it."""
    new = Rounds(SPEC)
    new.restore(json.loads(json.dumps(old.memory(now), allow_nan=False)), born_s)
    return new


def test_bandwidths_votes_and_draws_go_on_where_they_were() -> None:
    old = lived()
    new = reborn(old, 160.0)
    assert new.peers["w1"].bandwidth.value_Bps == 3e6
    assert new.peers["w1"].bandwidth.age_s(5.0) == 5.0
    assert new.downlink.value_Bps == 5e6
    assert new.gate.memory() == {"fc": {"w1": 0.25}}
    for one, other in ((new.draws, old.draws), (new.jitter, old.jitter)):
        assert one.uniform() == other.uniform()
    assert new.share() == old.share()


def test_row_50_a_quarantine_outlives_a_restart_by_what_is_left_of_it() -> None:
    peer = reborn(lived(), 160.0).peers["w2"]
    assert peer.standing == "quarantined"
    peer.answered(QUARANTINE_S - 61.0)
    assert peer.standing == "quarantined"
    peer.answered(QUARANTINE_S - 60.0)
    assert peer.standing == "ready"


def test_row_28_what_is_left_of_a_quarantine_counts_from_when_the_new_life_begins() -> None:
    """Its clock may show anything then: after a reboot another time than before."""
    for born_s in (0.0, 7.0, 90_000.0):
        new = reborn(lived(), 160.0, born_s)
        outcast, measured = new.peers["w2"], new.peers["w1"]
        outcast.answered(born_s + QUARANTINE_S - 61.0)
        assert outcast.standing == "quarantined"
        outcast.answered(born_s + QUARANTINE_S - 60.0)
        assert outcast.standing == "ready"
        assert measured.bandwidth.age_s(born_s + 5.0) == 5.0
        assert new.downlink.age_s(born_s + 5.0) == 5.0


def test_a_strike_is_as_young_in_any_new_life() -> None:
    old = Rounds(SPEC)
    old.peers["w1"].strike(0.0)
    peer = reborn(old, 1.0, born_s=90_000.0).peers["w1"]
    assert peer.strike(90_001.0) is False
    assert peer.strike(90_002.0) is True


def test_strikes_are_forgotten_when_they_are_old() -> None:
    old = Rounds(SPEC)
    old.peers["w1"].strike(0.0)
    assert reborn(old, 1.0).peers["w1"].strikes == 1
    assert reborn(old, 1e6).peers["w1"].strikes == 0


def test_a_memory_of_a_new_worker_is_that_of_a_new_worker() -> None:
    fresh = Rounds(SPEC)
    assert reborn(fresh, 0.0).memory(0.0) == fresh.memory(0.0)


def test_of_peers_that_are_no_longer_or_not_yet_nothing_is_remembered() -> None:
    memory = lived().memory(0.0)
    memory["peers"]["gone"] = memory["peers"].pop("w1")
    new = Rounds(SPEC)
    new.restore(memory)
    assert isinstance(new.peers["w1"], Peer)
    assert new.peers["w1"].bandwidth.measured_s is None
    assert "gone" not in new.peers


class Weights:
    """A snapshot whose layers have moved so far."""

    round = 1
    path: tuple[float, ...] = ()

    def __init__(self, version: int, moved: float) -> None:
        self.version = version
        self._moved = moved

    def squared_distance(self, older: Weights) -> tuple[float, ...]:
        return (self._moved - older._moved,)


def test_peers_hear_of_the_progress_from_before_a_restart_until_they_pull_again() -> None:
    old = Serving(SPEC)
    old.confirm("w1", Weights(1, 0.5))
    saved = json.loads(json.dumps(old.memory(Weights(4, 2.0))))
    assert saved == {"w1": [1.5]}
    new = Serving(SPEC)
    new.restore({**saved, "stranger": [1.0], "w2": [1.0, 2.0]})
    assert new.memory(Weights(1, 2.0)) == {"w1": (1.5,)}
    new.confirm("w1", Weights(1, 2.0))
    assert new.memory(Weights(2, 2.25)) == {"w1": (0.25,)}
