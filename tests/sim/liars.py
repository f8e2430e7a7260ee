"""A really training federation in which one worker sends other weights than it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpls.core.mixing import norm
from sim.network import Overhead, drawn_links, make_network
from sim.real import Real
from sim.real_snapshots import RealSnapshot
from sim.record import Recorder
from sim.twin import Twin
from tests.sim.real_rig import DIGITS, calibration, cluster

Weights = np.ndarray[Any, Any]
LIAR = 4
"""Of five workers that all pull from each other: one bad peer of each honest worker's four."""


def _noise(layer: str, values: Weights) -> Weights:
    drawn = np.random.default_rng(len(layer)).standard_normal(values.size).astype(values.dtype)
    return drawn * values.dtype.type(norm(values) / norm(drawn))


LIES: dict[str, Callable[[str, Weights], Weights]] = {
    "times a thousand": lambda _, values: values * values.dtype.type(1000),
    "sign-flipped": lambda _, values: -values,
    "all zero": lambda _, values: np.zeros_like(values),
    "noise of the same norm": _noise,
    "not finite": lambda _, values: np.full_like(values, np.nan),
}
STALE = "stale by the whole run"


class Lying(Real):
    """Whose worker LIAR publishes `lie` in place of its weights."""

    lie = ""

    def snapshot(self, worker: int, version: int, round_number: int) -> RealSnapshot:
        honest = super().snapshot(worker, version, round_number)
        if worker != LIAR or not self.lie:
            return honest
        if version == 1:
            self._first = {name: values.copy() for name, values in honest.layers.items()}
        changed = (
            self._first
            if self.lie == STALE
            else {name: LIES[self.lie](name, values) for name, values in honest.layers.items()}
        )
        return RealSnapshot(changed, version, round_number, honest.path)


@dataclass(frozen=True)
class Learned:
    """What became of a run."""

    accuracy: float
    """Mean over the honest workers, after their last round."""
    liars_share: float
    """Of the layers that they planned to pull, those of the liar."""
    refused: dict[str, int]
    """Worker -> layers of it that were refused."""
    standings: list[str]
    """Of the liar, as the honest workers recorded them."""


def learned(lie: str, strategy: str, norm_clip: float, rounds: int = 60) -> Learned:
    """Five workers on digits, Dirichlet 0.5, lr 0.05; without a lie all are honest."""
    config = cluster(
        5,
        cluster={"topology": "full"},
        training={"rounds": rounds, "lr": 0.05},
        mpls={"strategy": strategy},
        network={"norm_clip": norm_clip},
    )
    learning = Lying(config, calibration(), 1, DIGITS)
    learning.lie = lie
    recorder = Recorder(frozenset({"eval", "plan", "pull", "peer"}))
    links = drawn_links(config.network.emulate or config.network.prior_bw, 1)
    try:
        Twin(
            config,
            learning,
            lambda clock: make_network("fluid", clock, links, None, Overhead.none()),
            calibration().timing("simple-mlp"),
            recorder,
        ).run()
    finally:
        learning.close()
    return _seen(recorder)


def _seen(recorder: Recorder) -> Learned:
    liar = f"w{LIAR}"
    honest = [records for name, records in recorder.records.items() if name != liar]
    tests = [[one for one in own if one.get("which") == "mixed"][-1] for own in honest]
    notes = [one for own in honest for one in own]
    wanted = [
        peer
        for plan in notes
        if plan["kind"] == "plan"
        for peer, layers in plan["assignment"].items()
        for _ in layers
    ]
    refused: dict[str, int] = {}
    for one in notes:
        if one["kind"] == "pull" and one["outcome"] in ("too-far", "not-finite"):
            refused[one["peer"]] = refused.get(one["peer"], 0) + 1
    return Learned(
        sum(test["accuracy"] for test in tests) / len(tests),
        wanted.count(liar) / len(wanted),
        refused,
        [one["standing"] for one in notes if one["kind"] == "peer" and one["peer"] == liar],
    )
