"""A worker among readers that stall, strangers that connect and say nothing, and a member that
floods it: it goes on training and serving, in the memory that it has.

Method: two real workers on loopback, of a cluster in which a hundred others are members too; the
test plays those. How fast a worker trains is told by the other's rate in the same seconds, which
is what the machine allows.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import zmq

from mpls.core import protocol
from mpls.core.spec import WorkerSpec
from mpls.wire import CREDIT_LIMIT_BYTES, decode, encode
from tests.live.fleet import Fleet
from tests.live.town import assert_sound

READERS = 100
STALLED_MB = 4 * 2**20 / 1e6
IDLE = 1000
FLOOD_PER_S = 10_000
WATCHED_S = 3.0
REPEATS = 3
EVICTED_S = 7.0
"""ZeroMQ gives a connection 5 s to shake hands; here 500 are made, let in and let go at once."""
QUIET_S = 2.0
"""After that much silence its allowance is full again; it may have to say hello anew."""
Member = zmq.Socket[bytes]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory) -> Iterator[Fleet]:
    addresses = {"w0": free_address(), "w1": free_address()}
    addresses |= {f"m{number}": f"127.7.0.{number + 1}:9" for number in range(READERS)}
    tables = {
        "data": {"partition": "iid"},
        "network": {"emulate": "10MB"},
        "training": {"pace": "free"},
    }
    with Fleet(tmp_path_factory.mktemp("crowd"), addresses, tables=tables) as made:
        made.start("w0", "w1")
        made.wait_until_training("w0", "w1")
        made.wait_until_pulling("w1", "w0", time.time(), 30.0)
        yield made
        for name in ("w0", "w1"):
            assert made[name].end() == 0, made[name].output()
            assert_sound(made[name])


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def members(fleet: Fleet) -> Iterator[Callable[[str], Member]]:
    """A connection to w0 of a member that says hello; what it does then is up to the test. Its
    kernel and ZeroMQ keep little of what it does not read."""
    context: zmq.Context[Any] = zmq.Context()
    context.setsockopt(zmq.MAX_SOCKETS, 2 * IDLE)
    connected: list[Member] = []
    header = next(fleet["w0"].since(0, "header"))
    spec = WorkerSpec.from_plain(header["spec"])

    def connect(name: str = "") -> Member:
        member = context.socket(zmq.DEALER)
        connected.append(member)
        for option, value in ((zmq.RCVHWM, 1), (zmq.RCVBUF, 4096), (zmq.RCVTIMEO, 10_000)):
            member.setsockopt(option, value)
        member.connect(f"tcp://{fleet.addresses['w0']}")
        if name:
            hello = protocol.Hello(1, name, spec.model, spec.histogram, spec.samples)
            member.send_multipart(encode(hello))
            welcome = decode(member.recv_multipart())
            assert isinstance(welcome, protocol.Welcome), welcome
        return member

    yield connect
    for member in connected:
        member.close(0)
    context.term()


def rate_while(fleet: Fleet, happens: Callable[[], object]) -> float:
    """Local steps of w0 meanwhile, for each of w1, which nobody bothers."""
    began = time.time()
    happens()
    ended = time.time()
    return fleet.steps_per_s("w0", began, ended) / fleet.steps_per_s("w1", began, ended)


def usual_rate(fleet: Fleet) -> float:
    """The median of some such times."""
    rates = [rate_while(fleet, lambda: time.sleep(WATCHED_S)) for _ in range(REPEATS)]
    return statistics.median(rates)


def memory_MB(fleet: Fleet) -> float:
    return float(psutil.Process(fleet["w0"].process.pid).memory_info().rss) / 1e6


def others_are_served(fleet: Fleet, measured: Callable[..., None], what: str) -> None:
    now = time.time()
    took_s = fleet.wait_until_pulling("w1", "w0", now, 30.0) - now
    measured(f"{what}: w1 has something new of w0", took_s, 5.0)


def answer_s(member: Member) -> float:
    """How long a small question takes."""
    began = time.monotonic()
    member.send_multipart(encode(protocol.Ping(7, 0.0)))
    assert isinstance(decode(member.recv_multipart()), protocol.Pong)
    return time.monotonic() - began


def test_row_40_a_thousand_idle_connections_change_nothing(fleet, members, measured):
    """Half of them never say a word; the other half are ZeroMQ's, and complete."""
    asker = members("m0")
    before, memory_before_MB = usual_rate(fleet), memory_MB(fleet)
    for _ in range(IDLE // 2):
        members()
    with contextlib.ExitStack() as held:
        silent = [held.enter_context(connection_to(fleet, "w0")) for _ in range(IDLE // 2)]
        began = time.monotonic()
        measured("1,000 idle: an answer takes", answer_s(asker), 1.0)
        others_are_served(fleet, measured, "1,000 idle")
        wait_until_evicted(silent)
        gone_s = time.monotonic() - began
    during = usual_rate(fleet)
    measured("1,000 idle: w0's steps to w1's, against before", during / before, least=0.9, unit="")
    measured("1,000 idle: without a handshake they are gone", gone_s, EVICTED_S)
    grown_MB = memory_MB(fleet) - memory_before_MB
    measured("1,000 idle: more memory", grown_MB, 50.0, unit="MB")


def connection_to(fleet: Fleet, name: str) -> socket.socket:
    host, port = fleet.addresses[name].split(":")
    return socket.create_connection((host, int(port)), timeout=10.0)


def wait_until_evicted(connections: list[socket.socket]) -> None:
    """The worker greets each, and then hangs up."""
    for connection in connections:
        while connection.recv(4096):
            pass


def test_row_41_a_hundred_stalled_readers_cost_at_most_4_MiB_each(fleet, members, measured):
    before, memory_before_MB = usual_rate(fleet), memory_MB(fleet)
    layers = tuple(fleet["w0"].layer_bytes())
    for number in range(READERS):
        reader = members(f"m{number}")
        for request in range(4):
            pull = protocol.Pull(10 + request, layers, 0, 0, CREDIT_LIMIT_BYTES)
            reader.send_multipart(encode(pull))
    during = usual_rate(fleet)
    measured("100 stalled: w0's steps to w1's, against before", during / before, least=0.9, unit="")
    others_are_served(fleet, measured, "100 stalled")
    each_MB = (memory_MB(fleet) - memory_before_MB) / READERS
    measured("100 stalled: memory each", each_MB, STALLED_MB, unit="MB")


def test_row_42_a_flood_of_10_000_requests_a_second_costs_a_tenth_at_most(fleet, members, measured):
    memory_before_MB, flooder = memory_MB(fleet), members("m0")
    answers: Counter[str] = Counter()
    sent: list[int] = []
    ratios = []
    for _ in range(REPEATS):
        quiet = rate_while(fleet, lambda: time.sleep(WATCHED_S))
        flood = rate_while(fleet, lambda: sent.append(flood_for(flooder, WATCHED_S, answers)))
        ratios.append(flood / quiet)
    rate_per_s = sum(sent) / (REPEATS * WATCHED_S)
    measured("flood: requests a second", rate_per_s, least=0.5 * FLOOD_PER_S, unit="")
    assert answers["busy"] > 0, answers
    others_are_served(fleet, measured, "flood")
    grown_MB = memory_MB(fleet) - memory_before_MB
    measured("flood: more memory", grown_MB, 20.0, unit="MB")
    ratio = statistics.median(ratios)
    measured("flood: w0's steps to w1's, against before", ratio, least=0.9, unit="")
    ended = time.monotonic()
    time.sleep(QUIET_S)
    answer_s(members("m0"))
    measured("flood over: the flooder is served again", time.monotonic() - ended, 5.0)


def flood_for(flooder: Member, seconds: float, answers: Counter[str]) -> int:
    """So many requests as that rate allows and the worker's end takes; how many."""
    question, sent, began = encode(protocol.Status(9)), 0, time.monotonic()
    while (passed_s := time.monotonic() - began) < seconds:
        while sent < passed_s * FLOOD_PER_S and flooder.poll(0, zmq.POLLOUT):
            flooder.send_multipart(question, zmq.NOBLOCK)
            sent += 1
        read_answers(flooder, answers)
        time.sleep(0.005)
    return sent


def read_answers(flooder: Member, answers: Counter[str]) -> None:
    while flooder.poll(0):
        answer = decode(flooder.recv_multipart())
        answers[answer.code if isinstance(answer, protocol.Error) else "served"] += 1
