"""Everything that can be found wrong before a run starts: `check`, `run` and `worker` all ask here,
and so give the same line for the same mistake.

Imports torch only for a user's own model and for a device other than the CPU.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpls.config import ClusterConfig, builtin, changed, load
from mpls.core.strategies import make_strategy
from mpls.errors import BadInput, MplsError, Refused, shown
from mpls.model import data
from mpls.model.partition import partition
from mpls.runtime import logs
from mpls.runtime.keys import KeyFiles
from mpls.wire.frames import ENTRIES_LIMIT, NAME_LIMIT

if TYPE_CHECKING:
    from mpls.runtime.outfit import Adapter

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
    `keys` says where its keys are, if links are encrypted, `adapter` chooses between transports, if
    there is another than ZeroMQ, and `warnings` has a sentence for whatever is probably not
    meant."""

    config: ClusterConfig
    dataset: data.Dataset
    shards: list[np.ndarray]
    keys: KeyFiles | None
    warnings: tuple[str, ...]
    adapter: Adapter | None = None


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
    refuses what cannot be run as things are, and makes the folder of the logs; `download` fetches
    a missing data set. Raises BadInput or Refused.
    """
    config = _overridden(load(path) if path else builtin(), overrides)
    keys = KeyFiles(path) if path and wants_keys(config) else None
    with named(path):
        if worker_id is not None:
            check_worker(config, worker_id)
        if to_run and config.logging.dir:
            logs.try_folder(config)
        warnings = (
            *config.warnings,
            *_look_at_keys(config, keys, worker_id, to_run),
            *look_at_certificates(config, worker_id, to_run),
        )
        try_own_code(config)
        dataset = data.load(config.data.dataset, config.data.root, download)
        settings = config.partition_settings()
        shards = partition(dataset.train_labels, len(config.workers), **settings)
        if ":" in config.model.name or config.training.device != "cpu" or config.speaks("grpc"):
            _try_model(config, dataset)
    adapter = _grpc().adapt if config.speaks("grpc") else None
    return Prepared(config, dataset, shards, keys, warnings, adapter)


def _overridden(config: ClusterConfig, overrides: dict[str, Any]) -> ClusterConfig:
    tables: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        if value is not None:
            tables.setdefault(_TABLE_OF[key], {})[key] = value
    return changed(config, tables, "command line") if tables else config


@contextmanager
def named(path: Path | None) -> Iterator[None]:
    """Errors say which cluster they are about."""
    try:
        yield
    except (BadInput, Refused) as error:
        raise type(error)(f"{path or BUILTIN}: {error}") from error


def check_worker(config: ClusterConfig, worker_id: int) -> None:
    """Raises BadInput unless this worker is in the cluster and its peers can find it."""
    config.worker(worker_id)
    for worker in config.workers:
        if worker.port == 0:
            raise BadInput(
                f"[[workers]] id {worker.id}: address = {shown(worker.address)}: peers in other "
                "processes cannot find port 0; name one, or start all workers with `mpls run`"
            )


def _look_at_keys(
    config: ClusterConfig, keys: KeyFiles | None, worker_id: int | None, to_run: bool
) -> list[str]:
    """Raises BadInput or Refused if what is to run here cannot encrypt as it is to. If nothing is
    to run, that is a warning, and the secrets that are elsewhere are none."""
    if not wants_keys(config):
        return []
    if keys is None:
        raise Refused("keys lie beside a cluster file, and this is none")
    names = [worker.name for worker in config.workers]
    try:
        ring = keys.ring(names)
        for name in names if worker_id is None else [config.worker(worker_id).name]:
            if to_run or keys.secret(name).exists():
                keys.own_secret(name, ring)
    except MplsError as error:
        if to_run:
            raise
        return [str(error)]
    return [f"{keys.public}: {name} is no worker of this cluster" for name in ring.strangers]


def wants_keys(config: ClusterConfig) -> bool:
    """Whether its workers know each other by keys."""
    return config.security() == "curve" and config.speaks("zmq")


def _grpc() -> Any:
    """What speaks gRPC. Raises BadInput if what it needs is not installed."""
    try:
        return importlib.import_module("mpls.adapters.mixed")
    except ImportError as error:
        missing = f"gRPC needs a package that is not installed ({error.name})"
        raise BadInput(f'{missing}: pip install "mpls-dfl[grpc]"') from None


def look_at_certificates(config: ClusterConfig, worker_id: int | None, to_run: bool) -> list[str]:
    """As with keys: raises BadInput or Refused for what is to run here."""
    if not config.speaks("grpc"):
        return []
    certificates = _grpc().certificates_of
    try:
        if config.security() == "curve" and not config.network.grpc_cert:
            raise Refused(
                "gRPC off loopback needs certificates: give [network] grpc_ca, grpc_cert and"
                ' grpc_key, or say security = "plaintext"'
            )
        for worker in config.workers if worker_id is None else [config.worker(worker_id)]:
            certificates(config.network, worker.name)
    except MplsError as error:
        if to_run:
            raise
        return [str(error)]
    return []


def try_own_code(config: ClusterConfig) -> None:
    """A user's own strategy or model lies where the command was given, which only
    `python -m mpls` would search. Raises BadInput for a strategy that cannot be had."""
    own_code = ":" in config.mpls.strategy or ":" in config.model.name
    if own_code and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    make_strategy(config.plan_settings())


def _try_model(config: ClusterConfig, dataset: data.Dataset) -> None:
    from mpls.model import nets
    from mpls.model.layers import FlatModel, plain_values
    from mpls.model.training import torch_device

    torch_device(config.training.device)
    module = nets.build(
        config.model.name, dataset.input_shape, dataset.classes, config.cluster.seed
    )
    if config.speaks("grpc"):
        _grpc().Catalogue(plain_values(module))
    check_layers(config.model.name, [layer.name for layer in FlatModel(module).manifest.layers])


def check_layers(model: str, layers: list[str]) -> None:
    """Peers ask for layers by name, and progress has a number for each. Raises BadInput for more or
    longer ones than can be asked for."""
    where = f"[model] name = {shown(model)}"
    if len(layers) > ENTRIES_LIMIT:
        raise BadInput(
            f"{where}: {len(layers)} layers; the protocol carries {ENTRIES_LIMIT},"
            " so register fewer modules with parameters of their own"
        )
    for layer in layers:
        if len(layer) > NAME_LIMIT or not layer.isprintable():
            raise BadInput(
                f"{where}: layer {shown(layer)} has a name of {len(layer)} characters; rename its"
                f" module, up to {NAME_LIMIT} printable ones are allowed"
            )
