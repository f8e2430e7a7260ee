"""An emulated link carries its bytes in the time that they take, one message after the other."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.runtime.emulation import PacedLink, Pacing
from tests.runtime.rig import Model, Puller, serving

times = st.floats(0, 1e4)
sizes = st.integers(1, 10**7)
rates = st.floats(1e3, 1e9)


def test_a_message_leaves_when_its_last_byte_is_through():
    link = PacedLink(1000.0)
    assert link.start_s(5.0) == 5.0
    assert link.carry(5.0, 2000) == 7.0


def test_messages_on_a_busy_link_wait_their_turn_and_an_idle_link_starts_at_once():
    link = PacedLink(1000.0)
    assert [link.carry(0.0, 500) for _ in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert link.carry(10.0, 500) == 10.5


@given(rates, st.lists(st.tuples(times, sizes), max_size=20))
def test_no_link_is_ever_faster_than_its_rate(rate, messages):
    link, last_left_s = PacedLink(rate), float("-inf")
    for now, size in sorted(messages):
        begins_s = link.start_s(now)
        left_s = link.carry(now, size)
        assert begins_s >= max(now, last_left_s)
        assert left_s - begins_s == pytest.approx(size / rate, abs=1e-9)
        last_left_s = left_s


@given(rates, st.lists(sizes, min_size=1, max_size=20))
def test_a_link_kept_busy_takes_exactly_what_its_bytes_take(rate, message_bytes):
    link = PacedLink(rate)
    left_s = [link.carry(3.0, size) for size in message_bytes][-1]
    assert left_s - 3.0 == pytest.approx(sum(message_bytes) / rate, rel=1e-9)


def test_a_peer_without_a_paced_link_is_reached_as_fast_as_it_goes():
    assert Pacing({}, None).carry("w9", 5.0, 10**9) == (5.0, 5.0)
    assert Pacing({"w1": 1000.0}, None).carry("w9", 5.0, 10**9) == (5.0, 5.0)


def test_links_to_different_peers_do_not_wait_for_each_other():
    pacing = Pacing({"w1": 1000.0, "w2": 500.0}, None)
    assert pacing.carry("w1", 0.0, 1000) == (0.0, 1.0)
    assert pacing.carry("w2", 0.0, 1000) == (0.0, 2.0)
    assert pacing.carry("w1", 0.0, 1000) == (1.0, 2.0)


def test_two_links_share_the_card():
    pacing = Pacing({"w1": 1000.0, "w2": 1000.0}, card_Bps=1000.0)
    assert pacing.carry("w1", 0.0, 1000) == (0.0, 1.0)
    assert pacing.carry("w2", 0.0, 1000) == (1.0, 2.0)


def test_a_fast_card_leaves_slow_links_their_own_pace():
    pacing = Pacing({"w1": 1000.0, "w2": 1000.0}, card_Bps=10_000.0)
    assert pacing.carry("w1", 0.0, 1000) == (0.0, 1.0)
    assert pacing.carry("w2", 0.0, 1000) == (0.1, 1.1)


def test_the_card_also_paces_peers_without_a_paced_link():
    pacing = Pacing({}, card_Bps=1000.0)
    assert pacing.carry("w1", 0.0, 1000) == (0.0, 1.0)
    assert pacing.carry("w2", 0.0, 500) == (1.0, 1.5)


@given(rates, rates, st.lists(st.tuples(st.sampled_from(["w1", "w2"]), sizes), min_size=1))
def test_what_all_links_carry_together_is_never_faster_than_the_card(link, card, messages):
    pacing = Pacing({"w1": link, "w2": link}, card)
    last_left_s = max(pacing.carry(peer, 0.0, size)[1] for peer, size in messages)
    together = sum(size for _, size in messages)
    assert last_left_s >= together / card * (1 - 1e-9)
    for peer in ("w1", "w2"):
        alone = sum(size for name, size in messages if name == peer)
        assert last_left_s >= alone / link * (1 - 1e-9)


BIG = Model(fc=2_000_000)
RATE_Bps = 20e6
IDEAL_S = 2_000_000 / RATE_Bps


def seconds_for_a_pull(pacing: Pacing) -> float:
    """Of 2 MB; the best of two, for this machine has other things to do."""
    store = BIG.store(BIG.weights())
    with (
        serving(BIG.spec("w0", "w1"), store, pacing) as (_, port),
        Puller(BIG.spec("w1", "w0"), {"w0": port}) as puller,
    ):
        puller.greet()
        seconds = []
        for _ in range(2):
            began_s = time.monotonic()
            puller.layers(puller.pull("fc"))
            seconds.append(time.monotonic() - began_s)
            if seconds[-1] < 1.5 * IDEAL_S:
                break
    return min(seconds)


def test_a_pull_over_an_emulated_link_takes_about_as_long_as_over_a_real_one():
    assert IDEAL_S <= seconds_for_a_pull(Pacing({"w1": RATE_Bps}, None)) <= 1.5 * IDEAL_S


def test_a_pull_is_paced_by_a_card_as_well_as_by_a_link():
    seconds = seconds_for_a_pull(Pacing({"w1": 10 * RATE_Bps}, card_Bps=RATE_Bps))
    assert IDEAL_S <= seconds <= 1.5 * IDEAL_S


def test_without_emulation_the_same_pull_does_not_wait():
    assert seconds_for_a_pull(Pacing({}, None)) < IDEAL_S / 2
