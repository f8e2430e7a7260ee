"""Where virtual workers really train: on a bench, one after the other, or several in batched calls.

A bench is used by one thread of one process. It has one model, into which it copies the weights of
the worker whose turn it is; the weights may be in memory that other processes share. What does not
travel between workers (momentum, a module's other buffers) stays at the bench, so a worker always
returns to the same one. torch is imported when a bench is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mpls.core.streams import Stream
from mpls.errors import RunFailed
from mpls.model.data import Dataset
from mpls.model.manifest import Manifest
from sim.learning import Scores
from sim.real_batched import LIMIT as TOGETHER_LIMIT
from sim.real_batched import together

if TYPE_CHECKING:
    from torch import Tensor

    from mpls.model.layers import FlatModel
    from mpls.model.training import Learner

Weights = NDArray[Any]


@dataclass(frozen=True)
class Task:
    """What the workers train, and on what; the same for all but for their shards."""

    model: str
    seed: int
    dataset: Dataset
    shards: tuple[np.ndarray, ...]
    """Of each worker, as indices into the training images."""
    names: tuple[str, ...]
    batch_size: int
    lr: float
    momentum: float
    device: str


@dataclass(frozen=True)
class Job:
    """So many local steps of a worker, which may be none, and then a test, if one is due."""

    worker: int
    steps: int
    test: bool


@dataclass(frozen=True)
class Done:
    """What came of a job: the mean loss of its steps, and the test's scores."""

    worker: int
    loss: float | None
    scores: Scores | None


def describe(task: Task) -> tuple[Manifest, Weights]:
    """The model's layers and the weights that every worker begins with."""
    model = _model(task)
    return model.manifest, model.host.copy()


class Bench:
    """Trains those workers whose weights it is given. One torch thread, from then on."""

    def __init__(self, task: Task, weights: Mapping[int, Weights]) -> None:
        import torch

        torch.set_num_threads(1)
        self._task = task
        self._weights = weights
        self._model = _model(task)
        self._learners = {worker: self._learner(worker) for worker in weights}
        self._others = _other_buffers(self._model)
        self._kept = {worker: [t.clone() for t in self._others] for worker in weights}
        self.together = together(self._model, task.batch_size, task.lr, task.momentum)

    def work(self, jobs: list[Job]) -> list[Done]:
        """Do the first job, and with it others that can be batched with it; what is done is taken
        out of `jobs`. Raises RunFailed, with the worker's name, if a loss is not finite."""
        group = self._group(jobs)
        for job in group:
            jobs.remove(job)
        self._train(group)
        return [self._finish(job) for job in group]

    def _group(self, jobs: Sequence[Job]) -> list[Job]:
        """Batched calls are for equally many steps of full size."""
        first = jobs[0]
        if not (first.steps and self._can_batch(first)):
            return [first]
        next_jobs: dict[int, Job] = {}
        for job in jobs:
            next_jobs.setdefault(job.worker, job)
        alike = (j for j in next_jobs.values() if j.steps == first.steps and self._can_batch(j))
        return list(islice(alike, TOGETHER_LIMIT))

    def _can_batch(self, job: Job) -> bool:
        full = self._learners[job.worker].batch_size == self._task.batch_size
        return full and self.together is not None

    def _train(self, group: Sequence[Job]) -> None:
        from mpls.model.training import Diverged

        job = group[0]
        if not job.steps:
            return
        try:
            if self.together is None or not self._can_batch(job):
                self._train_alone(job)
                return
            learners = [self._learners[job.worker] for job in group]
            weights = [self._weights[job.worker] for job in group]
            for losses in self.together.steps(learners, weights, job.steps):
                for job, loss in zip(group, losses):
                    self._learners[job.worker].count_step(loss)
        except Diverged as error:
            raise RunFailed(f"worker {self._task.names[job.worker]}: {error}") from error

    def _train_alone(self, job: Job) -> None:
        self._seat(job.worker)
        learner = self._learners[job.worker]
        for _ in range(job.steps):
            learner.step()
        self._model.fetch()
        np.copyto(self._weights[job.worker], self._model.host)
        for buffer, kept in zip(self._others, self._kept[job.worker]):
            kept.copy_(buffer)

    def _finish(self, job: Job) -> Done:
        learner = self._learners[job.worker]
        scores = None
        if job.test:
            self._seat(job.worker)
            scores = self._test(learner)
            if not isfinite(scores.loss):
                name = self._task.names[job.worker]
                raise RunFailed(f"worker {name}: the test loss was {scores.loss}; try a smaller lr")
        return Done(job.worker, learner.take_loss(), scores)

    def _test(self, learner: Learner) -> Scores:
        dataset = self._task.dataset
        result = learner.evaluate(dataset.test_images, dataset.test_labels)
        return Scores(result.accuracy, result.loss, result.class_accuracy)

    def _seat(self, worker: int) -> None:
        """This worker's state into the model."""
        np.copyto(self._model.host, self._weights[worker])
        self._model.push()
        for buffer, kept in zip(self._others, self._kept[worker]):
            buffer.copy_(kept)

    def _learner(self, worker: int) -> Learner:
        from mpls.model.training import Learner

        task = self._task
        return Learner(
            self._model,
            task.dataset,
            task.shards[worker],
            batch_size=task.batch_size,
            lr=task.lr,
            momentum=task.momentum,
            order=Stream(task.seed, "batches", task.names[worker]),
        )


def _model(task: Task) -> FlatModel:
    from mpls.model import nets
    from mpls.model.layers import FlatModel
    from mpls.model.training import torch_device

    dataset = task.dataset
    module = nets.build(task.model, dataset.input_shape, dataset.classes, task.seed)
    return FlatModel(module, torch_device(task.device))


def _other_buffers(model: FlatModel) -> list[Tensor]:
    """The module's state that is not in the flat weights, such as a BatchNorm's step counter."""
    from mpls.model.layers import group_layers

    travelling = {id(t) for layer in group_layers(model.module).values() for t in layer.values()}
    return [buffer for buffer in model.module.buffers() if id(buffer) not in travelling]
