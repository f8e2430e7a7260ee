"""A whole deployment, rehearsed on three booted servers behind links of 10 to 15 MB/s, unattended:

    python -m tests.rehearsal            # as root; 20 minutes or so on two cores

From a wheelhouse to a federation that trains, a worker that is killed, a bad release, a server
whose cable is pulled, a way back, the end of the run, and its traces held against the twin. One
log, and a table with the time of each step. Nothing stays but the log and what was fetched.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table

from tests.rehearsal import servers
from tests.rehearsal.scenes import Scenes
from tests.rehearsal.servers import Servers

Step = tuple[str, Callable[[], str]]


class Log:
    """On the screen a line for each step; in the file also what every command said."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._began_s = time.monotonic()
        self.rows: list[tuple[str, str, float, str]] = []

    def note(self, text: str) -> None:
        """For the file."""
        self._file.write(f"{text.rstrip()}\n")
        self._file.flush()

    def step(self, title: str, do: Callable[[], str]) -> bool:
        """Whether it went well; what went wrong is told in one line."""
        began_s = time.monotonic()
        self.note(f"\n=== {began_s - self._began_s:.1f} s: {title}")
        try:
            result, said = "ok", do()
        except (AssertionError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            result, said = "FAILED", " ".join(str(error).split())[-400:]
        except servers.ServerError as error:
            result, said = "FAILED", str(error)
        took_s = time.monotonic() - began_s
        self.rows.append((result, title, took_s, said))
        line = f"{result:6} {took_s:6.1f} s  {title}: {said}"
        self.note(line)
        print(line, flush=True)
        return result == "ok"

    def table(self) -> Table:
        """Of all steps."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("", "s", "step", "what happened"):
            table.add_column(column, justify="right" if column == "s" else "left")
        for result, title, took_s, said in self.rows:
            table.add_row(result, f"{took_s:.1f}", title, said)
        return table


def main() -> int:
    """Exit code 0 if all went well, 1 if something did not, 3 where nothing can be rehearsed."""
    parser = argparse.ArgumentParser(prog="python -m tests.rehearsal", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the log and the runs, a new one")
    out = parser.parse_args().out or Path("runs") / time.strftime("rehearsal-%Y%m%d-%H%M%S")
    why = servers.missing()
    if why:
        print(f"SKIPPED: a rehearsal {why}", file=sys.stderr)
        return 3
    out.mkdir(parents=True)
    with (out / "rehearsal.log").open("w", encoding="utf-8") as file:
        log = Log(file)
        fine = _rehearse(log, out.resolve())
        Console(file=file, width=160).print(log.table())
    Console(width=None if sys.stdout.isatty() else 160).print(log.table())
    print(f"{out / 'rehearsal.log'}")
    return 0 if fine else 1


def _rehearse(log: Log, out: Path) -> bool:
    """A step after one that failed is left out: it would say nothing."""
    with Servers(boot=False) as rig:
        scenes = Scenes(rig, out, log.note)
        fine = all(log.step(title, do) for title, do in scenes.steps())
        if not fine:
            for name, console in rig.console_logs.items():
                log.note(f"--- console of {name}\n{console[-3000:]}")
    return fine


if __name__ == "__main__":
    sys.exit(main())
