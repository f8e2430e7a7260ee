"""`summary.json`: what became of a run, from its traces and its workers' exit codes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from mpls.report.progress import WorkerProgress


def summarise(
    workers: Sequence[WorkerProgress],
    exits: Sequence[int],
    folder: Path,
    *,
    status: str,
    strategy: str,
    seconds: float,
    ids: Sequence[int] = (),
) -> dict[str, Any]:
    """The summary's content, of the workers with these ids, or from 0 on. Bytes are those of ZeroMQ
    payloads, headers included."""
    files = [folder / f"{worker.name}.safetensors" for worker in workers]
    return {
        "status": status,
        "strategy": strategy,
        "seconds": round(seconds, 3),
        "workers": [
            _worker(number, worker, code)
            for number, worker, code in zip(ids or range(len(workers)), workers, exits)
        ],
        "consensus_distance": consensus_distance(files) if len(files) > 1 else None,
    }


def write(summary: dict[str, Any], folder: Path) -> None:
    """As `summary.json` in the run's folder."""
    text = json.dumps(summary, indent=1, allow_nan=False)
    (folder / "summary.json").write_text(f"{text}\n", encoding="utf-8")


def _worker(number: int, worker: WorkerProgress, code: int) -> dict[str, Any]:
    return {
        "id": number,
        "name": worker.name,
        "pid": worker.pid,
        "lives": worker.lives,
        "rounds": worker.round,
        "local_steps": worker.local_steps,
        "test_accuracy": worker.test_accuracy,
        "local_accuracy": worker.local_accuracy,
        "test_loss": worker.test_loss,
        "class_accuracy": worker.class_accuracy,
        "bytes_in": worker.bytes_in,
        "bytes_out": worker.bytes_out,
        "pulls_ok": worker.pulls_ok,
        "pulls_failed": worker.pulls_failed,
        "pulls_cancelled": worker.pulls_cancelled,
        "peak_bytes": worker.peak_bytes,
        "quarantines": worker.quarantines,
        "unsaved": worker.unsaved,
        "state": worker.state,
        "reason": worker.reason,
        "exit": code,
    }


def consensus_distance(files: Sequence[Path]) -> float | None:
    """Root mean square over the workers of the L2 distance of their final weights from the mean
    of all; None unless every worker left its weights, and all of them finite."""
    if not files or not all(file.exists() for file in files):
        return None
    models = [load_file(file) for file in files]
    squares = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for tensor in models[0]:
            stack = np.stack([model[tensor].astype(np.float64) for model in models])
            squares += float(((stack - stack.mean(axis=0)) ** 2).sum())
    return sqrt(squares / len(models)) if isfinite(squares) else None
