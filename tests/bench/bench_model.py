"""What a local step costs, and what one flat parameter saves over many.

    .venv/bin/python tests/bench/bench_model.py

Medians of interleaved repeats, one thread, batches of 32 digits. `flat` is a Learner's step; its
rival does the same with torch.optim.SGD over the module's parameters, as a textbook would.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from mpls.core.streams import Stream
from mpls.model.data import Dataset, load
from mpls.model.layers import FlatModel
from mpls.model.nets import build
from mpls.model.training import Learner

REPEATS = 7
BATCH = 32


def main() -> None:
    """Two lines for each network."""
    torch.set_num_threads(1)
    digits = load("digits", "")
    for name, steps in (("simple-mlp", 300), ("lenet5", 60)):
        report(name, _learner(name, digits), _plain_step(name, digits), digits, steps)


def report(
    name: str, learner: Learner, plain: Callable[[], None], digits: Dataset, steps: int
) -> None:
    """A local step against its rival; then a test and a publication."""
    flat_us, plain_us = _interleaved(learner.step, plain, steps=steps)
    snapshot = learner.model.manifest.empty()
    test_us, publish_us = _interleaved(
        lambda: learner.evaluate(digits.test_images, digits.test_labels),
        lambda: np.copyto(snapshot, learner.model.host),
        steps=3,
    )
    print(
        f"{name:11} flat {flat_us:.0f} us/step, per parameter {plain_us:.0f} us/step, "
        f"ratio {flat_us / plain_us:.2f}\n"
        f"{'':11} test on 2,000 digits {test_us / 1000:.1f} ms, publishing {publish_us:.0f} us"
    )


def _learner(name: str, digits: Dataset) -> Learner:
    model = FlatModel(build(name, digits.input_shape, digits.classes, seed=1))
    shard = np.arange(len(digits.train_labels) // 3)
    return Learner(
        model, digits, shard, batch_size=BATCH, lr=0.01, momentum=0.0, order=Stream(1, "bench")
    )


def _plain_step(name: str, digits: Dataset) -> Callable[[], None]:
    module = build(name, digits.input_shape, digits.classes, seed=1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    count = len(digits.train_labels) // 3
    images = (torch.from_numpy(digits.train_images[:count]) / 255 - 0.1307) / 0.3081
    labels = torch.from_numpy(digits.train_labels[:count])
    generator = torch.Generator().manual_seed(1)

    def step() -> None:
        batch = torch.randint(count, (BATCH,), generator=generator)
        optimizer.zero_grad()
        loss = cross_entropy(module(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def _interleaved(*calls: Callable[[], object], steps: int) -> list[float]:
    """Median microseconds of one call of each, measured in turn."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(REPEATS):
        for call, samples in zip(calls, taken):
            started = time.perf_counter()
            for _ in range(steps):
                call()
            samples.append((time.perf_counter() - started) / steps * 1e6)
    return [statistics.median(samples) for samples in taken]


if __name__ == "__main__":
    main()
