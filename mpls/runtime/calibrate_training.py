"""What training, mixing and publishing cost: the part of `mpls calibrate` that needs no network."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np

from mpls.config import builtin
from mpls.core.calibration import Affine, Progress
from mpls.core.mixing import LayerSum, squared_distance
from mpls.core.streams import Stream
from mpls.errors import BadInput
from mpls.model import nets
from mpls.model.data import Dataset, load
from mpls.model.layers import FlatModel
from mpls.model.partition import partition
from mpls.model.training import Learner
from mpls.runtime import calibrate_fits as fits
from mpls.runtime.snapshots import SnapshotStore

STRETCH_S = 0.02
"""A local step is timed as the mean of a stretch of about this."""
LEAST_STRETCHES = 5
CLUSTER = builtin()
"""Whose shards and learning rate are used."""
CIFAR_CLASSES = {"cifar10": 10, "cifar100": 100}
USUAL_DATASET = {"nin": "cifar10", "resnet18": "cifar100"}
"""What a model is for, where that is not the embedded digits."""
TEST_IMAGES = {"digits": 2_000, "cifar10": 10_000, "cifar100": 10_000}
TESTED_IMAGES = 500
SIZES_BYTES = (200_000, 2_000_000, 45_000_000)
"""Of the models that are mixed and published."""


def images_for(model: str) -> Dataset:
    """Images that the model takes: the digits, or random ones of CIFAR's shape, since time does not
    depend on what they show. Raises BadInput if it takes neither."""
    name = USUAL_DATASET.get(model, "digits")
    images = load(name, "") if name == "digits" else _random_images(name)
    try:
        nets.build(model, images.input_shape, images.classes, seed=1)
    except BadInput:
        images = _random_images("cifar10")
        nets.build(model, images.input_shape, images.classes, seed=1)
    return images


def _random_images(name: str) -> Dataset:
    draws, count, shape = Stream(1, "calibrate"), TESTED_IMAGES, (3, 32, 32)
    images = (256 * draws.uniforms(count * 3 * 32 * 32)).astype(np.uint8).reshape(count, *shape)
    labels = draws.permutation(count) % CIFAR_CLASSES[name]
    half = (0.5, 0.5, 0.5)
    return Dataset(name, images, labels, images, labels, CIFAR_CLASSES[name], shape, half, half)


def make_learner(
    model: str, images: Dataset, batch_size: int, shard: np.ndarray | None = None
) -> Learner:
    """A worker's learner, on a third of the images where no shard is given."""
    if shard is None:
        shard = np.arange(len(images.train_labels) // len(CLUSTER.workers))
    module = nets.build(model, images.input_shape, images.classes, seed=1)
    return Learner(
        FlatModel(module),
        images,
        shard,
        batch_size=batch_size,
        lr=CLUSTER.training.lr,
        momentum=0.0,
        order=Stream(1, "calibrate", int(shard[0])),
    )


def step_seconds(learner: Learner, seconds: float) -> list[float]:
    """Means of stretches of local steps, for so long; the first, which warms up, is left out."""
    steps = 1
    taken: list[float] = []
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s or len(taken) <= LEAST_STRETCHES:
        taken.append(_mean_seconds(learner.step, steps))
        if len(taken) == 1:
            steps = max(1, round(STRETCH_S / taken[0]))
    return taken[1:]


def test_seconds(learner: Learner, images: Dataset) -> float:
    """Of one test with all of the data set's test images."""
    tested = images.test_images[:TESTED_IMAGES], images.test_labels[:TESTED_IMAGES]
    taken = [_mean_seconds(lambda: learner.evaluate(*tested)) for _ in range(4)]
    return median(taken[1:]) * TEST_IMAGES[images.name] / TESTED_IMAGES


def progress(model: str, images: Dataset, rounds: int) -> Progress:
    """Of workers that each train one pass and then mix everything, round after round."""
    workers = len(CLUSTER.workers)
    shards = partition(images.train_labels, workers, **CLUSTER.partition_settings())
    batch_size = CLUSTER.training.batch_size
    learners = [make_learner(model, images, batch_size, shard) for shard in shards]
    distances = []
    mean = learners[0].model.host.copy()
    for _ in range(rounds):
        for learner in learners:
            for _ in range(learner.pass_steps):
                learner.step()
        before, mean = mean, np.mean([learner.model.host for learner in learners], axis=0)
        for learner in learners:
            learner.model.host[:] = mean
        distances.append(squared_distance(mean, before))
    return fits.progress(distances)


def mixing(repeats: int) -> Affine:
    """Eq. 1 with two copies, by bytes."""
    return _by_size(repeats, _mixer)


def publishing(repeats: int) -> Affine:
    """Copying a snapshot, by bytes."""
    return _by_size(repeats, _publisher)


def _by_size(repeats: int, make: Callable[[int], Callable[[], object]]) -> Affine:
    seconds = []
    for size_bytes in SIZES_BYTES:
        call = make(size_bytes)
        seconds.append(median([_mean_seconds(call) for _ in range(repeats + 1)][1:]))
    return fits.affine(SIZES_BYTES, seconds)


def _mixer(size_bytes: int) -> Callable[[], object]:
    own, first, second, storage = (np.ones(size_bytes // 4, "<f4") for _ in range(4))

    def call() -> None:
        total = LayerSum(own.dtype, storage)
        total.add(first)
        total.add(second)
        total.mix_into(own)

    return call


def _publisher(size_bytes: int) -> Callable[[], object]:
    weights = np.ones(size_bytes // 4, "<f4")
    store = SnapshotStore({"all": (0, size_bytes)}, len(weights), weights.dtype)
    return lambda: store.publish(weights, 0, keep_path=False)


def _mean_seconds(call: Callable[[], object], times: int = 1) -> float:
    began_s = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began_s) / times
