"""Workers that are killed, frozen, hung, restarted and told to end, beside two that train on.

Method: one federation as in `test_links_that_fail`; each test waits for pulls to go well, does
something to the process of w1, and reads from the others' traces when they knew, what it cost them,
and when w1 was usable again.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.live.fleet import Life, pull_deadlines_s, until
from tests.live.town import Town, assert_sound, town

RATE_Bps = 5e6
NAMES = ["w0", "w1", "w2"]
KILL_KNOWN_S = 2.0
FREEZE_KNOWN_S = 8.0
HANG_KNOWN_S = 10.0
USABLE_S = 10.0
DRAIN_S = 10.0
HELD_S = 1.0
"""The trainer waits longer than that only if a peer holds it back: a pull takes 1.1 s, a pass 0.2,
and the machine is busy."""


@pytest.fixture(scope="module")
def shared(network_of, tmp_path_factory) -> Iterator[Town]:
    with (
        network_of(NAMES, RATE_Bps) as network,
        town(network, tmp_path_factory.mktemp("peers")) as made,
    ):
        yield made


@pytest.fixture
def three(shared: Town) -> Town:
    if shared.fleet["w1"].process.poll() is not None:
        shared.fleet.start("w1")
    shared.fleet["w1"].signal(signal.SIGCONT)
    shared.fleet.wait_until_training("w1")
    shared.settle(RATE_Bps)
    return shared


def known_s(three: Town, measured, what: str, most: float, began: float) -> None:
    for by in ("w0", "w2"):
        measured(f"{what}: {by} leaves it out", three.left_out_s(by, "w1", began), most)


def usable_s(three: Town, measured, what: str, since: float) -> None:
    for by in ("w0", "w2"):
        measured(f"{what}: {by} can use it again", three.usable_s(by, "w1", since), USABLE_S)


@pytest.mark.parametrize("phase", ["in mid-transfer", "between transfers"])
def test_row_01_a_killed_peer_is_left_out_within_2_s(three, measured, phase):
    if phase == "in mid-transfer":
        began = three.in_mid_transfer("w0", "w1")
    else:
        began = three.between_transfers("w0", "w1")
    three.fleet["w1"].signal(signal.SIGKILL)
    known_s(three, measured, f"killed {phase}", KILL_KNOWN_S, began)
    for by in ("w0", "w2"):
        three.fleet.wait_until_pulling(by, "w2" if by == "w0" else "w0", time.time(), 10.0)


def test_row_02_a_frozen_peer_is_left_out_within_8_s(three, measured):
    before = time.time()
    began = three.in_mid_transfer("w0", "w1")
    three.fleet["w1"].signal(signal.SIGSTOP)
    known_s(three, measured, "frozen", FREEZE_KNOWN_S, began)
    held_back_once(three, measured, "frozen", before, began)
    three.fleet["w1"].signal(signal.SIGCONT)
    usable_s(three, measured, "thawed", time.time())


def held_back_once(three: Town, measured, what: str, before: float, began: float) -> None:
    """No trainer waited longer than for the one pull that was under way, and only then."""
    time.sleep(5.0)
    now = time.time()
    for by in ("w0", "w2"):
        life = three.fleet[by]
        usual_s = max(three.fleet.waits_s(by, before, began), default=1.0)
        waits_s = three.fleet.waits_s(by, began, now)
        held = [wait_s for wait_s in waits_s if wait_s > usual_s + HELD_S]
        assert len(held) <= 1, held
        deadline_s = deadline_at(life, began)
        name = f"{what}: {by} waits at most, to the pull's deadline of {deadline_s:.1f} s"
        measured(name, max(waits_s), deadline_s + HELD_S)


def deadline_at(life: Life, unix_s: float) -> float:
    """Of the pull from w1 that was under way then, or was begun next."""
    life.look()
    deadlines = pull_deadlines_s(life.records, "w1")
    before = [length_s for trace_s, length_s in deadlines if life.unix_s(trace_s) <= unix_s]
    after = [length_s for trace_s, length_s in deadlines if life.unix_s(trace_s) > unix_s]
    return max([*before[-1:], *after[:1]])


def test_row_03_a_hung_application_is_left_out_within_10_s(three, measured):
    """Its I/O thread is well: connections stay, heartbeats are answered."""
    began = three.in_mid_transfer("w0", "w1")
    three.fleet["w1"].signal(signal.SIGUSR1)
    known_s(three, measured, "hung", HANG_KNOWN_S, began)
    passes = three.fleet["w1"].since(began, "pass")
    assert not list(passes), "it hangs"
    resumed = until(lambda: next(three.fleet["w1"].since(began + 1.0, "pass"), None), "it", 30.0)
    usable_s(three, measured, "hung no more", three.fleet["w1"].when(resumed))


def test_row_14_a_peer_that_restarts_between_chunks_is_pulled_from_anew(three, measured):
    began = three.in_mid_transfer("w0", "w1")
    old = three.fleet["w1"]
    old.signal(signal.SIGKILL)
    three.fleet.start("w1")
    three.fleet.wait_until_training("w1")
    restarted = time.time()
    usable_s(three, measured, "restarted", restarted)
    assert_sound(old)
    for by in ("w0", "w2"):
        life = three.fleet[by]
        for attempt in life.since(began, "attempt", peer="w1"):
            if life.unix_s(attempt["start_s"]) > began:
                whole_bytes = sum(life.layer_bytes()[layer] for layer in attempt["arrived"])
                assert attempt["bytes"] >= whole_bytes, f"in part from the life before: {attempt}"


def test_row_16_with_all_peers_away_it_trains_alone_and_joins_within_10_s(three, measured):
    began = three.in_mid_transfer("w0", "w1")
    for peer in ("w1", "w2"):
        three.fleet[peer].signal(signal.SIGSTOP)
    for peer in ("w1", "w2"):
        took_s = three.left_out_s("w0", peer, began)
        measured(f"all away: w0 leaves {peer} out", took_s, FREEZE_KNOWN_S)
    alone = time.time()
    time.sleep(5.0)
    steps = three.fleet.steps_per_s("w0", alone, time.time()) * 5.0
    measured("all away: steps of w0 in 5 s", steps, least=50, unit="")
    for peer in ("w1", "w2"):
        three.fleet[peer].signal(signal.SIGCONT)
    back = time.time()
    for peer in ("w1", "w2"):
        took_s = three.usable_s("w0", peer, back)
        measured(f"all back: w0 can use {peer}", took_s, USABLE_S)


def test_row_24_a_worker_that_is_told_to_end_drains_in_mid_transfer(three, measured):
    began = three.in_mid_transfer("w0", "w1")
    ending = three.fleet["w1"]
    assert ending.end() == 0, ending.output()
    measured("told to end in mid-transfer: ended", time.time() - began, DRAIN_S)
    assert_sound(ending)
    known_s(three, measured, "told to end", KILL_KNOWN_S + DRAIN_S, began)
