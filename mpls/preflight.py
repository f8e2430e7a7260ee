"""Everything that can be found wrong before a run starts: `check`, `run` and `worker` all ask here,
and so give the same line for the same mistake.

Imports torch only for a user's own model and for a device other than the CPU.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpls.config import ClusterConfig, builtin, changed, load
from mpls.core.strategies import make_strategy
from mpls.errors import BadInput, Refused, shown
from mpls.model import data
from mpls.model.partition import partition

BUILTIN = "the built-in cluster"
_TABLE_OF = {
    "strategy": "mpls",
    "transport": "network",
    "rounds": "training",
    "seed": "cluster",
    "out": "cluster",
}


@dataclass(frozen=True)
class Prepared:
    """A cluster that can be run: `shards` has for each worker the indices of its training samples,
    `warnings` a sentence for whatever is probably not meant."""

    config: ClusterConfig
    dataset: data.Dataset
    shards: list[np.ndarray]
    warnings: tuple[str, ...]


def prepare(
    path: Path | None,
    *,
    worker_id: int | None = None,
    to_run: bool = True,
    download: bool = False,
    **overrides: str | int | None,
) -> Prepared:
    """Load a cluster file, or take the built-in cluster, and try whatever can be tried beforehand.

    `overrides` are values of the command line for `strategy`, `transport`, `rounds`, `seed` and
    `out`; None leaves the file's. `worker_id` says that only this worker is to run here; `to_run`
    refuses what can be described, but not yet be run; `download` fetches a missing data set.
    Raises BadInput or Refused.
    """
    config = _overridden(load(path) if path else builtin(), overrides)
    with _named(path):
        if worker_id is not None:
            _check_worker(config, worker_id)
        if to_run:
            _refuse_what_is_not_safe(config)
        _try_own_code(config)
        dataset = data.load(config.data.dataset, config.data.root, download)
        settings = config.partition_settings()
        shards = partition(dataset.train_labels, len(config.workers), **settings)
        if ":" in config.model.name or config.training.device != "cpu":
            _try_model(config, dataset)
    return Prepared(config, dataset, shards, config.warnings)


def _overridden(config: ClusterConfig, overrides: dict[str, Any]) -> ClusterConfig:
    tables: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        if value is not None:
            tables.setdefault(_TABLE_OF[key], {})[key] = value
    return changed(config, tables, "command line") if tables else config


@contextmanager
def _named(path: Path | None) -> Iterator[None]:
    """Errors say which cluster they are about."""
    try:
        yield
    except (BadInput, Refused) as error:
        raise type(error)(f"{path or BUILTIN}: {error}") from error


def _check_worker(config: ClusterConfig, worker_id: int) -> None:
    config.worker(worker_id)
    for worker in config.workers:
        if worker.port == 0:
            raise BadInput(
                f"[[workers]] id {worker.id}: address = {shown(worker.address)}: peers in other "
                "processes cannot find port 0; name one, or start all workers with `mpls run`"
            )


def _refuse_what_is_not_safe(config: ClusterConfig) -> None:
    if not config.all_loopback():
        raise Refused(
            "this version runs on loopback addresses only, because it does not encrypt yet"
        )
    for worker in config.workers:
        if config.transport_of(worker.id) != "zmq" or worker.grpc_port:
            raise Refused('this version runs transport = "zmq" only')
    for key, is_set in _not_built(config).items():
        if is_set:
            raise Refused(f"{key}: this version does not do that yet; leave it at its default")


def _not_built(config: ClusterConfig) -> dict[str, bool]:
    """Keys that nothing acts on so far, and whether they ask for something."""
    return {
        '[network] security = "curve"': config.security() == "curve",
        "[checkpoint] every_rounds": config.checkpoint.every_rounds > 0,
        "[metrics] port": config.metrics.port > 0,
        "[logging] dir": config.logging.dir != "",
    }


def _try_own_code(config: ClusterConfig) -> None:
    """A user's own strategy or model lies where the command was given, which only
    `python -m mpls` would search."""
    own_code = ":" in config.mpls.strategy or ":" in config.model.name
    if own_code and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    make_strategy(config.plan_settings())


def _try_model(config: ClusterConfig, dataset: data.Dataset) -> None:
    from mpls.model import nets
    from mpls.model.layers import FlatModel
    from mpls.model.training import torch_device

    torch_device(config.training.device)
    module = nets.build(
        config.model.name, dataset.input_shape, dataset.classes, config.cluster.seed
    )
    FlatModel(module)
