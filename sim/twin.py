"""A whole federation in virtual time: the workers of a cluster file, their links, and one clock."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from mpls.config import ClusterConfig
from mpls.core.spec import WorkerSpec
from sim.clock import Clock, HostClocks
from sim.driver import VirtualWorker
from sim.fabric import Fabric
from sim.learning import Learning
from sim.network import Network
from sim.record import Recorder
from sim.saved import Past
from sim.timing import Timing


@contextmanager
def rare_collections() -> Iterator[None]:
    """Let Python look for garbage in circles a hundred times less often, and among what has been
    there for a while hardly ever: a simulation makes none to speak of, and looking through all the
    objects of thousands of workers takes a quarter of its time."""
    before = gc.get_threshold()
    gc.set_threshold(*(100 * threshold for threshold in before))
    try:
        yield
    finally:
        gc.set_threshold(*before)


@dataclass(frozen=True)
class Ended:
    """What became of a simulation."""

    seconds: float
    """Virtual, until the last worker had finished."""
    rounds: tuple[int, ...]
    bytes_in: tuple[int, ...]
    bytes_out: tuple[int, ...]


class Twin:
    """Built, run once, and gone."""

    def __init__(
        self,
        config: ClusterConfig,
        learning: Learning,
        network: Callable[[Clock], Network],
        timing: Timing | Sequence[Timing],
        recorder: Recorder | None,
        counts_bytes: bool = True,
    ) -> None:
        """Without `counts_bytes` its traffic is not known: all bytes are 0."""
        self.clock = Clock()
        self.config = config
        self._learning = learning
        self._keeping = False
        self.absent = {worker.id for worker in config.workers if worker.left}
        """Those who have not joined yet, or have left."""
        self._training = len(config.present)
        self.network = network(self.clock)
        timings = [timing] * len(config.workers) if isinstance(timing, Timing) else list(timing)
        self.timings = timings
        seed = config.cluster.seed
        self.fabric = Fabric(self.clock, self.network, timings[0], seed, counts_bytes)
        self._records = [
            recorder.of(worker.name) if recorder is not None else None for worker in config.workers
        ]
        self.workers = [self._worker(worker.id, None) for worker in config.workers]
        for index in self.absent:
            self.workers[index].crash()
        self.fabric.join(self.workers)

    def run(self) -> Ended:
        """Until every worker that is alive has done its rounds."""
        with rare_collections():
            for worker in self.workers:
                if worker.alive:
                    worker.start()
            self.clock.run(self._is_over)
        ended_s = self.clock.now
        for worker in self.workers:
            worker.drain()
        traffic = [self.fabric.traffic[worker.index] for worker in self.workers]
        return Ended(
            ended_s,
            tuple(worker.round for worker in self.workers),
            tuple(one.received_bytes for one in traffic),
            tuple(one.sent_bytes for one in traffic),
        )

    def crash(self, index: int, comes_back: bool) -> None:
        """The worker's process is gone; if it does not come back, nobody waits for it."""
        worker = self.workers[index]
        worker.crash()
        if not worker.finished and not comes_back:
            self._training -= 1

    def restart(self, index: int, clocks: HostClocks | None = None) -> VirtualWorker:
        """A crashed worker goes on from its newest whole checkpoint, where its host was rebooted
        by other `clocks`."""
        old = self.workers[index]
        assert not old.alive
        assert old.generations is not None, "who keeps no checkpoint cannot be restarted"
        self._training += old.finished
        saved = old.generations.load()
        self._learning.restore(index, saved.learned)
        past = Past(saved, old.generations, old.versions, clocks or old.clocks)
        worker = self.workers[index] = self._worker(index, past)
        worker.keep_checkpoints(self.config.checkpoint.every_rounds)
        self.fabric.replace(worker)
        worker.start()
        return worker

    def begin_without(self, indices: Iterable[int]) -> None:
        """Before it runs: these workers will join later. Until then nobody knows of them."""
        self.absent |= set(indices)
        for worker in self.workers:
            anew = self.workers[worker.index] = self._worker(worker.index, None)
            self.fabric.replace(anew)
            if anew.index in self.absent:
                anew.crash()

    def join(self, index: int) -> VirtualWorker:
        """It begins anew; the others do not know of it before they are told."""
        self.absent.discard(index)
        worker = self.workers[index] = self._worker(index, None)
        if self._keeping:
            worker.keep_checkpoints(self.config.checkpoint.every_rounds)
        self.fabric.replace(worker)
        worker.start()
        return worker

    def leave(self, index: int) -> None:
        """It drains, and is gone for good."""
        worker = self.workers[index]
        self.absent.add(index)
        worker.drain()
        self.crash(index, comes_back=False)

    def tell(self, index: int) -> None:
        """It reads the cluster file anew for who its peers are."""
        self.workers[index].change_peers(self.peers_of(index))

    def peers_of(self, index: int) -> tuple[str, ...]:
        """The names of those present that it talks to. Links stay as they were drawn for all."""
        peers = (peer for peer in self.config.peers_of(index) if peer not in self.absent)
        return tuple(self.config.workers[peer].name for peer in peers)

    def keep_checkpoints(self) -> None:
        """As live workers do; for simulations in which somebody is restarted."""
        self._keeping = True
        for worker in self.workers:
            worker.keep_checkpoints(self.config.checkpoint.every_rounds)

    def _worker(self, index: int, past: Past | None) -> VirtualWorker:
        return VirtualWorker(
            index,
            replace(spec_of(self.config, index, self._learning), peers=self.peers_of(index)),
            self.clock,
            self.fabric,
            self._learning,
            self.timings[index],
            self._records[index],
            self._note_finished,
            past,
        )

    def stop(self) -> None:
        """Have `run` end now, whoever still trains."""
        self._training = 0

    def _is_over(self) -> bool:
        return self._training <= 0

    def _note_finished(self) -> None:
        self._training -= 1


def spec_of(config: ClusterConfig, worker_id: int, learning: Learning) -> WorkerSpec:
    """What a worker's decisions depend on: as `mpls.runtime.worker` builds it."""
    shard = learning.shards[worker_id]
    return WorkerSpec(
        name=config.workers[worker_id].name,
        seed=config.cluster.seed,
        peers=tuple(config.workers[peer].name for peer in config.peers_of(worker_id)),
        layers=learning.layers,
        model=learning.model,
        histogram=shard.histogram,
        samples=shard.samples,
        plan=config.plan_settings(),
        pull=config.pull_settings(),
        pace=config.pace_settings(),
    )
