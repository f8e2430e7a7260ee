"""Where a simulation's records go: into memory, into files, and into one hash.

The hash is of everything that happened, in order, on all workers: two runs with equal hashes made
the same decisions at the same times. What a machine may add (host, versions, wall times) the twin
never writes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mpls.core.messages import RecordNote
from mpls.core.trace import Record, command_record

_encoded = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class Recorder:
    """The records of all workers of one simulation. With `kinds` only those are kept and hashed."""

    as_files = True
    """Whether a record is as its line in a file would be read; else it may hold tuples."""

    def __init__(self, kinds: frozenset[str] | None = None) -> None:
        self.records: dict[str, list[Record]] = {}
        self._kinds = kinds
        self._hash = hashlib.sha256()

    def of(self, name: str) -> WorkerRecorder:
        """What one worker writes to."""
        self.records[name] = []
        return WorkerRecorder(self, name)

    def wants(self, kind: str) -> bool:
        """Whether records of this kind are kept; others need not be made."""
        return self._kinds is None or kind in self._kinds

    def keep(self, name: str, record: Record) -> None:
        """One record of one worker."""
        if not self.wants(record["kind"]):
            return
        self.records[name].append(record)
        self._hash.update(_encoded([name, record]).encode())

    def sha256(self) -> str:
        """In hexadecimal."""
        return self._hash.hexdigest()

    def write(self, folder: Path) -> None:
        """A trace file for each worker, as live workers leave them."""
        for name, records in self.records.items():
            with (folder / f"{name}.trace.jsonl").open("w", encoding="utf-8") as file:
                for record in records:
                    file.write(f"{_encoded(record)}\n")


class WorkerRecorder:
    """A `mpls.core.trace.Sink` that knows whose records it gets."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        self._recorder = recorder
        self._name = name
        self.wants = recorder.wants
        self._as_files = recorder.as_files

    def note(self, note: RecordNote, now: float) -> None:
        """Keep what the core wants to have noted, if anybody wants it."""
        if not self.wants(note.kind):
            return
        if self._as_files:
            self.write(command_record(note, now))
        else:
            self.write({"t": now, "kind": note.kind, **note.fields})

    def write(self, record: Record) -> None:
        """Keep one record."""
        self._recorder.keep(self._name, record)
