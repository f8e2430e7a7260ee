"""One worker: its three threads, its lifecycle, and how it ends.

Initializing -> Ready (bound) -> Running (training and aggregating) -> Draining (its rounds are
done and it serves those who still train, or it was told to end) -> Stopped, or Failed with a
reason. All are in the trace.
"""

from __future__ import annotations

import logging
import resource
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from queue import Empty, SimpleQueue

from safetensors.numpy import save_file

from mpls.config import ClusterConfig
from mpls.core.serving import Condition
from mpls.errors import MplsError
from mpls.runtime.assembly import Parts, Place
from mpls.runtime.endpoint import Endpoint
from mpls.runtime.journal import Clock, Journal
from mpls.runtime.membership import has_left, news, read_anew
from mpls.runtime.notify import Notifier
from mpls.runtime.shortages import Shortages
from mpls.runtime.threads import Thread, named
from mpls.runtime.trainer import Stopped
from mpls.runtime.watchdog import Watchdog

__all__ = ["DRAIN_S", "Place", "Worker"]

log = logging.getLogger("mpls")
TRAFFIC_S = 1.0
LATE_S = 5.0
"""If this thread itself comes so late, the process was frozen."""
DRAIN_S = {"training": 12.0, "aggregation": 2.0, "serving": 2.0, "checkpoint": 8.0}
"""Draining threads are given this long to come to their end, one after the other. Together it is
less than what a federation waits for its workers."""


class Worker:
    """Built, run once, and gone. `stop` may be called from a signal handler."""

    def __init__(self, config: ClusterConfig, worker_id: int, place: Place) -> None:
        self._config = config
        self._id = worker_id
        self._place = place
        self._me = config.worker(worker_id)
        self._clock = Clock()
        self._notifier = place.notifier or Notifier({})
        self._wake: SimpleQueue[None] = SimpleQueue()
        """Unlike an Event it may be put to by a signal handler, whatever its thread was doing."""
        self._stop_asked = False
        self._reload_asked = False
        self._failed_reloads = 0
        self._failure = ""
        self._looked_s = 0.0
        self._trained = False
        self._peers_done = False

    def stop(self) -> None:
        """Drain and end."""
        self._stop_asked = True
        self._wake.put(None)

    def reload(self) -> None:
        """Read the cluster file anew for who the peers are, and the public keys."""
        self._reload_asked = True
        self._wake.put(None)

    def run(self) -> int:
        """The whole life; returns the exit code."""
        with (
            Journal(self._place.folder / f"{self._me.name}.trace.jsonl") as journal,
            ExitStack() as closing,
        ):
            self._journal = journal
            self._enter("initializing")
            try:
                self._parts = Parts(
                    self._config, self._id, self._place, journal, self._clock, closing
                )
                self._live(closing)
            except Exception as error:
                self._enter("failed", reason=named(error))
                raise
            self._enter("failed" if self._failure else "stopped", reason=self._failure)
        return 1 if self._failure else 0

    # --- living ---

    def _live(self, closing: ExitStack) -> None:
        bound = threading.Event()
        serving = self._start("serving", lambda: self._parts.server.run(bound.set))
        while not bound.wait(0.01) and not self._failure:
            pass
        if self._failure:
            return
        self._enter("ready")
        self._open_endpoint(closing)
        self._watchdog = Watchdog(self._notifier, self._parts.pulse)
        self._notifier.ready()
        for thread in ("aggregation", "training"):
            self._parts.pulse.beat(thread)  # who hangs before its first turn is stuck, too
        aggregation = self._start("aggregation", self._parts.aggregator.run)
        training = self._start("training", self._train)
        keeping = self._start("checkpoint", self._parts.keeper.run)
        self._enter("running")
        self._supervise(lambda: self._trained)
        if not self._failure:
            self._enter_draining()
        if self._trained and not self._is_over():
            self._linger()
        self._drain(training, aggregation, serving, keeping)

    def _open_endpoint(self, closing: ExitStack) -> None:
        port = self._config.metrics.port
        if port:
            closing.callback(Endpoint(port + self._id, self._parts.health.report).close)

    def _train(self) -> None:
        try:
            self._parts.trainer.run()
        except Stopped:
            log.info("training stopped after %d local steps", self._parts.trainer.learner.steps)
        self._trained = True
        self._wake.put(None)

    def _enter_draining(self) -> None:
        condition = self._parts.condition()
        self._parts.conditions.put(Condition("draining", condition.round, condition.step_s))
        self._enter("draining")

    def _linger(self) -> None:
        """Serve the final snapshot while some peer that can be heard still trains."""
        self._parts.aggregator.when_peers_are_done(self._note_peers_done)
        self._supervise(lambda: self._peers_done)

    def _note_peers_done(self) -> None:
        self._peers_done = True
        self._wake.put(None)

    def _supervise(self, done: Callable[[], bool]) -> None:
        """Wait for that, or for a reason to end; meanwhile tell the trace once a second."""
        shortages = Shortages(self._journal)
        while not done() and not self._is_over():
            with suppress(Empty):
                self._wake.get(timeout=TRAFFIC_S)
            if self._reload_asked:
                self._reload_asked = False
                self._reload()
            self._note_traffic()
            self._look_who_is_stuck()
            self._parts.health.shortages = shortages.look(self._clock.now())
            self._tell_manager()
            if self._place.parent is not None and not self._place.parent.is_alive():
                log.warning("the process that started this worker is gone; draining")
                self._stop_asked = True

    def _reload(self) -> None:
        """A file that is wrong changes nothing, but is logged and counted. The keys have a file of
        their own: one that was revoked is let in no more, whatever is wrong with this one."""
        try:
            config, ignored = read_anew(self._place.cluster, self._config, self._id)
            if has_left(config, self._id):
                log.warning("this worker was taken out of %s; draining", self._place.cluster)
                self._stop_asked = True
                return
            told = list(news(self._config, config, self._id))
            self._parts.take_up(config)
        except MplsError as error:
            self._failed_reloads += 1
            log.error("cluster file not reloaded, all stays as it was: %s", error)
            if self._parts.keychain is not None:
                self._parts.keychain.reload()
            return
        self._config = config
        log.info("cluster file reloaded: %s", ", ".join(told) or "nothing new")
        if ignored:
            log.warning("taken up at the next start only: %s", ", ".join(ignored))

    def _look_who_is_stuck(self) -> None:
        """A thread that got nowhere for long fails the worker, so that somebody starts it again."""
        before_s, self._looked_s = self._looked_s, self._clock.now()
        if self._looked_s - before_s > LATE_S:
            self._parts.pulse.forgive()
        health = self._parts.health
        self._failure = health.failure = self._failure or health.stuck()

    def _tell_manager(self) -> None:
        parts = self._parts
        self._notifier.status(parts.health.line(parts.trainer.accuracy))
        self._watchdog.look(parts.condition().step_s)

    def _is_over(self) -> bool:
        return self._stop_asked or bool(self._failure)

    def _drain(
        self, training: Thread, aggregation: Thread, serving: Thread, keeping: Thread
    ) -> None:
        """Training first, so that its last update counts; then aggregation; then serving. When
        nobody learns any more, what was learned is saved."""
        self._notifier.stopping()
        self._parts.trainer.stop()
        training.join(DRAIN_S[training.name])
        if aggregation.is_alive():
            self._parts.aggregator.drain()
        aggregation.join(DRAIN_S[aggregation.name])
        self._parts.server.stop()
        serving.join(DRAIN_S[serving.name])
        self._parts.keeper.close()
        keeping.join(DRAIN_S[keeping.name])
        threads = (training, aggregation, serving, keeping)
        alive = [thread.name for thread in threads if thread.is_alive()]
        if alive and not self._failure:
            waited_s = sum(DRAIN_S[name] for name in alive)
            self._failure = f"{' and '.join(alive)} did not end within {waited_s:.0f} s"
        self._note_traffic()
        self._journal.note(
            "served",
            self._clock.now(),
            sent=self._parts.server.sent.as_plain(),
            received=self._parts.server.received.as_plain(),
            asked=self._parts.transport.sent.as_plain(),
            answered=self._parts.transport.received.as_plain(),
            refusals=self._parts.server.refusals,
            failed_reloads=self._failed_reloads,
            failed_key_reloads=self._parts.keychain.failed_reloads if self._parts.keychain else 0,
            dropped=self._parts.transport.dropped,
            broken=self._parts.transport.refused.counts,
            local_steps=self._parts.trainer.learner.steps,
        )
        if not training.is_alive():
            self._save_weights()
        if not alive and not self._failure:
            self._save_state()

    def _save_state(self) -> None:
        """Who was told to end must not seem to be saved when it is not."""
        parts = self._parts
        parts.keeper.write(parts.trainer.state(), parts.aggregator.state(parts.trainer.round))
        if parts.keeper.trouble:
            self._failure = f"checkpoint: {parts.keeper.trouble}"

    def _save_weights(self) -> None:
        """The final weights, tensor by tensor; whoever compares workers reads these."""
        host = self._parts.trainer.learner.model.host
        tensors = {
            tensor.name: values
            for layer in self._parts.manifest.layers
            for tensor, values in layer.tensors_in(host)
        }
        path = self._place.folder / f"{self._me.name}.safetensors"
        unfinished = path.with_suffix(".unfinished")
        save_file(tensors, unfinished)
        unfinished.replace(path)

    def _note_traffic(self) -> None:
        sent_bytes = self._parts.server.sent.total_bytes + self._parts.transport.sent.total_bytes
        received_bytes = (
            self._parts.server.received.total_bytes + self._parts.transport.received.total_bytes
        )
        self._journal.note(
            "traffic",
            self._clock.now(),
            bytes_in=received_bytes,
            bytes_out=sent_bytes,
            snapshots=self._parts.store.pool.made,
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
        self._failure = self._failure or f"{thread}: {named(error)}"
        self._parts.health.failure = self._failure
        log.error("the %s thread failed", thread, exc_info=error)
        self._wake.put(None)
