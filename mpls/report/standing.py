"""How each worker of a run stands, as its trace tells: alive or not, how far, what is wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpls.core.trace import Record
from mpls.report.progress import TraceFollower, WorkerProgress

SILENT_S = 10.0
"""A worker writes once a second at least; after this long without a line it is silent."""
ENDED = ("stopped", "failed")


@dataclass
class Standing:
    """One worker."""

    progress: WorkerProgress
    checkpoint_round: int | None = None
    peers: dict[str, str] = field(default_factory=dict)
    silent_s: float = 0.0
    """Since its trace last grew."""

    def take(self, record: Record) -> None:
        """Fold in one record."""
        self.progress.take(record)
        if record["kind"] == "checkpoint" and not self.unsaved:
            self.checkpoint_round = record["round"]
        elif record["kind"] == "peer":
            if record["standing"] == "removed":
                self.peers.pop(record["peer"], None)
            else:
                self.peers[record["peer"]] = record["standing"]
        elif record["kind"] == "header":
            self.peers.clear()

    @property
    def unsaved(self) -> str:
        """Why the latest checkpoint could not be written; empty if it could."""
        return self.progress.unsaved

    @property
    def is_well(self) -> bool:
        """Whether nobody has to look after it."""
        return self.progress.state != "failed" and not self._is_silent and not self.unsaved

    def troubles(self) -> list[str]:
        """All that is not as it should be, each with its name."""
        found = [self.progress.reason] if self.progress.state == "failed" else []
        if self._is_silent:
            found.append(f"silent for {self.silent_s:.0f} s: its process is gone, or hangs")
        if self.unsaved:
            found.append(f"checkpoint: {self.unsaved}")
        if self.progress.state not in ENDED:
            away = (f"{name} {how}" for name, how in self.peers.items() if how != "ready")
            found += [f"peer {it}" for it in away]
        return found

    def as_plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        progress = self.progress
        return {
            "worker": progress.name,
            "well": self.is_well,
            "state": progress.state,
            "round": progress.round,
            "lives": progress.lives,
            "local_steps": progress.local_steps,
            "test_accuracy": progress.test_accuracy,
            "checkpoint_round": self.checkpoint_round,
            "peers": self.peers,
            "silent_s": round(self.silent_s, 1),
            "troubles": self.troubles(),
        }

    @property
    def _is_silent(self) -> bool:
        return self.progress.state not in ENDED and self.silent_s > SILENT_S


def standings(folder: Path, names: Sequence[str]) -> Iterator[Standing]:
    """Of those of the workers who left a trace in the run's folder."""
    for name in names:
        trace = folder / f"{name}.trace.jsonl"
        if trace.exists():
            standing = Standing(WorkerProgress(name))
            for record in TraceFollower(trace).new_records():
                standing.take(record)
            standing.silent_s = max(0.0, time.time() - trace.stat().st_mtime)
            yield standing
