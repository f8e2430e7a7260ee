"""A worker put together: its data, model and past, its threads' objects, and what joins them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpls.checkpoint import Checkpoint, Identity
from mpls.config import ClusterConfig
from mpls.config.cluster import SHARDS
from mpls.core.plan import Layer
from mpls.core.round import Rounds
from mpls.core.serving import Condition, Serving
from mpls.core.spec import WorkerSpec
from mpls.core.streams import Stream
from mpls.core.trace import header
from mpls.errors import BadInput
from mpls.model import nets
from mpls.model.data import load
from mpls.model.layers import FlatModel, plain_values
from mpls.model.manifest import Manifest
from mpls.model.partition import label_table, partition
from mpls.model.training import Learner, torch_device
from mpls.runtime.about import about
from mpls.runtime.aggregator import Aggregator
from mpls.runtime.health import Health, Pulse
from mpls.runtime.journal import Clock, Journal
from mpls.runtime.keeper import Keeper
from mpls.runtime.keys import KeyFiles, take_keys
from mpls.runtime.mailbox import Handover, Slot
from mpls.runtime.membership import addresses
from mpls.runtime.notify import Notifier
from mpls.runtime.outfit import Adapter, Outfit, by_zmq, paced_links
from mpls.runtime.snapshots import SnapshotStore
from mpls.runtime.state_folder import StateFolder
from mpls.runtime.trainer import Trainer

log = logging.getLogger("mpls")


@dataclass(frozen=True)
class Place:
    """Where a worker runs: its folder, a socket that already listens for it, the process that it
    is to end with (one started by hand may outlive its shell), the cluster's key files, what
    chooses other transports than ZeroMQ, if anything does, and how it finds itself again."""

    folder: Path
    listen_fd: int
    parent: BaseProcess | None = None
    keys: KeyFiles | None = None
    adapter: Adapter | None = None
    state: Path | None = None
    """Where its checkpoints are; in `folder`, unless given."""
    fresh: bool = False
    """Begin anew, whatever is there."""
    cluster: Path | None = None
    """The file to read anew when told to."""
    notifier: Notifier | None = None
    """Tells the service manager, if one started this worker."""


class Parts:
    """Everything of one life, made in the order in which one thing needs the other. `closing` gives
    back what other processes wait for, whatever part could not be made."""

    def __init__(
        self,
        config: ClusterConfig,
        worker_id: int,
        place: Place,
        journal: Journal,
        clock: Clock,
        closing: ExitStack,
    ) -> None:
        self._config = config
        self._id = worker_id
        self._me = config.worker(worker_id)
        self._place = place
        self._journal = journal
        self._clock = clock
        state = StateFolder(
            place.state or place.folder / f"{self._me.name}.state", config.checkpoint.keep
        )
        closing.callback(state.close)
        self.keychain = take_keys(config, self._me.name, place.keys)
        self.pulse = Pulse(clock)
        self._learn(state)
        self._exchange(state)

    def take_up(self, config: ClusterConfig) -> None:
        """Have the peers, and the keys, that this cluster says. Raises Refused where the transport
        cannot do that."""
        now = addresses(config, self._id)
        self.server.change_peers(tuple(now))
        if self.keychain is not None:
            self.keychain.reload(worker.name for worker in config.present)
        self._outfit.pacing.add(paced_links(config, self._id))
        self.aggregator.change_peers(now)

    def condition(self) -> Condition:
        """What peers and supervisors are told."""
        condition = self.conditions.get()
        assert condition is not None
        return condition

    def _learn(self, state: StateFolder) -> None:
        """Data, model and past."""
        config = self._config
        torch.set_num_threads(config.training.threads)
        self._dataset = load(config.data.dataset, config.data.root)
        module = nets.build(
            config.model.name, self._dataset.input_shape, self._dataset.classes, config.cluster.seed
        )
        model = FlatModel(module, torch_device(config.training.device))
        self.manifest = model.manifest
        self._past = self._resume(state)
        # As many as when this worker first began, whoever joined since.
        dealt_to = int(self._identity.learning[SHARDS])
        labels = self._dataset.train_labels
        shards = partition(labels, dealt_to, **config.partition_settings())
        table = label_table(labels, shards, self._dataset.classes)
        self.spec = self._spec(model.manifest, table[self._id])
        if self._past and self._past.round >= self.spec.pace.rounds:
            log.info("all %d rounds are done already; --fresh begins anew", self.spec.pace.rounds)
        self._begin_trace(table)
        self.learner = Learner(
            model,
            self._dataset,
            shards[self._id],
            batch_size=config.training.batch_size,
            lr=config.training.lr,
            momentum=config.training.momentum,
            order=Stream(config.cluster.seed, "batches", self._me.name),
        )
        if self._past:
            self.learner.restore(self._past.tensors, self._past.learner)

    def _resume(self, state: StateFolder) -> Checkpoint | None:
        """What to go on with, and who that makes this worker."""
        adopted = frozenset() if self._config.data.shards else frozenset({SHARDS})
        learning = self._config.learning()
        identity = Identity(self._me.name, self.manifest.hash, learning, adopted)
        past = state.resume(identity, self._place.fresh)
        self._identity = identity.of_the_same_life(past) if past else identity
        dealt_to = self._identity.learning[SHARDS]
        if dealt_to <= self._id:
            found = f"its checkpoint is of one among {dealt_to}"
            raise BadInput(f"[[workers]] id {self._id}: {found}; give it its id back, or --fresh")
        return past

    def _begin_trace(self, labels: np.ndarray) -> None:
        now = self._began_s = self._clock.now()
        told = about(self._config, self._id, labels, started_unix_s=time.time() - now)
        resumed = self._past.core if self._past else None
        self._journal.write(header(self.spec, now, resumed, **told))

    def _spec(self, manifest: Manifest, labels: np.ndarray) -> WorkerSpec:
        config = self._config
        samples = int(labels.sum())
        return WorkerSpec(
            name=self._me.name,
            seed=config.cluster.seed,
            peers=tuple(config.workers[peer].name for peer in config.peers_of(self._id)),
            layers=tuple(Layer(layer.name, layer.layer_bytes) for layer in manifest.layers),
            model=manifest.hash,
            histogram=tuple(int(count) / samples for count in labels),
            samples=samples,
            plan=config.plan_settings(),
            pull=config.pull_settings(),
            pace=config.pace_settings(),
        )

    def _exchange(self, state: StateFolder) -> None:
        """What serves, pulls, mixes and keeps."""
        config, spec, past, clock = self._config, self.spec, self._past, self._clock
        self.store = _store(self.manifest)
        rounds, serving = Rounds(spec), Serving(spec)
        if past:
            rounds.restore(past.core, self._began_s)
            serving.restore(past.served)
        self.keeper = Keeper(
            state.checkpoints,
            self._identity,
            config.checkpoint.every_rounds,
            lambda: serving.memory(self.store.latest()),
            self._journal,
            clock,
        )
        self.conditions: Slot[Condition] = Slot()
        self.conditions.put(Condition("ready", past.round if past else 0, 0.0))
        self._outfit = self._make_outfit(serving)
        self.transport, self.server = (self._place.adapter or by_zmq)(self._outfit)
        update: Handover[Any] = Handover()
        self.aggregator = self._aggregator(rounds, update)
        self.trainer = self._trainer(serving, update)
        self.health = Health(
            spec.name,
            spec.pace.rounds,
            self.pulse,
            self.condition,
            lambda: rounds.peers.values(),
            self.keeper,
            clock,
        )

    def _make_outfit(self, serving: Serving) -> Outfit:
        return Outfit(
            self._config,
            self._id,
            self.spec,
            serving,
            self.store,
            self.condition,
            self._clock,
            self._place.listen_fd,
            self.keychain,
            lambda: plain_values(self.learner.model.module),
        )

    def _aggregator(self, rounds: Rounds, update: Handover[Any]) -> Aggregator:
        layers = {layer.name: layer for layer in self.manifest.layers}
        return Aggregator(
            rounds,
            self.transport,
            update,
            lambda name: layers[name].values_in(self._own_weights()),
            self._config.network.norm_clip,
            self._journal,
            self._clock,
            self.keeper,
            self.pulse,
        )

    def _own_weights(self) -> Any:
        """What copies are held against. Before anything is published the trainer waits, and nobody
        changes its weights."""
        newest = self.store.newest()
        return self.learner.model.host if newest is None else newest.flat

    def _trainer(self, serving: Serving, update: Handover[Any]) -> Trainer:
        past = self._past
        ledger: Mapping[str, Any] = past.ledger if past else {}
        return Trainer(
            self.learner,
            self._dataset,
            self.spec.pace,
            self.store,
            update,
            self.conditions,
            self.aggregator.post,
            self.transport.recycle,
            self._journal,
            self._clock,
            keep_path=serving.progress_mode == "path",
            keeper=self.keeper,
            pulse=self.pulse,
            done=past.round if past else 0,
            begun=past.begun if past else 0,
            ledger=ledger,
        )


def _store(manifest: Manifest) -> SnapshotStore:
    spans = {
        layer.name: (layer.offset_bytes, layer.offset_bytes + layer.layer_bytes)
        for layer in manifest.layers
    }
    values = manifest.total_bytes // manifest.dtype.itemsize
    return SnapshotStore(spans, values, manifest.dtype)
