"""Tables fit the terminal, and never at the cost of a number."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from mpls.report.progress import WorkerProgress
from mpls.report.summary import summarise
from mpls.report.table import live_table, progress_line, summary_table

WIDTHS = pytest.mark.parametrize("width", [80, 120])
STATES = ("initializing", "ready", "running", "draining", "stopped", "failed")


def rendered(table: Table, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    return text


def worker(number: int, state: str = "running") -> WorkerProgress:
    """As large as numbers get in a run of a day."""
    return WorkerProgress(
        f"w{number}",
        state,
        pid=12345,
        round=9871 + number,
        local_steps=812_340 + number,
        loss=2.3021,
        test_accuracy=0.9317,
        local_accuracy=0.8873,
        class_accuracy=[0.9, 0.7712, None],
        mixed_round=9870,
        bytes_in=34_567_800_000,
        bytes_out=23_456_700_000,
        in_Bps=14.96e6,
        out_Bps=113.24e6,
        staleness=12.34,
        plan="w1: fc1 fc2  w2: fc1 layer4.1.conv2 a.very.long.layer.name.indeed",
        pulls_ok=19_742,
        pulls_failed=1_234,
    )


LIVE_NUMBERS = ("9871/10000", "2.302", "0.932", "0.887", "15.0", "113.2", "12.3")
SUMMARY_NUMBERS = (
    *("9871", "812340", "0.932", "0.887", "0.77", "34567.8", "23456.7", "19742", "1234", "-9"),
)


@WIDTHS
@pytest.mark.parametrize("state", STATES)
def test_the_live_table_keeps_every_number_and_state(width, state):
    text = rendered(live_table([worker(0, state), worker(1)], 10_000, "mpls on digits"), width)
    (row,) = (line for line in text.splitlines() if line.startswith("w0"))
    for shown in (state, *LIVE_NUMBERS):
        assert shown in row.split(), text
    assert row.split()[: 2 + len(LIVE_NUMBERS)] == ["w0", state, *LIVE_NUMBERS]


def test_a_wide_live_table_shows_the_plan():
    text = rendered(live_table([worker(0)], 10_000, "mpls on digits"), 160)
    assert worker(0).plan in text


def test_the_live_table_of_a_worker_that_has_only_begun_has_dashes_for_numbers():
    text = rendered(live_table([WorkerProgress("w0")], 20, "mpls on digits"), 80)
    (row,) = (line for line in text.splitlines() if line.startswith("w0"))
    assert row.split() == ["w0", "starting", "0/20", "-", "-", "-", "0.0", "0.0", "-"]


def test_a_folder_with_brackets_in_its_name_is_shown_as_it_is():
    text = rendered(live_table([WorkerProgress("w0")], 20, "mpls, /runs/[red]/a"), 80)
    assert "/runs/[red]/a" in text


@WIDTHS
def test_the_summary_keeps_every_number(tmp_path: Path, width: int):
    workers = [worker(number, "stopped") for number in range(3)]
    summary = summarise(
        workers, [-9, 0, 1], tmp_path, status="failed", strategy="mpls", seconds=86_400.0
    )
    text = rendered(summary_table(summary), width)
    (row,) = (line for line in text.splitlines() if line.startswith("w0"))
    assert row.split() == ["w0", *SUMMARY_NUMBERS]
    assert "failed after 86400.0 s" in text
    assert "consensus distance -" in text


@WIDTHS
def test_the_summarys_headings_are_whole(tmp_path: Path, width: int):
    summary = summarise([worker(0)], [0], tmp_path, status="completed", strategy="x", seconds=1.0)
    text = rendered(summary_table(summary), width)
    for heading in ("rounds", "steps", "accuracy", "local", "in MB", "out MB", "pulls", "failed"):
        assert heading in text


def test_a_line_of_progress_has_what_the_table_has():
    text = progress_line(worker(0), 10_000)
    assert "\n" not in text
    for shown in ("w0", "9870/10000", "2.302", "0.932", "0.887", "15.0 MB/s", "113.2 MB/s", "12.3"):
        assert shown in text
    assert worker(0).plan in text
