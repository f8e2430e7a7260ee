"""Real training in the twin, beside goal 14: what the simulation adds to the training, what a
second process brings, and what batched calls bring.

    .venv/bin/python tests/bench/bench_real.py

Medians of interleaved repeats. Exit 1 if a goal is missed.

- overhead: wall time of a whole simulation in one process over the time spent in local steps and
  tests in that same run. Three workers in a ring with passes of 83 steps, as `python -m sim` has
  them by default.
- two processes: wall time of the same simulation with one process over that with two.
- batched: microseconds of a local step of `simple-mlp`, 30 workers one by one over eight at a time.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from mpls.config import ClusterConfig, builtin, changed
from mpls.model import nets
from mpls.model.data import load
from mpls.model.layers import FlatModel
from sim import calibration
from sim.network import drawn_links, make_network
from sim.point import SUMMARY_KINDS
from sim.real import Real
from sim.real_bench import Bench, Job, Task
from sim.real_crew import Alone
from sim.record import Recorder
from sim.twin import Twin

REPEATS = 5
OVERHEAD_LIMIT = 1.1
PROCESSES_GOAL = 1.8
BATCHED_GOAL = 1.5
CALIBRATION = calibration.load()


def main() -> int:
    """Prints a line for each figure; returns the exit code."""
    missed = [
        report("overhead, simple-mlp", lambda: overhead("simple-mlp", 30), most=OVERHEAD_LIMIT),
        report("overhead, lenet5", lambda: overhead("lenet5", 2), most=OVERHEAD_LIMIT),
        report("two processes, lenet5", lambda: two_processes("lenet5", 4), least=PROCESSES_GOAL),
        report("two processes, simple-mlp", lambda: two_processes("simple-mlp", 40)),
        report("batched, simple-mlp", batched, least=BATCHED_GOAL),
    ]
    return int(any(missed))


def report(
    what: str, ratio: Callable[[], float], least: float = 0.0, most: float = float("inf")
) -> bool:
    """Whether the median ratio misses its goal."""
    ratios = sorted(ratio() for _ in range(REPEATS))
    middle = median(ratios)
    missed = not least <= middle <= most
    goal = f"goal <= {most}" if most < float("inf") else f"goal >= {least}" if least else "no goal"
    print(
        f"{what:28} {middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), {goal}"
        f"{'   MISSED' if missed else ''}",
        flush=True,
    )
    return missed


# --- the figures ---


def overhead(model: str, rounds: int) -> float:
    """Wall time of a simulation over its training time."""
    config = cluster(model, 3, rounds)
    learning = Real(config, CALIBRATION)
    warm_up(learning)
    watch = Stopwatch(learning)
    return simulate(config, learning) / watch.seconds


def two_processes(model: str, rounds: int) -> float:
    """Wall time with one process over that with two."""
    config = cluster(model, 8, rounds, local_steps=24)
    seconds = []
    for jobs in (1, 2):
        learning = Real(config, CALIBRATION, jobs)
        warm_up(learning)
        seconds.append(simulate(config, learning))
    return seconds[0] / seconds[1]


def batched() -> float:
    """Time of a local step alone over that of one among eight."""
    alone_s, together_s = (_step_s(is_batched) for is_batched in (False, True))
    return alone_s / together_s


class Stopwatch:
    """Adds up the time that a simulation in one process trains and tests."""

    def __init__(self, learning: Real) -> None:
        assert isinstance(learning.crew, Alone)
        self.seconds = 0.0
        self._bench = learning.crew.bench
        learning.crew.bench = self  # type: ignore[assignment]

    def work(self, jobs: list[Job]) -> object:
        """See `Bench`."""
        began_s = time.perf_counter()
        done = self._bench.work(jobs)
        self.seconds += time.perf_counter() - began_s
        return done


def cluster(model: str, workers: int, rounds: int, local_steps: int = 0) -> ClusterConfig:
    """In a ring, on digits, links of 10-15 MB/s."""
    tables = {
        "workers": [{"id": i, "address": "127.0.0.1:0"} for i in range(workers)],
        "model": {"name": model},
        "training": {"rounds": rounds, "local_steps": local_steps},
        "network": {"emulate": "10-15MB"},
    }
    return changed(builtin().model_copy(update={"workers": ()}), tables, "bench")


def warm_up(learning: Real) -> None:
    """Have all processes up."""
    for worker in range(len(learning.shards)):
        learning.evaluate(worker)


def simulate(config: ClusterConfig, learning: Real) -> float:
    """Seconds of wall time."""
    links = drawn_links(config.network.emulate or config.network.prior_bw, 1)
    timing = CALIBRATION.timing(config.model.name)
    twin = Twin(
        config,
        learning,
        lambda clock: make_network("fluid", clock, links, None, CALIBRATION.overhead()),
        timing,
        Recorder(SUMMARY_KINDS),
    )
    began_s = time.perf_counter()
    twin.run()
    wall_s = time.perf_counter() - began_s
    learning.close()
    return wall_s


def _step_s(is_batched: bool) -> float:
    digits, workers, steps = load("digits", ""), 30, 40
    shards = tuple(np.array_split(np.arange(len(digits.train_labels)), workers))
    names = tuple(f"w{i}" for i in range(workers))
    task = Task("simple-mlp", 1, digits, shards, names, 32, 0.1, 0.0, "cpu")
    initial = FlatModel(nets.build("simple-mlp", (1, 28, 28), 10, 1)).host
    bench = Bench(task, {worker: initial.copy() for worker in range(workers)})
    if not is_batched:
        bench.together = None
    jobs = [Job(worker, steps, test=False) for worker in range(workers)]
    began_s = time.thread_time()
    while jobs:
        bench.work(jobs)
    return (time.thread_time() - began_s) / steps / workers


if __name__ == "__main__":
    sys.exit(main())
