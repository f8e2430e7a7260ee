"""The other models: one radio channel, SimGrid's, and recorded durations."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.clock import Clock
from sim.network import NETWORKS, Network, make_network
from sim.network.capacity import Constant
from sim.network.lv08 import GAMMA_BYTES
from sim.network.pipes import Pipe
from sim.network.weighted import Demand, weighted_max_min
from tests.sim.network_rig import Make, Transfer, ends_s, model, steady, transfers, uneven

ROOMS_BPS = {0: 30e6, 1: 20e6, 2: 5e6, 3: 20e6, 4: 10e6, 5: 10e6}


def wifi() -> Make:
    return model("wifi", steady(1.0), stations_Bps=ROOMS_BPS.__getitem__)


def test_over_the_air_a_byte_takes_its_time_at_both_stations() -> None:
    """1/30 + 1/20 of a second for each MB: 12 MB/s."""
    assert ends_s(wifi(), Transfer(0.0, 0, 1, 12e6)) == [pytest.approx(1.0, rel=1e-12)]


def test_a_slow_station_slows_everybody_down_alike() -> None:
    """1/30 + 1/20 and 1/5 + 1/20 second for each MB: 3 MB/s for both while both send."""
    flows = [Transfer(0.0, 0, 1, 3e6), Transfer(0.0, 2, 3, 3e6)]
    assert ends_s(wifi(), *flows) == [pytest.approx(1.0, rel=1e-12)] * 2


@given(transfers())
def test_the_channel_is_never_idle_and_never_overbooked(flows: list[Transfer]) -> None:
    """From the first start, if all begin at once, it takes as long as all their air takes."""
    together = [Transfer(0.0, flow.src, flow.dst, flow.total_bytes) for flow in flows]
    air_s = sum(f.total_bytes * (1 / ROOMS_BPS[f.src] + 1 / ROOMS_BPS[f.dst]) for f in together)
    assert max(ends_s(wifi(), *together)) == pytest.approx(air_s, rel=1e-9)


def test_recorded_transfers_take_as_long_as_they_took_and_feel_nobody() -> None:
    recorded_s = {(0, 1, 0): 0.5, (0, 1, 1): 0.25, (2, 1, 0): 3.0}
    network = model("trace", steady(1.0), duration_s=lambda s, d, size, n: recorded_s[s, d, n])
    flows = [Transfer(0.0, 0, 1, 1e6), Transfer(0.0, 0, 1, 1e6), Transfer(1.0, 2, 1, 1e6)]
    assert ends_s(network, *flows) == pytest.approx([0.5, 0.25, 4.0], rel=1e-12)


def lv08(latency_s: float, link_Bps: float = 10e6, nic_Bps: float | None = None) -> Make:
    return model("lv08", steady(link_Bps), nic_Bps, latency_s=latency_s)


def test_lv08_alone_pays_latency_times_13_and_gets_97_percent() -> None:
    expected_s = 13.01 * 1e-3 + 1e6 / (0.97 * 10e6)
    assert ends_s(lv08(1e-3), Transfer(0.0, 0, 1, 1e6)) == [pytest.approx(expected_s, rel=1e-12)]


def test_lv08_over_a_long_way_is_bound_by_the_largest_window() -> None:
    rate_Bps = 0.97 * GAMMA_BYTES / (2 * 0.5)
    expected_s = 13.01 * 0.5 + 1e6 / rate_Bps
    assert ends_s(lv08(0.5), Transfer(0.0, 0, 1, 1e6)) == [pytest.approx(expected_s, rel=1e-12)]


def test_lv08_acknowledgements_take_a_twentieth_of_the_way_back() -> None:
    """Both directions full: each gets 1 / 1.05."""
    flows = [Transfer(0.0, 0, 1, 1e6), Transfer(0.0, 1, 0, 1e6)]
    expected_s = 13.01 * 1e-3 + 1.05e6 / (0.97 * 10e6)
    assert ends_s(lv08(1e-3), *flows) == [pytest.approx(expected_s, rel=1e-12)] * 2


def test_lv08_shares_in_inverse_proportion_to_latency_plus_s_over_bandwidth() -> None:
    """Into one card of 10: by links of 10 and 40 with weights 1 + 2 x 2.0537 and 1 + 1.25 x 2.0537
    milliseconds, until the faster one is over."""
    slow, fast = 1e-3 + 20_537 / 10e6 + 2 * 20_537 / 10e6, 1e-3 + 20_537 / 40e6 + 2 * 20_537 / 10e6
    rates_Bps = [10e6 * (1 / way) / (1 / slow + 1 / fast) for way in (slow, fast)]
    network = model("lv08", uneven({(1, 0): 10e6, (2, 0): 40e6}), 10e6, latency_s=1e-3)
    flows = [Transfer(0.0, src, 0, 0.97 * rate) for src, rate in zip((1, 2), rates_Bps)]
    expected_s = [pytest.approx(13.01e-3 + 1.0, rel=1e-12)] * 2
    assert ends_s(network, *flows) == expected_s


@settings(max_examples=50)
@given(transfers(parts=1), st.sampled_from([None, 12.5e6]))
def test_cm02_without_latency_is_fluid_without_overhead(
    flows: list[Transfer], nic_Bps: float | None
) -> None:
    links = uneven({(0, 1): 3e6, (2, 1): 8e6, (4, 5): 1e6})
    plain = ends_s(model("cm02", links, nic_Bps, latency_s=0.0), *flows)
    fluid = ends_s(model("fluid", links, nic_Bps), *flows)
    assert plain == pytest.approx(fluid, rel=1e-9)


LOADS = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([1.0, 0.05, 2.0])),
    min_size=1,
    max_size=4,
    unique_by=lambda load: load[0],
)
DEMANDS = st.lists(
    st.tuples(st.floats(0.01, 10.0), st.floats(1.0, 1e4), LOADS), min_size=1, max_size=12
)


@given(st.lists(st.floats(1.0, 1e4), min_size=5, max_size=5), DEMANDS)
def test_weighted_rates_are_held_back_by_their_bound_or_a_full_pipe_where_none_is_higher(
    capacities_Bps: list[float], asked: list[tuple[float, float, list[tuple[int, float]]]]
) -> None:
    pipes = [Pipe(number, Constant(0.0)) for number in range(5)]
    for pipe, capacity_Bps in zip(pipes, capacities_Bps):
        pipe.capacity_Bps = capacity_Bps
    demands = [
        Demand(penalty, bound_Bps, [(pipes[number], load) for number, load in loads])
        for penalty, bound_Bps, loads in asked
    ]
    rates_Bps = weighted_max_min(demands)
    levels = [rate_Bps * demand.penalty for rate_Bps, demand in zip(rates_Bps, demands)]
    users = {
        pipe: [i for i, demand in enumerate(demands) if pipe in dict(demand.loads)]
        for pipe in pipes
    }
    used = {
        pipe: float(sum(Fraction(dict(demands[i].loads)[pipe] * rates_Bps[i]) for i in who))
        for pipe, who in users.items()
    }
    assert all(used[pipe] <= pipe.capacity_Bps * (1 + 1e-9) for pipe in pipes)
    for i, demand in enumerate(demands):
        assert rates_Bps[i] <= demand.bound_Bps * (1 + 1e-12)
        is_bound = rates_Bps[i] >= demand.bound_Bps * (1 - 1e-12)
        assert is_bound or any(
            used[pipe] >= pipe.capacity_Bps * (1 - 1e-9)
            and levels[i] >= max(levels[j] for j in users[pipe]) * (1 - 1e-9)
            for pipe, _ in demand.loads
        )


def test_every_name_makes_a_model() -> None:
    for name in NETWORKS:
        network = make_network(
            name,
            Clock(),
            steady(1e6),
            stations_Bps=lambda worker: 1e6,
            duration_s=lambda src, dst, total_bytes, nth: 1.0,
        )
        assert isinstance(network, Network)
