"""What strangers can take of a worker before they have said who they are: descriptors and memory.

Method: two workers on loopback, and many bare connections to the first.
"""

from __future__ import annotations

import resource
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from mpls.core import protocol
from mpls.core.spec import WorkerSpec
from mpls.runtime.sockets import REQUEST_LIMIT_BYTES
from mpls.wire import decode, encode
from tests.fuzz.sessions import greeting
from tests.live.fleet import Fleet, until
from tests.live.test_crowds import free_address

STRANGERS = 1000
FILES = 160
"""A worker needs about 50 for itself."""
EVICTED_S = 10.0
"""ZeroMQ gives each 5 s; so many take some time to be accepted, and to be let go."""
BACK_S = 10.0


@contextmanager
def pair(folder: Path, security: str, files: int = 0) -> Iterator[Fleet]:
    """w0 with so many descriptors, and w1; a member w2 that never comes."""
    addresses = {"w0": free_address(), "w1": free_address(), "w2": "127.7.0.1:9"}

    def inside(name: str, *command: str) -> list[str]:
        limited = ["prlimit", f"--nofile={files}:{files}"] if files and name == "w0" else []
        return [*limited, *command]

    tables = {
        "model": {"name": "tests.live.models:small"},
        "network": {"security": security},
        "training": {"pace": "free"},
    }
    with Fleet(folder, addresses, inside, tables) as fleet:
        fleet.start("w0", "w1")
        fleet.wait_until_training("w0", "w1")
        fleet.wait_until_pulling("w1", "w0", time.time(), 30.0)
        yield fleet
        assert [fleet[name].end() for name in ("w0", "w1")] == [0, 0]


@pytest.fixture
def many_files() -> Iterator[None]:
    """For this process, which is all of the strangers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"needs 4096 file descriptors, {hard} are allowed: ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def member(fleet: Fleet, context: zmq.Context[Any]) -> zmq.Socket[bytes]:
    """w2, in plaintext, about to say hello."""
    spec = WorkerSpec.from_plain(next(fleet["w0"].since(0, "header"))["spec"])
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(f"tcp://{fleet.addresses['w0']}")
    dealer.send_multipart(encode(protocol.Hello(1, "w2", spec.model, spec.histogram, spec.samples)))
    return dealer


def test_row_27_without_descriptors_old_peers_are_served_and_new_ones_as_soon_as_there_are_some(
    tmp_path, measured
):
    with pair(tmp_path, "plaintext", FILES) as fleet, ExitStack() as closing:
        context: zmq.Context[Any] = zmq.Context()
        closing.callback(context.destroy, 0)
        held = []
        for _ in range(2 * FILES):
            held.append(context.socket(zmq.DEALER))
            held[-1].setsockopt(zmq.LINGER, 0)
            held[-1].connect(f"tcp://{fleet.addresses['w0']}")
        until(lambda: "file descriptors" in fleet["w0"].output(), "it to warn", 20.0)
        newcomer = member(fleet, context)
        began = time.time()
        took_s = fleet.wait_until_pulling("w1", "w0", began, 30.0) - began
        measured("no descriptor left: w1 has something new of w0", took_s, 5.0)
        assert not newcomer.poll(2000), "it has to wait"
        assert fleet["w0"].process.poll() is None
        for dealer in held:
            dealer.close()
        freed = time.time()
        assert newcomer.poll(int(BACK_S * 1000)), "it is let in"
        assert isinstance(decode(newcomer.recv_multipart()), protocol.Welcome)
        measured("descriptors again: a newcomer is welcome", time.time() - freed, BACK_S)
        until(lambda: "over: file descriptors" in fleet["w0"].output(), "it to say so", 20.0)
        newcomer.close()


@pytest.mark.parametrize(
    "claimed_bytes", [REQUEST_LIMIT_BYTES - 1000, 95_000_000], ids=["just allowed", "95 MB"]
)
def test_row_39_a_thousand_big_handshakes_cost_little_each_and_for_5_s(
    tmp_path, measured, many_files, claimed_bytes
):
    """Each says that it speaks CURVE, begins a command of that size, and never ends it."""
    with pair(tmp_path, "curve") as fleet, ExitStack() as held:
        process = psutil.Process(fleet["w0"].process.pid)
        host, port = fleet.addresses["w0"].split(":")
        before_bytes = process.memory_info().rss
        began, strangers = time.time(), []
        for _ in range(STRANGERS):
            stranger = held.enter_context(socket.create_connection((host, int(port)), 20.0))
            stranger.sendall(greeting(b"CURVE") + struct.pack(">BQ", 0x06, claimed_bytes))
            stranger.settimeout(20.0)
            strangers.append(stranger)
        most_bytes = max(write_most(one, claimed_bytes, process) for one in strangers)
        each_MB = (most_bytes - before_bytes) / STRANGERS / 1e6
        measured(f"{claimed_bytes:,} B claimed: memory each", each_MB, 1.05, unit="MB")
        took_s = fleet.wait_until_pulling("w1", "w0", began, 30.0) - began
        measured(f"{claimed_bytes:,} B claimed: w1 has something new of w0", took_s, 5.0)
        for stranger in strangers:
            wait_until_ended(stranger)
        measured(f"{claimed_bytes:,} B claimed: all are gone", time.time() - began, EVICTED_S)


def write_most(stranger: socket.socket, claimed_bytes: int, process: psutil.Process) -> int:
    """All but a little of what was claimed, as far as it is taken; the server's memory then."""
    with suppress(OSError):  # it may be thrown out already
        stranger.sendall(bytes(min(claimed_bytes, 2_000_000) - 500))
    return int(process.memory_info().rss)


def wait_until_ended(stranger: socket.socket) -> None:
    try:
        while stranger.recv(65_536):
            pass
    except ConnectionResetError:
        return
