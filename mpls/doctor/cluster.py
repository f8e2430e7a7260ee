"""The cluster file and what it needs: keys, own code, data, model, and what a round will cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import zmq

from mpls import preflight
from mpls.config import ClusterConfig
from mpls.core.plan import Layer, Plan
from mpls.core.protocol import Vector
from mpls.doctor.findings import Finding, fail, failed, ok, warn
from mpls.errors import MplsError
from mpls.forecast import expected_rate_Bps, first_plans, pulled_bytes
from mpls.model import data
from mpls.model.partition import label_histograms, label_table, partition
from mpls.runtime.keys import Keychain, KeyFiles, prefix, take_keys
from mpls.units import format_bytes

HASH_CHARACTERS = 12


@dataclass(frozen=True)
class Learned:
    """What is trained: enough to say hello, and to foretell a round."""

    model: str
    """The manifest's hash."""
    model_bytes: int
    layers: tuple[Layer, ...]
    histograms: Sequence[Vector]
    samples: Sequence[int]
    data_bytes: int


def settings(config: ClusterConfig) -> Iterator[Finding]:
    """The file itself is sound, or nobody would ask."""
    about = f"{len(config.workers)} workers, {config.cluster.topology}, {config.security()}"
    digest = config.config_hash()
    yield ok("cluster file", f"{about}, hash {digest[:HASH_CHARACTERS]}", config_hash=digest)
    for warning in config.warnings:
        yield warn("cluster file", warning, "look whether that is meant")
    try:
        preflight.try_own_code(config)
    except MplsError as error:
        yield failed("cluster file", error)


def public_keys(config: ClusterConfig, files: KeyFiles) -> Finding:
    """Everybody's."""
    try:
        ring = files.ring([worker.name for worker in config.workers])
    except MplsError as error:
        return failed("public keys", error)
    if ring.strangers:
        names = ", ".join(ring.strangers)
        return warn("public keys", f"{names}: no worker of this cluster", f"edit {files.public}")
    return ok("public keys", f"of {len(ring.public)} workers in {files.public}")


def secret_key(
    config: ClusterConfig, files: KeyFiles, name: str
) -> tuple[Keychain | None, Finding]:
    """This worker's; and the keychain, if there can be one."""
    what = f"secret key of {name}"
    try:
        chain = take_keys(config, name, files)
    except MplsError as error:
        found = failed(what, error)
        owner = _owner(config, files, name)
        whose = f"{found.value} (it is {owner}'s)" if owner else found.value
        return None, fail(what, whose, found.remedy)
    assert chain is not None
    return chain, ok(what, f"fits its public key, {prefix(chain.public)}")


def _owner(config: ClusterConfig, files: KeyFiles, name: str) -> str:
    """Whose secret lies where this worker's should; "" if nobody's, or its own."""
    try:
        ring = files.ring([worker.name for worker in config.workers], all_of_them=False)
        public = zmq.curve_public(files.read_secret(name).encode()).decode()
    except MplsError:
        return ""
    owner = ring.name_of(public)
    return "" if owner == name else owner


def foreign_secrets(config: ClusterConfig, files: KeyFiles, here: Sequence[str]) -> list[Finding]:
    """A server needs its own workers' only; where nobody lives, keys may have been made."""
    names = [w.name for w in config.workers if w.name not in here and files.secret(w.name).exists()]
    if not here or not names:
        return []
    where = files.secret(names[0]).parent
    value = f"of {', '.join(names)}, which do not live here, are in {where}"
    return [warn("secret keys", value, "a server needs its own only; take the others away")]


def certificates(config: ClusterConfig, worker_ids: Sequence[int]) -> Iterator[Finding]:
    """For gRPC."""
    if not config.speaks("grpc"):
        return
    for worker_id in worker_ids:
        what = f"certificates of {config.workers[worker_id].name}"
        try:
            preflight.look_at_certificates(config, worker_id, to_run=True)
        except MplsError as error:
            yield failed(what, error)
        else:
            yield ok(what, "fit" if config.network.grpc_cert else "none: plaintext")


def learned(config: ClusterConfig) -> tuple[Learned | None, list[Finding]]:
    """Load the data and build the model. Imports torch."""
    try:
        dataset = data.load(config.data.dataset, config.data.root)
    except MplsError as error:
        return None, [failed("data", error)]
    where = "embedded" if dataset.name == "digits" else f"in {config.data.root}"
    train, test = len(dataset.train_labels), len(dataset.test_labels)
    found = [ok("data", f"{dataset.name} ({where}), {train} to train on, {test} to test")]
    try:
        workers = len(config.workers)
        shards = partition(dataset.train_labels, workers, **config.partition_settings())
    except MplsError as error:
        return None, [*found, failed("partition", error)]
    table = label_table(dataset.train_labels, shards, dataset.classes)
    try:
        manifest = _manifest(config, dataset)
    except MplsError as error:
        return None, [*found, failed("model", error)]
    layers = tuple(Layer(layer.name, layer.layer_bytes) for layer in manifest.layers)
    size = f"{manifest.total_bytes:,} bytes in {len(layers)} layers"
    value = f"{config.model.name}, {size}, manifest {manifest.hash[:HASH_CHARACTERS]}"
    found.append(ok("model", value, manifest=manifest.hash, model_bytes=manifest.total_bytes))
    shares = [tuple(row) for row in label_histograms(table).tolist()]
    samples = table.sum(axis=1).tolist()
    size_bytes = dataset.train_images.nbytes + dataset.test_images.nbytes
    return Learned(manifest.hash, manifest.total_bytes, layers, shares, samples, size_bytes), found


def _manifest(config: ClusterConfig, dataset: data.Dataset) -> Any:
    from mpls.model import nets
    from mpls.model.layers import FlatModel
    from mpls.model.training import torch_device

    torch_device(config.training.device)
    name, seed = config.model.name, config.cluster.seed
    manifest = FlatModel(nets.build(name, dataset.input_shape, dataset.classes, seed)).manifest
    preflight.check_layers(name, [layer.name for layer in manifest.layers])
    return manifest


def rounds(
    config: ClusterConfig,
    learned: Learned,
    worker_ids: Sequence[int],
    measured: dict[tuple[int, int], float],
) -> Iterator[Finding]:
    """What a first round pulls, at the rates that are believed; and, of links that were
    `measured` (worker, peer -> bytes per second), how long the same bytes would take."""
    plans = first_plans(config, learned.layers, learned.histograms)
    for worker_id in worker_ids:
        yield _round(config, learned, worker_id, plans[worker_id], measured)


def _round(
    config: ClusterConfig,
    learned: Learned,
    worker_id: int,
    plan: Plan,
    measured: dict[tuple[int, int], float],
) -> Finding:
    what = f"a round of {config.workers[worker_id].name}"
    pulled = pulled_bytes(plan, learned.layers)
    size = {layer.name: layer.bytes for layer in learned.layers}
    ids = {worker.name: worker.id for worker in config.workers}
    seconds, kinds = [0.0], set[str]()
    for name, layers in plan.assignment.items():
        link = (worker_id, ids[name])
        kinds.add("measured" if link in measured else "expected")
        rate_Bps = measured.get(link) or expected_rate_Bps(config, *link)
        seconds.append(sum(size[layer] for layer in layers) / rate_Bps)
    took_s = max(seconds)
    rates = " and ".join(sorted(kinds)) or "expected"
    value = f"pulls {format_bytes(pulled)}, {took_s:.3g} s at the {rates} rates"
    numbers = {"round_bytes": pulled, "round_s": took_s}
    if took_s > config.network.round_s:
        remedy = f"[network] round_s = {config.network.round_s:g} would end it; make that longer"
        return warn(what, value, remedy, **numbers)
    return ok(what, value, **numbers)
