"""A worker that does not end is asked why."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests.live.autopsy import autopsy

HANGS = """
import atexit, faulthandler, threading
faulthandler.enable()
def waits_for_ever():
    print("here", flush=True)
    threading.Event().wait()
atexit.register(waits_for_ever)
"""


def test_a_process_that_hangs_at_its_end_says_where():
    command = [sys.executable, "-c", HANGS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"here\n"
        found = autopsy(process)
        said = process.stderr.read().decode()
    assert process.returncode == -signal.SIGABRT
    assert f"thread {process.pid} " in found
    assert "stood in line" in found
    assert "in waits_for_ever" in said
