"""The trace is the record: JSON lines, one record each, the same live and simulated.

Each line is an object with `t` (seconds on the worker's clock, as handed to the core) and `kind`.
The first has kind `header` and the worker's spec; `event` and the commands that it caused
(`send`, `cancel`, `publish`, and the notes under their own kinds) follow in the order in which they
happened, so that the same events fed to a fresh core must give the same commands: `replay`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from mpls.core.conductor import Conductor
from mpls.core.messages import (
    CancelRequest,
    Command,
    Event,
    PublishUpdate,
    RecordNote,
    SendRequest,
    from_plain,
    to_plain,
)
from mpls.core.round import Rounds
from mpls.core.spec import WorkerSpec
from mpls.errors import BadInput

SCHEMA = 1
_COMMAND_KINDS: dict[type, str] = {
    SendRequest: "send",
    CancelRequest: "cancel",
    PublishUpdate: "publish",
}
DRIVER_KINDS = frozenset(
    {"header", "start", "state", "pass", "mix", "snapshot", "eval", "traffic", "served"}
    | {"checkpoint"}
)
"""Records that the driver adds; everything else comes from the core."""
Record = dict[str, Any]


class Sink(Protocol):
    """Where records go."""

    def write(self, record: Record) -> None:
        """Keep one record."""


class TraceWriter:
    """Appends records to a text stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, record: Record) -> None:
        """One line of it."""
        self._stream.write(line_of(record))


def line_of(record: Record) -> str:
    """As a trace has it; numbers that JSON does not know (NaN, infinities) are refused."""
    return json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"


def header(
    spec: WorkerSpec, now: float, resumed: Mapping[str, Any] | None = None, **about: Any
) -> Record:
    """The first record. `resumed` is what the core remembers of a life before (`Rounds.memory`);
    `about` holds what replaying does not need: host, versions, config."""
    first = {"t": now, "kind": "header", "schema": SCHEMA, "spec": spec.as_plain(), **about}
    return first if resumed is None else {**first, "resumed": resumed}


def event_record(event: Event, now: float) -> Record:
    """What reached the core."""
    return {"t": now, "kind": "event", "event": to_plain(event)}


def command_kind(command: Command) -> str:
    """Of the record that the command leaves."""
    return command.kind if isinstance(command, RecordNote) else _COMMAND_KINDS[type(command)]


def command_record(command: Command, now: float) -> Record:
    """What the core asked for."""
    if isinstance(command, RecordNote):
        return {"t": now, "kind": command.kind, **to_plain(command.fields)}
    return {"t": now, "kind": command_kind(command), "command": to_plain(command)}


def read(path: Path) -> Iterator[Record]:
    """The records of a trace file. A last line that was cut off by a crash is left out; anything
    else that is not a record is BadInput, naming file and line."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith("\n"):
                return
            yield parse(line, f"{path}:{number}")


def parse(line: str, place: str) -> Record:
    """One line of a trace, found at `place`; BadInput for anything else."""
    try:
        record = json.loads(line)
        if isinstance(record, dict) and isinstance(record["kind"], str):
            return record
    except (ValueError, KeyError, RecursionError):
        record = None
    raise BadInput(f"{place}: not a trace record")


@dataclass(frozen=True)
class Difference:
    """The first place where a replay and its trace part ways; None stands for 'nothing there'."""

    index: int
    t: float
    recorded: Record | None
    replayed: Record | None


Feed = Callable[[Conductor, Sequence[Record]], Iterable[Record]]
"""Hands records of kind `start` and `event` to a core; gives them back with what they caused."""


def replay(records: Iterable[Record]) -> Difference | None:
    """Feed a trace's events to a fresh core; None if it gives the identical commands."""
    recorded, again = replayed(records)
    return first_difference(recorded, again)


def replayed(records: Iterable[Record], feed: Feed | None = None) -> tuple[list[Record], ...]:
    """What the core recorded, after the header, and what a fresh core makes of the same events. Any
    driver may `feed` them; without one they follow each other at once."""
    core_records = [record for record in records if _is_from_core(record)]
    if not core_records or core_records[0]["kind"] != "header":
        raise BadInput("the trace does not begin with a header")
    if core_records[0].get("schema") != SCHEMA:
        raise BadInput(f"trace schema {core_records[0].get('schema')}; this version reads {SCHEMA}")
    rounds = Rounds(WorkerSpec.from_plain(core_records[0]["spec"]))
    if core_records[0].get("resumed") is not None:
        rounds.restore(core_records[0]["resumed"], core_records[0]["t"])
    conductor = Conductor(rounds)
    inputs = [record for record in core_records if record["kind"] in ("start", "event")]
    again = (feed or _at_once)(conductor, inputs)
    return core_records[1:], [json.loads(json.dumps(record)) for record in again]


def _is_from_core(record: Record) -> bool:
    return record["kind"] in ("header", "start") or record["kind"] not in DRIVER_KINDS


def fed(conductor: Conductor, record: Record) -> list[Record]:
    """One record of kind `start` or `event`, and what the core does with it."""
    now = record["t"]
    if record["kind"] == "start":
        commands = conductor.start(now)
    else:
        commands = conductor.handle(from_plain(record["event"]), now)
    return [record, *(command_record(command, now) for command in commands)]


def _at_once(conductor: Conductor, inputs: Sequence[Record]) -> Iterator[Record]:
    for record in inputs:
        yield from fed(conductor, record)


def first_difference(recorded: Sequence[Record], again: Sequence[Record]) -> Difference | None:
    """Where two lists of records part ways first."""
    for index in range(max(len(recorded), len(again))):
        left = recorded[index] if index < len(recorded) else None
        right = again[index] if index < len(again) else None
        if left != right:
            return Difference(index, (left or right or {})["t"], left, right)
    return None
