"""The first plans: who would pull what at the links' rates, with loads by Eq. 7."""

from __future__ import annotations

from typing import Any

import pytest

from mpls.config import ClusterConfig, builtin, changed
from mpls.core.links import link_rate_Bps
from mpls.core.plan import Layer
from mpls.core.settings import STRATEGIES
from mpls.forecast import expected_rate_Bps, first_plans, pulled_bytes
from mpls.units import parse_bandwidth

LAYERS = (Layer("fc1", 200_960), Layer("fc2", 2_600))
MODEL_BYTES = 203_560
SAME = [(0.5, 0.5)] * 3
SKEWED = [(1.0, 0.0), (0.9, 0.1), (0.0, 1.0)]


def cluster(strategy: str = "mpls", **network: Any) -> ClusterConfig:
    return changed(builtin(), {"mpls": {"strategy": strategy}, "network": network})


def test_an_emulated_link_is_expected_at_the_rate_that_it_is_paced_at() -> None:
    drawn_Bps = link_rate_Bps(parse_bandwidth("1-2MB"), (0, 2), builtin().cluster.seed)
    assert expected_rate_Bps(cluster(emulate="1-2MB"), 0, 2) == drawn_Bps
    assert expected_rate_Bps(cluster(emulate="1-2MB"), 2, 0) == drawn_Bps


def test_a_real_link_is_expected_at_the_prior() -> None:
    assert expected_rate_Bps(cluster(emulate="", prior_bw="3MB"), 0, 1) == 3e6


def test_no_link_is_faster_than_the_card() -> None:
    assert expected_rate_Bps(cluster(emulate="10MB", nic="4MB"), 0, 1) == 4e6
    assert expected_rate_Bps(cluster(emulate="10MB", nic="40MB"), 0, 1) == 10e6


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_loads_are_bytes_over_bandwidth_for_every_strategy(strategy: str) -> None:
    config = cluster(strategy)
    size = {layer.name: layer.bytes for layer in LAYERS}
    for worker, plan in zip(config.workers, first_plans(config, LAYERS, SKEWED).values()):
        for name, layers in plan.assignment.items():
            rate_Bps = expected_rate_Bps(config, worker.id, int(name.removeprefix("w")))
            wanted_s = sum(size[layer] for layer in layers) / rate_Bps
            assert plan.load_s[name] == pytest.approx(wanted_s, rel=1e-12)
        assert plan.makespan_s == max(plan.load_s.values())


def test_bytes_count_each_copy_of_a_layer() -> None:
    pulled = {
        strategy: [
            pulled_bytes(plan, LAYERS)
            for plan in first_plans(cluster(strategy), LAYERS, SAME).values()
        ]
        for strategy in ("local", "netmax", "gossip", "appg")
    }
    assert pulled == {
        "local": [0] * 3,
        "netmax": [MODEL_BYTES] * 3,
        "gossip": [MODEL_BYTES] * 3,
        "appg": [2 * MODEL_BYTES] * 3,
    }


def test_the_fastest_link_is_the_one_that_netmax_uses() -> None:
    config = cluster("netmax")
    for worker, plan in zip(config.workers, first_plans(config, LAYERS, SAME).values()):
        fastest = max(
            config.peers_of(worker.id), key=lambda peer: expected_rate_Bps(config, worker.id, peer)
        )
        assert plan.assignment[f"w{fastest}"] == ("fc1", "fc2")


def test_a_peer_with_other_labels_scores_higher() -> None:
    plan = first_plans(cluster(emulate="10MB"), LAYERS, SKEWED)[0]
    assert plan.peer_score["w2"] > plan.peer_score["w1"]


def test_what_is_drawn_repeats_with_the_seed_and_varies_with_it() -> None:
    config = cluster("gossip")
    plans = first_plans(config, LAYERS, SAME)
    assert plans == first_plans(config, LAYERS, SAME)
    seeded = [changed(config, {"cluster": {"topology": "full", "seed": seed}}) for seed in range(9)]
    chosen = {str([p.assignment for p in first_plans(c, LAYERS, SAME).values()]) for c in seeded}
    assert len(chosen) > 3
