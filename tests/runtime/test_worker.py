"""One worker alone: every way in which it can end has a name in its trace and an exit code."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count, cycle
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

from mpls.checkpoint import decode
from mpls.checkpoint.disk import OsDisk
from mpls.config import ClusterConfig, builtin, changed, dumps, load
from mpls.core.trace import Record, read
from mpls.errors import BadInput
from mpls.model.training import Diverged, Learner
from mpls.report.progress import TraceFollower, WorkerProgress
from mpls.report.standing import standings
from mpls.report.summary import summarise
from mpls.runtime import federation
from mpls.runtime.aggregator import Aggregator
from mpls.runtime.federation import warm_up
from mpls.runtime.process import run_worker
from mpls.runtime.server import Server
from mpls.runtime.trainer import Trainer
from mpls.runtime.worker import DRAIN_S, Place, Worker
from tests.runtime.rig import Job, listening_socket, until


@pytest.fixture
def nobody() -> Iterator[list[str]]:
    """Addresses at which nobody listens, nor ever will."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(3)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        yield [f"127.0.0.1:{each.getsockname()[1]}" for each in taken]


def alone(nobody: list[str], **tables: dict[str, Any]) -> ClusterConfig:
    """Three workers of which the two others never come."""
    tables.setdefault("training", {"rounds": 3, "local_steps": 5})
    workers = [{"id": number, "address": address} for number, address in enumerate(nobody)]
    return changed(builtin(), {"workers": workers, "network": {"status_s": 0.1}, **tables})


def run(config: ClusterConfig, folder: Path) -> int:
    return Worker(config, 0, Place(folder, listening_socket().detach())).run()


def records(folder: Path, *kinds: str) -> list[Record]:
    return [record for record in read(folder / "w0.trace.jsonl") if record["kind"] in kinds]


def last_state(folder: Path) -> tuple[str, str]:
    record = records(folder, "state")[-1]
    return record["state"], record.get("reason", "")


def test_a_worker_whose_peers_never_come_trains_alone_and_ends_well(tmp_path, nobody):
    assert run(alone(nobody), tmp_path) == 0
    assert last_state(tmp_path) == ("stopped", "")
    assert [record["round"] for record in records(tmp_path, "mix")] == [1, 2, 3]
    (served,) = records(tmp_path, "served")
    assert served["local_steps"] == 15


def test_it_leaves_its_weights_tensor_by_tensor(tmp_path, nobody):
    run(alone(nobody), tmp_path)
    weights = load_file(tmp_path / "w0.safetensors")
    assert {name: values.shape for name, values in weights.items()} == {
        "fc1.weight": (64, 784),
        "fc1.bias": (64,),
        "fc2.weight": (10, 64),
        "fc2.bias": (10,),
    }
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["w0.safetensors", "w0.state", "w0.trace.jsonl"]


@pytest.mark.parametrize(
    ("owner", "method", "thread"),
    [
        (Server, "_serve", "serving"),
        (Aggregator, "_wait", "aggregation"),
        (Trainer, "_mix", "training"),
    ],
)
def test_a_thread_that_dies_fails_the_worker_and_is_named(
    tmp_path, nobody, monkeypatch, owner, method, thread
):
    def die(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(owner, method, die)
    config = alone(nobody, training={"rounds": 10**6})
    assert run(config, tmp_path) == 1
    assert last_state(tmp_path) == ("failed", f"{thread}: RuntimeError: out of luck")


def test_a_worker_that_cannot_be_built_says_so_in_its_trace(tmp_path, nobody):
    config = alone(nobody, model={"name": "tests.runtime.nowhere:mlp"})
    with socket.socket() as unused, pytest.raises(BadInput, match="nowhere"):
        Worker(config, 0, Place(tmp_path, unused.fileno())).run()
    state, reason = last_state(tmp_path)
    assert state == "failed"
    assert "nowhere" in reason


def test_row_25_an_address_in_use_is_bad_input_before_anything_is_built(tmp_path, nobody):
    with pytest.raises(BadInput, match=f"worker w0: cannot listen on {nobody[0]}: .*in use"):
        run_worker(alone(nobody), 0, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_draining_takes_less_time_than_a_federation_waits_for_its_workers():
    assert sum(DRAIN_S.values()) < federation.DRAIN_S


# --- signals ---


def process(file: Path, folder: Path, listener: socket.socket) -> None:
    """A worker started by hand in the foreground, in a process of its own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise SystemExit(run_worker(load(file), 0, folder, listener))


@pytest.fixture
def endless(tmp_path: Path, nobody: list[str]) -> Iterator[ForkServerProcess]:
    """A worker that would train for ever, once it does."""
    file = tmp_path / "cluster.toml"
    file.write_text(dumps(alone(nobody, training={"rounds": 10**6})))
    warm_up()
    with listening_socket() as listener:
        worker = multiprocessing.get_context("forkserver").Process(
            target=process, args=(file, tmp_path, listener)
        )
        worker.start()
    progress, follower = WorkerProgress("w0"), TraceFollower(tmp_path / "w0.trace.jsonl")

    def trains() -> bool:
        for record in follower.new_records():
            progress.take(record)
        return progress.round >= 2

    until(trains, "the worker to train")
    yield worker
    worker.kill()
    worker.join()
    worker.close()


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_worker_told_to_end_drains_and_says_how_it_was_told(tmp_path, endless, number, exit_code):
    assert endless.pid is not None
    os.kill(endless.pid, number)
    endless.join(20)
    assert endless.exitcode == exit_code
    states = [record["state"] for record in records(tmp_path, "state")]
    assert states == ["initializing", "ready", "running", "draining", "stopped"]
    assert (tmp_path / "w0.safetensors").exists()


def test_a_worker_told_to_end_again_and_again_still_drains(tmp_path, endless):
    """Signals may come at any moment of the supervising thread, also when it is being woken."""
    assert endless.pid is not None
    for _ in range(200):
        os.kill(endless.pid, signal.SIGTERM)
    endless.join(20)
    assert endless.exitcode == 0
    assert last_state(tmp_path) == ("stopped", "")


def test_row_28_clocks_that_jump_an_hour_either_way_change_nothing(tmp_path, nobody, monkeypatch):
    """Everything is timed by a clock that only goes forward."""
    jumps = cycle((3600.0, -3600.0))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    assert run(alone(nobody), tmp_path) == 0
    assert [record["round"] for record in records(tmp_path, "mix")] == [1, 2, 3]
    times_s = [record["t"] for record in read(tmp_path / "w0.trace.jsonl")]
    assert 0.0 <= min(times_s) <= max(times_s) < 60.0


def test_row_29_an_error_in_a_step_fails_the_worker_and_its_checkpoint_stays(
    tmp_path, nobody, monkeypatch
):
    step, steps = Learner.step, count(1)

    def until_memory_is_full(learner: Learner) -> None:
        if next(steps) > 22:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(learner)

    monkeypatch.setattr(Learner, "step", until_memory_is_full)
    tables = {"training": {"rounds": 10, "local_steps": 5}, "checkpoint": {"every_rounds": 2}}
    assert run(alone(nobody, **tables), tmp_path) == 1
    assert last_state(tmp_path) == ("failed", "training: out of memory: CUDA out of memory")
    newest = max((tmp_path / "w0.state").glob("step-*.safetensors"))
    assert decode(newest.read_bytes(), str(newest)).round == 4


@pytest.mark.parametrize(
    ("owner", "method", "error", "reason"),
    [
        (Trainer, "_mix", RuntimeError("out of luck"), "training: RuntimeError: out of luck"),
        (Learner, "step", Diverged("the loss was nan"), "training: the loss was nan"),
        (Learner, "step", MemoryError("5 GB"), "training: out of memory: 5 GB"),
        (OsDisk, "write", OSError(28, "No space left on device"), "checkpoint: "),
    ],
    ids=["trainer dead", "loss not finite", "out of memory", "disk full"],
)
def test_row_26_and_29_a_worker_that_fails_says_why_wherever_it_is_asked(
    tmp_path, nobody, monkeypatch, owner, method, error, reason
):
    """Exit code, trace, summary, `mpls status` of the run, and its health: the same reason."""

    def die(*_: object) -> None:
        raise error

    monkeypatch.setattr(owner, method, die)
    worker = Worker(alone(nobody), 0, Place(tmp_path, listening_socket().detach()))
    assert worker.run() == 1
    assert last_state(tmp_path)[1].startswith(reason)
    (standing,) = standings(tmp_path, ["w0"])
    assert not standing.is_well
    assert standing.troubles()[0].startswith(reason)
    summary = summarise(
        [standing.progress], [1], tmp_path, status="failed", strategy="mpls", seconds=1.0
    )
    assert summary["workers"][0]["reason"].startswith(reason)
    health = worker._parts.health.report()
    assert any(trouble.startswith(reason) for trouble in health["troubles"])
    if reason.startswith("training"):
        assert (health["healthy"], health["state"]) == (False, "failed")


def test_row_59_a_host_that_cannot_be_found_is_named_and_it_trains_alone(tmp_path, nobody, caplog):
    """Through the system's own resolver, which knows that nothing is below .invalid."""
    config = alone(nobody, training={"rounds": 10**6, "local_steps": 5})
    workers = [{"id": 0, "address": nobody[0]}]
    workers += [{"id": number, "address": f"nowhere{number}.invalid:7000"} for number in (1, 2)]
    config = changed(config, {"workers": workers, "network": {"security": "plaintext"}})
    worker = Worker(config, 0, Place(tmp_path, listening_socket().detach()))
    done = Job("worker", worker.run)
    until(lambda: caplog.text.count("its host cannot be found") == 2, "both to be named", 60.0)
    until(lambda: (tmp_path / "w0.trace.jsonl").exists(), "a trace")
    until(lambda: len(records(tmp_path, "mix")) > 3, "some rounds", 60.0)
    assert "no connection to w1 at nowhere1.invalid:7000: its host" in caplog.text
    worker.stop()
    assert done.finish(30.0) == 0
    assert worker._parts.health.report()["peers"] == {"w1": "away", "w2": "away"}
    assert caplog.text.count("its host cannot be found") == 2, "a line a minute, and no more"
