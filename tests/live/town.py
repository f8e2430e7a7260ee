"""A fleet on a network: what most live tests start from, and how they look at it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mpls.core.trace import read, replay
from tests.live.fleet import Fleet, Life, Tables, until
from tests.live.netns import Network

PORT = 7000
WARM_S = 20.0


@dataclass(frozen=True)
class Town:
    """Workers that train and pull from each other, each on a host of its own name."""

    network: Network
    fleet: Fleet

    def settle(self, rate_Bps: float) -> None:
        """All links as they were, every worker alive, and pulls going well both ways."""
        self.network.heal()
        self.network.set_all_rates(rate_Bps)
        self.fleet.wait_until_all_pull()

    def in_mid_transfer(self, by: str, peer: str, carried_bytes: int = 2_500_000) -> float:
        """Wait until a new pull is under way and so much of it has come; the time."""
        last = self.fleet.pull_under_way(by, peer)
        until(lambda: self.fleet.pull_under_way(by, peer) not in (None, last), "a pull", WARM_S)
        until_bytes = self.network.carried_bytes(peer, by) + carried_bytes
        until(lambda: self.network.carried_bytes(peer, by) > until_bytes, "bytes", WARM_S)
        return time.time()

    def between_transfers(self, by: str, peer: str) -> float:
        """Wait until none is under way; the time."""
        until(lambda: self.fleet.pull_under_way(by, peer) is None, "no pull", WARM_S)
        return time.time()

    def left_out_s(self, by: str, peer: str, since: float) -> float:
        """Wait until the worker knows that it cannot use the peer; how long it took."""
        what = f"{by} leaves {peer} out"
        return until(lambda: self.fleet.left_out_s(by, peer, since), what, 30.0) - since

    def usable_s(self, by: str, peer: str, since: float) -> float:
        """Wait until the peer is usable, and something came from it; how long the former took."""
        what = f"{by} can use {peer}"
        ready_s = until(lambda: self.fleet.ready_s(by, peer, since), what, 60.0) - since
        self.fleet.wait_until_pulling(by, peer, since, 60.0)
        return ready_s


@contextmanager
def town(network: Network, folder: Path, tables: Tables | None = None) -> Iterator[Town]:
    """One that is warm; at its end all workers drain, and their traces are held to what every
    trace must keep."""
    addresses = {host: f"{network.address(host)}:{PORT}" for host in network.hosts}
    with Fleet(folder, addresses, network.inside, tables) as fleet:
        fleet.start(*fleet.names)
        fleet.wait_until_training(*fleet.names)
        fleet.wait_until_all_pull()
        yield Town(network, fleet)
        network.heal()
        for name in fleet.names:
            assert fleet[name].end() == 0, fleet[name].output()
        for lives in fleet.lives.values():
            for life in lives:
                assert_sound(life)


def assert_sound(life: Life) -> None:
    """The life's trace replays to identical decisions, and no pull is unaccounted for: what was
    planned = what was applied, refused, timed out or cancelled, and Eq. 1 divided by what came."""
    records = list(read(life.trace))
    difference = replay(records)
    assert difference is None, difference
    ends: dict[int, Counter[str]] = {}
    for record in records:
        if record["kind"] == "pull":
            ends.setdefault(record["round"], Counter())[record["outcome"]] += 1
    for record in records:
        if record["kind"] == "round":
            assert record["planned"] == sum(ends.get(record["round"], Counter()).values())
            assert record["ends"] == ends.get(record["round"], {}), record
    told = {record["round"] for record in records if record["kind"] == "round"}
    for record in records:
        if record["kind"] == "mix" and record["round"] in told:
            assert record["copies"] == ends.get(record["round"], Counter())["applied"], record
