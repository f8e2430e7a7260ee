"""What a checkpoint takes from training, and how many of the local steps are left with one in ten
rounds.

    .venv/bin/python tests/bench/bench_checkpoint.py

A model of 45 MB with momentum, so that a checkpoint has 90; one torch thread; a round is ten local
steps, so that one is written every five seconds. Twenty steps with a checkpoint among them and
twenty without follow each other, now one first and now the other. The median of the differences is
what one takes: what else the machine does falls on both, and a hundred short pairs say more than
ten long ones. The goal is to keep .98 of the steps.

The training thread only copies; a core to spare does the rest. `taskset -c 0` before the command
says what it costs where there is none. The first checkpoint of a life fetches its memory; told of
alone.
"""

from __future__ import annotations

import os
import time
from math import sqrt
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from threading import Thread

import numpy as np
import torch
from torch import nn

from mpls.checkpoint import CheckpointFolder, Identity
from mpls.core.streams import Stream
from mpls.core.trace import read
from mpls.model.data import load
from mpls.model.layers import FlatModel
from mpls.model.training import Learner
from mpls.runtime.allocator import keep_freed_memory
from mpls.runtime.journal import Clock, Journal
from mpls.runtime.keeper import CorePart, Keeper, ModelPart

PAIRS, STEPS = 60, 20
EVERY_STEPS = 100
"""Local steps in ten rounds, which share a checkpoint."""
GOAL = 0.98


def main() -> None:
    """What it takes, and whether the goal is met."""
    torch.set_num_threads(1)
    keep_freed_memory()
    with TemporaryDirectory(dir=".") as folder:
        trace = Path(folder) / "trace.jsonl"
        with Journal(trace) as journal:
            bench = Bench(_learner(), Path(folder), journal)
            bench.seconds(checkpoint=True)
            pairs = [bench.pair(number % 2 == 0) for number in range(PAIRS)]
            bench.close()
        _, *written_s = [it["seconds"] for it in read(trace) if it["kind"] == "checkpoint"]
    first_s, *copied_s = bench.copied_s
    size = bench.learner.model.manifest.total_bytes
    print(
        f"{size / 1e6:.0f} MB, {PAIRS} checkpoints; {len(os.sched_getaffinity(0))} cores,", end=""
    )
    print(f" load {os.getloadavg()[0]:.1f} at the end, {bench.late} not written in {STEPS} steps")
    print(f"  copy of the state {median(copied_s) * 1e3:.0f} ms, the first {first_s * 1e3:.0f} ms")
    print(f"  hashed, written and synced in {median(written_s) * 1e3:.0f} ms")
    _tell_what_is_kept(pairs)


def _tell_what_is_kept(pairs: list[tuple[float, float]]) -> None:
    low_s, taken_s, high_s = quantiles([saving - alone for alone, saving in pairs], n=4)
    error_s = 0.93 * (high_s - low_s) / sqrt(len(pairs))  # of a median, as normal numbers have it
    alone_s = median(alone for alone, _ in pairs) / STEPS * EVERY_STEPS
    kept, error = alone_s / (alone_s + taken_s), error_s / alone_s
    verdict = "ok" if kept >= GOAL else "MISSED"
    print(f"  takes {taken_s * 1e3:.0f} +- {error_s * 1e3:.0f} ms of training, ", end="")
    print(f"one in {EVERY_STEPS} steps of {alone_s / EVERY_STEPS * 1e3:.0f} ms")
    print(f"  kept: {kept:.3f} +- {error:.3f}  goal {GOAL}: {verdict}")


class Bench:
    """A learner that trains here, and a keeper's thread."""

    def __init__(self, learner: Learner, folder: Path, journal: Journal) -> None:
        self.learner = learner
        self.copied_s: list[float] = []
        """What the training thread spent on each copy of its state."""
        self.late = 0
        """Checkpoints that were not safe yet when their steps were done."""
        self._round = 0
        identity = Identity("w0", learner.model.manifest.hash, {})
        self._keeper = Keeper(CheckpointFolder(folder), identity, 1, dict, journal, Clock())
        self._keeping = Thread(target=self._keeper.run, daemon=True)
        self._keeping.start()

    def pair(self, alone_first: bool) -> tuple[float, float]:
        """Seconds without and with a checkpoint."""
        spent = {it: self.seconds(checkpoint=it) for it in (not alone_first, alone_first)}
        return spent[False], spent[True]

    def seconds(self, checkpoint: bool) -> float:
        """Of the local steps; what is not written by then is waited for, but does not count."""
        start_s = time.perf_counter()
        for number in range(STEPS):
            self.learner.step()
            if number == 0 and checkpoint:
                self._save()
        seconds = time.perf_counter() - start_s
        self.late += self._keeper.saved_round < self._round
        while self._keeper.saved_round < self._round:
            assert not self._keeper.trouble, self._keeper.trouble
            time.sleep(0.001)
        return seconds

    def close(self) -> None:
        """End the thread."""
        self._keeper.close()
        self._keeping.join()

    def _save(self) -> None:
        self._round += 1
        start_s = time.perf_counter()
        tensors, plain = self.learner.state(self._keeper.spare())
        self.copied_s.append(time.perf_counter() - start_s)
        self._keeper.put(ModelPart(self._round, 0, tensors, plain, {}))
        self._keeper.put(CorePart(self._round, {}))


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


if __name__ == "__main__":
    main()
