"""The service manager and the look at what is left, on real processes that do little."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest

from tests.sim.federations import cluster, simulate
from tests.soak.afterwards import complaints, verified, wrong_in_lives
from tests.soak.workers import Worker


@pytest.fixture(scope="module")
def trace_lines(tmp_path_factory):
    """Of a worker in virtual time; two lines are put in that only live ones write."""
    folder = tmp_path_factory.mktemp("twin")
    simulate(cluster()).recorder.write(folder)
    header, *others = (folder / "w0.trace.jsonl").read_text().splitlines(keepends=True)
    header = header.replace('"schema":1', '"schema":1,"started_unix_s":1.0')
    return [header, '{"t":0.0,"kind":"snapshot","version":1,"round":0}\n', *others]


def started(folder, program):
    """A worker that runs this instead of `mpls worker`."""
    worker = Worker("w0", [sys.executable, "-c", program], folder)
    worker.tend()
    return worker


def ended(worker):
    """As soon as its process has, and the worker has found that."""
    os.waitid(os.P_PID, worker.now.popen.pid, os.WEXITED | os.WNOWAIT)
    worker.tend()
    return worker


def test_a_worker_that_ends_by_itself_is_told_of_and_not_started_at_once(tmp_path):
    worker = ended(started(tmp_path, "raise SystemExit(3)"))
    assert worker.unasked == ["w0-000 ended by itself with exit code 3"]
    assert len(worker.lives) == 1
    assert not worker.lives_now


def test_a_worker_that_was_killed_is_not_told_of(tmp_path):
    worker = started(tmp_path, "import time; time.sleep(60)")
    kill = worker.kill()
    assert ended(worker).unasked == []
    assert (kill.worker, kill.life) == ("w0", 0)


def test_a_worker_that_failed_before_it_could_be_killed_is_told_of(tmp_path):
    worker = started(tmp_path, "raise SystemExit(1)")
    os.waitid(os.P_PID, worker.now.popen.pid, os.WEXITED | os.WNOWAIT)
    worker.kill()
    assert ended(worker).unasked == ["w0-000 ended by itself with exit code 1"]


def test_a_drained_worker_leaves_its_exit_code(tmp_path):
    worker = started(tmp_path, "import time; time.sleep(60)")
    worker.drain()
    assert ended(worker).exit == -signal.SIGTERM
    assert worker.unasked == []
    assert worker.bad_exit(excused=True) == ""
    assert worker.bad_exit(excused=False) == "w0: exit code -15, was not running"


def test_a_running_worker_that_does_not_end_well_has_no_excuse(tmp_path):
    worker = started(tmp_path, "import time; time.sleep(60)")
    worker.now.life.running_unix_s = 1.0
    worker.drain()
    assert ended(worker).bad_exit(excused=True) == "w0: exit code -15"


def test_a_living_process_has_memory_files_and_threads(tmp_path):
    worker = started(tmp_path, "import time; time.sleep(60)")
    sample = worker.sample(began_s=0.0)
    worker.kill()
    worker.now.popen.wait()
    assert sample is not None
    assert sample.rss_MB > 0
    assert sample.files >= 3
    assert sample.threads == 1
    assert worker.now.sampled() is None


def test_logs_with_a_traceback_are_found_and_named_errors_are_counted(tmp_path):
    crashed = ended(started(tmp_path / "a", "raise ValueError('odd')"))
    line = "2026-01-02 03:04:05,678 ERROR w0 no checkpoint of round 5"
    complained = ended(started(tmp_path / "b", f"print({line!r})"))
    unnamed, named = complaints([crashed.now, complained.now])
    assert unnamed == ["w0-000: ValueError: odd"]
    assert named == {"no checkpoint of round 5": 1}


@pytest.mark.parametrize("kind", ["", "pull", "plan", "publish", "event", "mix"])
def test_a_trace_that_lost_a_record_amid_is_found(tmp_path, trace_lines, kind):
    worker, lines = started(tmp_path, "pass"), list(trace_lines)
    numbers = [n for n, line in enumerate(lines) if json.loads(line)["kind"] == kind]
    assert numbers or not kind
    if numbers:
        del lines[numbers[len(numbers) // 2]]
    trace = worker.now.folder / "run" / "w0.trace.jsonl"
    trace.parent.mkdir()
    trace.write_text("".join(lines))
    ended(worker)
    assert bool(list(wrong_in_lives(worker))) == bool(kind)


def test_a_trace_with_garbage_amid_is_told_of(tmp_path):
    worker = started(tmp_path, "pass")
    ended(worker)
    trace = worker.now.folder / "run" / "w0.trace.jsonl"
    trace.parent.mkdir()
    trace.write_text("garbage\n")
    assert "not a trace record" in next(wrong_in_lives(worker))


def test_checkpoints_that_are_not_whole_are_found(tmp_path):
    worker = ended(started(tmp_path, "pass"))
    worker.state.mkdir()
    (worker.state / "step-000000000005.safetensors").write_bytes(b"half of a checkp")
    (worker.state / "step-000000000009.safetensors.refused").write_bytes(b"")
    whole, damaged = verified(worker)
    assert whole == 0
    assert "step-000000000005" in damaged[0]
    assert damaged[1] == "w0.state: left behind: step-000000000009.safetensors.refused"
