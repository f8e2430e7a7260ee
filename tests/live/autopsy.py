"""Why a process has not ended, as far as the system and it itself can tell."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

DUMP_S = 10.0
"""For a process that is told to say where it is."""


def autopsy(process: subprocess.Popen[bytes]) -> str:
    """What each thread waits for, and how long it ran and stood in line for a core; a line each.
    The process is ended by SIGABRT, which makes one with a faulthandler write on its stderr where
    in Python its threads were."""
    tasks = sorted(Path(f"/proc/{process.pid}/task").glob("*"))
    load = " ".join(f"{load:.1f}" for load in os.getloadavg())
    lines = [f"load {load}", *map(_of_a_thread, tasks)]
    process.send_signal(signal.SIGABRT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(DUMP_S)
    return "\n".join(lines)


def _of_a_thread(task: Path) -> str:
    """State and times of a thread at /proc/PID/task/ID, which may end meanwhile."""
    try:
        name = (task / "comm").read_text().strip()
        state = (task / "stat").read_text().rpartition(") ")[2][0]
        waits_for = (task / "wchan").read_text()
        ran_ns, waited_ns, _ = map(int, (task / "schedstat").read_text().split())
    except OSError as error:
        return f"thread {task.name}: {error.strerror}"
    times = f"ran {ran_ns / 1e9:.2f} s, stood in line {waited_ns / 1e9:.2f} s"
    return f"thread {task.name} {name}: {state} in {waits_for}, {times}"
