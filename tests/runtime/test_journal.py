"""The trace of three threads: whole lines, in the file as soon as they are written."""

from __future__ import annotations

import pytest

from mpls.core.trace import read
from mpls.runtime.journal import Clock, Journal, Meter
from tests.runtime.rig import Job


def test_lines_of_several_threads_are_never_mixed(tmp_path):
    def write(journal: Journal, name: str) -> None:
        for number in range(500):
            journal.note("test", float(number), name=name, padding=name * (number % 50) * 10)

    with Journal(tmp_path / "trace") as journal:
        threads = [Job(name, lambda name=name: write(journal, name)) for name in "abcd"]
        for thread in threads:
            thread.finish()
    records = list(read(tmp_path / "trace"))
    assert len(records) == 2000
    for name in "abcd":
        times = [record["t"] for record in records if record["name"] == name]
        assert times == [float(number) for number in range(500)]


def test_a_record_can_be_read_as_soon_as_it_is_written(tmp_path):
    with Journal(tmp_path / "trace") as journal:
        for number in range(3):
            journal.note("test", 0.0, number=number)
            assert [record["number"] for record in read(tmp_path / "trace")][-1] == number


def test_the_clock_begins_at_zero_and_never_runs_backwards():
    clock = Clock()
    times = [clock.now() for _ in range(1000)]
    assert 0 <= times[0] < 1
    assert times == sorted(times)


def test_a_meter_counts_messages_and_bytes_by_peer_and_type():
    meter = Meter()
    for peer, kind, size in (("w2", "chunk", 10), ("w1", "pull", 3), ("w2", "chunk", 5)):
        meter.count(peer, kind, size)
    assert meter.total_bytes == 18
    assert meter.as_plain() == {"w1": {"pull": [1, 3]}, "w2": {"chunk": [2, 15]}}


def test_row_21_lines_that_a_full_disk_refuses_wait_and_come_in_order_when_it_has_room(tmp_path):
    """/dev/full refuses as a full disk does."""
    with Journal(tmp_path / "trace") as journal:
        journal.note("test", 0.0, number=0)
        room = journal._file
        with open("/dev/full", "wb", buffering=0) as full:
            journal._file = full
            for number in range(1, 100):
                journal.note("test", 0.0, number=number)
            assert journal.trouble.endswith("trace: No space left on device")
            journal._file = room
        assert len(list(read(tmp_path / "trace"))) == 1
        journal.note("test", 0.0, number=100)
        assert journal.trouble == ""
    assert [record["number"] for record in read(tmp_path / "trace")] == list(range(101))


def test_row_21_what_waits_is_bounded_and_what_is_lost_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("mpls.runtime.journal.WAITING_LIMIT_BYTES", 1000)
    with open("/dev/full", "wb", buffering=0) as full, Journal(tmp_path / "trace") as journal:
        journal._file.close()
        journal._file = full
        with pytest.raises(OSError, match="No space left"):
            write_for_ever(journal)
        waiting = len(journal._waiting)
    assert 1000 < waiting < 1100
    assert f"the last {waiting} bytes are lost of trace: " in caplog.text


def write_for_ever(journal: Journal) -> None:
    while True:
        journal.note("test", 0.0)
