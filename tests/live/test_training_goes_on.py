"""With `pace = "free"` nothing that happens to a peer holds training back, and no start order
matters.

Method: two workers, a core each; what other programs take of these is left out of the rates.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.live.fleet import Fleet
from tests.live.town import PORT, Town, town

RATE_Bps = 5e6
FREE = {"training": {"pace": "free"}, "network": {"security": "plaintext"}}
ALONE_S = 5.0
FLAPPING_S = 30
NO_WAIT_S = 0.5
"""Between two passes there is mixing and publishing, and a machine that is busy."""
GROWTH_LIMIT = 20e6


@pytest.fixture(scope="module")
def two(network_of, tmp_path_factory) -> Iterator[Town]:
    with (
        network_of(["w0", "w1"], RATE_Bps) as network,
        town(network, tmp_path_factory.mktemp("free"), FREE) as made,
    ):
        yield made


def steps_per_s_while(two: Town, happens: Callable[[], object]) -> float:
    return two.fleet.undisturbed_steps_per_s("w0", happens)


def alone(two: Town) -> float:
    """Steps per second with the link to w1 silent, and known to be."""
    two.network.silence_both("w0", "w1")
    two.left_out_s("w0", "w1", time.time())
    return steps_per_s_while(two, lambda: time.sleep(ALONE_S))


def test_row_02_a_frozen_peer_does_not_hold_a_free_trainer_back(two, measured):
    two.settle(RATE_Bps)
    before = steps_per_s_while(two, lambda: time.sleep(ALONE_S))
    began = two.in_mid_transfer("w0", "w1")
    two.fleet["w1"].signal(signal.SIGSTOP)
    frozen = steps_per_s_while(two, lambda: two.left_out_s("w0", "w1", began))
    longest_s = max(two.fleet.waits_s("w0", began, time.time()))
    two.fleet["w1"].signal(signal.SIGCONT)
    measured("frozen, free: w0's steps a second, to before", frozen / before, least=0.95, unit="")
    measured("frozen, free: w0 waits at most", longest_s, NO_WAIT_S)


def test_row_07_a_flapping_link_leaks_nothing_and_costs_at_most_5_percent(two, measured):
    process = psutil.Process(two.fleet["w0"].process.pid)
    first = alone(two)
    files, memory_bytes = process.num_fds(), process.memory_info().rss
    began = time.time()
    flapping = steps_per_s_while(two, lambda: flap(two))
    ended = time.time()
    second = alone(two)
    ratio = flapping / ((first + second) / 2)
    measured("flapping: w0's steps a second, to alone", ratio, least=0.95, unit="")
    longest_s = max(two.fleet.waits_s("w0", began, ended))
    measured("flapping: w0 waits at most", longest_s, NO_WAIT_S)
    measured("flapping: more open files", process.num_fds() - files, 5, unit="")
    grown_MB = (process.memory_info().rss - memory_bytes) / 1e6
    measured("flapping: more memory", grown_MB, GROWTH_LIMIT / 1e6, unit="MB")


def flap(two: Town) -> None:
    """A second on, a second off."""
    for _ in range(FLAPPING_S // 2):
        two.network.heal()
        time.sleep(1.0)
        two.network.silence_both("w0", "w1")
        time.sleep(1.0)


@pytest.mark.parametrize("order", [("w0", "w1", "w2"), ("w2", "w0", "w1")], ids=" ".join)
def test_row_17_workers_may_start_alone_and_in_any_order(network_of, tmp_path, measured, order):
    with network_of(["w0", "w1", "w2"]) as network:
        addresses = {host: f"{network.address(host)}:{PORT}" for host in network.hosts}
        tables = {"model": {"name": "tests.live.models:small"}}
        with Fleet(tmp_path, addresses, network.inside, tables) as fleet:
            for number, name in enumerate(order):
                fleet.start(name)
                fleet.wait_until_training(name)
                trains = time.time()
                for other in order[:number]:
                    took_s = fleet.wait_until_pulling(other, name, trains, 30.0) - trains
                    measured(f"started {name} late: {other} pulls from it", took_s, 10.0)
                    fleet.wait_until_pulling(name, other, trains, 30.0)
            assert [fleet[name].end() for name in order] == [0, 0, 0]
