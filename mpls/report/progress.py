"""What a worker's trace says about it, record by record, for the live table and the summary."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpls.core.trace import Record, parse

_CORE_INNER = ('"kind":"event"', '"kind":"send"', '"kind":"cancel"', '"kind":"publish"')
"""Records that only a replay needs; skipping them unread keeps following a trace cheap."""


class TraceFollower:
    """Reads what was added since the last look to a trace file, and to those of the same worker's
    lives before it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: dict[int, tuple[int, str]] = {}
        """Of each file, whatever its name is by now: how far it was read, and half a line."""

    def new_records(self) -> Iterator[Record]:
        """Whole lines only; a file that does not exist yet has none."""
        for path in (*earlier_lives(self._path), self._path):
            if path.exists():
                yield from self._added(path)

    def _added(self, path: Path) -> Iterator[Record]:
        with path.open(encoding="utf-8") as file:
            number = os.fstat(file.fileno()).st_ino
            position, rest = self._read.get(number, (0, ""))
            file.seek(position)
            *lines, rest = (rest + file.read()).split("\n")
            self._read[number] = file.tell(), rest
        for line in lines:
            if not any(kind in line[:64] for kind in _CORE_INNER):
                yield parse(line, str(path))


def earlier_lives(trace: Path) -> list[Path]:
    """w0.trace.1.jsonl, w0.trace.2.jsonl and so on, of w0.trace.jsonl."""
    found = trace.parent.glob(f"{trace.stem}.*{trace.suffix}")
    return sorted(found, key=lambda path: int(path.stem.rpartition(".")[2]))


@dataclass
class WorkerProgress:
    """The state of one worker, folded from its records."""

    name: str
    state: str = "starting"
    reason: str = ""
    pid: int | None = None
    lives: int = 0
    """How often it was started."""
    round: int = 0
    local_steps: int = 0
    loss: float | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None
    class_accuracy: list[float | None] = field(default_factory=list)
    local_accuracy: float | None = None
    mixed_round: int = 0
    """Round of the last evaluation after mixing."""
    bytes_in: int = 0
    bytes_out: int = 0
    in_Bps: float = 0.0
    out_Bps: float = 0.0
    staleness: float | None = None
    """Rounds that the copies of the last mixing were behind this worker, on average."""
    plan: str = ""
    pulls_ok: int = 0
    pulls_failed: int = 0
    pulls_cancelled: int = 0
    first_step_s: float | None = None
    """When the first local pass ended, on the worker's clock."""
    peak_bytes: int = 0
    unsaved: str = ""
    """Why the latest checkpoint could not be written."""
    quarantines: dict[str, int] = field(default_factory=dict)
    """How often each peer was quarantined, if it was."""
    _quarantined: dict[str, set[float]] = field(default_factory=dict)
    """Peer -> ends of its quarantines."""
    _before: tuple[int, int] = (0, 0)
    """Bytes in and out of the lives before."""
    _rated: tuple[float, int, int] = (0.0, 0, 0)
    """When the rates were last computed, and the bytes in and out until then."""

    def take(self, record: Record) -> None:
        """Fold in one record; kinds it does not know change nothing."""
        handler = _FOLDS.get(record["kind"])
        if handler is not None:
            handler(self, record)

    def _header(self, record: Record) -> None:
        self.pid = record["pid"]
        self.lives += 1
        self._before = self.bytes_in, self.bytes_out
        self._rated = 0.0, self.bytes_in, self.bytes_out

    def _state(self, record: Record) -> None:
        self.state = record["state"]
        self.reason = record.get("reason", "")

    def _pass(self, record: Record) -> None:
        self.local_steps += record["steps"]
        self.loss = record["loss"]
        if self.first_step_s is None:
            self.first_step_s = record["t"] - record["seconds"] * (1 - 1 / record["steps"])

    def _mix(self, record: Record) -> None:
        self.round = record["round"]
        lags = {int(lag): count for lag, count in record["staleness"].items()}
        copies = sum(lags.values())
        if copies:
            # A peer that is ahead of this worker is not stale.
            self.staleness = sum(max(0, lag) * count for lag, count in lags.items()) / copies

    def _plan(self, record: Record) -> None:
        chosen = ((peer, layers) for peer, layers in record["assignment"].items() if layers)
        self.plan = "  ".join(f"{peer}: {' '.join(layers)}" for peer, layers in chosen) or "nothing"

    def _pull(self, record: Record) -> None:
        if record["outcome"] == "applied":
            self.pulls_ok += 1
        elif record["outcome"] == "cancelled":
            self.pulls_cancelled += 1
        else:
            self.pulls_failed += 1

    def _eval(self, record: Record) -> None:
        if record["which"] == "local":
            self.local_accuracy = record["accuracy"]
            return
        self.mixed_round = record["round"]
        self.test_accuracy = record["accuracy"]
        self.test_loss = record["loss"]
        self.class_accuracy = record["class_accuracy"]

    def _traffic(self, record: Record) -> None:
        self.bytes_in = self._before[0] + record["bytes_in"]
        self.bytes_out = self._before[1] + record["bytes_out"]
        began_s, bytes_in, bytes_out = self._rated
        seconds = record["t"] - began_s
        if seconds > 0.2:
            self.in_Bps = (self.bytes_in - bytes_in) / seconds
            self.out_Bps = (self.bytes_out - bytes_out) / seconds
            self._rated = (record["t"], self.bytes_in, self.bytes_out)
        self.peak_bytes = record["peak_bytes"]

    def _checkpoint(self, record: Record) -> None:
        self.unsaved = record.get("failed", "")

    def _peer(self, record: Record) -> None:
        until = self._quarantined.setdefault(record["peer"], set())
        if record["standing"] == "quarantined":  # told of again every minute, with the same end
            until.add(record["until_s"])
            self.quarantines[record["peer"]] = len(until)


_FOLDS: dict[str, Any] = {
    "header": WorkerProgress._header,
    "state": WorkerProgress._state,
    "pass": WorkerProgress._pass,
    "mix": WorkerProgress._mix,
    "plan": WorkerProgress._plan,
    "pull": WorkerProgress._pull,
    "eval": WorkerProgress._eval,
    "traffic": WorkerProgress._traffic,
    "checkpoint": WorkerProgress._checkpoint,
    "peer": WorkerProgress._peer,
}
