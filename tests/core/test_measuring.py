"""What an attempt says about a link: its marks count, and a server's claims hardly."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.core.beliefs import Beliefs
from mpls.core.effects import Outcome
from mpls.core.measuring import measure_probe, measure_pull, stretches
from mpls.core.messages import LayerReceived
from mpls.core.plan import Layer
from mpls.core.protocol import Pull
from mpls.core.spec import WorkerSpec

ROUND_TRIP_S = 0.01
LINK_Bps = 10e6
CHUNK_BYTES = 500_000
SIZES = {"fc": 2_000_000, "conv": 400_000}


def whole(
    layer_bytes: int, true_wait_s: float = 0.0, claimed_s: float = 0.0, marked: bool = True
) -> tuple[Pull, Outcome, dict[str, int]]:
    """A pull of one layer over a link of LINK_Bps, reported at its first chunk if `marked`."""
    first_s = 5.0 + ROUND_TRIP_S + true_wait_s
    end_s = first_s + layer_bytes / LINK_Bps
    outcome = Outcome(
        "",
        5.0,
        end_s,
        layers=(LayerReceived(1, "fc", layer_bytes, 3, 1, claimed_s),),
        arrivals_s=(end_s,),
        version=3,
        marks=((first_s + CHUNK_BYTES / LINK_Bps, CHUNK_BYTES),) * marked,
    )
    return Pull(0, ("fc",), 0, 0, 4 * CHUNK_BYTES), outcome, {"fc": layer_bytes}


def rate_Bps(ask: Pull, outcome: Outcome, layer_bytes: dict[str, int]) -> float:
    """All that came over all the time that it took."""
    found = stretches(ask, outcome, layer_bytes, ROUND_TRIP_S)
    seconds = sum(stretch.end_s - stretch.start_s for stretch in found)
    return sum(stretch.bytes for stretch in found) / seconds


# --- claims -----------------------------------------------------------------------------------


@pytest.mark.parametrize("claimed_s", [0.0, 0.3, 1e9])
@pytest.mark.parametrize("true_wait_s", [0.0, 0.3])
@pytest.mark.parametrize("layer_bytes", [1_000_000, 2_000_000, 45_000_000])
def test_after_its_first_chunk_a_pull_is_measured_whatever_the_server_claims(
    layer_bytes: int, true_wait_s: float, claimed_s: float
) -> None:
    assert rate_Bps(*whole(layer_bytes, true_wait_s, claimed_s)) == pytest.approx(LINK_Bps)


def test_the_round_trip_and_the_server_s_own_wait_are_no_part_of_a_short_transfer() -> None:
    assert rate_Bps(*whole(400_000, marked=False)) == pytest.approx(LINK_Bps)
    assert rate_Bps(*whole(400_000, 0.02, 0.02, marked=False)) == pytest.approx(LINK_Bps)


@given(st.integers(1, 10**8), st.floats(0, 1e9), st.booleans())
def test_row_52_no_claim_makes_a_server_seem_more_than_twice_as_fast(
    layer_bytes: int, claimed_s: float, marked: bool
) -> None:
    pull = whole(layer_bytes, 0.0, claimed_s, marked and layer_bytes > CHUNK_BYTES)
    assert rate_Bps(*pull) <= 2.001 * max(LINK_Bps, rate_Bps(*whole(layer_bytes, marked=False)))


def test_bytes_that_came_within_a_round_trip_took_a_tenth_of_the_time_at_least() -> None:
    ask, outcome = Pull(0, ("fc",), 0, 0, 1), Outcome("", 5.0, 5.01, marks=((5.01, 1000),))
    (only,) = stretches(ask, outcome, {"fc": 1000}, round_trip_s=7.0)
    assert only.end_s - only.start_s == pytest.approx(0.001)


# --- marks ------------------------------------------------------------------------------------

ASK = Pull(0, ("fc", "conv"), 0, 0, 2_000_000)


def test_layers_are_marks_as_well_as_reports() -> None:
    layers = tuple(LayerReceived(1, name, size, 3, 1, 0.0) for name, size in SIZES.items())
    outcome = Outcome(
        *("", 0.0, 3.0),
        layers=layers,
        arrivals_s=(2.0, 3.0),
        marks=((1.0, 500_000),),
        version=3,
    )
    found = stretches(ASK, outcome, SIZES, 0.0)
    assert [tuple(one) for one in found] == [(1.0, 2.0, 1_500_000), (2.0, 3.0, 400_000)]


def test_what_was_there_before_a_resumed_pull_does_not_count() -> None:
    ask = Pull(0, ("fc", "conv"), 7, 1_500_000, 2_000_000)
    outcome = Outcome("stalled", 0.0, 9.0, version=7, marks=((1.0, 1_600_000), (2.0, 1_900_000)))
    assert [one.bytes for one in stretches(ask, outcome, SIZES, 0.0)] == [100_000]
    outcome = Outcome("timed-out", 0.0, 9.0, version=8, marks=((1.0, 100_000),))
    assert [one.bytes for one in stretches(ask, outcome, SIZES, 0.0)] == [100_000]


@pytest.mark.parametrize("reason", ["stalled", "disconnected"])
def test_silence_at_the_end_of_a_cut_pull_is_not_taken_for_slowness(reason: str) -> None:
    marks = ((0.5, 500_000), (1.0, 1_000_000), (2.5, 1_100_000))
    outcome = Outcome(reason, 0.0, 4.0, version=7, marks=marks, received_bytes=1_100_000)
    (only,) = stretches(ASK, outcome, SIZES, 0.0)[1:] or stretches(ASK, outcome, SIZES, 0.0)
    assert only.bytes / (only.end_s - only.start_s) == pytest.approx(1e6)


def test_a_pull_without_a_byte_says_nothing() -> None:
    assert stretches(ASK, Outcome("stalled", 0.0, 4.0), SIZES, 0.01) == []


MARKS = st.lists(st.tuples(st.floats(0, 60), st.integers(0, 2_400_000)), max_size=8)


@given(MARKS, st.floats(0, 5), st.sampled_from(["", "stalled", "timed-out"]))
def test_whatever_is_reported_no_byte_counts_twice_and_no_time_runs_backwards(
    marks: list[tuple[float, int]], round_trip_s: float, reason: str
) -> None:
    outcome = Outcome(reason, 0.0, 60.0, version=3, marks=tuple(marks))
    found = stretches(ASK, outcome, SIZES, round_trip_s)
    reached = max((position for _, position in marks), default=0)
    assert sum(one.bytes for one in found) <= reached
    assert all(one.bytes > 0 and one.start_s <= one.end_s for one in found)
    assert all(a.end_s <= b.start_s for a, b in pairwise(found))


# --- what is learned --------------------------------------------------------------------------


def worker() -> Beliefs:
    layers = tuple(Layer(name, size) for name, size in SIZES.items())
    return Beliefs(WorkerSpec("w0", 1, ("w1", "w2"), layers, "m", (0.5, 0.5), 100))


def test_a_rate_that_changes_in_mid_pull_is_what_is_believed_after_it() -> None:
    believes = worker()
    steps = [(0.1, 200_000), (0.1, 1_000_000), (1.0, 1_100_000), (1.0, 1_200_000)]
    times_s = accumulate(seconds for seconds, _ in steps)
    marks = tuple((at_s, position) for at_s, (_, position) in zip(times_s, steps))
    outcome = Outcome("timed-out", 0.0, 3.0, version=3, marks=marks)
    measure_pull(believes, believes.peers["w1"], ASK, outcome)
    assert believes.peers["w1"].bandwidth.value_Bps == pytest.approx(1e5)


@pytest.mark.parametrize(
    ("reason", "believed_Bps"), [("stalled", 1.25e6), ("timed-out", 5e6), ("disconnected", 5e6)]
)
def test_a_link_on_which_a_pull_stalled_is_believed_to_be_a_quarter_as_fast(
    reason: str, believed_Bps: float
) -> None:
    believes = worker()
    peer = believes.peers["w1"]
    peer.bandwidth.observe(0.0, 1.0, 5_000_000)
    measure_pull(believes, peer, ASK, Outcome(reason, 1.0, 4.0))
    assert peer.bandwidth.value_Bps == pytest.approx(believed_Bps)


def test_pulls_of_a_round_from_two_peers_add_up_to_the_downlink_and_are_kept_apart() -> None:
    believes = worker()
    for name in ("w1", "w2"):
        outcome = Outcome("", 0.0, 1.0, version=3, marks=((0.0, 1), (0.5, 2_000_001)), sharers=2)
        measure_pull(believes, believes.peers[name], ASK, outcome)
    assert [peer.bandwidth.value_Bps for peer in believes.peers.values()] == [4e6, 4e6]
    believes.settle_downlink()
    assert believes.downlink.value_Bps == pytest.approx(8e6)
    assert believes.peers["w1"].bandwidth.sharers == 2


def test_a_probe_tells_its_own_rate_at_once_and_fills_a_window() -> None:
    believes = worker()
    peer = believes.peers["w1"]
    small = Outcome("", 0.0, 0.1, received_bytes=65_536, last_byte_s=0.1)
    assert measure_probe(believes, peer, small) == pytest.approx(655_360)
    assert peer.bandwidth.measured_s is None
    large = Outcome("", 1.0, 1.5, received_bytes=327_680, last_byte_s=1.5)
    measure_probe(believes, peer, large)
    assert peer.bandwidth.value_Bps == pytest.approx(655_360)


def test_a_probe_that_brought_nothing_says_nothing() -> None:
    believes = worker()
    assert measure_probe(believes, believes.peers["w1"], Outcome("stalled", 0.0, 3.0)) == 0.0
