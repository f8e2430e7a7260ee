"""What a live federation costs on this machine: time a round, start-up, memory, bytes, and what
serving and aggregating take from training.

    .venv/bin/python tests/bench/bench_live.py

Every figure is the median of interleaved repeats of `mpls run` with real processes. Bytes are read
from the loopback interface's counters, so they include ZeroMQ's and TCP's own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpls.config import builtin, changed, dumps
from mpls.core.trace import Record, read

REPEATS = 5
ROUNDS = 60
LOOPBACK_COUNTER = Path("/sys/class/net/lo/statistics/rx_bytes")


@dataclass(frozen=True)
class Run:
    """One finished run."""

    command_unix_s: float
    interface_bytes: int
    summary: dict[str, Any]
    traces: list[list[Record]]


def main() -> None:
    """Print two tables; exit 1 if a goal is missed."""
    with tempfile.TemporaryDirectory() as folder:
        missed = [*federation(Path(folder)), *disturbance(Path(folder))]
    for line in missed:
        print(f"missed: {line}")
    sys.exit(1 if missed else 0)


def federation(folder: Path) -> Iterable[str]:
    """Three workers as fast as they go, lr .01, against the limits of issue 2."""
    config = folder / "fast.toml"
    write(config, 3, {"network": {"emulate": ""}, "training": {"rounds": ROUNDS, "lr": 0.01}})
    runs = [run(config, folder) for _ in range(REPEATS)]
    print(f'three workers, emulate = "", {ROUNDS} rounds, lr .01, medians of {REPEATS} runs')
    limits = [
        ("seconds a round", median(map(round_s, runs)), 0.12),
        ("seconds from command to first step", median(map(first_step_s, runs)), 5.0),
        ("peak MB a worker", median(map(peak_MB, runs)), 380.0),
        ("interface MB a round of all workers", median(map(interface_MB, runs)), None),
        ("mean test accuracy", median(map(accuracy, runs)), None),
    ]
    for name, value, limit in limits:
        print(f"  {name:38} {value:8.3f}{f'   limit {limit:g}' if limit else ''}")
        if limit and value > limit:
            yield f"{name}: {value:.3f} > {limit:g}"


def disturbance(folder: Path) -> Iterable[str]:
    """Two workers, a core each: local steps per second with the other two threads idle, and busy
    with pulls of the whole model in both directions, one after the other, at 10-15 MB/s."""
    seconds: dict[str, list[float]] = {"local": [], "appg": []}
    for strategy in seconds:
        tables = {"mpls": {"strategy": strategy}, "training": {"rounds": 300, "eval_every": 300}}
        write(folder / f"{strategy}.toml", 2, {**tables, "cluster": {"topology": "full"}})
    for _ in range(REPEATS):
        for strategy, steps in seconds.items():
            steps.append(step_s(run(folder / f"{strategy}.toml", folder)))
    idle, busy = (1 / median(seconds[strategy]) for strategy in ("local", "appg"))
    print("one of two workers, local steps per second")
    print(f"  other threads idle {idle:.0f}, busy {busy:.0f}, ratio {busy / idle:.3f}   limit .85")
    if busy < 0.85 * idle:
        yield f"training keeps {busy / idle:.3f} of its steps per second while serving"


def write(file: Path, workers: int, tables: dict[str, dict[str, Any]]) -> None:
    """The built-in cluster with some keys replaced."""
    config = builtin()
    config = config.model_copy(update={"workers": config.workers[:workers]})
    file.write_text(dumps(changed(config, tables)))


def run(config: Path, folder: Path) -> Run:
    """A whole `mpls run`, as a user would start it."""
    before, command_unix_s = int(LOOPBACK_COUNTER.read_text()), time.time()
    command = [sys.executable, "-m", "mpls", "run", str(config), "--out", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    moved_bytes = int(LOOPBACK_COUNTER.read_text()) - before
    summary = json.loads(done.stdout)
    latest = folder / "latest"
    traces = [list(read(latest / f"{w['name']}.trace.jsonl")) for w in summary["workers"]]
    return Run(command_unix_s, moved_bytes, summary, traces)


def round_s(run: Run) -> float:
    """Mean over workers and rounds."""
    return statistics.fmean(worker_round_s(trace) for trace in run.traces)


def worker_round_s(trace: list[Record]) -> float:
    """From the first round's beginning to the last one's mixing."""
    passes = [record for record in trace if record["kind"] == "pass"]
    mixes = [record for record in trace if record["kind"] == "mix"]
    return float(mixes[-1]["t"] - (passes[0]["t"] - passes[0]["seconds"])) / len(mixes)


def step_s(run: Run) -> float:
    """Median over passes; the first ones warm up."""
    passes = [record for trace in run.traces for record in trace if record["kind"] == "pass"]
    return median(record["seconds"] / record["steps"] for record in passes[10:])


def first_step_s(run: Run) -> float:
    """From the command to the end of the last worker's first local step."""
    return max(first_step_unix_s(trace) for trace in run.traces) - run.command_unix_s


def first_step_unix_s(trace: list[Record]) -> float:
    """By the worker's own clock."""
    head = next(record for record in trace if record["kind"] == "header")
    first = next(record for record in trace if record["kind"] == "pass")
    ended_s = first["t"] - first["seconds"] * (1 - 1 / first["steps"])
    return float(head["started_unix_s"] + ended_s)


def peak_MB(run: Run) -> float:
    """Of the largest worker."""
    return float(max(worker["peak_bytes"] for worker in run.summary["workers"]) / 1e6)


def interface_MB(run: Run) -> float:
    """Of all workers, for each round."""
    return run.interface_bytes / ROUNDS / 1e6


def accuracy(run: Run) -> float:
    """Mean over the workers."""
    return statistics.fmean(worker["test_accuracy"] for worker in run.summary["workers"])


def median(values: Iterable[float]) -> float:
    """Of at least one value."""
    return statistics.median(values)


if __name__ == "__main__":
    main()
