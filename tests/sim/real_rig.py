"""Really training workers, small enough for tests, and the live code beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mpls.config import ClusterConfig, builtin, changed
from mpls.core.streams import Stream
from mpls.model import nets
from mpls.model.data import load
from mpls.model.layers import FlatModel
from mpls.model.partition import partition
from mpls.model.training import Learner
from sim.calibration import Calibration
from sim.calibration import load as load_calibration
from sim.network import Overhead, drawn_links, make_network
from sim.real import Real
from sim.record import Recorder
from sim.twin import Twin

torch.set_num_threads(1)
DIGITS = load("digits", "")


def cluster(workers: int = 3, **tables: dict[str, Any]) -> ClusterConfig:
    """Workers in a ring, on digits."""
    names = [{"id": i, "address": "127.0.0.1:0"} for i in range(workers)]
    base = builtin().model_copy(update={"workers": ()})
    return changed(base, {"workers": names, **tables}, "test")  # type: ignore[arg-type]


def calibration(model: str = "simple-mlp") -> Calibration:
    """The shipped one; for a user's own model as if it were simple-mlp."""
    from dataclasses import replace

    shipped = load_calibration()
    costs = [replace(cost, name=model) for cost in shipped.measured.models[:1]]
    return replace(shipped, measured=replace(shipped.measured, models=tuple(costs)))


@contextmanager
def real(config: ClusterConfig, jobs: int = 1) -> Iterator[Real]:
    """Closed at the end."""
    learning = Real(config, calibration(config.model.name), jobs, DIGITS)
    try:
        yield learning
    finally:
        learning.close()


def learners(config: ClusterConfig) -> list[Learner]:
    """As live workers make them."""
    shards = partition(DIGITS.train_labels, len(config.workers), **config.partition_settings())
    return [
        Learner(
            FlatModel(nets.build(config.model.name, (1, 28, 28), 10, config.cluster.seed)),
            DIGITS,
            shards[worker.id],
            batch_size=config.training.batch_size,
            lr=config.training.lr,
            momentum=config.training.momentum,
            order=Stream(config.cluster.seed, "batches", worker.name),
        )
        for worker in config.workers
    ]


def weights(learning: Real, worker: int) -> np.ndarray:
    """As the worker would publish them, flat."""
    return np.concatenate(list(learning.snapshot(worker, 1, 0).layers.values()))


def simulated(config: ClusterConfig, jobs: int) -> Recorder:
    """The records of a whole simulation."""
    recorder = Recorder()
    links = drawn_links(config.network.emulate or config.network.prior_bw, 1)
    with real(config, jobs) as learning:
        Twin(
            config,
            learning,
            lambda clock: make_network("fluid", clock, links, None, Overhead.none()),
            calibration(config.model.name).timing(config.model.name),
            recorder,
        ).run()
    return recorder
