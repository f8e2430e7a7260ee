"""What a peer can cost: so many requests, so many bytes, so many lines, whatever it sends or leaves
unread; and the others do not notice. The tests are named after the rows of the table of faults.

Method: a real server in its thread, and bare DEALERs and TCP connections without manners.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import resource
import socket
import struct
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from mpls.config import builtin, changed, dumps
from mpls.core import protocol
from mpls.errors import BadInput
from mpls.preflight import prepare
from mpls.runtime.clients import PULLS_LIMIT
from mpls.runtime.floods import EXCESS_MESSAGES
from mpls.runtime.limits import LINES_LIMIT, REQUEST_TOKENS, Rates
from mpls.runtime.server import VERSIONS_LEAST
from mpls.runtime.snapshots import SnapshotStore
from mpls.runtime.sockets import REQUEST_LIMIT_BYTES
from mpls.wire import CREDIT_LIMIT_BYTES, encode
from tests.runtime.rig import Model, Puller, Raw, assert_bits, serving, until

MODEL = Model(conv=4_000, fc=4_000_000, big=12_000_000)
SPEC = MODEL.spec("w0", "w1", "w2")
W1, W2 = MODEL.spec("w1", "w0"), MODEL.spec("w2", "w0")
WINDOW = 256 * 1024
STATUS = protocol.Status(7)
SLOW = Rates(peer=100.0, strangers=100.0)
SLOW_BURST = 200 // REQUEST_TOKENS
"""Requests that SLOW allows at once."""


def pull(request_id: int, *layers: str, credit: int = WINDOW) -> protocol.Pull:
    return protocol.Pull(request_id, layers or ("fc",), 0, 0, credit)


@pytest.fixture
def store() -> SnapshotStore:
    return MODEL.store(MODEL.weights())


# --- floods ---


def test_row_42_a_flood_of_requests_is_answered_busy_and_others_are_served(store):
    with (
        serving(SPEC, store, rates=SLOW) as (server, port),
        Raw(port) as flood,
        Puller(W2, {"w0": port}) as other,
    ):
        flood.greet(W1)
        flood.send(*[STATUS] * 130)
        other.greet()
        assert_bits(other.layers(other.pull("fc")), store.latest(), "fc")
        answers = flood.rest(quiet_s=0.2)
        refusals = server.refusals
    served = [answer for answer in answers if isinstance(answer, protocol.StatusOk)]
    busy = [answer for answer in answers if answer not in served]
    assert {answer.code for answer in busy} == {"busy"}
    assert SLOW_BURST - 1 <= len(served) <= 3 * SLOW_BURST
    assert len(served) + refusals.get("busy", 0) + refusals["flood"] == 130, (
        "the counters are exact"
    )
    assert 1 <= len(busy) - refusals.get("busy", 0) <= 3, (
        "one answer tells of many that went unread"
    )
    assert len(answers) < 100


def test_row_42_a_connection_that_goes_on_flooding_is_hung_up_on(store):
    with (
        serving(SPEC, store, rates=SLOW) as (server, port),
        Raw(port) as flood,
        Puller(W2, {"w0": port}) as other,
    ):
        other.greet()
        flood.greet(W1)
        flood.send(*[STATUS] * 2_000)
        until(flood.was_cut, "the connection to end")
        assert server.refusals["flood"] >= EXCESS_MESSAGES
        assert_bits(other.layers(other.pull("fc")), store.latest(), "fc")


def test_row_42_a_flood_of_strangers_spends_nothing_of_the_peers(store):
    with serving(SPEC, store, rates=SLOW) as (server, port), Raw(port) as peer, Raw(port) as noise:
        peer.greet(W1)
        noise.send(*[protocol.Ping(1, 0.0)] * 500)
        until(lambda: server.refusals.get("flood"), "the strangers to be too many")
        for _ in range(SLOW_BURST - 5):
            peer.send(STATUS)
            assert isinstance(peer.receive(), protocol.StatusOk)


def test_a_message_that_breaks_the_protocol_costs_as_much_as_a_request(store):
    with serving(SPEC, store, rates=SLOW) as (server, port), Raw(port) as raw:
        raw.greet(W1)
        for _ in range(130):
            raw.send_frames([b"\x91" + b"\xa1" * 10_000])
        raw.rest(quiet_s=0.2)
    assert SLOW_BURST - 1 <= server.refusals["msgpack"] <= 3 * SLOW_BURST
    assert server.refusals["msgpack"] + server.refusals["flood"] == 130


def test_credit_that_pays_for_chunks_is_never_too_much(store):
    """Else the pulls of a fast link would be cut."""
    with serving(SPEC, store, rates=SLOW) as (server, port), Raw(port) as raw:
        raw.greet(W1)
        raw.send(pull(5, "big", "fc"))
        chunk = raw.receive()
        while not chunk.last:
            raw.send(protocol.Credit(5, len(chunk.data)))
            chunk = raw.receive()
    assert server.received.messages["w1", "credit"] > 3 * SLOW_BURST
    assert server.refusals == {}


# --- memory ---


def test_row_41_a_stalled_reader_costs_one_window_however_much_it_asks_for(store):
    with serving(SPEC, store) as (_, port), Raw(port) as raw:
        raw.greet(W1)
        numbers = range(10, 10 + PULLS_LIMIT - 1)
        raw.send(*(pull(number, "big", credit=CREDIT_LIMIT_BYTES) for number in numbers))
        unread = raw.until_quiet()
        assert {chunk.id for chunk in unread} == {10}
        assert sum(len(chunk.data) for chunk in unread) <= CREDIT_LIMIT_BYTES
        ended = set()
        for chunk in unread:
            raw.send(protocol.Credit(chunk.id, len(chunk.data)))
        while len(ended) < len(numbers):
            chunk = raw.receive()
            raw.send(protocol.Credit(chunk.id, len(chunk.data)))
            ended |= {chunk.id} if chunk.last else set()
        assert ended == set(numbers), "and when it goes on, it gets all of it"


@pytest.mark.parametrize("what", ["pulls that it cancels", "probes"])
def test_row_41_a_stalled_reader_cannot_fill_the_queue_with(store, what):
    """Nobody gives credit for what was cancelled, nor for probes; ZeroMQ's queue would hold 64 of
    the largest chunks, 60 MB. What the kernel buffers is not ours to bound."""
    with (
        serving(SPEC, store) as (server, port),
        Raw(port, RCVHWM=1, RCVBUF=4096) as stalled,
        Raw(port) as other,
    ):
        stalled.greet(W1)
        other.greet(W2)
        for number in range(60):
            if what == "probes":
                stalled.send(protocol.Probe(number, 1_000_000))
            else:
                stalled.send(pull(number, "big", credit=CREDIT_LIMIT_BYTES))
                other.until_quiet()
                stalled.send(protocol.Cancel(number))
            other.until_quiet()
        kernel_bytes = largest_send_buffer_bytes()
        sent_bytes = server.sent.bytes["w1", "chunk"] + server.sent.bytes["w1", "probedata"]
        assert 1_000_000 < sent_bytes < CREDIT_LIMIT_BYTES + kernel_bytes + 2_000_000


def largest_send_buffer_bytes() -> int:
    with open("/proc/sys/net/ipv4/tcp_wmem", encoding="ascii") as file:
        return int(file.read().split()[2])


@pytest.mark.parametrize("number", [10, pytest.param(100, marks=pytest.mark.live)])
def test_row_41_many_stalled_readers_change_nothing_for_others(store, number):
    names = [f"x{index}" for index in range(number)]
    spec = MODEL.spec("w0", "w2", *names)
    with ExitStack() as stack:
        _, port = stack.enter_context(serving(spec, store))
        for name in names:
            stalled = stack.enter_context(Raw(port, RCVHWM=1, RCVBUF=4096))
            stalled.greet(MODEL.spec(name, "w0"))
            stalled.send(pull(1, "big", credit=CREDIT_LIMIT_BYTES))
        puller = stack.enter_context(Puller(W2, {"w0": port}))
        puller.greet()
        began_s = time.monotonic()
        assert_bits(puller.layers(puller.pull("fc")), store.latest(), "fc")
        assert time.monotonic() - began_s < 2.0
        assert store.pool.made == 1


def test_row_41_readers_that_stop_at_different_versions_do_not_keep_them_all(monkeypatch):
    monkeypatch.setattr("mpls.runtime.server.VERSIONS_LIMIT_BYTES", 0)
    store = MODEL.store(MODEL.weights())
    with serving(SPEC, store) as (server, port), Raw(port) as one, Raw(port) as two:
        one.greet(W1)
        two.greet(W2)
        for number in range(4):
            for raw in (one, two):
                raw.send(pull(number))
                raw.receive()
                store.publish(MODEL.weights(number), number, keep_path=False)
        gone = [m for raw in (one, two) for m in raw.rest(0.05) if isinstance(m, protocol.Error)]
        assert {error.code for error in gone} == {"gone"}
        assert [(error.id, error.message) for error in gone] == [
            (0, "version 1 is too old by now"),
            (1, "version 3 is too old by now"),
            (0, "version 2 is too old by now"),
            (1, "version 4 is too old by now"),
        ]
        assert server.refusals == {"gone": 4}
        until(lambda: store.pool.made - len(store.pool._free) <= VERSIONS_LEAST + 2, "the rest")


# --- connections ---


def idle_connections(stack: ExitStack, port: int, number: int) -> list[socket.socket]:
    return [
        stack.enter_context(socket.create_connection(("127.0.0.1", port), 20.0))
        for _ in range(number)
    ]


@pytest.mark.parametrize("number", [50, pytest.param(1000, marks=pytest.mark.live)])
def test_row_40_peers_are_answered_beside_idle_connections(store, number):
    with ExitStack() as stack:
        _, port = stack.enter_context(serving(SPEC, store))
        idle_connections(stack, port, number)
        raw = stack.enter_context(Raw(port))
        began_s = time.monotonic()
        raw.greet(W1)
        raw.send(STATUS)
        assert isinstance(raw.receive(), protocol.StatusOk)
        assert time.monotonic() - began_s < 1.0


@pytest.mark.live
def test_row_40_connections_without_a_handshake_are_ended_after_5_s(store):
    with ExitStack() as stack:
        _, port = stack.enter_context(serving(SPEC, store))
        began_s = time.monotonic()
        for idle in idle_connections(stack, port, 1000):
            while idle.recv(4096):
                pass
        assert 4.0 < time.monotonic() - began_s < 10.0


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31)


def handshaken(stack: ExitStack, port: int, identity: bytes = b"") -> socket.socket:
    """A TCP connection that speaks ZMTP 3.0 by hand, and has introduced itself."""
    tcp = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10.0))
    ready = b"\x05READY"
    for name, value in ((b"Socket-Type", b"DEALER"), (b"Identity", identity)):
        ready += bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
    tcp.sendall(GREETING + b"\x06" + struct.pack(">Q", len(ready)) + ready)
    return tcp


def is_ended(tcp: socket.socket) -> bool:
    """Whether the server hangs up, whatever it said before."""
    try:
        while tcp.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return True


@pytest.mark.parametrize("claimed_bytes", [REQUEST_LIMIT_BYTES + 1, 20 * 2**30, 2**63, 2**64 - 1])
def test_row_37_a_frame_that_claims_to_be_huge_ends_its_connection_and_costs_nothing(
    store, claimed_bytes
):
    with ExitStack() as stack:
        _, port = stack.enter_context(serving(SPEC, store))
        before_bytes = resident_bytes()
        tcp = handshaken(stack, port)
        tcp.sendall(b"\x02" + struct.pack(">Q", claimed_bytes) + bytes(100_000))
        assert is_ended(tcp)
        assert resident_bytes() - before_bytes < 20_000_000
        raw = stack.enter_context(Raw(port))
        raw.greet(W1)


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_row_38_a_message_of_very_many_frames_is_refused_once_and_its_memory_comes_back(store):
    """ZeroMQ keeps an unfinished message whole, so its sender, who must be a member, is bounded
    only by the process's memory limit; a finished one is gone with its refusal."""
    with serving(SPEC, store) as (server, port), Raw(port) as raw:
        raw.greet(W1)
        for _ in range(3):
            raw.send_frames([b"x"] * 20_000)
            assert raw.receive().code == "bad-request"
        assert server.refusals == {"frames": 3}
        raw.send(STATUS)
        assert isinstance(raw.receive(), protocol.StatusOk)


@pytest.mark.parametrize("identity", [b"", b"w1", b"i" * 255, b"i" * 40_000, bytes(5)])
def test_row_46_whatever_identity_a_connection_claims_nobody_else_notices(store, identity):
    with ExitStack() as stack:
        server, port = stack.enter_context(serving(SPEC, store))
        good = stack.enter_context(Raw(port))
        good.greet(W1)
        tcp = handshaken(stack, port, identity)
        (header,) = encode(protocol.Ping(3, 0.0))
        tcp.sendall(b"\x00" + bytes([len(header)]) + header)
        good.send(STATUS)
        assert isinstance(good.receive(), protocol.StatusOk)
        assert len(server._clients) == 1


def test_row_46_a_message_without_content_is_refused_and_counted(store):
    with serving(SPEC, store) as (server, port), Raw(port) as raw:
        raw.greet(W1)
        for frames in ([b""], [b"", b""], [b"", b"", b""]):
            raw.send_frames(frames)
            assert raw.receive().code == "bad-request"
        assert server.refusals == {"frames": 3}


# --- before the first snapshot ---


def test_a_worker_without_weights_yet_answers_hello_and_says_that_it_is_starting(store):
    empty = MODEL.store()
    with serving(SPEC, empty) as (_, port), Raw(port) as raw:
        raw.greet(W1)
        raw.send(STATUS, pull(8))
        assert [(raw.receive().code) for _ in range(2)] == ["busy", "busy"]
        empty.publish(MODEL.weights(), 0, keep_path=False)
        raw.send(STATUS)
        assert isinstance(raw.receive(), protocol.StatusOk)


# --- logs ---


def test_row_62_and_61_a_peer_cannot_flood_the_log_nor_write_what_it_likes_there(store, caplog):
    caplog.set_level(logging.WARNING, logger="mpls")
    nasty = "\x1b[2J\n\u202e" * 50_000
    header = encode(STATUS)[0]
    with serving(SPEC, store) as (server, port), Raw(port) as raw:
        raw.greet(W1)
        for _ in range(100):
            raw.send_frames([b"\x91\x82\xa1t\xd9\xf0" + nasty.encode()[:240] + b"\xa2id\x07"])
            raw.send_frames([header.replace(b"status", b"\x1b[2J\r\n")])
            raw.send(protocol.Pull(5, ("n" * 128,), 0, 0, WINDOW))
            for _ in range(3):
                raw.receive()
        assert sum(server.refusals.values()) == 300
    kinds = len(server.refusals)
    assert len(caplog.messages) <= kinds * (LINES_LIMIT + 1)
    for line in caplog.messages:
        assert line.isprintable()
        assert "n" * 65 not in line
        assert len(line) < 330


# --- before a run ---


def own_model(tmp_path: Path, name: str) -> Path:
    file = tmp_path / "cluster.toml"
    model = {"name": f"tests.runtime.unnameable:{name}"}
    file.write_text(dumps(changed(builtin(), {"model": model})), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("many", "1032 layers; the protocol carries 1024"),
        ("long", "a name of 129 characters; .* up to 128 printable"),
        ("unprintable", r"layer \"x\\u001b\[2J\" has a name of 5 characters"),
    ],
)
def test_a_model_whose_layers_cannot_be_carried_is_refused_before_a_run(tmp_path, name, complaint):
    with pytest.raises(BadInput, match=complaint):
        prepare(own_model(tmp_path, name))


def test_a_layer_name_may_be_as_long_as_the_protocol_allows(tmp_path):
    prepare(own_model(tmp_path, "longest"))


def test_a_peer_is_not_asked_for_its_status_more_often_than_it_answers():
    with pytest.raises(BadInput, match=r"status_s = 0.01: must be 0, or at least 0.02"):
        changed(builtin(), {"network": {"status_s": 0.01}})


# --- what a flood costs training ---

FLOOD_PER_S = 10_000
FLOODED_S = 3.0


def flood(port: int, kind: str) -> None:
    """In a process of its own, until it is killed."""
    message = {"status": STATUS, "credit": protocol.Credit(9, WINDOW)}[kind]
    with Raw(port) as raw:
        raw.greet(W1)
        began_s = time.monotonic()
        for sent in itertools.count(1):
            raw.send(message)
            raw.rest(0.0)
            time.sleep(max(0.0, sent / FLOOD_PER_S - (time.monotonic() - began_s)))


@pytest.mark.live
@pytest.mark.parametrize("kind", ["status", "credit"])
def test_row_42_training_goes_on_beside_a_flood_of_10_000_a_second(store, kind):
    """What the serving thread takes of the processor is what training lacks: wall time would also
    count the flooding process, which elsewhere has a machine of its own."""
    with serving(SPEC, store) as (server, port):
        flooding = multiprocessing.get_context("spawn").Process(target=flood, args=(port, kind))
        flooding.start()
        try:
            until(lambda: server.refusals.get("flood"), "the flood", 30.0)
            before_s, own_s = time.process_time(), time.thread_time()
            time.sleep(FLOODED_S)
            taken_s = time.process_time() - before_s - (time.thread_time() - own_s)
        finally:
            flooding.kill()
            flooding.join()
    assert taken_s < 0.1 * FLOODED_S
