"""Rates are max-min fair: by closed forms, an exact solver, and by scaling and relabelling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import fsum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpls.core.links import Link
from mpls.core.streams import Stream
from mpls.units import BandwidthRange
from sim.clock import Clock
from sim.network import Flow, Network, drawn_links
from sim.network.pipes import Pipe
from sim.network.sharing import EXACT, NEARLY
from tests.sim.network_rig import (
    LINK_RATES,
    NICS_BPS,
    AuditedFluid,
    Make,
    Transfer,
    ends_s,
    fair_rates_Bps,
    model,
    play,
    steady,
    transfers,
    uneven,
)

EXACT_MODELS = ["links", "fluid", "fluid-fast"]


@pytest.mark.parametrize("name", EXACT_MODELS)
def test_a_flow_alone_takes_bytes_over_bandwidth_to_the_last_digit(name: str) -> None:
    for total_bytes, rate_Bps in ((44_880_528.0, 11_234_567.8), (1e6, 3e6), (246_824.0, 13.7e6)):
        flow = Transfer(0.0, 0, 1, total_bytes)
        assert ends_s(model(name, steady(rate_Bps)), flow) == [total_bytes / rate_Bps]


def test_links_are_those_of_equation_7_however_many_are_used() -> None:
    pulls = [Transfer(0.0, src, 0, 1e6 * src) for src in range(1, 30)]
    network = model("links", steady(11e6), nic_Bps=12.5e6)
    assert ends_s(network, *pulls) == [pull.total_bytes / 11e6 for pull in pulls]


def test_flows_on_one_link_share_it_equally() -> None:
    flows = [Transfer(0.0, 0, 1, 1e6), Transfer(0.0, 0, 1, 2e6)]
    assert ends_s(model("fluid", steady(10e6)), *flows) == [0.2, pytest.approx(0.3, rel=1e-12)]


def test_both_directions_of_a_link_are_independent() -> None:
    flows = [Transfer(0.0, 0, 1, 1e6), Transfer(0.0, 1, 0, 1e6)]
    assert ends_s(model("fluid", steady(10e6)), *flows) == [0.1, 0.1]


def test_five_pulls_into_one_card_take_five_times_as_long_as_equation_7_says() -> None:
    pulls = [Transfer(0.0, src, 0, 1e6) for src in range(1, 6)]
    network = model("fluid", steady(12.5e6), nic_Bps=12.5e6)
    assert ends_s(network, *pulls) == [pytest.approx(5 * 0.08, rel=1e-12)] * 5


def test_what_a_slow_link_leaves_over_goes_to_the_others() -> None:
    """Card 12, one link of 2: the other two get 5 each."""
    pulls = [Transfer(0.0, 1, 0, 2e6), Transfer(0.0, 2, 0, 5e6), Transfer(0.0, 3, 0, 5e6)]
    network = model("fluid", uneven({(1, 0): 2e6}), nic_Bps=12e6)
    assert ends_s(network, *pulls) == [1.0, 1.0, 1.0]


def test_a_chain_of_bottlenecks_settles_from_the_lowest_up() -> None:
    """Cards of 12. Three flows into 0 get 4 each, one of them from 3; two more from 3 share the
    other 8, of which one into 4 leaves 8 to a second one there."""
    pairs = [(1, 0), (2, 0), (3, 0), (3, 4), (3, 5), (6, 4)]
    expected_Bps = [4e6, 4e6, 4e6, 4e6, 4e6, 8e6]
    assert fair_rates_Bps(pairs, lambda src, dst: 10e6, 12e6) == expected_Bps
    flows = [Transfer(0.0, *pair, rate_Bps) for pair, rate_Bps in zip(pairs, expected_Bps)]
    assert ends_s(model("fluid", steady(10e6), nic_Bps=12e6), *flows) == [1.0] * 6


def test_a_flow_that_ends_leaves_its_share_to_those_that_go_on() -> None:
    """5 and 5 until the first is over at 0.2 s, then 10."""
    flows = [Transfer(0.0, 1, 0, 1e6), Transfer(0.0, 2, 0, 3e6)]
    network = model("fluid", steady(20e6), nic_Bps=10e6)
    assert ends_s(network, *flows) == [0.2, pytest.approx(0.4, rel=1e-12)]


@settings(max_examples=60)
@given(transfers(), LINK_RATES, NICS_BPS)
def test_rates_equal_an_exact_solver_after_every_event(
    flows: list[Transfer], rates_Bps: dict[Link, float], nic_Bps: float | None
) -> None:
    made: list[AuditedFluid] = []

    def network(clock: Clock) -> Network:
        made.append(AuditedFluid(clock, rates_Bps, nic_Bps))
        return made[0]

    record = play(network, flows)
    assert all(len(passed) == flow.parts for passed, flow in zip(record.marks, flows))
    assert made[0].audits >= 1
    assert made[0].worst <= 1e-11


@pytest.mark.parametrize("unfelt", [EXACT, NEARLY])
@settings(max_examples=40)
@given(flows=transfers(), rates_Bps=LINK_RATES, nic_Bps=NICS_BPS)
def test_every_flow_is_held_back_by_a_full_pipe_where_none_is_faster(
    flows: list[Transfer], rates_Bps: dict[Link, float], nic_Bps: float | None, unfelt: float
) -> None:
    """No pipe carries more than it can, and no flow could have more without another having less:
    this is what max-min fair means, and that no capacity is left unused that a flow could use."""
    slack = max(unfelt, 1e-12)

    class Watched(AuditedFluid):
        def _exact_Bps(self, flows: Sequence[Flow]) -> list[float]:
            for flow in flows:
                assert any(self._holds_back(pipe, flow) for pipe, _ in flow.way)
            return [flow.rate_Bps for flow in flows]

        def _holds_back(self, pipe: Pipe, flow: Flow) -> bool:
            used_Bps = fsum(other.rate_Bps for other in pipe.flows)
            assert used_Bps <= pipe.capacity_Bps * (1.0 + slack)
            is_full = used_Bps >= pipe.capacity_Bps * (1.0 - slack)
            return is_full and flow.rate_Bps >= max(f.rate_Bps for f in pipe.flows) * (1 - 1e-12)

    play(lambda clock: Watched(clock, rates_Bps, nic_Bps, unfelt), flows)


def test_fluid_fast_is_within_one_percent_of_fluid_on_average() -> None:
    draws = Stream(1, "fluid-fast")
    pairs = [(src, dst) for dst in range(30) for src in range(30) if src != dst]
    flows = [Transfer(0.0, *pair, draws.between(1e6, 5e6)) for pair in pairs]
    links = drawn_links(BandwidthRange(10e6, 15e6), 1)
    exact_s, fast_s = (ends_s(model(n, links, 12.5e6), *flows) for n in ("fluid", "fluid-fast"))
    errors = [abs(fast / exact - 1.0) for fast, exact in zip(fast_s, exact_s)]
    assert 0.0 < sum(errors) / len(errors) <= 0.01
    assert max(fast_s) == pytest.approx(max(exact_s), rel=0.02)


@settings(max_examples=40)
@given(transfers(), LINK_RATES, NICS_BPS, st.sampled_from([*EXACT_MODELS, "cm02"]))
def test_doubling_bytes_and_bandwidths_changes_nothing(
    flows: list[Transfer], rates_Bps: dict[Link, float], nic_Bps: float | None, name: str
) -> None:
    doubled = [replace(flow, total_bytes=2.0 * flow.total_bytes) for flow in flows]
    network = scaled_model(name, rates_Bps, nic_Bps, 1.0)
    assert play(network, flows) == play(scaled_model(name, rates_Bps, nic_Bps, 2.0), doubled)


@settings(max_examples=40)
@given(transfers(), LINK_RATES, NICS_BPS, st.floats(0.1, 10.0))
def test_scaling_all_bandwidths_divides_all_times(
    flows: list[Transfer], rates_Bps: dict[Link, float], nic_Bps: float | None, factor: float
) -> None:
    earlier = [replace(flow, at_s=flow.at_s / factor) for flow in flows]
    slow_s = ends_s(scaled_model("fluid", rates_Bps, nic_Bps, 1.0), *flows)
    fast_s = ends_s(scaled_model("fluid", rates_Bps, nic_Bps, factor), *earlier)
    assert fast_s == [pytest.approx(end_s / factor, rel=1e-9) for end_s in slow_s]


@settings(max_examples=40)
@given(transfers(), LINK_RATES, NICS_BPS, st.permutations(range(6)))
def test_relabelling_workers_relabels_the_times(
    flows: list[Transfer], rates_Bps: dict[Link, float], nic_Bps: float | None, names: list[int]
) -> None:
    renamed = [replace(flow, src=names[flow.src], dst=names[flow.dst]) for flow in flows]
    rates = {(names[src], names[dst]): rate_Bps for (src, dst), rate_Bps in rates_Bps.items()}
    before_s = ends_s(model("fluid", uneven(rates_Bps), nic_Bps), *flows)
    after_s = ends_s(model("fluid", uneven(rates), nic_Bps), *renamed)
    assert after_s == [pytest.approx(end_s, rel=1e-9) for end_s in before_s]


@settings(max_examples=40)
@given(transfers(most=8), LINK_RATES)
def test_where_no_card_is_shared_faster_links_make_no_flow_later(
    flows: list[Transfer], rates_Bps: dict[Link, float]
) -> None:
    slow_s = ends_s(scaled_model("links", rates_Bps, None, 1.0), *flows)
    fast_s = ends_s(scaled_model("links", rates_Bps, None, 1.5), *flows)
    assert all(sooner <= later * (1 + 1e-12) for sooner, later in zip(fast_s, slow_s))


def scaled_model(
    name: str, rates_Bps: dict[Link, float], nic_Bps: float | None, factor: float
) -> Make:
    rates = {link: factor * rate_Bps for link, rate_Bps in rates_Bps.items()}
    nic = None if nic_Bps is None else factor * nic_Bps
    return model(name, uneven(rates, factor * 10e6), nic, latency_s=0.0)
