"""Row 26: a worker that wants more memory than there is ends, alone and by name, and is back within
a minute, after its checkpoint.

Method: `mpls run --restart 1` of two workers, one of which is told to hoard (SIGUSR2, see `models`)
where the kernel allows it little: in a cgroup, whose bound kills it, or below an address space
limit, which refuses it.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mpls.config import builtin, changed, dumps
from mpls.core.trace import Record, read
from mpls.report.progress import earlier_lives
from tests.live import cgroups
from tests.live.fleet import ROOT, START_S, until

BACK_S = 60.0
ALLOWED_BYTES = 400_000_000
"""Beyond what it has already."""
ROUNDS = 400


class Run:
    """`mpls run --restart 1`, and the traces of its workers."""

    def __init__(self, folder: Path) -> None:
        tables: dict[str, Any] = {
            "cluster": {"out": str(folder / "runs"), "name": "hungry", "topology": "full"},
            "workers": [{"id": number, "address": "127.0.0.1:0"} for number in range(2)],
            "model": {"name": "tests.live.models:hoarder"},
            "training": {"rounds": ROUNDS, "local_steps": 20, "eval_every": ROUNDS},
            "network": {"emulate": "2MB"},
            "checkpoint": {"every_rounds": 5},
        }
        file = folder / "cluster.toml"
        base = builtin().model_copy(update={"workers": ()})
        file.write_text(dumps(changed(base, tables)), encoding="utf-8")
        command = [sys.executable, "-m", "mpls", "run", str(file), "--restart", "1"]
        self.runs = folder / "runs"
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Run:
        until(lambda: self.records("w1", "checkpoint"), "a checkpoint", START_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def folder(self) -> Path:
        return next(it for it in self.runs.glob("hungry-*") if not it.is_symlink())

    def records(self, worker: str, *kinds: str) -> list[Record]:
        """Of its latest life."""
        found = list(self.runs.glob(f"hungry-*/{worker}.trace.jsonl"))
        return [it for it in read(found[0]) if it["kind"] in kinds] if found else []

    def life_before(self, worker: str) -> list[Record]:
        (trace,) = earlier_lives(self.folder / f"{worker}.trace.jsonl")
        return list(read(trace))

    def is_back(self, worker: str, pid: int) -> bool:
        """Whether a life after this one has trained."""
        headers = self.records(worker, "header")
        again = bool(headers) and headers[0]["pid"] != pid
        return again and bool(self.records(worker, "mix"))

    def pid(self, worker: str) -> int:
        return int(self.records(worker, "header")[0]["pid"])

    def end(self) -> dict[str, Any]:
        """Drained; the summary."""
        self.process.send_signal(signal.SIGTERM)
        _, self.said = self.process.communicate(timeout=60)
        return dict(json.loads((self.folder / "summary.json").read_text()))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run(tmp_path) as made:
        yield made


def hoard(run: Run, pid: int, measured: Any, what: str) -> dict[str, Any]:
    """Until it has died of it and is back; the summary of the run."""
    began = time.time()
    run_of_w0 = len(run.records("w0", "mix"))
    psutil.Process(pid).send_signal(signal.SIGUSR2)
    until(lambda: run.is_back("w1", pid), "w1 to be back", BACK_S + 10.0)
    measured(f"{what}: back, and a round further, after", time.time() - began, BACK_S)
    (header,) = run.records("w1", "header")
    saved = [it["round"] for it in run.life_before("w1") if it["kind"] == "checkpoint"]
    first = run.records("w1", "mix")[0]["round"]
    assert "resumed" in header
    assert first == saved[-1] + 1
    until(lambda: len(run.records("w0", "mix")) > run_of_w0 + 3, "w0 to train on", 30.0)
    summary = run.end()
    assert [worker["lives"] for worker in summary["workers"]] == [1, 2]
    return summary


def test_row_26_whom_the_kernel_kills_for_memory_is_alone_in_it_and_back_within_a_minute(
    run, measured
):
    why = cgroups.missing()
    if why:
        pytest.skip(f"tests in a memory cgroup: {why}")
    pid = run.pid("w1")
    with cgroups.memory_group() as group:
        group.let_have(ALLOWED_BYTES)
        group.take(pid)
        hoard(run, pid, measured, "killed for memory")
        assert group.kills() == 1
    assert "w1 died (SIGKILL) and is started again" in run.said


def test_row_26_and_29_who_is_refused_memory_says_so_and_is_back_within_a_minute(run, measured):
    pid = run.pid("w1")
    process = psutil.Process(pid)
    limit = process.memory_info().vms + ALLOWED_BYTES
    process.rlimit(resource.RLIMIT_AS, (limit, limit))
    hoard(run, pid, measured, "refused memory")
    assert "w1 died (exit code 1) and is started again" in run.said
    last = [it for it in run.life_before("w1") if it["kind"] == "state"][-1]
    assert last["state"] == "failed"
    assert last["reason"].startswith("training: out of memory: ")
