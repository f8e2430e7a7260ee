"""A run in a terminal: the live table while it lasts, plain lines when piped, and the summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from mpls.report.progress import WorkerProgress

_STATE_STYLES = {"running": "green", "draining": "cyan", "stopped": "dim", "failed": "bold red"}


def live_table(workers: Sequence[WorkerProgress], rounds: int, title: str) -> Table:
    """One row for each worker, as its trace says now."""
    headings = ("state", "round", "loss", "accuracy", "local", "in MB/s", "out MB/s", "stale")
    table = _table(title, headings)
    # Columns that may wrap give way first; the plan's text then does not wrap but is cut.
    table.add_column("last plan")
    for worker in workers:
        table.add_row(
            worker.name,
            f"[{_STATE_STYLES.get(worker.state, 'yellow')}]{worker.state}[/]",
            f"{worker.round}/{rounds}",
            _number(worker.loss, ".3f"),
            _number(worker.test_accuracy, ".3f"),
            _number(worker.local_accuracy, ".3f"),
            f"{worker.in_Bps / 1e6:.1f}",
            f"{worker.out_Bps / 1e6:.1f}",
            _number(worker.staleness, ".1f"),
            Text(worker.plan, no_wrap=True, overflow="ellipsis"),
        )
    return table


def progress_line(worker: WorkerProgress, rounds: int) -> str:
    """One evaluation of one worker, for output that is piped."""
    return (
        f"{worker.name} round {worker.mixed_round}/{rounds}"
        f" loss {_number(worker.loss, '.3f')}"
        f" accuracy {_number(worker.test_accuracy, '.3f')}"
        f" local {_number(worker.local_accuracy, '.3f')}"
        f" in {worker.in_Bps / 1e6:.1f} MB/s out {worker.out_Bps / 1e6:.1f} MB/s"
        f" staleness {_number(worker.staleness, '.1f')}"
        f" plan {worker.plan}"
    )


def summary_table(summary: dict[str, Any]) -> Table:
    """What became of each worker."""
    distance = _number(summary["consensus_distance"], ".3f")
    title = (
        f"{summary['strategy']}: {summary['status']} after {summary['seconds']:.1f} s,"
        f" consensus distance {distance}"
    )
    measured = ("rounds", "steps", "accuracy", "local", "worst")
    table = _table(title, (*measured, "in MB", "out MB", "pulls", "failed", "exit"))
    for worker in summary["workers"]:
        table.add_row(*_summary_row(worker))
    return table


def _table(title: str, headings: Sequence[str]) -> Table:
    """Narrow enough for 80 columns: a column of names, and columns of numbers."""
    table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("worker", no_wrap=True)
    for heading in headings:
        table.add_column(heading, no_wrap=True, justify="right")
    return table


def _summary_row(worker: dict[str, Any]) -> list[str]:
    classes = [share for share in worker["class_accuracy"] if share is not None]
    return [
        worker["name"],
        str(worker["rounds"]),
        str(worker["local_steps"]),
        _number(worker["test_accuracy"], ".3f"),
        _number(worker["local_accuracy"], ".3f"),
        _number(min(classes, default=None), ".2f"),
        f"{worker['bytes_in'] / 1e6:.1f}",
        f"{worker['bytes_out'] / 1e6:.1f}",
        str(worker["pulls_ok"]),
        str(worker["pulls_failed"]),
        str(worker["exit"]),
    ]


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)
