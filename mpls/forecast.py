"""What a round will cost, before anything runs: the plan that each worker would make if it knew the
links' rates and saw equal progress in every layer (Eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence

from mpls.config import ClusterConfig
from mpls.core.links import link_rate_Bps
from mpls.core.plan import Layer, PeerView, Plan, View
from mpls.core.protocol import Vector
from mpls.core.strategies import make_strategy
from mpls.core.streams import Stream


def first_plans(
    config: ClusterConfig, layers: Sequence[Layer], histograms: Sequence[Vector]
) -> dict[int, Plan]:
    """One plan for each worker that is present; `histograms` has the label shares of all."""
    strategy = make_strategy(config.plan_settings())
    return {
        worker.id: strategy.plan(
            _view(config, worker.id, layers, histograms),
            Stream(config.cluster.seed, "strategy", worker.name),
        )
        for worker in config.present
    }


def pulled_bytes(plan: Plan, layers: Sequence[Layer]) -> int:
    """What a plan brings in, counting each copy of a layer."""
    size = {layer.name: layer.bytes for layer in layers}
    return sum(size[layer] for pulled in plan.assignment.values() for layer in pulled)


def expected_rate_Bps(config: ClusterConfig, worker_id: int, peer: int) -> float:
    """Of a link: as drawn where it is emulated, as believed beforehand where it is real."""
    emulate, nic = config.network.emulate or config.network.prior_bw, config.network.nic
    rate_Bps = link_rate_Bps(emulate, (worker_id, peer), config.cluster.seed)
    return min(rate_Bps, nic.low_Bps) if nic else rate_Bps


def _view(
    config: ClusterConfig, worker_id: int, layers: Sequence[Layer], histograms: Sequence[Vector]
) -> View:
    peers = tuple(
        PeerView(
            config.workers[peer].name,
            expected_rate_Bps(config, worker_id, peer),
            histograms[peer],
        )
        for peer in config.peers_of(worker_id)
    )
    nic = config.network.nic
    return View(tuple(layers), histograms[worker_id], peers, nic.low_Bps if nic else None)
