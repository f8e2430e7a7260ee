"""What checkpoints take from training: local steps per second with one after each ten rounds, and
with none.

    .venv/bin/python tests/bench/bench_checkpoint.py

A model of 45 MB with momentum, so that a checkpoint has 90; one torch thread; a round is ten local
steps, so that one is written every five seconds. Medians of interleaved repeats. The goal is to
keep .98 of the steps with the default, one in ten rounds.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Thread

import numpy as np
import torch
from torch import nn

from mpls.checkpoint import CheckpointFolder, Identity
from mpls.core.streams import Stream
from mpls.model.data import load
from mpls.model.layers import FlatModel
from mpls.model.training import Learner
from mpls.runtime.allocator import keep_freed_memory
from mpls.runtime.journal import Clock, Journal
from mpls.runtime.keeper import CorePart, Keeper, ModelPart

REPEATS, ROUNDS, STEPS = 3, 20, 10
BEFORE_ROUNDS = 5
"""Not timed, so that what is written falls into the time that is."""
EVERY_ROUNDS = (0, 10)
GOAL = 0.98


def main() -> None:
    """A line for each, and whether the goal is met."""
    torch.set_num_threads(1)
    keep_freed_memory()
    learner = _learner()
    print(f"{learner.model.manifest.total_bytes / 1e6:.0f} MB, rounds of {STEPS} local steps")
    found: dict[int, list[float]] = defaultdict(list)
    with TemporaryDirectory(dir=".") as folder:
        for _ in range(REPEATS + 1):
            for every_rounds in EVERY_ROUNDS:
                found[every_rounds].append(_steps_per_s(learner, every_rounds, Path(folder)))
    for every_rounds in EVERY_ROUNDS:
        rates = found[every_rounds][1:]
        ratio = median(rate / alone for rate, alone in zip(rates, found[0][1:]))
        verdict = f"  goal {GOAL}: {'ok' if ratio >= GOAL else 'MISSED'}" * (every_rounds == 10)
        name = f"one in {every_rounds} rounds" if every_rounds else "no checkpoints"
        print(f"  {name:16} {median(rates):6.1f} steps/s, {ratio:.3f} of none{verdict}")


def _learner() -> Learner:
    digits = load("digits", "")
    torch.manual_seed(1)
    wide = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 2400), nn.ReLU(), nn.Linear(2400, 3860), nn.ReLU()
    )
    model = FlatModel(nn.Sequential(wide, nn.Linear(3860, 10)))
    shard = np.arange(len(digits.train_labels))
    order = Stream(1, "bench")
    return Learner(model, digits, shard, batch_size=32, lr=0.01, momentum=0.9, order=order)


def _steps_per_s(learner: Learner, every_rounds: int, folder: Path) -> float:
    clock = Clock()
    with Journal(folder / "trace.jsonl") as journal:
        identity = Identity("w0", learner.model.manifest.hash, {})
        keeper = Keeper(CheckpointFolder(folder), identity, every_rounds, dict, journal, clock)
        keeping = Thread(target=keeper.run)
        keeping.start()
        start_s = 0.0
        for number in range(1, BEFORE_ROUNDS + ROUNDS + 1):
            for _ in range(STEPS):
                learner.step()
            if keeper.due(number):
                keeper.put(ModelPart(number, 0, *learner.state(), {}))
                keeper.put(CorePart(number, {}))
            if number == BEFORE_ROUNDS:
                start_s = time.perf_counter()
        seconds = time.perf_counter() - start_s
        keeper.close()
        keeping.join()
        return ROUNDS * STEPS / seconds


if __name__ == "__main__":
    main()
