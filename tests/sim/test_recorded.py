"""What is read from a recorded run, and what is said of one that is not all there.

`live-run` is a real run of `mpls run` with 8 rounds, a test every 4 and a status every 0.2 s, of
whose traces only what names a machine and what no replay reads were left out.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mpls.core.spec import WorkerSpec
from mpls.core.trace import Record
from mpls.errors import BadInput
from sim.recorded import Movement, RecordedWorker, read_run, read_worker

LIVE = Path(__file__).with_name("live-run")
SPEC = read_run(LIVE).workers[0].spec
HEADER: Record = {"t": 0.0, "kind": "header", "schema": 1, "spec": SPEC.as_plain()}


def test_a_live_run_is_read_whole() -> None:
    run = read_run(LIVE)
    assert [worker.spec.name for worker in run.workers] == ["w0", "w1", "w2"]
    assert run.config.training.rounds == 8
    for worker in run.workers:
        assert worker.rounds == len(worker.passes) == len(worker.publish_s) == 8
        assert [(test.round, test.which) for test in worker.tests] == [
            (4, "local"),
            (4, "mixed"),
            (8, "local"),
            (8, "mixed"),
        ]
        assert worker.transfers
        assert all(0 < one.wait_s < one.seconds for one in worker.transfers)
        assert {one.bytes for one in worker.transfers} <= {203_560, 200_960, 2_600}
        assert {one.server for one in worker.movements} <= set(worker.spec.peers)
        assert all(seconds > 0 for seconds in worker.round_trips_s)


def test_a_run_is_known_by_its_content(tmp_path: Path) -> None:
    shutil.copytree(LIVE, tmp_path / "copy")
    assert read_run(tmp_path / "copy").sha256 == read_run(LIVE).sha256
    with (tmp_path / "copy" / "w1.trace.jsonl").open("a") as file:
        file.write('{"t":99.0,"kind":"state"}\n')
    assert read_run(tmp_path / "copy").sha256 != read_run(LIVE).sha256


# --- what is followed from record to record ---------------------------------------------------


def sent(at_s: float, request: int, kind: str, **fields: Any) -> Record:
    message = {"is": kind, "id": request, **fields}
    return {
        "t": at_s,
        "kind": "send",
        "command": {"is": "SendRequest", "peer": "w1", "message": message},
    }


def received(at_s: float, request: int, version: int, progress: Any = None) -> Record:
    event = {
        "is": "LayerReceived",
        "request_id": request,
        "layer": "fc2",
        "layer_bytes": 2600,
        "version": version,
        "round": version - 1,
        "wait_s": 0.001,
        "progress": progress,
    }
    return {"t": at_s, "kind": "event", "event": event}


def answered(at_s: float, request: int, version: int, progress: Any) -> Record:
    reply = {"is": "StatusOk", "id": request, "version": version, "progress": progress}
    return {"t": at_s, "kind": "event", "event": {"is": "Replied", "reply": reply}}


def attempted(request: int, start_s: float, seconds: float, size: int, outcome: str) -> Record:
    return {
        "t": start_s + seconds,
        "kind": "attempt",
        "peer": "w1",
        "request": request,
        "bytes": size,
        "start_s": start_s,
        "seconds": seconds,
        "outcome": outcome,
    }


def worker_of(*records: Record) -> RecordedWorker:
    return read_worker([HEADER, *records], "w0.trace.jsonl")


def test_progress_is_since_the_version_that_came_whole_before() -> None:
    pull = {"layers": ["fc2"]}
    worker = worker_of(
        sent(0.0, 1, "Pull", **pull),
        received(0.1, 1, version=3),
        sent(0.2, 2, "Pull", **pull),
        received(0.3, 2, version=5, progress=[0.5, 0.25]),
        sent(0.4, 3, "Status"),
        answered(0.5, 3, version=6, progress=[0.125, 0.0]),
    )
    assert worker.movements == (
        Movement("w1", 3, 5, (0.5, 0.25)),
        Movement("w1", 5, 6, (0.125, 0.0)),
    )


def test_a_status_that_was_asked_for_during_a_pull_knows_nothing_of_it() -> None:
    worker = worker_of(
        sent(0.0, 1, "Pull", layers=["fc2"]),
        received(0.1, 1, version=3),
        sent(0.2, 2, "Pull", layers=["fc2"]),
        sent(0.21, 3, "Status"),
        received(0.3, 2, version=5, progress=[0.5, 0.25]),
        answered(0.31, 3, version=5, progress=[0.5, 0.25]),
    )
    assert {(one.since, one.until) for one in worker.movements} == {(3, 5)}


def test_a_transfer_that_broke_off_is_kept_as_such_and_one_without_bytes_is_none() -> None:
    worker = worker_of(
        sent(1.0, 2, "Pull", layers=["fc2"]),
        received(1.5, 2, version=2),
        attempted(2, 1.0, 0.5, 2600, "ok"),
        attempted(1, 0.0, 0.9, 100, "stalled"),
        attempted(3, 2.0, 0.1, 0, "unreachable"),
    )
    found = [(one.start_s, one.bytes, one.whole, one.wait_s) for one in worker.transfers]
    assert found == [(0.0, 100, False, 0.0), (1.0, 2600, True, 0.001)]


def test_a_probe_is_a_transfer_when_all_of_it_came() -> None:
    def progress(at_s: float, size: int) -> Record:
        event = {"is": "Progress", "request_id": 1, "received_bytes": size, "version": 1}
        return {"t": at_s, "kind": "event", "event": event}

    probe = sent(1.0, 1, "Probe", bytes=65_536)
    (found,) = worker_of(probe, progress(1.2, 30_000), progress(1.5, 65_536)).transfers
    assert (found.seconds, found.bytes) == (0.5, 65_536)


def test_a_restarted_worker_asks_with_new_ids() -> None:
    restarted = worker_of(
        sent(0.0, 1, "Pull", layers=["fc2"]), HEADER, answered(0.5, 1, 6, [0.1, 0.2])
    )
    assert restarted.round_trips_s == ()


# --- what is not all there ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda folder: (folder / "cluster.toml").unlink(), "no folder of a run"),
        (lambda folder: (folder / "w2.trace.jsonl").unlink(), "w2.trace.jsonl is missing"),
        (lambda folder: (folder / "w2.trace.jsonl").write_text(""), "the trace has no header"),
        (lambda folder: (folder / "w2.trace.jsonl").write_text("what\n"), "not a trace record"),
        (lambda folder: (folder / "cluster.toml").write_text("a = ["), "not TOML"),
    ],
)
def test_what_is_missing_is_one_line_that_names_it(spoil: Any, line: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(LIVE, folder)
    spoil(folder)
    with pytest.raises(BadInput, match=line) as caught:
        read_run(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_run_just_below_is_pointed_at(tmp_path: Path) -> None:
    shutil.copytree(LIVE, tmp_path / "local-1")
    with pytest.raises(BadInput, match=r"local-1 is one$"):
        read_run(tmp_path)


def test_another_schema_is_refused() -> None:
    with pytest.raises(BadInput, match="trace schema 9; this version reads 1"):
        read_worker([{**HEADER, "schema": 9}], "w0.trace.jsonl")


def test_a_record_that_lacks_something_is_named() -> None:
    with pytest.raises(BadInput, match=r"w0\.trace\.jsonl: record 2: not one of this version"):
        worker_of({"t": 1.0, "kind": "pass", "round": 1})


def test_a_spec_survives_the_header() -> None:
    read = read_worker([json.loads(json.dumps(HEADER))], "w0.trace.jsonl")
    assert read.spec == WorkerSpec.from_plain(HEADER["spec"])
