"""What whoever deploys sees: lines as things happen, and a table at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mpls.deploy.examine import FAIL, OK, WARN, Finding
from mpls.deploy.inventory import Server

PIPED_COLUMNS = 10_000
STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}
NOT_YET = "-"


class Report:
    """Of one deployment. `steps` are the columns of the table."""

    def __init__(self, servers: Sequence[Server], steps: Sequence[str]) -> None:
        # Whoever reads a pipe wants a line for each thing, however long.
        width = None if sys.stdout.isatty() else PIPED_COLUMNS
        self.console = Console(highlight=False, width=width)
        self._servers = list(servers)
        self._steps = list(steps)
        self._width = max(len(server.name) for server in servers)
        self._cells: dict[tuple[str, str], str] = {}
        self._began_s = time.monotonic()
        self._lock = threading.Lock()

    def say(self, server: Server, what: str) -> None:
        """A server did something; from any thread."""
        self._line(f"{server.name:{self._width}}  {what}")

    def head(self, what: str) -> None:
        """A phase begins."""
        self._line(what, "bold")

    def note(self, server: Server, step: str, result: str) -> None:
        """For the table."""
        self._cells[server.name, step] = result

    def findings(self, findings: dict[Server, list[Finding]]) -> None:
        """Of the examination: all that is not well, and a line for each server where all is."""
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
        for server, its in findings.items():
            for one in its:
                then = f"{one.value}  -> {one.remedy}" if one.remedy else one.value
                level = Text(one.level, STYLES[one.level])
                table.add_row(level, Text(server.name), Text(one.what), Text(then))
        self.console.print(table)

    def table(self) -> None:
        """Server by step."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("server", "workers", *self._steps):
            table.add_column(column)
        for server in self._servers:
            cells = [self._cells.get((server.name, step), NOT_YET) for step in self._steps]
            table.add_row(server.name, server.who, *(_coloured(cell) for cell in cells))
        self.console.print(table)

    def _line(self, text: str, style: str = "") -> None:
        with self._lock:
            at = f"{time.monotonic() - self._began_s:6.1f} s  "
            self.console.print(Text(at, "dim") + Text(text, style))


def _coloured(cell: str) -> Text:
    bad = cell.startswith(("failed", "lost", FAIL))
    return Text(cell, "bold red" if bad else "green" if cell != NOT_YET else "")
