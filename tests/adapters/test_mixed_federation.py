"""A federation of three makes: one worker of ours on ZeroMQ, one of ours on gRPC, and one written
from the contract alone, in processes of their own on real digits.

Method: `stranger.py` is the third; the traces of the other two, and what the stranger says of
itself, tell who pulled what from whom. The long run is held against one of ours on ZeroMQ alone.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpls.adapters
from mpls.adapters.mixed import adapt
from mpls.config import ClusterConfig, builtin, changed, dumps
from mpls.core.trace import Record, read, replay
from mpls.model.data import load
from mpls.model.partition import partition
from mpls.runtime.federation import Federation, warm_up
from mpls.runtime.sockets import listener_at

PROTO = Path(mpls.adapters.__file__).with_name("mpls_service.proto")
OURS = """
import socket, sys
from pathlib import Path
from mpls.adapters.mixed import adapt
from mpls.config import load
from mpls.runtime.process import run_worker
file, number, folder, fd = sys.argv[1:]
listener = socket.socket(fileno=int(fd))
raise SystemExit(run_worker(load(file), int(number), Path(folder), listener, None, adapt))
"""


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


class Mixed:
    """w0 on ZeroMQ, with a port for gRPC; w1 on gRPC; w2 the stranger."""

    def __init__(
        self, folder: Path, rounds: int, stranger: bool = True, strategy: str = "mpls"
    ) -> None:
        self.folder, self.stranger = folder, stranger
        self._listeners = [
            listener_at(f"w{number}", "127.0.0.1", 0, shared=stranger and number == 1)
            for number in range(2 if stranger else 3)
        ]
        ports = [listener.getsockname()[1] for listener in self._listeners]
        workers: list[dict[str, Any]] = [
            {"id": number, "address": f"127.0.0.1:{port}"} for number, port in enumerate(ports)
        ]
        if stranger:
            workers.append({"id": 2, "address": f"127.0.0.1:{free_port()}", "transport": "grpc"})
            workers[0]["grpc_port"] = free_port()
            workers[1]["transport"] = "grpc"
        tables = {
            "workers": workers,
            # Long rounds, lest one be done before the others are there.
            "training": {"rounds": rounds, "eval_every": rounds, "local_steps": 400},
            "mpls": {"strategy": strategy},
            "network": {"emulate": "1.5MB", "status_s": 0.1},
        }
        self.config = changed(builtin(), tables)
        self.file = folder / "cluster.toml"
        self.file.write_text(dumps(self.config))

    def run(self, timeout_s: float) -> dict[str, Any]:
        """What the stranger says of itself; every process has ended well."""
        stranger = self._start_stranger() if self.stranger else None
        ours = [self._start(number) for number in range(len(self._listeners))]
        try:
            for process in ours:
                assert process.wait(timeout_s) == 0
            if stranger is None:
                return {}
            said, _ = stranger.communicate("", timeout_s)
            assert stranger.returncode == 0
            return dict(json.loads(said))
        finally:
            for process in filter(None, [*ours, stranger]):
                process.kill()
                process.wait()

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        listener = self._listeners[number]
        fd = listener.fileno()
        arguments = [str(self.file), str(number), str(self.folder), str(fd)]
        with listener, (self.folder / f"w{number}.out").open("wb") as out:
            return subprocess.Popen(
                [sys.executable, "-c", OURS, *arguments],
                pass_fds=[fd],
                stdout=out,
                stderr=out,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def _start_stranger(self) -> subprocess.Popen[str]:
        """It waits until one of ours answers; it serves until its input ends."""
        me, [w0, w1, w2] = 2, self.config.workers
        data = self.folder / "shard.npz"
        np.savez(data, **shard(self.config, me))
        rounds = str(self.config.training.rounds)
        places = [f"0=127.0.0.1:{w0.grpc_port}", f"1={w1.address}"]
        script = Path(__file__).with_name("stranger.py")
        arguments = [str(PROTO), str(data), str(me), str(w2.port), rounds, *places]
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def records(self, name: str, kind: str) -> list[Record]:
        return [r for r in read(self.folder / f"{name}.trace.jsonl") if r["kind"] == kind]

    def applied(self, name: str) -> Counter[str]:
        """Layers that were mixed in, by the peer that they came from."""
        pulls = self.records(name, "pull")
        return Counter(pull["peer"] for pull in pulls if pull["outcome"] == "applied")

    def accuracy(self, name: str) -> float:
        return float(self.records(name, "eval")[-1]["accuracy"])


def shard(config: ClusterConfig, number: int) -> dict[str, np.ndarray]:
    """What the stranger has of the data, scaled as everybody scales it."""
    digits = load("digits", "")
    settings = config.partition_settings()
    mine = partition(digits.train_labels, len(config.workers), **settings)[number]

    def scaled(images: np.ndarray) -> np.ndarray:
        pixels = (images.reshape(len(images), -1) / np.float32(255)).astype("f4")
        return (pixels - np.float32(digits.mean[0])) / np.float32(digits.std[0])

    return {
        "images": scaled(digits.train_images[mine]),
        "labels": digits.train_labels[mine],
        "test_images": scaled(digits.test_images),
        "test_labels": digits.test_labels,
    }


def check(mixed: Mixed, said: dict[str, Any]) -> None:
    """Layers flowed from everybody to everybody."""
    for name in ("w0", "w1"):
        applied = mixed.applied(name)
        assert applied.keys() == {"w0", "w1", "w2"} - {name}, applied
        assert replay(read(mixed.folder / f"{name}.trace.jsonl")) is None
    assert said["served"] >= mixed.applied("w0")["w2"] + mixed.applied("w1")["w2"]
    assert min(said["pulled"].values()) > 0, said
    for name in ("w0", "w1"):
        plans = mixed.records(name, "plan")
        assert all(plan["progress"].get("w2") is None for plan in plans)
    # ZeroMQ peers tell their progress, so that the two kinds are really told apart.
    assert any(plan["progress"].get("w0") for plan in mixed.records("w1", "plan"))


@pytest.mark.timeout(90)
def test_three_makes_learn_together(tmp_path: Path) -> None:
    """Everybody pulls everything of everybody, so that a few rounds suffice."""
    mixed = Mixed(tmp_path, rounds=25, strategy="appg")
    said = mixed.run(timeout_s=60)
    check(mixed, said)
    assert min(mixed.accuracy("w0"), mixed.accuracy("w1"), said["accuracy"]) > 0.8


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_makes_learn_as_much_as_three_on_zeromq(tmp_path: Path) -> None:
    runs = {}
    for name in ("mixed", "alike"):
        (folder := tmp_path / name).mkdir()
        runs[name] = Mixed(folder, rounds=50, stranger=name == "mixed")
    said = runs["mixed"].run(timeout_s=250)
    runs["alike"].run(timeout_s=250)
    check(runs["mixed"], said)
    mixed = [runs["mixed"].accuracy("w0"), runs["mixed"].accuracy("w1"), said["accuracy"]]
    alike = [runs["alike"].accuracy(f"w{number}") for number in range(3)]
    print(f"mixed {mixed}, ZeroMQ alone {alike}")
    assert abs(np.mean(mixed) - np.mean(alike)) < 0.03
    assert min(mixed) > min(alike) - 0.05


@pytest.mark.timeout(60)
def test_a_whole_federation_on_grpc_ends_well(tmp_path: Path) -> None:
    """As `mpls run --transport grpc`: free ports are held by the parent until gRPC has them."""
    tables = {
        "training": {"rounds": 15, "eval_every": 15, "local_steps": 200},
        "network": {"emulate": "", "status_s": 0.1, "transport": "grpc"},
    }
    warm_up()
    federation = Federation(changed(builtin(), tables), tmp_path, adapter=adapt)
    federation.start()
    while federation.wait(0.5):
        continue
    assert list(federation.exits().values()) == [0, 0, 0]
    outcomes, calls = Counter[str](), Counter[str]()
    for worker in federation.config.workers:
        records = list(read(tmp_path / f"{worker.name}.trace.jsonl"))
        outcomes.update(record["outcome"] for record in records if record["kind"] == "pull")
        [served] = [record for record in records if record["kind"] == "served"]
        calls.update(call for peer in served["sent"].values() for call in peer)
        assert replay(records) is None
    assert outcomes["applied"] > 0, outcomes
    assert {"pulllayers", "getmetadata"} <= calls.keys()


def test_the_twin_says_that_it_does_not_compare_such_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(Path(__file__).parents[1] / "sim" / "live-run", folder)
    file = folder / "cluster.toml"
    text = file.read_text()
    file.write_text(text.replace('transport = "zmq"', 'transport = "grpc"'))
    assert file.read_text() != text
    command = [sys.executable, "-m", "sim", "compare", str(folder)]
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 2
    assert "layers travelled by gRPC" in said.stderr
