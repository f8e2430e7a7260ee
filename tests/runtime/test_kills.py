"""Two hundred kills at random moments: each time the worker comes back where it had saved itself.

make test-slow
"""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from mpls.config import builtin, changed
from mpls.core.streams import Stream
from mpls.core.trace import Record, read, replay
from mpls.report.progress import TraceFollower, WorkerProgress, earlier_lives
from mpls.runtime.federation import Federation, warm_up
from tests.runtime.rig import until

KILLS = 200
LONGEST_S = 0.5
"""A life lasts up to so long after it began to run."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class Victims:
    """A federation whose workers are killed one after the other."""

    def __init__(self, folder: Path) -> None:
        tables = {
            "training": {"rounds": 10**6, "local_steps": 5, "eval_every": 10**5, "momentum": 0.5},
            "network": {"emulate": "", "status_s": 0.1},
            "checkpoint": {"every_rounds": 1},
        }
        self.federation = Federation(changed(builtin(), tables), folder, restarts=KILLS)
        self.names = [worker.name for worker in self.federation.config.workers]
        self.traces = [folder / f"{name}.trace.jsonl" for name in self.names]
        self.workers = [WorkerProgress(name) for name in self.names]
        self._followers = [TraceFollower(trace) for trace in self.traces]

    def look(self) -> None:
        """See to the dead, and read what the living write."""
        self.federation.wait(0.02)
        for worker, follower in zip(self.workers, self._followers):
            for record in follower.new_records():
                worker.take(record)

    def kill(self, number: int, after_s: float) -> None:
        """So long after its present life began to run."""
        lives = self.workers[number].lives
        until(lambda: self.runs(number), f"{self.names[number]} runs again", 60.0)
        end_s = time.monotonic() + after_s
        while time.monotonic() < end_s:
            self.look()
        pid = self.workers[number].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: self._lives(number) > lives, f"{self.names[number]} is back", 60.0)

    def runs(self, number: int) -> bool:
        self.look()
        return self.workers[number].state == "running"

    def _lives(self, number: int) -> int:
        self.look()
        return self.workers[number].lives


def test_row_19_two_hundred_killed_workers_lose_nothing_that_was_saved(tmp_path: Path) -> None:
    warm_up()
    victims, draws = Victims(tmp_path), Stream(1, "kills")
    victims.federation.start()
    try:
        for _ in range(KILLS):
            victims.kill(draws.below(len(victims.names)), draws.between(0.0, LONGEST_S))
        for number in range(len(victims.names)):
            until(partial(victims.runs, number), "all run again", 60.0)
        victims.federation.interrupt()
        while victims.federation.wait(0.1):
            continue
    finally:
        victims.federation.kill()
    assert list(victims.federation.exits().values()) == [0, 0, 0]
    resumed = sum(lives_hang_together(trace) for trace in victims.traces)
    print(f"\n{resumed} of {KILLS} kills resumed")
    assert resumed == KILLS


def lives_hang_together(trace: Path) -> int:
    """Each life began after the round of the newest checkpoint that was told of before, or of one
    that was just being told of; returns how many came after the first."""
    saved, files = 0, [*earlier_lives(trace), trace]
    for number, file in enumerate(files):
        records = list(read(file))
        rounds = [record["round"] for record in of(records, "mix")]
        if rounds:
            assert saved + 1 <= rounds[0] <= saved + 2, f"{file}: {rounds[0]} after {saved}"
            assert rounds == list(range(rounds[0], rounds[0] + len(rounds)))
        assert number == 0 or saved == 0 or "resumed" in of(records, "header")[0], file
        if file is trace:
            assert replay(records) is None
        told = [it["round"] for it in of(records, "checkpoint") if "failed" not in it]
        saved = max([saved, *told])
    return len(files) - 1


def of(records: list[Record], kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]
