"""Links that vary in time: their rates, flows that follow them, and the files they come from."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpls.core.links import link_rate_Bps, link_rates_Bps
from mpls.core.streams import Stream
from mpls.errors import BadInput
from mpls.units import BandwidthRange
from sim.clock import Clock
from sim.network import (
    Links,
    autoregressive_links,
    constant_links,
    drawn_links,
    file_links,
    read_rates,
    sine_links,
    stepping_links,
)
from sim.network.capacity import (
    NEVER_S,
    Autoregressive,
    Capacity,
    Constant,
    Sine,
    Steps,
    grid_cell,
)
from tests.sim.network_rig import Transfer, ends_s, model, moved_bytes, transfers

SPEC = BandwidthRange(10e6, 15e6)
VARYING: dict[str, Links] = {
    "step": stepping_links(SPEC, 1, {0.3: 0.5, 0.8: 2.0}),
    "sine": sine_links(SPEC, 1, swing=0.9, period_s=0.7, step_s=0.05),
    "ar1": autoregressive_links(SPEC, 1, sd=0.3, correlation=0.9, step_s=0.04),
}


def rates_Bps(capacity: Capacity, until_s: float) -> list[tuple[float, float]]:
    """Each (since when, rate) up to that time."""
    now, phases = 0.0, []
    while now < until_s:
        rate_Bps, change_s = capacity.at(now)
        assert change_s > now
        phases.append((now, rate_Bps))
        now = change_s
    return phases


def test_a_constant_capacity_never_changes() -> None:
    assert Constant(5e6).at(123.0) == (5e6, NEVER_S)


def test_steps_hold_from_their_time_to_the_next_one_and_the_first_also_before() -> None:
    steps = Steps([(1.0, 10.0), (2.0, 20.0)])
    assert [steps.at(now) for now in (0.0, 1.0, 1.5, 2.0, 99.0)] == [
        (10.0, 2.0),
        (10.0, 2.0),
        (10.0, 2.0),
        (20.0, NEVER_S),
        (20.0, NEVER_S),
    ]


def test_a_sine_swings_by_its_amplitude_about_its_mean() -> None:
    phases = rates_Bps(Sine(10e6, 4e6, period_s=60.0, step_s=0.5), until_s=60.0)
    rates = [rate_Bps for _, rate_Bps in phases]
    assert len(rates) == 120
    assert (min(rates), max(rates)) == (6e6, 14e6)
    assert sum(rates) / len(rates) == pytest.approx(10e6, rel=1e-9)
    assert rates[30] == 14e6


def test_a_sine_is_in_whole_bytes_and_never_below_a_twentieth_of_its_mean() -> None:
    rates = [rate for _, rate in rates_Bps(Sine(10e6, 20e6, 7.0, 0.1, phase=0.3), 14.0)]
    assert min(rates) == 0.5e6
    assert all(rate.is_integer() for rate in rates)


def test_an_autoregressive_rate_has_the_mean_spread_and_memory_that_were_asked_for() -> None:
    capacity = Autoregressive(10e6, 1e6, 0.8, 1.0, Stream(1, "ar1"))
    rates = [rate for _, rate in rates_Bps(capacity, until_s=20_000.0)]
    mean = sum(rates) / len(rates)
    off = [rate - mean for rate in rates]
    variance = sum(x * x for x in off) / len(off)
    memory = sum(x * y for x, y in pairwise(off)) / len(off) / variance
    assert mean == pytest.approx(10e6, rel=0.01)
    assert math.sqrt(variance) == pytest.approx(1e6, rel=0.05)
    assert memory == pytest.approx(0.8, abs=0.02)


def test_an_autoregressive_rate_does_not_depend_on_when_it_is_asked() -> None:
    def capacity() -> Autoregressive:
        return Autoregressive(10e6, 3e6, 0.9, 0.1, Stream(1, "ar1"))

    often, seldom = dict(rates_Bps(capacity(), 30.0)), capacity()
    cells = {grid_cell(since_s, 0.1): rate_Bps for since_s, rate_Bps in often.items()}
    for now in (0.0, 0.55, 3.14159, 7.0, 29.95):
        assert seldom.at(now)[0] == cells[grid_cell(now, 0.1)]


def test_the_rates_drawn_are_those_of_every_machine() -> None:
    capacity = autoregressive_links(SPEC, 1, 0.2, 0.9, 1.0)(0, 1)
    assert [rate for _, rate in rates_Bps(capacity, 3.0)] == [
        13248994.366991652,
        15141468.444385776,
        13545077.89939793,
    ]


@given(st.floats(0.0, 1e6), st.floats(1e-3, 1e3))
def test_a_grid_cell_holds_its_time(now: float, step_s: float) -> None:
    cell = grid_cell(now, step_s)
    assert cell * step_s <= now < (cell + 1) * step_s


@given(st.integers(0, 100_000), st.floats(1e-3, 1e3))
def test_a_grid_cell_begins_with_its_first_moment(cell: int, step_s: float) -> None:
    assert grid_cell(cell * step_s, step_s) == cell


def test_both_directions_of_a_link_vary_alike_and_other_links_differently() -> None:
    for links in VARYING.values():
        there, back, other = (rates_Bps(links(*pair), 2.0) for pair in ((3, 5), (5, 3), (3, 4)))
        assert there == back
        assert there != other


def test_drawn_links_are_those_of_the_live_pacing() -> None:
    drawn = link_rates_Bps(SPEC, [(0, 1), (1, 2)], seed=7)
    for src, dst in ((0, 1), (1, 0), (2, 1)):
        expected_Bps = link_rate_Bps(SPEC, (src, dst), 7)
        assert drawn_links(SPEC, 7)(src, dst).at(0.0) == (expected_Bps, NEVER_S)
        assert constant_links(drawn)(src, dst).at(0.0) == (expected_Bps, NEVER_S)


def test_a_flow_follows_a_step_to_the_last_digit() -> None:
    """10 MB/s for 0.5 s, then 2: of 8 MB, 3 are left for the slow part."""
    links = lambda src, dst: Steps([(0.0, 10e6), (0.5, 2e6)])  # noqa: E731
    assert ends_s(model("links", links), Transfer(0.0, 0, 1, 8e6)) == [2.0]
    assert ends_s(model("links", links), Transfer(0.7, 0, 1, 2e6)) == [1.7]


def test_a_varying_link_wakes_nobody_while_no_flow_uses_it() -> None:
    clock = Clock()
    network = model("fluid", VARYING["ar1"], nic_Bps=12e6)(clock)
    network.start(0, 1, [1e6], lambda index: None)
    clock.run()
    assert clock.now < 0.5


@settings(max_examples=30)
@given(transfers(), st.sampled_from(list(VARYING)), st.sampled_from(["links", "fluid", "lv08"]))
def test_the_integral_of_a_varying_rate_is_the_flows_bytes(
    flows: list[Transfer], kind: str, name: str
) -> None:
    network = model(name, VARYING[kind], nic_Bps=12e6)
    total_bytes = [flow.total_bytes for flow in flows]
    assert moved_bytes(network, flows) == pytest.approx(total_bytes, rel=1e-9, abs=1e-3)


def test_a_slow_factor_multiplies_a_varying_rate() -> None:
    clock, ended_s = Clock(), []
    links = lambda src, dst: Steps([(0.0, 10e6), (1.0, 20e6)])  # noqa: E731
    network = model("links", links)(clock)
    network.scale((0, 1), 0.5)
    network.start(0, 1, [15e6], lambda index: ended_s.append(clock.now))
    clock.run()
    assert ended_s == [2.0]


CSV = "t_s,src,dst,rate_Bps\n0,0,1,10e6\n0,1,0,5e6\n2.5,0,1,20e6\n"


def written(tmp_path: Path, text: str, name: str = "rates.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_and_a_json_file_of_rates_say_the_same(tmp_path: Path) -> None:
    rows = [
        {"t_s": 0, "src": 0, "dst": 1, "rate_Bps": 10e6},
        {"t_s": 0, "src": 1, "dst": 0, "rate_Bps": 5e6},
        {"t_s": 2.5, "src": 0, "dst": 1, "rate_Bps": 20e6},
    ]
    as_csv = read_rates(written(tmp_path, CSV))
    as_json = read_rates(written(tmp_path, json.dumps(rows), "rates.json"))
    for rates in (as_csv, as_json):
        assert rates_Bps(rates[0, 1], 5.0) == [(0.0, 10e6), (2.5, 20e6)]
        assert rates_Bps(rates[1, 0], 5.0) == [(0.0, 5e6)]


def test_a_link_from_a_file_carries_what_the_file_says(tmp_path: Path) -> None:
    links = file_links(written(tmp_path, CSV), [(0, 1)])
    assert ends_s(model("links", links), Transfer(0.0, 0, 1, 35e6)) == [3.0]


def test_a_file_that_leaves_out_a_direction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"rates\.csv: no rate from worker 1 to worker 2; add a row"):
        file_links(written(tmp_path, CSV), [(0, 1), (1, 2)])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "rates.csv:1: the header must be t_s,src,dst,rate_Bps"),
        ("time,src,dst,rate_Bps\n", "rates.csv:1: the header must be"),
        ("t_s,src,dst,rate_Bps\n0,0,1\n", "rates.csv:2: must have exactly t_s, src, dst, rate_Bps"),
        ("t_s,src,dst,rate_Bps\n0,0,1,5,6\n", "rates.csv:2: must have exactly"),
        (
            "t_s,src,dst,rate_Bps\n0,0,1,fast\n",
            'rates.csv:2: rate_Bps = "fast" is no finite number',
        ),
        ("t_s,src,dst,rate_Bps\n0,0,1,nan\n", 'rates.csv:2: rate_Bps = "nan" is no finite number'),
        ("t_s,src,dst,rate_Bps\n0,0,1,0\n", "rates.csv:2: rate_Bps = 0.0 must be above 0"),
        ("t_s,src,dst,rate_Bps\n-1,0,1,5\n", "rates.csv:2: t_s = -1.0 must be 0 or more"),
        ("t_s,src,dst,rate_Bps\n0,0.5,1,5\n", 'rates.csv:2: src = "0.5" is no worker\'s id'),
        ("t_s,src,dst,rate_Bps\n0,0,-1,5\n", 'rates.csv:2: dst = "-1" is no worker\'s id'),
        ("t_s,src,dst,rate_Bps\n0,2,2,5\n", "rates.csv:2: src and dst are both 2"),
        ("t_s,src,dst,rate_Bps\n0,0,1,5\n0,0,1,6\n", "rates.csv:3: a second rate at t_s = 0.0"),
    ],
)
def test_a_bad_csv_file_is_refused_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(BadInput) as refused:
        read_rates(written(tmp_path, text))
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[", "is no JSON"),
        ("{}", "must be a list of objects"),
        ("[5]", "entry 0: must have exactly"),
        ('[{"t_s": 0, "src": 0, "dst": 1}]', "entry 0: must have exactly"),
        ('[{"t_s": 0, "src": 0, "dst": 1, "rate_Bps": []}]', "rate_Bps = [] is no finite number"),
        ('[{"t_s": 0, "src": 0, "dst": true, "rate_Bps": 1}]', "dst = true is no finite number"),
        ('[{"t_s": 0, "src": 0, "dst": 1, "rate_Bps": 1e999}]', "is no finite number"),
    ],
)
def test_a_bad_json_file_is_refused_with_its_place(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(BadInput) as refused:
        read_rates(written(tmp_path, text, "rates.json"))
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_rates(tmp_path / "missing.csv")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(BadInput, match="cannot be read"):
        read_rates(binary)
