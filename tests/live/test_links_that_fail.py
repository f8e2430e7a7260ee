"""Links that are cut, silenced and healed under three workers that train and pull all the time.

Method: one federation, each worker on a host of its own, every link 5 MB/s, so that a pull of the
whole model takes 1.1 s; each test waits for pulls to go well, breaks a link in the middle of one,
and reads from the traces when who knew, and when pulls went well again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from mpls.core.trace import Record
from tests.live.fleet import until
from tests.live.town import PORT, Town, town

RATE_Bps = 5e6
CHUNK_BYTES = 500_000
"""About a quarter of a second's worth, what a pull may have in flight."""
NAMES = ["w0", "w1", "w2"]
KNOWN_S = 8.0
USABLE_S = 10.0


@pytest.fixture(scope="module")
def shared(network_of, tmp_path_factory) -> Iterator[Town]:
    with (
        network_of(NAMES, RATE_Bps) as network,
        town(network, tmp_path_factory.mktemp("links")) as made,
    ):
        yield made


@pytest.fixture
def three(shared: Town) -> Town:
    shared.settle(RATE_Bps)
    return shared


def heals(three: Town, measured, what: str, *pairs: tuple[str, str]) -> None:
    three.network.heal()
    healed = time.time()
    for by, peer in pairs:
        measured(f"{what}: {by} can use {peer} again", three.usable_s(by, peer, healed), USABLE_S)


def unsent_bytes(three: Town, name: str) -> int:
    """What the kernel of a worker's host still keeps for its peers."""
    shown = three.network.look(name, "/proc/net/tcp")
    rows = [line.split() for line in shown.splitlines()[1:]]
    serving = [row for row in rows if row[1].endswith(f":{PORT:04X}")]
    return sum(int(row[4].partition(":")[0], 16) for row in serving)


def test_row_04_a_link_that_is_down_is_known_at_both_ends_within_8_s(three, measured):
    began = three.in_mid_transfer("w0", "w1")
    three.network.unplug("w1")
    for by, peer in (("w0", "w1"), ("w2", "w1"), ("w1", "w0"), ("w1", "w2")):
        took_s = three.left_out_s(by, peer, began)
        measured(f"link down: {by} leaves {peer} out", took_s, KNOWN_S)
    until(lambda: unsent_bytes(three, "w1") == 0, "what was to be sent is let go", 20.0)
    measured("link down: its sender keeps nothing for it", time.time() - began, 10.0)
    three.fleet.wait_until_pulling("w0", "w2", time.time(), 5.0)
    heals(three, measured, "link up", ("w0", "w1"), ("w1", "w0"))


@pytest.mark.parametrize("lost", ["both ways", "answers", "questions"])
def test_row_05_what_is_silently_lost_is_known_within_8_s(three, measured, lost):
    began = three.in_mid_transfer("w0", "w1")
    if lost != "questions":
        three.network.silence("w1", "w0")
    if lost != "answers":
        three.network.silence("w0", "w1")
    for by, peer in (("w0", "w1"), ("w1", "w0")):
        took_s = three.left_out_s(by, peer, began)
        measured(f"lost {lost}: {by} leaves {peer} out", took_s, KNOWN_S)
    assert three.fleet.left_out_s("w0", "w2", began) is None
    assert three.fleet.left_out_s("w2", "w1", began) is None
    heals(three, measured, f"lost {lost}", ("w0", "w1"), ("w1", "w0"))


@pytest.mark.parametrize(
    "cut_s", [2, 5, 25, 30, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(480)])]
)
def test_row_06_a_healed_link_is_usable_within_10_s(three, measured, cut_s):
    """Of the longer cuts, 25 s end where the kernel waits longest before it tries again to make a
    connection that was begun early in the cut."""
    began = three.in_mid_transfer("w0", "w1")
    three.network.silence_both("w0", "w1")
    time.sleep(max(0.0, began + cut_s - time.time()))
    heals(three, measured, f"cut for {cut_s} s", ("w0", "w1"), ("w1", "w0"))


def test_row_06_a_cut_transfer_resumes_at_the_next_missing_chunk(three, measured):
    """On links so slow that the pull's deadline, three times what it should take, leaves room."""
    three.network.set_all_rates(RATE_Bps / 4)
    three.fleet.wait_until_pulling("w0", "w1", time.time() + 3.0, 30.0)
    began = three.in_mid_transfer("w0", "w1")
    three.network.silence_both("w0", "w1")
    time.sleep(3.5)
    healed = time.time()
    three.network.heal()
    first, second = until(lambda: attempts_of_pull_at(three, began), "its end", 30.0)
    model_bytes = sum(three.fleet["w0"].layer_bytes().values())
    assert first["bytes"] >= CHUNK_BYTES
    assert first["outcome"] in ("stalled", "disconnected")
    assert second["outcome"] == "ok", (first, second)
    assert second["version"] == first["version"], "of the snapshot that it began with"
    assert first["bytes"] + second["bytes"] == model_bytes, "nothing came twice"
    ended = three.fleet["w0"].unix_s(second["start_s"] + second["seconds"])
    measured("cut for 3.5 s: the rest is here", ended - healed, USABLE_S)


def attempts_of_pull_at(three: Town, unix_s: float) -> list[Record]:
    """The attempts with bytes of w0's pull from w1 that was under way then, once it has ended."""
    life = three.fleet["w0"]
    plans = [record for record in life.since(0, "plan") if life.when(record) < unix_s]
    begun = life.when(plans[-1])
    ended = next(life.since(begun, "round", round=plans[-1]["round"]), None)
    if ended is None:
        return []
    attempts = life.since(begun, "attempt", peer="w1")
    return [a for a in attempts if a["bytes"] and life.when(a) <= life.when(ended)]


def test_row_08_split_three_ways_each_trains_alone_and_averages_soon_after(three, measured):
    began = three.in_mid_transfer("w0", "w1")
    pairs = [(by, peer) for by in NAMES for peer in NAMES if by != peer]
    for by, peer in pairs:
        three.network.silence(by, peer)
    for by, peer in pairs:
        took_s = three.left_out_s(by, peer, began)
        measured(f"split: {by} leaves {peer} out", took_s, KNOWN_S)
    alone = time.time()
    time.sleep(2.0)
    for name in NAMES:
        measured(f"split: {name} trains alone", steps_since(three, name, alone), least=20, unit="")
    heals(three, measured, "split", *pairs)


def steps_since(three: Town, name: str, since: float) -> float:
    now = time.time()
    return three.fleet.steps_per_s(name, since, now) * (now - since)
