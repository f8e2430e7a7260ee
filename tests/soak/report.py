"""How a soak tells of itself: while it goes on, and at its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

MARKS = {True: "ok", False: "MISSED", None: "not judged"}
DETAILS = 10
PIPED_S = 60.0


class Lines:
    """A line a minute, or one that is redrawn each second in a terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live = sys.stdout.isatty()
        self._width = 0
        self._told_s = float("inf")

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            print(("\r" if self._live else "") + text.ljust(self._width), flush=True)
            self._width = 0

    def progress(self, say: Callable[[], str]) -> None:
        """Show what is new when it is time, from a minute after the first call on."""
        self._told_s = min(self._told_s, time.monotonic())
        if self._quiet:
            return
        if self._live:
            text = say()
            print("\r" + text.ljust(self._width), end="", flush=True)
            self._width = len(text)
        elif time.monotonic() - self._told_s >= PIPED_S:
            self._told_s += PIPED_S
            print(say(), flush=True)


def print_goals(summary: dict[str, Any]) -> None:
    """The table, and what was wrong in detail."""
    rows = [(g["what"], g["found"], g["goal"], MARKS[g["met"]]) for g in summary["goals"]]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    print()
    for what, found, goal, mark in rows:
        print(f"{what:<{widths[0]}}  {found:<{widths[1]}}  {goal:<{widths[2]}}  {mark}")
    for goal in summary["goals"]:
        if goal["details"]:
            print(f"{goal['what']}:")
        for detail in goal["details"][:DETAILS]:
            print(f"  {detail}")
        if len(goal["details"]) > DETAILS:
            print(f"  and {len(goal['details']) - DETAILS} more, in soak.json")
    for message, count in summary["named_errors"].items():
        print(f"logged {count} times: {message}")
    disk = summary["disk"]
    print(
        f"{summary['minutes']:.1f} minutes, {summary['lives']} lives, {summary['rounds']} rounds;"
        f" {summary['pending']} kills too late to be judged"
    )
    print(
        f"disk: {disk['total_bytes'] / 1e6:.1f} MB; traces {disk['trace_bytes'] / 1e6:.1f},"
        f" of one life up to {disk['longest_trace_bytes'] / 1e6:.2f}"
    )
    print(f"{summary['folder']}/soak.json")
