"""A recorded run, live or simulated, as values: what its traces say of each worker.

A run's folder has `cluster.toml` and `NAME.trace.jsonl` of every worker: `mpls run` leaves such
folders, and so does `python -m sim --trace full` for each point. Times are seconds on the worker's
own clock, as its core was told them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

from mpls.config import ClusterConfig, load
from mpls.core.protocol import Vector
from mpls.core.spec import WorkerSpec
from mpls.core.trace import SCHEMA, Record, read
from mpls.errors import BadInput, shown
from sim.learning import Scores

CLUSTER_FILE = "cluster.toml"


@dataclass(frozen=True)
class Pass:
    """A stretch of local steps, of the round that it leads to."""

    round: int
    steps: int
    seconds: float
    loss: float | None


@dataclass(frozen=True)
class Evaluation:
    """A test of the weights, `local` before mixing or `mixed` after."""

    round: int
    which: str
    seconds: float
    scores: Scores


@dataclass(frozen=True)
class Transfer:
    """An attempt of a pull, or a probe, that moved bytes."""

    peer: str
    """Who sent them."""
    start_s: float
    seconds: float
    """From the request to the last byte's arrival."""
    wait_s: float
    """Of these, the server's own delay before the first byte."""
    bytes: int
    whole: bool
    """Whether all that was asked for came."""


@dataclass(frozen=True)
class Movement:
    """How far a worker's layers moved between two of its versions, as it told a peer (Eq. 5)."""

    server: str
    since: int
    until: int
    progress: Vector


@dataclass(frozen=True)
class RecordedWorker:
    """One worker's trace. Everything is in the order in which it began."""

    spec: WorkerSpec
    passes: tuple[Pass, ...]
    mix_s: tuple[float, ...]
    publish_s: tuple[float, ...]
    """From the end of each mixing to the snapshot of it."""
    tests: tuple[Evaluation, ...]
    transfers: tuple[Transfer, ...]
    """To this worker."""
    round_trips_s: tuple[float, ...]
    """Of its status requests."""
    movements: tuple[Movement, ...]
    """Of its peers."""

    @property
    def rounds(self) -> int:
        """Mixings that it did."""
        return len(self.mix_s)


@dataclass(frozen=True)
class RecordedRun:
    """`workers[i]` is worker i of `config`; one that had left before it began did nothing."""

    place: str
    """The folder, for errors and labels."""
    config: ClusterConfig
    workers: tuple[RecordedWorker, ...]
    sha256: str
    """Of the files that it was read from."""


def read_run(folder: Path) -> RecordedRun:
    """The run in a folder. Raises BadInput, one line that names the folder or the file, where it is
    none or not all there."""
    cluster = folder / CLUSTER_FILE
    if not cluster.is_file():
        hint = f"; {_near_by(folder)} is one" if _near_by(folder) else ""
        raise BadInput(f"{folder}: no folder of a run, it has no {CLUSTER_FILE}{hint}")
    config = load(cluster)
    traces = [folder / f"{worker.name}.trace.jsonl" for worker in config.workers]
    here = [not it.left or trace.exists() for it, trace in zip(config.workers, traces)]
    for trace in compress(traces, here):
        if not trace.is_file():
            raise BadInput(
                f"{folder}: {trace.name} is missing; a recorded run has the trace of every worker "
                "(`mpls run` leaves them, and `python -m sim --trace full` below traces/)"
            )
    digest = hashlib.sha256()
    for path in (cluster, *compress(traces, here)):
        digest.update(path.read_bytes())
    found = [read_worker(read(trace), str(trace)) for trace in compress(traces, here)]
    in_order = iter(found)
    workers = tuple(
        next(in_order) if is_here else _absent(found[0], worker.name)
        for worker, is_here in zip(config.workers, here)
    )
    return RecordedRun(str(folder), config, workers, digest.hexdigest())


def _absent(other: RecordedWorker, name: str) -> RecordedWorker:
    """One that had left before the run began: it trains what an `other` does, and did nothing."""
    spec = replace(other.spec, name=name, peers=())
    return RecordedWorker(spec, (), (), (), (), (), (), ())


def _near_by(folder: Path) -> Path | None:
    """A run just below: `mpls run --out FOLDER` makes its run's folder in there."""
    found = sorted(folder.glob(f"*/{CLUSTER_FILE}")) + sorted(
        folder.glob(f"traces/*/{CLUSTER_FILE}")
    )
    return found[0].parent if found else None


def read_worker(records: Iterable[Record], place: str) -> RecordedWorker:
    """What the records of a trace found at `place` say. Raises BadInput for what is no trace."""
    reader: _Reader | None = None
    for number, record in enumerate(records, 1):
        try:
            if record["kind"] == "header":
                _demand_schema(record, place)
                reader = reader or _Reader(WorkerSpec.from_plain(record["spec"]))
                reader.begin()
            elif reader is not None:
                reader.take(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(
                f"{place}: record {number}: not one of this version ({error!r})"
            ) from None
    if reader is None:
        raise BadInput(f"{place}: the trace has no header")
    return reader.worker()


def _demand_schema(header: Record, place: str) -> None:
    if header.get("schema") != SCHEMA:
        found = shown(header.get("schema"))
        raise BadInput(f"{place}: trace schema {found}; this version reads {SCHEMA}")


@dataclass
class _Asked:
    """A request that was sent."""

    peer: str
    message: Record
    start_s: float
    reference: int | None
    """The version that its server had last given us whole by then: t' of Eq. 5."""
    missing: set[str]
    wait_s: float = 0.0


class _Reader:
    """Follows one worker's records. After a restart it has a new life, and a header again."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._asked: dict[int, _Asked] = {}
        self._references: dict[str, int] = {}
        self._mixed: Record | None = None
        """A mixing whose snapshot has not come yet."""
        self._passes: list[Pass] = []
        self._mix_s: list[float] = []
        self._publish_s: list[float] = []
        self._tests: list[Evaluation] = []
        self._transfers: list[Transfer] = []
        self._round_trips_s: list[float] = []
        self._movements: list[Movement] = []
        self._kinds: dict[str, Any] = {
            "pass": self._pass,
            "mix": self._mix,
            "snapshot": self._snapshot,
            "eval": self._test,
            "send": self._send,
            "attempt": self._attempt,
            "event": self._event,
        }

    def begin(self) -> None:
        """Request ids begin anew."""
        self._asked.clear()

    def take(self, record: Record) -> None:
        """The next record."""
        kind = self._kinds.get(record["kind"])
        if kind is not None:
            kind(record)

    def worker(self) -> RecordedWorker:
        """All that was read."""
        return RecordedWorker(
            self._spec,
            tuple(self._passes),
            tuple(self._mix_s),
            tuple(self._publish_s),
            tuple(self._tests),
            tuple(sorted(self._transfers, key=lambda transfer: transfer.start_s)),
            tuple(self._round_trips_s),
            tuple(self._movements),
        )

    def _pass(self, record: Record) -> None:
        loss = record["loss"]
        self._passes.append(Pass(record["round"], record["steps"], record["seconds"], loss))

    def _mix(self, record: Record) -> None:
        self._mix_s.append(record["seconds"])
        self._mixed = record

    def _snapshot(self, record: Record) -> None:
        mixed, self._mixed = self._mixed, None
        if mixed is not None and mixed["round"] == record["round"]:
            self._publish_s.append(record["t"] - mixed["t"])

    def _test(self, record: Record) -> None:
        scores = Scores(record["accuracy"], record["loss"], tuple(record["class_accuracy"]))
        self._tests.append(Evaluation(record["round"], record["which"], record["seconds"], scores))

    def _send(self, record: Record) -> None:
        peer, message = record["command"]["peer"], record["command"]["message"]
        reference = self._references.get(peer)
        missing = set(message.get("layers", ()))
        self._asked[message["id"]] = _Asked(peer, message, record["t"], reference, missing)

    def _attempt(self, record: Record) -> None:
        if record["bytes"] <= 0:
            return
        asked = self._asked.get(record["request"])
        self._transfers.append(
            Transfer(
                record["peer"],
                record["start_s"],
                record["seconds"],
                asked.wait_s if asked is not None else 0.0,
                record["bytes"],
                record["outcome"] == "ok",
            )
        )

    def _event(self, record: Record) -> None:
        event, now = record["event"], record["t"]
        if event["is"] == "LayerReceived":
            self._layer(event)
        elif event["is"] == "Replied" and event["reply"]["is"] == "StatusOk":
            self._status(event["reply"], now)
        elif event["is"] == "Progress":
            self._probed(event, now)

    def _layer(self, event: Record) -> None:
        asked = self._asked.get(event["request_id"])
        if asked is None:
            return
        asked.wait_s = event["wait_s"]
        asked.missing.discard(event["layer"])
        if not asked.missing:
            # Measured against what had come whole before, even if asked for earlier.
            self._moved(asked.peer, self._references.get(asked.peer), event)
            self._references[asked.peer] = event["version"]

    def _status(self, reply: Record, now: float) -> None:
        asked = self._asked.pop(reply["id"], None)
        if asked is not None:
            self._round_trips_s.append(now - asked.start_s)
            self._moved(asked.peer, asked.reference, reply)

    def _moved(self, peer: str, since: int | None, told: Record) -> None:
        progress, until = told["progress"], told["version"]
        if since is not None and progress is not None and since < until:
            self._movements.append(Movement(peer, since, until, tuple(map(float, progress))))

    def _probed(self, event: Record, now: float) -> None:
        asked = self._asked.get(event["request_id"])
        if asked is None or asked.message["is"] != "Probe":
            return
        if event["received_bytes"] >= asked.message["bytes"]:
            seconds = now - asked.start_s
            size = asked.message["bytes"]
            self._transfers.append(Transfer(asked.peer, asked.start_s, seconds, 0.0, size, True))
