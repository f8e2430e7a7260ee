"""One worker: its three threads, its lifecycle, and how it ends.

Initializing -> Ready (bound) -> Running (training and aggregating) -> Draining (its rounds are
done and it serves those who still train, or it was told to end) -> Stopped, or Failed with a
reason. All are in the trace.
"""

from __future__ import annotations

import logging
import os
import platform
import resource
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from mpls import __version__
from mpls.config import ClusterConfig
from mpls.core.plan import Layer
from mpls.core.round import Rounds
from mpls.core.serving import Condition, Serving
from mpls.core.spec import WorkerSpec
from mpls.core.streams import Stream
from mpls.core.trace import header
from mpls.model import nets
from mpls.model.data import load
from mpls.model.layers import FlatModel, plain_values
from mpls.model.manifest import Manifest
from mpls.model.partition import label_table, partition
from mpls.model.training import Diverged, Learner, torch_device
from mpls.runtime.aggregator import Aggregator
from mpls.runtime.journal import Clock, Journal
from mpls.runtime.keys import Keychain, KeyFiles, take_keys
from mpls.runtime.mailbox import Handover, Slot
from mpls.runtime.outfit import Adapter, Outfit, by_zmq
from mpls.runtime.snapshots import SnapshotStore
from mpls.runtime.trainer import Stopped, Trainer

log = logging.getLogger("mpls")
TRAFFIC_S = 1.0
DRAIN_S = {"training": 12.0, "aggregation": 2.0, "serving": 2.0}
"""Draining threads are given this long to come to their end, one after the other. Together it is
less than what a federation waits for its workers."""


@dataclass(frozen=True)
class Place:
    """Where a worker runs: its folder, a socket that already listens for it, the process that it
    is to end with (one started by hand may outlive its shell), the cluster's key files, and what
    chooses other transports than ZeroMQ, if anything does."""

    folder: Path
    listen_fd: int
    parent: BaseProcess | None = None
    keys: KeyFiles | None = None
    adapter: Adapter | None = None


class Worker:
    """Built, run once, and gone. `stop` may be called from a signal handler."""

    def __init__(self, config: ClusterConfig, worker_id: int, place: Place) -> None:
        self._config = config
        self._id = worker_id
        self._place = place
        self._me = config.worker(worker_id)
        self._clock = Clock()
        self._condition: Slot[Condition] = Slot()
        self._wake: SimpleQueue[None] = SimpleQueue()
        """Unlike an Event it may be put to by a signal handler, whatever its thread was doing."""
        self._stop_asked = False
        self._reload_asked = False
        self._keychain: Keychain | None = None
        self._failure = ""
        self._trained = False
        self._peers_done = False

    def stop(self) -> None:
        """Drain and end."""
        self._stop_asked = True
        self._wake.put(None)

    def reload_keys(self) -> None:
        """Read the cluster's public keys anew."""
        self._reload_asked = True
        self._wake.put(None)

    def run(self) -> int:
        """The whole life; returns the exit code."""
        with Journal(self._place.folder / f"{self._me.name}.trace.jsonl") as journal:
            self._journal = journal
            self._enter("initializing")
            try:
                self._build()
                self._live()
            except Exception as error:
                self._enter("failed", reason=f"{type(error).__name__}: {error}")
                raise
            self._enter("failed" if self._failure else "stopped", reason=self._failure)
        return 1 if self._failure else 0

    # --- building ---

    def _build(self) -> None:
        config = self._config
        self._keychain = take_keys(config, self._me.name, self._place.keys)
        torch.set_num_threads(config.training.threads)
        dataset = load(config.data.dataset, config.data.root)
        shards = partition(dataset.train_labels, len(config.workers), **config.partition_settings())
        table = label_table(dataset.train_labels, shards, dataset.classes)
        module = nets.build(
            config.model.name, dataset.input_shape, dataset.classes, config.cluster.seed
        )
        model = FlatModel(module, torch_device(config.training.device))
        spec = self._spec(model.manifest, table[self._id])
        self._manifest = model.manifest
        self._journal.write(header(spec, self._clock.now(), **self._about(table)))
        learner = Learner(
            model,
            dataset,
            shards[self._id],
            batch_size=config.training.batch_size,
            lr=config.training.lr,
            momentum=config.training.momentum,
            order=Stream(config.cluster.seed, "batches", self._me.name),
        )
        self._wire_up(spec, learner, dataset)

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

    def _about(self, table: np.ndarray) -> dict[str, Any]:
        """What a reader of the trace wants to know and a replay does not."""
        return {
            "worker": self._id,
            "pid": os.getpid(),
            "started_unix_s": time.time() - self._clock.now(),
            "config_hash": self._config.config_hash(),
            "labels": table[self._id].tolist(),
            "host": platform.node(),
            "kernel": platform.release(),
            "congestion_control": _congestion_control(),
            "versions": {"mpls": __version__, "python": platform.python_version()}
            | {"torch": torch.__version__, "numpy": np.__version__},
        }

    def _wire_up(self, spec: WorkerSpec, learner: Learner, dataset: Any) -> None:
        manifest = learner.model.manifest
        spans = {
            layer.name: (layer.offset_bytes, layer.offset_bytes + layer.layer_bytes)
            for layer in manifest.layers
        }
        layers = {layer.name: layer for layer in manifest.layers}
        self._store = SnapshotStore(
            spans, manifest.total_bytes // manifest.dtype.itemsize, manifest.dtype
        )
        serving = Serving(spec)
        update: Handover[Any] = Handover()
        self._condition.put(Condition("ready", 0, 0.0))
        outfit = Outfit(
            self._config,
            self._id,
            spec,
            serving,
            self._store,
            self._current_condition,
            self._clock,
            self._place.listen_fd,
            self._keychain,
            lambda: plain_values(learner.model.module),
        )
        self._transport, self._server = (self._place.adapter or by_zmq)(outfit)
        self._aggregator = Aggregator(
            Rounds(spec),
            self._transport,
            update,
            lambda name: layers[name].values_in(self._store.latest().flat),
            self._config.network.norm_clip,
            self._journal,
            self._clock,
        )
        self._trainer = Trainer(
            learner,
            dataset,
            spec.pace,
            self._store,
            update,
            self._condition,
            self._aggregator.post,
            self._transport.recycle,
            self._journal,
            self._clock,
            keep_path=serving.progress_mode == "path",
        )

    def _current_condition(self) -> Condition:
        condition = self._condition.get()
        assert condition is not None
        return condition

    # --- living ---

    def _live(self) -> None:
        bound = threading.Event()
        serving = self._start("serving", lambda: self._server.run(bound.set))
        while not bound.wait(0.01) and not self._failure:
            pass
        if self._failure:
            return
        self._enter("ready")
        aggregation = self._start("aggregation", self._aggregator.run)
        training = self._start("training", self._train)
        self._enter("running")
        self._supervise(lambda: self._trained)
        if not self._failure:
            self._enter_draining()
        if self._trained and not self._is_over():
            self._linger()
        self._drain(training, aggregation, serving)

    def _train(self) -> None:
        try:
            self._trainer.run()
        except Stopped:
            log.info("training stopped after %d local steps", self._trainer.learner.steps)
        self._trained = True
        self._wake.put(None)

    def _enter_draining(self) -> None:
        condition = self._current_condition()
        self._condition.put(Condition("draining", condition.round, condition.step_s))
        self._enter("draining")

    def _linger(self) -> None:
        """Serve the final snapshot while some peer that can be heard still trains."""
        self._aggregator.when_peers_are_done(self._note_peers_done)
        self._supervise(lambda: self._peers_done)

    def _note_peers_done(self) -> None:
        self._peers_done = True
        self._wake.put(None)

    def _supervise(self, done: Callable[[], bool]) -> None:
        """Wait for that, or for a reason to end; meanwhile tell the trace once a second."""
        while not done() and not self._is_over():
            with suppress(Empty):
                self._wake.get(timeout=TRAFFIC_S)
            if self._reload_asked and self._keychain is not None:
                self._reload_asked = False
                self._keychain.reload()
            self._note_traffic()
            if self._place.parent is not None and not self._place.parent.is_alive():
                log.warning("the process that started this worker is gone; draining")
                self._stop_asked = True

    def _is_over(self) -> bool:
        return self._stop_asked or bool(self._failure)

    def _drain(self, training: Thread, aggregation: Thread, serving: Thread) -> None:
        """Training first, so that its last update counts; then aggregation; then serving."""
        self._trainer.stop()
        training.join(DRAIN_S[training.name])
        if aggregation.is_alive():
            self._aggregator.drain()
        aggregation.join(DRAIN_S[aggregation.name])
        self._server.stop()
        serving.join(DRAIN_S[serving.name])
        alive = [thread.name for thread in (training, aggregation, serving) if thread.is_alive()]
        if alive and not self._failure:
            waited_s = sum(DRAIN_S[name] for name in alive)
            self._failure = f"{' and '.join(alive)} did not end within {waited_s:.0f} s"
        self._note_traffic()
        self._journal.note(
            "served",
            self._clock.now(),
            sent=self._server.sent.as_plain(),
            received=self._server.received.as_plain(),
            asked=self._transport.sent.as_plain(),
            answered=self._transport.received.as_plain(),
            refusals=self._server.refusals,
            failed_key_reloads=self._keychain.failed_reloads if self._keychain else 0,
            dropped=self._transport.dropped,
            broken=self._transport.refused.counts,
            local_steps=self._trainer.learner.steps,
        )
        if not training.is_alive():
            self._save_weights()

    def _save_weights(self) -> None:
        """The final weights, tensor by tensor; whoever compares workers reads these."""
        host = self._trainer.learner.model.host
        tensors = {
            tensor.name: values
            for layer in self._manifest.layers
            for tensor, values in layer.tensors_in(host)
        }
        path = self._place.folder / f"{self._me.name}.safetensors"
        unfinished = path.with_suffix(".unfinished")
        save_file(tensors, unfinished)
        unfinished.replace(path)

    def _note_traffic(self) -> None:
        sent_bytes = self._server.sent.total_bytes + self._transport.sent.total_bytes
        received_bytes = self._server.received.total_bytes + self._transport.received.total_bytes
        self._journal.note(
            "traffic",
            self._clock.now(),
            bytes_in=received_bytes,
            bytes_out=sent_bytes,
            snapshots=self._store.pool.made,
            peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )

    def _enter(self, state: str, **why: str) -> None:
        log.info("%s%s", state, f": {why['reason']}" if why.get("reason") else "")
        self._journal.note("state", self._clock.now(), state=state, **why)

    def _start(self, name: str, run: Callable[[], None]) -> Thread:
        thread = Thread(name, run, self._fail)
        thread.start()
        return thread

    def _fail(self, thread: str, error: BaseException) -> None:
        """The first thread that fails names the reason; the others are told to end."""
        reason = str(error) if isinstance(error, Diverged) else f"{type(error).__name__}: {error}"
        self._failure = self._failure or f"{thread}: {reason}"
        log.error("the %s thread failed", thread, exc_info=error)
        self._wake.put(None)


class Thread(threading.Thread):
    """Runs one job; what it raises goes to `failed`, never unnoticed."""

    def __init__(
        self, name: str, job: Callable[[], None], failed: Callable[[str, BaseException], None]
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._job = job
        self._failed = failed

    def run(self) -> None:
        try:
            self._job()
        except BaseException as error:
            self._failed(self.name, error)


def _congestion_control() -> str:
    path = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return path.read_text().strip() if path.exists() else "unknown"
