"""The trace: written, read back after a crash, refused when it is none, and replayed."""

from __future__ import annotations

import io
from functools import cache
from math import inf, nan
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpls.core.messages import (
    CancelRequest,
    Command,
    PublishUpdate,
    RecordNote,
    SendRequest,
    Ticked,
)
from mpls.core.plan import Layer
from mpls.core.protocol import Status
from mpls.core.spec import WorkerSpec
from mpls.core.trace import (
    SCHEMA,
    Record,
    TraceWriter,
    command_record,
    event_record,
    header,
    read,
    replay,
)
from mpls.errors import BadInput
from tests.core.toy_network import ToyFederation

SPEC = WorkerSpec("w0", 3, ("w1", "w2"), (Layer("fc", 900_000),), "m", (0.5, 0.5), 100)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {"t": NUMBERS, "kind": st.text(max_size=5)},
        optional={"text": st.text(max_size=10), "list": st.lists(NUMBERS, max_size=3)},
    ),
    max_size=5,
)


@cache
def recorded() -> tuple[Record, ...]:
    """A short run, as it was recorded."""
    federation = ToyFederation(SPEC, seed=5, rounds=3)
    federation.run()
    return tuple(federation.records)


def write(path: Path, records: list[Record]) -> bytes:
    """The file's bytes."""
    with path.open("w", encoding="utf-8") as stream:
        for record in records:
            TraceWriter(stream).write(record)
    return path.read_bytes()


# --- the file ---------------------------------------------------------------------------------


@given(records=RECORDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read_back(tmp_path: Path, records: list[Record]) -> None:
    path = tmp_path / "w0.jsonl"
    assert write(path, records).count(b"\n") == len(records)
    assert list(read(path)) == records


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_crash_at_any_byte_costs_the_last_line_only(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "w0.jsonl"
    records: list[Record] = [{"t": 1.5, "kind": "größe", "n": n} for n in range(4)]
    whole = write(path, records)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    path.write_bytes(cut)
    assert list(read(path)) == records[: cut.count(b"\n")]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "garbage",
        "42",
        '"header"',
        "[]",
        "{}",
        '{"t": 1.0}',
        '{"kind": 3}',
        '{"kind": "event"',
        "\udcff\udcfe",
        "[" * 100_000,
    ],
)
def test_a_line_that_is_no_record_is_named_by_file_and_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "w0.jsonl"
    good = b'{"t":0,"kind":"state"}\n'
    path.write_bytes(good + line.encode("utf-8", "surrogateescape") + b"\n" + good)
    with pytest.raises(BadInput) as refusal:
        list(read(path))
    assert str(refusal.value) == f"{path}:2: not a trace record"


@pytest.mark.parametrize("number", [nan, inf, -inf])
def test_a_number_that_json_does_not_know_is_refused_and_nothing_is_written(number: float) -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="not JSON compliant"):
        TraceWriter(stream).write({"t": 0.0, "kind": "state", "deep": [{"x": number}]})
    assert stream.getvalue() == ""


def test_every_kind_of_record_says_when_and_what() -> None:
    assert header(SPEC, 0.5, host="here") == {
        "t": 0.5,
        "kind": "header",
        "schema": SCHEMA,
        "spec": SPEC.as_plain(),
        "host": "here",
    }
    assert event_record(Ticked(), 1.0) == {"t": 1.0, "kind": "event", "event": {"is": "Ticked"}}
    commands: list[Command] = [
        SendRequest("w1", Status(3)),
        CancelRequest("w1", 3),
        PublishUpdate(1, ()),
        RecordNote("plan", {"round": 2}),
    ]
    records = [command_record(command, 1.0) for command in commands]
    assert [record["kind"] for record in records] == ["send", "cancel", "publish", "plan"]
    assert records[3] == {"t": 1.0, "kind": "plan", "round": 2}
    assert records[1]["command"] == {"is": "CancelRequest", "peer": "w1", "request_id": 3}


# --- replay -----------------------------------------------------------------------------------


def test_a_trace_replays_from_its_file_whatever_the_driver_added(tmp_path: Path) -> None:
    path = tmp_path / "w0.jsonl"
    first, *rest = recorded()
    added = [
        {"t": 0.0, "kind": kind, "x": 1} for kind in ("state", "pass", "mix", "eval", "served")
    ]
    write(path, [{**first, "host": "here"}, *added, *rest, *added])
    assert replay(read(path)) is None


@pytest.mark.parametrize(
    "records", [[], [{"t": 0.0, "kind": "start"}], [{"t": 0, "kind": "state"}]]
)
def test_a_trace_without_its_header_is_refused(records: list[Record]) -> None:
    with pytest.raises(BadInput, match="does not begin with a header"):
        replay(records)


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, "1", None])
def test_a_trace_of_another_schema_is_refused_and_both_are_named(schema: object) -> None:
    first, *rest = recorded()
    with pytest.raises(BadInput, match=f"trace schema {schema}; this version reads {SCHEMA}"):
        replay([{**first, "schema": schema}, *rest])


def places(*kinds: str) -> list[int]:
    """Where records of these kinds are."""
    return [index for index, record in enumerate(recorded()) if record["kind"] in kinds]


COMMANDS = st.sampled_from(places("send", "cancel", "publish", "plan", "attempt", "pull", "round"))


@given(COMMANDS)
def test_a_missing_command_is_found_where_it_should_be(index: int) -> None:
    records = recorded()
    kept = [*records[:index], *records[index + 1 :]]
    first = next(i for i in range(len(records)) if kept[i : i + 1] != [records[i]])
    difference = replay(kept)
    assert difference is not None
    assert difference.index == first - 1
    assert difference.recorded == (kept[first] if first < len(kept) else None)
    assert difference.replayed == records[first]


@given(COMMANDS)
def test_a_command_too_many_is_found_where_it_is(index: int) -> None:
    records = recorded()
    extra = {"t": records[index]["t"], "kind": "send", "command": {"is": "Nobody"}}
    difference = replay([*records[:index], extra, *records[index:]])
    assert difference is not None
    assert (difference.index, difference.recorded) == (index - 1, extra)
    assert difference.replayed == records[index]


@given(COMMANDS)
def test_a_changed_command_is_found_with_both_versions(index: int) -> None:
    records = recorded()
    changed = {**records[index], "changed": True}
    difference = replay([*records[:index], changed, *records[index + 1 :]])
    assert difference is not None
    assert (difference.index, difference.t) == (index - 1, records[index]["t"])
    assert (difference.recorded, difference.replayed) == (changed, records[index])


def test_a_trace_that_ends_too_early_or_too_late_differs_at_its_end() -> None:
    records = recorded()
    assert records[-1]["kind"] == "cancel"
    early, late = replay(records[:-1]), replay([*records, records[-1]])
    assert early is not None
    assert late is not None
    assert (early.recorded, early.replayed) == (None, records[-1])
    assert (late.recorded, late.replayed) == (records[-1], None)


def test_a_worker_that_was_told_otherwise_decides_otherwise() -> None:
    first, *rest = recorded()
    spec = {**first["spec"], "plan": {**first["spec"]["plan"], "strategy": "local"}}
    difference = replay([{**first, "spec": spec}, *rest])
    assert difference is not None
    assert difference.recorded is not None
    assert difference.recorded["kind"] == "send"
