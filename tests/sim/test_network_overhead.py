"""What real links cost beyond bytes over bandwidth: headers, the shaper's bucket, slow start."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.clock import Clock
from sim.network import Overhead
from tests.sim.network_rig import Transfer, ends_s, model, steady

RATE_BPS = 12.5e6
BUCKET = Overhead(payload_share=1.0, burst_bytes=50e3, round_trip_s=0.0)
FAR = Overhead(payload_share=1.0, burst_bytes=0.0, round_trip_s=0.01)
SHAPED = pytest.mark.parametrize("name", ["fluid", "fluid-fast"])


@SHAPED
def test_headers_take_their_share_of_links_and_cards(name: str) -> None:
    headers = Overhead(payload_share=0.956, burst_bytes=0.0)
    expected_s = pytest.approx(1e6 / (0.956 * RATE_BPS), rel=1e-12)
    flow = Transfer(0.0, 0, 1, 1e6)
    assert ends_s(model(name, steady(RATE_BPS), None, headers), flow) == [expected_s]
    assert ends_s(model(name, steady(99e6), RATE_BPS, headers), flow) == [expected_s]


@SHAPED
def test_after_idleness_a_bucketful_is_free(name: str) -> None:
    """200 kB cold and 200 kB at once after it: as measured, the first is a bucket faster."""
    flows = [Transfer(0.0, 0, 1, 200e3), Transfer(0.012, 0, 1, 200e3)]
    assert ends_s(model(name, steady(RATE_BPS), None, BUCKET), *flows) == [
        pytest.approx(150e3 / RATE_BPS, rel=1e-12),
        pytest.approx(0.012 + 200e3 / RATE_BPS, rel=1e-12),
    ]


@SHAPED
def test_an_emptied_bucket_refills_at_the_links_rate(name: str) -> None:
    """2 ms after the first is over there are 25 kB in it again."""
    flows = [Transfer(0.0, 0, 1, 200e3), Transfer(0.014, 0, 1, 200e3)]
    assert ends_s(model(name, steady(RATE_BPS), None, BUCKET), *flows) == [
        pytest.approx(0.012, rel=1e-12),
        pytest.approx(0.014 + 175e3 / RATE_BPS, rel=1e-12),
    ]


@SHAPED
def test_a_message_smaller_than_the_bucket_passes_at_once_and_leaves_the_rest(name: str) -> None:
    flows = [Transfer(0.0, 0, 1, 20e3, parts=2), Transfer(0.0, 0, 1, 40e3)]
    network = model(name, steady(RATE_BPS), None, BUCKET)
    assert ends_s(network, flows[0]) == [0.0]
    later = Transfer(1e-9, 0, 1, 40e3)
    assert ends_s(network, flows[0], later)[1] == pytest.approx(10e3 / RATE_BPS, rel=1e-4)


@SHAPED
def test_only_what_is_in_every_bucket_on_the_way_is_free(name: str) -> None:
    """Downlink of 0 in use: its bucket is empty, and so the second flow gets nothing free."""
    flows = [Transfer(0.0, 1, 0, 1e6), Transfer(0.001, 2, 0, 25e3)]
    network = model(name, steady(RATE_BPS), RATE_BPS, BUCKET)
    assert ends_s(network, *flows)[1] == pytest.approx(0.001 + 25e3 / (RATE_BPS / 2), rel=1e-12)


@SHAPED
def test_slow_start_makes_a_cold_flow_late_by_what_the_windows_leave_unused(name: str) -> None:
    """At 10 ms and 12.5 MB/s four round trips, less what was sent meanwhile: 23 ms."""
    late_s = 4 * 0.01 - 14_480 * 15 / RATE_BPS
    network = model(name, steady(RATE_BPS), None, FAR)
    expected_s = pytest.approx(late_s + 4e6 / RATE_BPS, rel=1e-12)
    assert ends_s(network, Transfer(0.0, 0, 1, 4e6)) == [expected_s]
    assert late_s == pytest.approx(0.0226, rel=1e-2)


@SHAPED
def test_a_connection_stays_warm_for_its_retransmission_timeout(name: str) -> None:
    network = model(name, steady(RATE_BPS), None, FAR)
    flows = [Transfer(at_s, 0, 1, 1.25e6) for at_s in (0.0, 0.2, 0.6)]
    first_s, warm_s, cold_s = ends_s(network, *flows)
    assert warm_s == pytest.approx(0.3, rel=1e-12)
    assert cold_s - 0.6 == pytest.approx(first_s, rel=1e-9)


def test_flows_that_begin_together_share_what_slow_start_has_to_fill() -> None:
    """Five into one card of 12.5: each needs a window of 25 kB only, one round trip."""
    network = model("fluid", steady(RATE_BPS), RATE_BPS, FAR)
    pulls = [Transfer(0.0, src, 0, 1e6) for src in range(1, 6)]
    late_s = 0.01 - 14_480 / (RATE_BPS / 5)
    assert ends_s(network, *pulls) == [pytest.approx(late_s + 5e6 / RATE_BPS, rel=1e-12)] * 5


@SHAPED
def test_a_flow_in_slow_start_can_be_cancelled_cut_and_resumed(name: str) -> None:
    clock, ended = Clock(), []
    network = model(name, steady(RATE_BPS), None, FAR)(clock)
    cancelled = network.start(0, 1, [1e6], ended.append)
    network.start(2, 3, [1e6], lambda index: ended.append(clock.now))
    clock.at(0.01, lambda: network.cancel(cancelled))
    clock.at(0.02, lambda: network.pause(2, 3))
    clock.at(1.00, lambda: network.resume(2, 3))
    clock.run()
    late_s = 4 * 0.01 - 14_480 * 15 / RATE_BPS
    assert ended == [pytest.approx(1.0 + late_s + 1e6 / RATE_BPS, rel=1e-12)]
    assert network.position(cancelled) == 0.0


@given(st.floats(1e5, 1e9), st.floats(1e-5, 0.3))
def test_a_long_flow_is_late_by_the_closed_form(rate_Bps: float, round_trip_s: float) -> None:
    overhead = Overhead(round_trip_s=round_trip_s)
    windows = rate_Bps * round_trip_s / 14_480.0
    rounds = max(0, math.ceil(math.log2(windows)))
    expected_s = rounds * round_trip_s - 14_480.0 * (2**rounds - 1) / rate_Bps
    late_s = overhead.slow_start_s(rate_Bps, math.inf)
    assert late_s == pytest.approx(expected_s, rel=1e-9, abs=1e-12)
    assert late_s >= 0.0


@given(st.floats(1e5, 1e9), st.floats(1e-5, 0.3), st.floats(0.0, 1e8))
def test_a_short_flow_is_never_later_than_a_long_one(
    rate_Bps: float, round_trip_s: float, total_bytes: float
) -> None:
    overhead = Overhead(round_trip_s=round_trip_s)
    late_s = overhead.slow_start_s(rate_Bps, total_bytes)
    assert 0.0 <= late_s <= overhead.slow_start_s(rate_Bps, math.inf)
    assert total_bytes > 14_480.0 or late_s == 0.0


def test_no_overhead_is_none() -> None:
    none = Overhead.none()
    assert none.payload_share == 1.0
    assert none.burst_bytes == 0.0
    assert none.slow_start_s(1e9, 1e12) == 0.0
