"""What every model promises of a flow: its marks in order, its bytes, pausing, cancelling."""

from __future__ import annotations

import struct
from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpls.core.links import Link
from mpls.core.streams import Stream
from mpls.units import BandwidthRange
from sim.clock import Clock
from sim.network import NETWORKS, Overhead, autoregressive_links, make_network, sine_links
from tests.sim.network_rig import (
    Make,
    Transfer,
    ends_s,
    model,
    moved_bytes,
    play,
    steady,
    transfers,
)

EVERY_MODEL = pytest.mark.parametrize("name", [*NETWORKS, "cm02"])
RATE_BPS = 10e6


def usual(name: str, overhead: Overhead | None = None) -> Make:
    """10 MB/s for a flow alone, by whatever the model has in place of a link; no latency."""
    return model(
        name,
        steady(RATE_BPS),
        overhead=overhead,
        latency_s=0.0,
        stations_Bps=lambda worker: 2 * RATE_BPS,
        duration_s=lambda src, dst, total_bytes, nth: total_bytes / RATE_BPS,
    )


class Watch:
    """One flow of 3 MB in three parts, alone on its link, and what it reached when."""

    def __init__(self, name: str) -> None:
        self.clock = Clock()
        self.network = usual(name)(self.clock)
        self.reached: list[tuple[float, int]] = []
        self.flow = self.network.start(0, 1, [1e6, 2e6, 3e6], self.note)

    def note(self, index: int) -> None:
        self.reached.append((self.clock.now, index))

    def at(self, when_s: float, call: Callable[[], object]) -> None:
        self.clock.at(when_s, lambda: (call(), None)[1])

    def position_at(self, when_s: float) -> float:
        """Run until then."""
        seen: list[float] = []
        self.at(when_s, lambda: seen.append(self.network.position(self.flow)))
        self.clock.run(until=lambda: bool(seen))
        return seen[0]


def rate_of(name: str) -> float:
    """LV08 takes 3 % for headers."""
    return RATE_BPS * (0.97 if name == "lv08" else 1.0)


@EVERY_MODEL
def test_each_mark_is_reached_in_order_at_its_time(name: str) -> None:
    watch = Watch(name)
    assert watch.reached == []
    watch.clock.run()
    assert [index for _, index in watch.reached] == [0, 1, 2]
    times_s = [1e6 * part / rate_of(name) for part in (1, 2, 3)]
    assert [at_s for at_s, _ in watch.reached] == pytest.approx(times_s, rel=1e-12)


@EVERY_MODEL
def test_the_position_grows_with_time_and_ends_with_the_last_mark(name: str) -> None:
    watch = Watch(name)
    assert watch.position_at(0.05) == pytest.approx(0.05 * rate_of(name), rel=1e-12)
    assert watch.position_at(0.25) == pytest.approx(0.25 * rate_of(name), rel=1e-12)
    assert watch.position_at(9.0) == 3e6


@EVERY_MODEL
def test_a_cancelled_flow_stays_where_it_is_and_reaches_no_further_mark(name: str) -> None:
    watch = Watch(name)
    watch.at(0.15, lambda: watch.network.cancel(watch.flow))
    watch.at(0.16, lambda: watch.network.cancel(watch.flow))
    assert watch.position_at(5.0) == pytest.approx(0.15 * rate_of(name), rel=1e-12)
    assert [index for _, index in watch.reached] == [0]


@EVERY_MODEL
def test_a_cut_link_keeps_its_flows_where_they_are_until_it_is_whole_again(name: str) -> None:
    watch = Watch(name)
    watch.at(0.05, lambda: watch.network.pause(0, 1))
    watch.at(1.05, lambda: watch.network.resume(0, 1))
    assert watch.position_at(0.9) == pytest.approx(0.05 * rate_of(name), rel=1e-12)
    watch.clock.run()
    assert watch.reached[-1] == (pytest.approx(1.0 + 3e6 / rate_of(name), rel=1e-12), 2)


@EVERY_MODEL
def test_cutting_one_direction_leaves_the_other_alone(name: str) -> None:
    watch = Watch(name)
    watch.network.pause(1, 0)
    watch.clock.run()
    assert watch.reached[-1] == (pytest.approx(3e6 / rate_of(name), rel=1e-12), 2)


@EVERY_MODEL
def test_a_flow_that_begins_on_a_cut_link_waits_for_it(name: str) -> None:
    clock = Clock()
    network, ended_s = usual(name)(clock), []
    network.pause(0, 1)
    flow = network.start(0, 1, [1e6], lambda index: ended_s.append(clock.now))
    clock.at(2.0, lambda: network.resume(0, 1))
    clock.run(until=lambda: clock.now >= 2.0)
    assert network.position(flow) == 0.0
    clock.run()
    assert ended_s == [pytest.approx(2.0 + 1e6 / rate_of(name), rel=1e-12)]


@EVERY_MODEL
def test_a_cut_flow_can_be_cancelled_and_does_not_come_back(name: str) -> None:
    watch = Watch(name)
    watch.at(0.05, lambda: watch.network.pause(0, 1))
    watch.at(0.10, lambda: watch.network.cancel(watch.flow))
    watch.at(0.20, lambda: watch.network.resume(0, 1))
    watch.clock.run()
    assert watch.reached == []
    assert watch.network.position(watch.flow) == pytest.approx(0.05 * rate_of(name), rel=1e-12)


@EVERY_MODEL
def test_a_slow_link_is_slow_in_both_directions_until_it_is_healed(name: str) -> None:
    watch = Watch(name)
    watch.at(0.1, lambda: watch.network.scale((1, 0), 0.25))
    watch.at(0.5, lambda: watch.network.scale((0, 1), 1.0))
    assert watch.position_at(0.5) == pytest.approx(0.2 * rate_of(name), rel=1e-12)
    watch.clock.run()
    assert watch.reached[-1][0] == pytest.approx(0.3 + 3e6 / rate_of(name), rel=1e-12)


@EVERY_MODEL
def test_a_link_can_be_slow_before_it_is_used(name: str) -> None:
    clock = Clock()
    network, ended_s = usual(name)(clock), []
    network.scale((0, 1), 0.5)
    network.start(0, 1, [1e6], lambda index: ended_s.append(clock.now))
    clock.run()
    assert ended_s == [pytest.approx(2e6 / rate_of(name), rel=1e-12)]


@EVERY_MODEL
def test_empty_parts_are_reached_together_with_what_is_before_them(name: str) -> None:
    clock = Clock()
    network, reached = usual(name)(clock), []
    network.start(0, 1, [0.0, 0.0, 1e6, 1e6], lambda index: reached.append((clock.now, index)))
    clock.run()
    end_s = pytest.approx(1e6 / rate_of(name), rel=1e-12)
    assert reached == [(0.0, 0), (0.0, 1), (end_s, 2), (end_s, 3)]


@EVERY_MODEL
def test_a_flow_of_no_bytes_ends_at_once_but_not_within_start(name: str) -> None:
    clock = Clock()
    network, reached = usual(name)(clock), []
    network.start(0, 1, [0.0], reached.append)
    assert reached == []
    clock.run()
    assert (reached, clock.now) == ([0], 0.0)


@EVERY_MODEL
def test_what_a_flow_leaves_can_be_used_from_within_its_last_mark(name: str) -> None:
    """The next one has the link to itself."""
    clock = Clock()
    network, ended_s = usual(name)(clock), []

    def follow(index: int) -> None:
        ended_s.append(clock.now)
        network.start(0, 1, [1e6], lambda index: ended_s.append(clock.now))

    network.start(0, 1, [1e6], follow)
    clock.run()
    one_s = 1e6 / rate_of(name)
    assert ended_s == pytest.approx([one_s, 2 * one_s], rel=1e-12)


@EVERY_MODEL
def test_flows_can_be_cancelled_from_within_each_others_marks(name: str) -> None:
    """Two that are due at once: the older one is first, and ends the other before it is due."""
    clock = Clock()
    network, reached = usual(name)(clock), []

    def first(index: int) -> None:
        reached.append("first")
        network.cancel(second)

    network.start(0, 1, [1e6], first)
    second = network.start(2, 3, [1e6], lambda index: reached.append("second"))
    clock.run()
    assert reached == ["first"]


@settings(max_examples=30)
@given(transfers(), st.sampled_from([*NETWORKS, "cm02"]), st.booleans())
def test_every_flow_reaches_all_its_marks_in_order_and_the_same_run_twice_is_the_same(
    flows: list[Transfer], name: str, with_overhead: bool
) -> None:
    network = usual(name, Overhead(round_trip_s=0.01) if with_overhead else None)
    record = play(network, flows)
    for flow, passed in zip(flows, record.marks):
        assert [index for _, index in passed] == list(range(flow.parts))
        times_s = [at_s for at_s, _ in passed]
        assert flow.at_s <= times_s[0]
        assert times_s == sorted(times_s)
    assert play(network, flows) == record


@settings(max_examples=60)
@given(transfers(parts=12), st.sampled_from([*NETWORKS, "cm02"]), st.floats(1e-6, 0.3))
def test_word_of_all_marks_but_the_last_comes_late_by_the_lag_and_changes_no_rate(
    flows: list[Transfer], name: str, lag_s: float
) -> None:
    network = model(
        name,
        sine_links(BandwidthRange(1e6, 15e6), 1, swing=0.9, period_s=0.3, step_s=0.01),
        nic_Bps=12.5e6,
        overhead=Overhead(burst_bytes=1e5),
        latency_s=0.0,
        stations_Bps=lambda worker: 5e6 + 3e6 * worker,
        duration_s=lambda src, dst, total_bytes, nth: total_bytes / RATE_BPS,
    )
    at_once, late = play(network, flows), play(network, flows, lag_s)
    for passed, heard in zip(at_once.marks, late.marks):
        expected = [(at_s + lag_s, index) for at_s, index in passed[:-1]] + passed[-1:]
        assert sorted(heard, key=lambda mark: mark[1]) == [
            (pytest.approx(at_s, rel=1e-9), index) for at_s, index in expected
        ]
        assert [index for _, index in heard if index < len(passed) - 1] == list(
            range(len(passed) - 1)
        )


@EVERY_MODEL
def test_a_mark_crossed_before_a_cut_is_told_of_during_it_and_not_after_a_cancel(name: str) -> None:
    watch = Watch(name)
    watch.network.cancel(watch.flow)
    flow = watch.network.start(0, 1, [1e6, 1.1e6, 2e6], watch.note, lag_s=0.1)
    crossed_s = 1.1e6 / rate_of(name)
    watch.at(crossed_s + 0.01, lambda: watch.network.pause(0, 1))
    watch.at(crossed_s + 5.0, lambda: watch.network.resume(0, 1))
    watch.at(crossed_s + 5.01, lambda: watch.network.cancel(flow))
    watch.clock.run()
    assert [index for _, index in watch.reached] == [0, 1]
    assert [at_s for at_s, _ in watch.reached] == pytest.approx(
        [1e6 / rate_of(name) + 0.1, crossed_s + 0.1], rel=1e-12
    )


@settings(max_examples=30)
@given(transfers(), st.sampled_from([*NETWORKS, "cm02"]))
def test_rates_over_a_flows_life_add_up_to_its_bytes(flows: list[Transfer], name: str) -> None:
    total_bytes = [flow.total_bytes for flow in flows]
    assert moved_bytes(usual(name), flows) == pytest.approx(total_bytes, rel=1e-9, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fluid", "56d90d89e9505bac"),
        ("fluid-fast", "2e291a4628e63981"),
        ("wifi", "d431ede4737f5cf5"),
        ("lv08", "aa0e0c07085669c3"),
    ],
)
def test_times_are_those_of_every_machine_and_python(name: str, expected: str) -> None:
    draws = Stream(1, "golden")
    pairs = [(a, b) for a in range(8) for b in range(8) if a != b]
    flows = [
        Transfer(draws.between(0.0, 2.0), *draws.pick(pairs), draws.between(1e4, 4e6), parts=3)
        for _ in range(150)
    ]
    spec = BandwidthRange(10e6, 15e6)
    swaying = sine_links(spec, 1, swing=0.5, period_s=0.9, step_s=0.1)
    wandering = autoregressive_links(spec, 1, sd=0.2, correlation=0.9, step_s=0.1)
    network = model(
        name,
        swaying if name == "fluid-fast" else wandering,
        nic_Bps=12.5e6,
        overhead=Overhead(round_trip_s=0.01),
        latency_s=0.01,
        stations_Bps=lambda worker: 5e6 + 3e6 * worker,
    )
    times_s = [at_s for passed in play(network, flows).marks for at_s, _ in passed]
    assert sha256(struct.pack("<450d", *times_s)).hexdigest()[:16] == expected


def test_flows_that_begin_together_cost_one_sharing() -> None:
    clock = Clock()
    network = make_network("fluid", clock, steady(RATE_BPS), RATE_BPS, Overhead.none())
    shared_s: list[float] = []
    share = network._share
    network._share = lambda now: (shared_s.append(now), share(now))[1]  # type: ignore[method-assign]
    links: list[Link] = [(src, 0) for src in range(1, 20)]
    for src, dst in links:
        network.start(src, dst, [1e6], lambda index: None)
    clock.run()
    assert shared_s == [0.0, pytest.approx(1.9)]


def test_the_timetable_forgets_entries_of_flows_that_sped_up() -> None:
    """Thousands of changes of rate leave no thousands of entries behind."""
    clock = Clock()
    network = make_network("links", clock, steady(RATE_BPS))
    for src in range(1, 5):
        network.start(src, 0, [1e9], lambda index: None)
    for step in range(1, 2_000):
        factor = 1.0 + step / 1_000
        clock.at(step * 1e-3, lambda f=factor: network.scale((1, 0), f))  # type: ignore[misc]
    clock.run(until=lambda: clock.now >= 1.999)
    assert len(network._timetable._entries) < 100


@EVERY_MODEL
def test_a_model_ends_with_nothing_left_to_do(name: str) -> None:
    assert ends_s(usual(name), Transfer(0.0, 0, 1, 1e6))[0] < 1.0
