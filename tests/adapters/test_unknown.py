"""Peers of the old kind tell neither progress nor version: the scheduler counts them with the mean
of those that are known, as design 2 says of the unknown.

Method: two stories of a worker are fed with what such peers answer, by way of the adapter, and its
view and plan are looked at.
"""

from __future__ import annotations

import numpy as np
import pytest

from mpls.adapters import mpls_service_pb2 as messages
from mpls.adapters.answers import status_in, welcome_in
from mpls.core import protocol
from mpls.core.round import Rounds
from mpls.core.settings import PlanSettings
from tests.adapters.rig import MODEL

LAYERS = len(MODEL.layer_bytes)


def old_kind(rounds: Rounds, name: str, number: int) -> None:
    """This peer answers a hello and a status by gRPC."""
    metadata = messages.PeerMetadata(
        peer_id=number, data_distribution=[0.9, 0.1], status="training", current_iteration=6
    ).SerializeToString()
    hello = protocol.Hello(1, "w0", rounds.spec.model, rounds.spec.histogram, 100)
    peer = rounds.peers[name]
    assert peer.believe_welcome(welcome_in(metadata, number, name, hello), 2)
    assert peer.believe_status(status_in(metadata, number, 2), LAYERS, 1.0)
    peer.answered(1.0)


def new_kind(rounds: Rounds, name: str, *progress: float) -> None:
    """This one answers by ZeroMQ."""
    peer = rounds.peers[name]
    spec = rounds.spec
    assert peer.believe_welcome(protocol.Welcome(1, name, spec.model, (0.1, 0.9), 100), 2)
    status = protocol.StatusOk(2, "running", 6, 4, progress, 0.1)
    assert peer.believe_status(status, LAYERS, 1.0)
    peer.answered(1.0)


def worker(*peers: str, strategy: str = "mpls") -> Rounds:
    return Rounds(MODEL.spec("w0", *peers, plan=PlanSettings(strategy=strategy)))


def test_their_progress_and_version_are_unknown() -> None:
    rounds = worker("w1")
    old_kind(rounds, "w1", 1)
    peer = rounds.peers["w1"]
    assert (peer.progress, peer.version, peer.round, peer.state) == (None, 0, 6, "running")
    assert rounds.peers_training(2.0)
    [seen] = rounds.view().peers
    assert np.allclose(seen.histogram, (0.9, 0.1))


def test_they_count_with_the_mean_of_the_known() -> None:
    rounds = worker("w1", "w2", "w3", strategy="mpls-layer")
    old_kind(rounds, "w1", 1)
    new_kind(rounds, "w2", 1.0, 2.0, 0.0)
    new_kind(rounds, "w3", 3.0, 2.0, 0.0)
    plan = rounds.strategy.plan(rounds.view(), rounds.draws)
    assert np.allclose(plan.layer_score["w1"], [2 / 6, 1 / 3, 1 / 3])
    assert np.allclose(plan.layer_score["w2"], [1 / 6, 1 / 3, 1 / 3])


@pytest.mark.parametrize("strategy", ["mpls", "mpls-layer", "mpls-sampled"])
def test_where_nobody_s_is_known_all_layers_count_the_same(strategy: str) -> None:
    rounds = worker("w1", "w2", strategy=strategy)
    old_kind(rounds, "w1", 1)
    old_kind(rounds, "w2", 2)
    plan = rounds.strategy.plan(rounds.view(), rounds.draws)
    assert plan.layer_score == dict.fromkeys(("w1", "w2"), (0.5,) * LAYERS)
    assert not plan.unserved
