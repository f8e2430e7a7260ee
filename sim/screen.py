"""A sweep in a terminal: progress with an estimate on stderr, points and ranking on stdout."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from mpls.report.sweep import point_name, ranking_sheet, title
from mpls.units import format_bytes
from sim.sweep import Sweep

LOOK_S = 0.5
LINE_S = 2.0
"""Between two lines where stderr is no terminal."""
FIRST_LINE_S = 1.0
KNOWN = 0.02
"""Share of the work after which an estimate says anything."""
PIPED_COLUMNS = 160
Row = dict[str, Any]


def watched(sweep: Sweep, quiet: bool) -> bool:
    """Run it and show how far it is; False after Ctrl-C, which keeps the finished points."""
    if not sweep.missing:
        return True
    screen = _Silent() if quiet else _Bar(sweep) if sys.stderr.isatty() else _Lines(sweep)
    watcher = _Watcher(screen.show)
    rows = sweep.run()
    try:
        for _ in rows:
            screen.show()
    except KeyboardInterrupt:
        return False
    finally:
        watcher.end()
        screen.end()
    return True


class _Watcher:
    """Looks again and again, because finished points come in seldom."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(LOOK_S):
            self._look()


class _Silent:
    def show(self) -> None:
        return

    def end(self) -> None:
        return


class _Progress:
    """How far a sweep is and, as soon as anything is known, how long it will take."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._began_s = time.monotonic()
        self._first: tuple[float, float] | None = None
        """When work was first seen to be done, in elapsed seconds, and how much: what came before
        was getting ready."""

    def elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    def estimate(self) -> str:
        done, now_s = self._sweep.done(), self.elapsed_s()
        if self._first is None and done > 0.0:
            self._first = (now_s, done)
        first_s, first = self._first or (now_s, done)
        if done - first < KNOWN:
            return "estimating"
        return f"about {_duration((now_s - first_s) * (1 - done) / (done - first))} to go"


class _Lines(_Progress):
    """For files and pipes."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep)
        self._due_s = FIRST_LINE_S

    def show(self) -> None:
        if self.elapsed_s() >= self._due_s:
            self._due_s = self.elapsed_s() + LINE_S
            self._print(self.estimate())

    def end(self) -> None:
        self._print("ended")

    def _print(self, what: str) -> None:
        sweep = self._sweep
        click.echo(
            f"{len(sweep.rows)}/{len(sweep.points)} points, {sweep.done():.0%}, "
            f"{_duration(self.elapsed_s())}, {what}",
            err=True,
        )


class _Bar(_Progress):
    """For people."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep)
        self._bar = Progress(
            TextColumn("simulating"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[points]} points"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[estimate]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=1.0, points=self._points(), estimate="estimating")
        self._bar.start()

    def show(self) -> None:
        self._bar.update(
            self._task,
            completed=self._sweep.done(),
            points=self._points(),
            estimate=self.estimate(),
        )

    def end(self) -> None:
        self.show()
        self._bar.stop()

    def _points(self) -> str:
        return f"{len(self._sweep.rows)}/{len(self._sweep.points)}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# --- what came out ----------------------------------------------------------------------------


def print_points(rows: Sequence[Row]) -> None:
    """A line for each, with the hash that tells whether two of them went the same way."""
    for row in rows:
        accuracy = "" if row["accuracy"] is None else f"accuracy {row['accuracy']:.3f}, "
        faults = f"{row['befell']} faults, " if row["faults"] else ""
        click.echo(
            f"{point_name(row, rows)}: {row['rounds']} rounds in {row['seconds']:.2f} s, {accuracy}"
            f"{faults}{format_bytes(row['bytes'])}, trace SHA256 {row['trace_sha256']}"
        )


def print_ranking(ranked: Sequence[Row]) -> None:
    """A table for each setting."""
    width = None if sys.stdout.isatty() else PIPED_COLUMNS
    console = Console(highlight=False, markup=False, width=width)
    for setting in ranked:
        console.print(f"\n{title(setting)}", soft_wrap=True)
        console.print(_table(setting))


def _table(setting: Row) -> Table:
    (first, *heads), rows = ranking_sheet(setting)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for cells in rows:
        table.add_row(*map(Text, cells))
    return table
