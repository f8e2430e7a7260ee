"""Whole federations in virtual time: the same core, to the last digit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from mpls.core.links import link_rate_Bps
from mpls.core.plan import Layer
from mpls.core.settings import STRATEGIES
from mpls.core.trace import replay
from mpls.units import BandwidthRange
from sim.fitted import Fit
from sim.network.capacity import Constant
from sim.timing import Timing
from tests.sim.federations import LAYERS, cluster, simulate

BANDWIDTH = BandwidthRange(10e6, 15e6)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_finishes_its_rounds_and_its_traces_replay(strategy):
    run = simulate(cluster(4, strategy, topology="full"))
    assert run.ended.rounds == (6, 6, 6, 6)
    for records in run.recorder.records.values():
        assert replay(records) is None


@pytest.mark.parametrize("pace", ["overlap", "sequential", "free"])
def test_every_pace_finishes_its_rounds(pace):
    assert simulate(cluster(pace=pace)).ended.rounds == (6, 6, 6)


def test_the_same_seed_gives_the_same_hash_and_another_seed_another():
    first, again, other = (simulate(cluster(seed=seed)) for seed in (1, 1, 2))
    assert first.recorder.sha256() == again.recorder.sha256()
    assert first.recorder.sha256() != other.recorder.sha256()


def test_row_63_the_hash_is_the_same_on_every_machine_and_python():
    """A change of this value is a change of what the twin decides or records."""
    run = simulate(cluster(8, topology="k-regular", rounds=4), net="fluid", nic_Bps=12.5e6)
    assert run.recorder.sha256() == GOLDEN


GOLDEN = "9a15c20cceff1d3dd20ab69f261e09b0a0bbfdfc58ffec4ea0f3977cd9b66d3b"


def test_with_one_layer_the_simulated_time_is_that_of_eq_7_to_the_last_digit():
    run = simulate(
        cluster(5, "appg", topology="full"), net="links", layers=(Layer("fc", 1_234_567),)
    )
    pulls = run.notes("pull")
    assert pulls
    for name, records in run.recorder.records.items():
        for pull in (record for record in records if record["kind"] == "pull"):
            link = int(name[1:]), int(pull["peer"][1:])
            seconds = 1_234_567 / link_rate_Bps(BANDWIDTH, link, 1)
            assert pull["end_s"] == pull["start_s"] + seconds


@given(st.floats(1.0, 50.0))
@example_settings(max_examples=20)
def test_faster_links_never_make_appg_last_longer(factor):
    slow, fast = (
        simulate(cluster(4, "appg", topology="full"), net="links", links=scaled(by))
        for by in (0.1, 0.1 * factor)
    )
    assert fast.ended.seconds <= slow.ended.seconds


@given(st.sampled_from([2.0, 4.0, 0.5]))
def test_doubling_bytes_and_bandwidths_changes_nothing(factor):
    layers = [Layer(layer.name, int(layer.bytes * factor)) for layer in LAYERS]
    config = cluster(4, "appg", topology="full")
    plain = simulate(config, net="links", links=scaled(1.0))
    doubled = simulate(config, net="links", links=scaled(factor), layers=layers)
    assert doubled.ended.seconds == plain.ended.seconds
    times = [[pull["end_s"] for pull in run.notes("pull")] for run in (plain, doubled)]
    assert times[0] == times[1]


def test_workers_that_swap_their_links_swap_their_times():
    config = cluster(3, "appg", topology="full", status_s=0.0)
    alike = Fit(step_s=0.01, step_spread=0.0)
    plain = simulate(config, net="links", links=labelled({0: 0, 1: 1, 2: 2}), fit=alike)
    swapped = simulate(config, net="links", links=labelled({0: 2, 1: 1, 2: 0}), fit=alike)
    for before, after in (("w0", "w2"), ("w1", "w1"), ("w2", "w0")):
        assert _pull_ends(plain, before) == _pull_ends(swapped, after)


def test_shared_cards_make_pulls_take_longer_than_links_alone():
    config = cluster(6, "appg", topology="full")
    alone = simulate(config, net="links")
    shared = simulate(config, net="fluid", nic_Bps=12.5e6)
    assert shared.ended.seconds > alone.ended.seconds


def test_delays_of_messages_and_serving_are_paid_once_for_each_pull():
    config = cluster(2, "appg", topology="full")
    timing = Timing(one_way_s=0.010, serve_s=0.003, deliver_s=0.002)
    layers = (Layer("fc", 1_000_000),)
    ideal = simulate(config, net="links", layers=layers).notes("pull")[-1]
    real = simulate(config, net="links", layers=layers, timing=timing).notes("pull")[-1]
    lasted = [pull["end_s"] - pull["start_s"] for pull in (ideal, real)]
    assert lasted[1] - lasted[0] == pytest.approx(0.015)


def test_what_is_received_was_sent():
    run = simulate(cluster(5, topology="full"))
    assert sum(run.ended.bytes_in) == sum(run.ended.bytes_out) > 0


def scaled(factor):
    """Links of a factor times what is drawn."""
    return lambda src, dst: Constant(factor * link_rate_Bps(BANDWIDTH, (src, dst), 1))


def labelled(names):
    """The drawn links, seen by workers that go by other numbers."""
    return lambda src, dst: Constant(link_rate_Bps(BANDWIDTH, (names[src], names[dst]), 1))


def _pull_ends(run, name):
    records = run.recorder.records[name]
    return sorted(record["end_s"] for record in records if record["kind"] == "pull")
