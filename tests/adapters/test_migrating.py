"""docs/migrating.md: every command in it is run, in order, where the old files lie.

Method: three old files with free ports, a small MNIST below `data`, and a server of the contract at
the address of worker 0, as if that were still an old one.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mpls.config import load
from mpls.model import data
from tests.adapters.rig import serving_grpc
from tests.runtime.rig import Model

OLD = Path(__file__).with_name("old")
DOCUMENT = Path(__file__).parents[2] / "docs" / "migrating.md"
COMMANDS = re.findall(r"^    (mpls .*)$", DOCUMENT.read_text(), re.MULTILINE)
MLP = Model(fc1=4 * 64 * 785, fc2=4 * 10 * 65)


def idx(array: np.ndarray) -> bytes:
    shape = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    digits = data.load("digits", "")
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, images, labels in (
        ("train", digits.train_images, digits.train_labels),
        ("t10k", digits.test_images, digits.test_labels),
    ):
        (raw / f"{name}-images-idx3-ubyte").write_bytes(idx(images[:900, 0]))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels[:900]))
    return tmp_path


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def old_files(folder: Path, ports: list[int]) -> None:
    for file in OLD.glob("worker_*.yaml"):
        text = file.read_text().replace("max_iterations: 100", "max_iterations: 30")
        for number, port in enumerate(ports):
            text = text.replace(f":{50051 + number}", f":{port}")
        (folder / file.name).write_text(text)


@pytest.mark.timeout(120)
def test_every_command_of_the_document_works_in_its_order(folder: Path) -> None:
    assert [command.split()[1] for command in COMMANDS] == [
        *("convert", "check", "worker", "grpc-conformance", "convert", "keys")
    ]
    with serving_grpc(MLP.store(MLP.weights()), MLP, state="draining") as (_, port):
        old_files(folder, [port, *free_ports(2)])
        for command in COMMANDS:
            words = shlex.split(command.replace("localhost:50051", f"localhost:{port}"))
            said = subprocess.run(
                [sys.executable, "-m", *words],
                cwd=folder,
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": str(DOCUMENT.parents[1]), "OMP_NUM_THREADS": "1"},
            )
            assert said.returncode == 0, f"{command}: {said.stdout}{said.stderr}"
    trace = next((folder / "runs").glob("*-w1-*/w1.trace.jsonl")).read_text()
    assert '"outcome":"applied"' in trace.replace(" ", ""), "w1 mixed layers of worker 0 in"
    assert load(folder / "cluster.toml").network.transport == "zmq"
    assert (folder / "cluster.keys" / "w2.secret").exists()


def test_the_settings_that_the_document_shows_are_settings() -> None:
    shown = re.findall(r"^    (grpc_\w+) = ", DOCUMENT.read_text(), re.MULTILINE)
    assert shown == ["grpc_ca", "grpc_cert", "grpc_key"]
