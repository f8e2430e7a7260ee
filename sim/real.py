"""Learning for real: every virtual worker trains a model on its shard, as live workers do.

The same Learner takes the steps and the same sums mix the layers, in the same order, so weights,
and with them g (Eq. 5), are those of a live run in which the same updates arrive. Virtual time
comes from a calibration. Training and tests begin as soon as it is known that they will be needed,
and are waited for when their results are: meanwhile the simulation goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpls.config import ClusterConfig
from mpls.core.gate import Bar
from mpls.core.mixing import LayerSum
from mpls.core.plan import Layer
from mpls.core.serving import choose_progress_mode
from mpls.core.streams import Stream
from mpls.model.data import Dataset, load
from mpls.model.partition import label_table, partition
from sim.calibration import Calibration, StepTimes
from sim.learning import Copy, Scores, Shard
from sim.real_bench import Job, Task, describe
from sim.real_crew import hire, warm_up
from sim.real_snapshots import RealSnapshot, SnapshotPool

Weights = NDArray[Any]


class Real:
    """A `sim.learning.Learning` of the cluster's model and data, with training spread over `jobs`
    processes (1 is this one). Raises BadInput for what cannot be had."""

    def __init__(
        self,
        config: ClusterConfig,
        calibration: Calibration,
        jobs: int = 1,
        dataset: Dataset | None = None,
    ) -> None:
        if jobs > 1:
            warm_up()
        dataset = dataset or load(config.data.dataset, config.data.root)
        indices = partition(
            dataset.train_labels, len(config.workers), **config.partition_settings()
        )
        task = _task(config, dataset, indices)
        manifest, initial = describe(task)
        self.layers = tuple(Layer(layer.name, layer.layer_bytes) for layer in manifest.layers)
        self.model = manifest.hash
        self.shards = _shards(task)
        self.times = _step_times(config, calibration)
        self._norm_clip = config.network.norm_clip
        self._dtype, scratch = manifest.dtype, manifest.empty()
        self._scratch = {layer.name: layer.values_in(scratch) for layer in manifest.layers}
        self.crew = hire(task, initial, jobs)
        self.snapshots = SnapshotPool(manifest)
        self._workers = [
            _Worker(
                {layer.name: layer.values_in(weights) for layer in manifest.layers},
                Stream(config.cluster.seed, "real", "times", worker.id),
                worker.speed,
                _TestRounds(config, shard),
                _keeps_path(config, worker.id, manifest.total_bytes),
            )
            for worker, shard, weights in zip(config.workers, self.shards, self.crew.weights)
        ]

    def begin(self, worker: int, steps: int, surely_all: bool) -> float:
        """See `sim.learning.Learning`."""
        own = self._workers[worker]
        self._settle(worker)
        if surely_all:
            own.test_due = own.tests.due_after(own.steps + steps)
            self._ask(worker, steps, own.test_due)
        return round(steps * self.times.at(own.draws.uniform()) / own.speed, 9)

    def end(self, worker: int, steps: int) -> float | None:
        """See `sim.learning.Learning`."""
        own = self._workers[worker]
        if own.job is None:
            self._ask(worker, steps, test=False)
        own.steps += steps
        return self._await(worker)

    def snapshot(self, worker: int, version: int, round_number: int) -> RealSnapshot:
        """See `sim.learning.Learning`."""
        own = self._workers[worker]
        if own.is_training():
            self._settle(worker)
        before = own.latest if own.keep_path else None
        weights = self.crew.weights[worker]
        own.latest = self.snapshots.publish(weights, version, round_number, before)
        return own.latest

    def mix(self, worker: int, copies: Sequence[Copy], keep_own: bool = True) -> dict[int, str]:
        """See `sim.learning.Learning`. As `mpls.runtime.updates` does it: the sum is in the order
        of the plan."""
        own = self._workers[worker]
        assert own.job is None, "weights in use cannot be mixed"
        now = own.latest.layers if own.latest is not None else own.layers
        sums = {copy.layer: LayerSum(self._dtype, self._scratch[copy.layer]) for copy in copies}
        norm_clip = self._norm_clip if keep_own else 0.0
        bars = {layer: Bar(now[layer], norm_clip) for layer in sums}
        refused: dict[int, str] = {}
        for index, copy in enumerate(copies):
            values = copy.snapshot.layers[copy.layer]
            reason = bars[copy.layer].add(sums[copy.layer], values, copy.allowed)
            if reason:
                refused[index] = reason
        for layer, layer_sum in sums.items():
            layer_sum.mix_into(own.layers[layer], keep_own)
        if len(refused) < len(copies):
            own.scores = None
            if own.test_due:
                self._ask(worker, 0, test=True)
        own.test_due = False
        return refused

    def evaluate(self, worker: int) -> Scores | None:
        """See `sim.learning.Learning`. Weights that did not change are not tested again."""
        own = self._workers[worker]
        if own.scores is None:
            if own.job is None:
                self._ask(worker, 0, test=True)
            self._await(worker)
        return own.scores

    def save(self, worker: int) -> Weights:
        """The weights. The order of batches is not kept: the learner in its process goes on."""
        return self.crew.weights[worker].copy()

    def restore(self, worker: int, saved: Weights) -> None:
        """See `sim.learning.Learning`."""
        self._settle(worker)
        own = self._workers[worker]
        np.copyto(self.crew.weights[worker], saved)
        own.scores, own.latest = None, None

    def close(self) -> None:
        """See `sim.learning.Learning`."""
        self.crew.close()

    def _ask(self, worker: int, steps: int, test: bool) -> None:
        job = self._workers[worker].job = Job(worker, steps, test)
        self.crew.ask(job)

    def _await(self, worker: int) -> float | None:
        """Until the worker's job is done; returns the mean loss of its steps."""
        done = self.crew.result(worker)
        own = self._workers[worker]
        own.job, own.scores = None, done.scores
        return done.loss

    def _settle(self, worker: int) -> None:
        """Wait for what nobody asked for: a worker that crashed leaves its job behind."""
        if self._workers[worker].job is not None:
            self._await(worker)


class _Worker:
    """What is known of a worker between its jobs."""

    def __init__(
        self,
        layers: dict[str, Weights],
        draws: Stream,
        speed: float,
        tests: _TestRounds,
        keep_path: bool,
    ) -> None:
        self.layers = layers
        """Views of its weights."""
        self.draws = draws
        self.speed = speed
        self.tests = tests
        self.keep_path = keep_path
        self.latest: RealSnapshot | None = None
        self.scores: Scores | None = None
        """Of the weights as they are, where they were tested."""
        self.job: Job | None = None
        """Under way."""
        self.test_due = False
        self.steps = 0

    def is_training(self) -> bool:
        """Whether its weights are changing."""
        return self.job is not None and self.job.steps > 0


class _TestRounds:
    """Foresees after which local steps a test will be asked for. If a fault makes that wrong, a
    test is made in vain or late, and nothing else."""

    def __init__(self, config: ClusterConfig, shard: Shard) -> None:
        self._pace = config.pace_settings()
        self._round_steps = self._pace.local_steps or shard.pass_steps

    def due_after(self, steps: int) -> bool:
        """Whether the round that ends with this step, if one does, ends with a test."""
        number, rest = divmod(steps, self._round_steps)
        due = number % self._pace.eval_every == 0 or number == self._pace.rounds
        return due and rest == 0


def _step_times(config: ClusterConfig, calibration: Calibration) -> StepTimes:
    """Transfers slow training down only where there are any while it goes on."""
    busy = config.training.pace != "sequential" and config.mpls.strategy != "local"
    return calibration.steps(config.model.name, config.training.batch_size, busy)


def _task(config: ClusterConfig, dataset: Dataset, indices: Sequence[np.ndarray]) -> Task:
    return Task(
        model=config.model.name,
        seed=config.cluster.seed,
        dataset=dataset,
        shards=tuple(indices),
        names=tuple(worker.name for worker in config.workers),
        batch_size=config.training.batch_size,
        lr=config.training.lr,
        momentum=config.training.momentum,
        device=config.training.device,
    )


def _shards(task: Task) -> list[Shard]:
    """As `mpls.runtime.worker` tells them to the core."""
    table = label_table(task.dataset.train_labels, task.shards, task.dataset.classes)
    return [
        Shard(
            tuple(int(count) / int(labels.sum()) for count in labels),
            len(shard),
            len(shard) // min(task.batch_size, len(shard)),
        )
        for labels, shard in zip(table, task.shards)
    ]


def _keeps_path(config: ClusterConfig, worker: int, model_bytes: int) -> bool:
    peers = len(config.peers_of(worker))
    return choose_progress_mode(config.mpls.progress, model_bytes, peers) == "path"
