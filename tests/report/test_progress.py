"""A worker's numbers are those of its trace, also while the trace is being written."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.core.trace import Record, TraceWriter
from mpls.errors import BadInput
from mpls.report.progress import TraceFollower, WorkerProgress


def record(kind: str, t: float = 1.0, **fields: Any) -> Record:
    return {"t": t, "kind": kind, **fields}


def local_pass(t: float, steps: int, seconds: float, loss: float | None = 0.5) -> Record:
    return record("pass", t, round=1, steps=steps, seconds=seconds, cpu_s=0.0, loss=loss)


def mixing(round_number: int, **staleness: int) -> Record:
    lags = {lag.removeprefix("by"): count for lag, count in staleness.items()}
    return record("mix", round=round_number, layers=1, copies=1, seconds=0.0, staleness=lags)


def evaluation(which: str, round_number: int, accuracy: float) -> Record:
    return record(
        "eval",
        round=round_number,
        which=which,
        accuracy=accuracy,
        loss=1 - accuracy,
        class_accuracy=[accuracy, None],
        seconds=0.1,
    )


def traffic(t: float, bytes_in: int, bytes_out: int) -> Record:
    return record(
        "traffic", t, bytes_in=bytes_in, bytes_out=bytes_out, snapshots=2, peak_bytes=10**8
    )


TRACE = [
    record("state", 0.0, state="initializing"),
    record("header", 0.1, pid=4711, schema=1, spec={}),
    record("state", 0.2, state="ready"),
    record("start", 0.2),
    record("state", 0.3, state="running"),
    record("snapshot", 0.3, version=1, round=0),
    record("event", 0.3, event={"is": "RoundDue", "round": 1}),
    record("plan", 0.3, round=1, assignment={"w1": ["fc1", "fc2"], "w2": []}),
    traffic(1.0, 1_000_000, 500_000),
    local_pass(2.0, 80, 1.6, 0.9),
    evaluation("local", 1, 0.7),
    mixing(1, by0=1, by3=1),
    record("pull", 2.0, round=1, peer="w1", layer="fc1", outcome="applied"),
    record("pull", 2.0, round=1, peer="w1", layer="fc2", outcome="timed-out"),
    evaluation("mixed", 1, 0.8),
    local_pass(3.0, 20, 0.4, 0.25),
    evaluation("local", 2, 0.75),
    record("plan", 3.0, round=2, assignment={"w1": ["fc1"], "w2": ["fc2"]}),
    mixing(2, by1=2),
    record("pull", 3.0, round=2, peer="w1", layer="fc1", outcome="cancelled"),
    record("pull", 3.0, round=2, peer="w2", layer="fc2", outcome="not-finite"),
    traffic(3.0, 5_000_000, 500_000),
    record("a kind of the future", 3.0, something=1),
    record("state", 3.1, state="failed", reason="training: out of luck"),
]


def progress_of(records: list[Record]) -> WorkerProgress:
    worker = WorkerProgress("w0")
    for each in records:
        worker.take(each)
    return worker


def test_a_recorded_trace_folds_to_its_numbers():
    worker = progress_of(TRACE)
    assert (worker.state, worker.reason) == ("failed", "training: out of luck")
    assert worker.pid == 4711
    assert (worker.round, worker.local_steps, worker.loss) == (2, 100, 0.25)
    assert (worker.test_accuracy, worker.local_accuracy) == (0.8, 0.75)
    assert worker.test_loss == pytest.approx(0.2)
    assert worker.class_accuracy == [0.8, None]
    assert worker.mixed_round == 1
    assert (worker.bytes_in, worker.bytes_out) == (5_000_000, 500_000)
    assert (worker.in_Bps, worker.out_Bps) == (2_000_000, 0)
    assert worker.staleness == 1.0
    assert worker.plan == "w1: fc1  w2: fc2"
    assert (worker.pulls_ok, worker.pulls_failed, worker.pulls_cancelled) == (1, 2, 1)
    assert worker.peak_bytes == 10**8


def test_the_first_step_ended_one_steps_time_after_its_pass_began():
    worker = progress_of([local_pass(2.0, 80, 1.6), local_pass(4.0, 80, 1.6)])
    assert worker.first_step_s == pytest.approx(0.4 + 1.6 / 80)


def test_a_worker_that_left_no_trace_is_starting_and_has_no_numbers():
    worker = WorkerProgress("w0")
    assert (worker.state, worker.pid, worker.round, worker.loss) == ("starting", None, 0, None)


def test_a_reason_belongs_to_the_state_it_came_with():
    worker = progress_of(
        [record("state", state="failed", reason="why"), record("state", state="x")]
    )
    assert (worker.state, worker.reason) == ("x", "")


def test_staleness_is_the_mean_over_the_copies_of_the_last_mixing_that_had_some():
    assert progress_of([mixing(5, by0=1, by4=3)]).staleness == 3.0
    assert progress_of([mixing(5, by4=1), mixing(6)]).staleness == 4.0
    assert progress_of([mixing(1)]).staleness is None


def test_a_peer_that_is_ahead_is_not_stale():
    worker = progress_of([record("mix", round=5, staleness={"-3": 1, "1": 1})])
    assert worker.staleness == 0.5


def test_an_empty_plan_says_nothing():
    assert progress_of([record("plan", assignment={"w1": []})]).plan == "nothing"


@given(st.lists(st.sampled_from(["applied", "cancelled", "timed-out", "checksum", "stalled"])))
def test_every_pull_counts_once(outcomes):
    worker = progress_of([record("pull", outcome=outcome) for outcome in outcomes])
    counts = Counter(outcomes)
    assert worker.pulls_ok == counts["applied"]
    assert worker.pulls_cancelled == counts["cancelled"]
    assert worker.pulls_ok + worker.pulls_failed + worker.pulls_cancelled == len(outcomes)


steps = st.lists(st.tuples(st.floats(0.01, 3), st.integers(0, 10**8)), min_size=1, max_size=30)


@given(steps)
def test_rates_account_for_every_byte_however_close_two_records_are(steps):
    """The bytes shown as a rate, times the seconds it stands for, add up to all of them."""
    worker, now, total, shown, rated_s = WorkerProgress("w0"), 0.0, 0, 0.0, 0.0
    for seconds, more_bytes in [*steps, (1.0, 0)]:
        now, total = now + seconds, total + more_bytes
        worker.take(traffic(now, total, 2 * total))
        assert worker.bytes_in == total
        if now - rated_s > 0.2:
            shown += worker.in_Bps * (now - rated_s)
            assert worker.out_Bps == pytest.approx(2 * worker.in_Bps)
            rated_s = now
    assert shown == pytest.approx(total)


# --- following a file ---


def write(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def line(number: int) -> str:
    return json.dumps(record("mix", round=number), separators=(",", ":")) + "\n"


def test_a_trace_that_is_not_there_yet_has_no_records(tmp_path):
    follower = TraceFollower(tmp_path / "trace")
    assert list(follower.new_records()) == []
    write(tmp_path / "trace", line(1))
    assert [each["round"] for each in follower.new_records()] == [1]


def test_each_record_is_seen_once(tmp_path):
    follower = TraceFollower(tmp_path / "trace")
    for number in range(3):
        write(tmp_path / "trace", line(2 * number) + line(2 * number + 1))
        rounds = [each["round"] for each in follower.new_records()]
        assert rounds == [2 * number, 2 * number + 1]
    assert list(follower.new_records()) == []


def test_a_line_that_is_half_written_is_read_when_it_is_whole(tmp_path):
    follower, text = TraceFollower(tmp_path / "trace"), line(1) + line(2)
    seen = []
    for letter in text:
        write(tmp_path / "trace", letter)
        seen.append([each["round"] for each in follower.new_records()])
    assert [rounds for rounds in seen if rounds] == [[1], [2]]
    assert seen[-1] == [2]


@given(st.lists(st.integers(1, 200), max_size=10))
def test_however_the_writing_is_cut_the_records_are_the_same(tmp_path_factory, cuts):
    path = tmp_path_factory.mktemp("follow") / "trace"
    text = "".join(json.dumps({**each, "name": "wörker"}) + "\n" for each in TRACE)
    follower, found, start = TraceFollower(path), [], 0
    for stop in [*sorted(cuts), len(text)]:
        write(path, text[start:stop])
        start = max(start, stop)
        found += [each["kind"] for each in follower.new_records()]
    assert found == [each["kind"] for each in TRACE]


def test_what_only_a_replay_needs_is_skipped_unread(tmp_path):
    with (tmp_path / "trace").open("w") as file:
        for each in TRACE:
            TraceWriter(file).write(each)
    write(tmp_path / "trace", '{"t":1,"kind":"event",this is no JSON}\n')
    kinds = [each["kind"] for each in TraceFollower(tmp_path / "trace").new_records()]
    assert kinds == [each["kind"] for each in TRACE if each["kind"] != "event"]


def test_a_line_that_is_no_record_names_the_file(tmp_path):
    write(tmp_path / "trace", "nonsense\n")
    with pytest.raises(BadInput, match=r"trace: not a trace record"):
        list(TraceFollower(tmp_path / "trace").new_records())


def test_a_quarantine_that_is_told_of_again_every_minute_counts_once():
    def told(t: float, standing: str, **until: float) -> Record:
        return record("peer", t, peer="w1", standing=standing, why="", **until)

    out = {"standing": "quarantined", "until_s": 700.0}
    notes = [told(100.0, **out), told(160.0, **out), told(701.0, "ready")]
    again = told(800.0, "quarantined", until_s=1400.0)
    assert progress_of(notes).quarantines == {"w1": 1}
    assert progress_of([*notes, again]).quarantines == {"w1": 2}
    assert progress_of([told(1.0, "away")]).quarantines == {}


def test_why_the_latest_checkpoint_is_not_there_is_told_until_there_is_one():
    failed = record("checkpoint", 1.0, round=5, failed="disk: No space left on device")
    assert progress_of([failed]).unsaved == "disk: No space left on device"
    assert progress_of([failed, record("checkpoint", 2.0, round=10)]).unsaved == ""
