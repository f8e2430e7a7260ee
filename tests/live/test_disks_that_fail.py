"""Rows 20 to 22 on a real file system: a disk that is full, a folder that became read-only, and the
power that goes.

Method: `mpls worker` alone, whose checkpoints lie on a small ext4 of their own, and whose trace
says what became of them.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mpls.checkpoint import CheckpointFolder
from mpls.config import builtin, changed, dumps
from mpls.core.trace import Record, read, replay
from tests.live import disks
from tests.live.fleet import MPLS, ROOT, START_S, Life, until

CUTS = 20
SAVED_S = 30.0
"""A checkpoint is due twice a second, but a full disk may take its time."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    why = disks.missing()
    if why:
        pytest.skip(f"tests on a disk of their own: {why}")
    with disks.small_disk(tmp_path) as place:
        yield place


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Alone:
    """A worker whose peer never comes; state on the disk, and its trace too if `all_there`."""

    def __init__(self, folder: Path, disk: Path, all_there: bool = False) -> None:
        self.state = disk / "state"
        self.port = free_port()
        tables: dict[str, Any] = {
            "workers": [{"id": i, "address": f"127.0.0.1:{free_port()}"} for i in range(2)],
            "training": {"rounds": 10**6, "local_steps": 20, "eval_every": 10**6},
            "checkpoint": {"every_rounds": 10},
            "metrics": {"port": self.port},
        }
        file = folder / "cluster.toml"
        file.write_text(dumps(changed(builtin(), tables)), encoding="utf-8")
        out = disk / "out" if all_there else folder / "life"
        command = [*MPLS, "worker", str(file), "--id", "0", "--state", str(self.state)]
        self.life = Life("w0", [*command, "--out", str(out)], folder / "life")
        if all_there:
            self.life.folder = out

    def __enter__(self) -> Alone:
        until(lambda: self.saved(0.0), "a first checkpoint", START_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.life.process.kill()
        self.life.process.wait()

    def checkpoints(self, since: float) -> list[Record]:
        return list(self.life.since(since, "checkpoint"))

    def saved(self, since: float) -> Record | None:
        return next((it for it in self.checkpoints(since) if "failed" not in it), None)

    def failed(self, since: float) -> Record | None:
        return next((it for it in self.checkpoints(since) if "failed" in it), None)

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
            return dict(json.load(answer))

    def status(self) -> subprocess.CompletedProcess[str]:
        run = self.life.trace.parent
        return subprocess.run([*MPLS, "status", str(run)], cwd=ROOT, capture_output=True, text=True)


def fill(state: Path) -> Callable[[], object]:
    return disks.fill(state.parent).unlink


def make_read_only(state: Path) -> Callable[[], object]:
    """So that root cannot write there either."""
    chattr = partial(subprocess.run, check=True)
    chattr(["chattr", "+i", str(state)])
    return lambda: chattr(["chattr", "-i", str(state)])


@pytest.mark.parametrize(
    ("befalls", "said"),
    [(fill, "No space left on device"), (make_read_only, "Operation not permitted")],
    ids=["full", "read-only"],
)
def test_row_21_who_cannot_save_says_so_trains_on_and_saves_when_it_can(
    tmp_path, disk, measured, befalls, said
):
    with Alone(tmp_path, disk) as worker:
        undo = befalls(worker.state)
        try:
            began = time.time()
            failed = until(lambda: worker.failed(began), "a checkpoint that fails", SAVED_S)
            assert failed["failed"].endswith(said)
            status = worker.status()
            assert (status.returncode, f"checkpoint: {worker.state}: {said}" in status.stdout) == (
                1,
                True,
            )
            assert any(said in trouble for trouble in worker.health()["troubles"])
            assert "no checkpoint of round" in worker.life.output()
            time.sleep(3.0)
            rounds = len(list(worker.life.since(began, "mix")))
            measured(f"{said}: rounds in 3 s", rounds, least=3, unit="")
            assert decodes_to_a_round(worker.state) < failed["round"]
        finally:
            undo()
        freed = time.time()
        until(lambda: worker.saved(freed), "a checkpoint with room again", SAVED_S)
        measured(f"{said}, and no more: saved after", time.time() - freed, 10.0)
        assert worker.status().returncode == 0
        assert worker.life.end() == 0, worker.life.output()
    assert decodes_to_a_round(worker.state) > failed["round"]


def decodes_to_a_round(state: Path) -> int:
    """Of the newest checkpoint, which is whole; looking moves nothing."""
    newest = max(state.glob("step-*.safetensors"))
    told = subprocess.run(
        [*MPLS, "checkpoint", "verify", str(newest)], cwd=ROOT, capture_output=True, text=True
    )
    assert told.returncode == 0, told
    found = CheckpointFolder(state).load()
    assert found.checkpoint is not None
    assert found.path == newest
    return found.checkpoint.round


def test_row_21_where_the_trace_is_on_the_full_disk_too_no_line_of_it_is_lost(
    tmp_path, disk, measured
):
    with Alone(tmp_path, disk, all_there=True) as worker:
        filler = disks.fill(disk)
        said = "trace: "
        full = until(lambda: f"{said}" in str(worker.health()["troubles"]), "it to be said", 10.0)
        assert full
        first = worker.health()["round"]
        time.sleep(3.0)
        rounds = worker.health()["round"] - first
        measured("all on a full disk: rounds in 3 s", rounds, least=3, unit="")
        filler.unlink()
        until(lambda: not worker.health()["troubles"][:-1], "no trouble but its peer", 20.0)
        assert worker.life.end() == 0, worker.life.output()
        assert replay(read(worker.life.trace)) is None
        mixed = [record["round"] for record in read(worker.life.trace) if record["kind"] == "mix"]
        assert mixed == list(range(1, len(mixed) + 1))


@pytest.mark.parametrize("bytes_kept", ["half", "none", "one bit less"])
def test_row_22_a_checkpoint_that_a_disk_spoilt_is_set_aside_and_the_one_before_used(
    tmp_path, disk, bytes_kept
):
    with Alone(tmp_path, disk) as worker:
        began = time.time()
        until(lambda: len(worker.checkpoints(began)) > 2, "some checkpoints", SAVED_S)
        worker.life.signal(signal.SIGKILL)
        worker.life.process.wait()
    spoilt, before = sorted(worker.state.glob("step-*.safetensors"))[::-1][:2]
    content = bytearray(spoilt.read_bytes())
    content[len(content) // 2] ^= 1
    kept = {"half": content[: len(content) // 2], "none": b"", "one bit less": content}[bytes_kept]
    spoilt.write_bytes(kept)
    (tmp_path / "again").mkdir()
    with Alone(tmp_path / "again", disk) as again:
        assert f"kept as {spoilt.name}.refused" in again.life.output()
        assert "going on after round" in again.life.output()
        assert str(before) in again.life.output()
        assert again.life.end() == 0


def test_row_20_no_power_cut_loses_a_checkpoint_that_was_told_of_on_a_real_disk(tmp_path, disk):
    """While the worker is stopped, what has reached the device is copied, as if the power had gone
    then: ext4 mends the copy, and the newest checkpoint in it is no older than the last in the
    trace."""
    draw, image, copy = random.Random(20), tmp_path / "disk.img", tmp_path / "cut.img"
    with Alone(tmp_path, disk) as worker:
        for _ in range(CUTS):
            time.sleep(draw.uniform(0.2, 0.8))
            worker.life.signal(signal.SIGSTOP)
            told = [it for it in worker.checkpoints(0.0) if "failed" not in it][-1]
            shutil.copyfile(image, copy)
            worker.life.signal(signal.SIGCONT)
            with disks.mounted(copy, tmp_path / "cut") as place:
                found = CheckpointFolder(place / "state").load()
                assert found.complaints == ()
                assert found.checkpoint is not None
                assert found.checkpoint.round >= told["round"]
        assert worker.life.end() == 0, worker.life.output()
