"""No malformed byte ends a server: each is counted, answered where there is someone to answer, and
forgotten.

Method: a real server in its thread; bare DEALERs and bare TCP connections that send garbage.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from mpls.core import protocol
from mpls.runtime.limits import ANY_RATE
from mpls.runtime.server import Server
from mpls.runtime.snapshots import SnapshotStore
from mpls.wire import encode
from tests.runtime.rig import (
    DEADLINE_S,
    Model,
    Puller,
    Raw,
    assert_bits,
    serving,
)

MODEL = Model(conv=4_000, fc=1_000_000)
SPEC = MODEL.spec("w0", "w1")
W1 = MODEL.spec("w1", "w0")
STATUS = protocol.Status(7)

Place = tuple[Server, int, SnapshotStore]


@pytest.fixture
def place() -> Iterator[Place]:
    store = MODEL.store(MODEL.weights())
    with serving(SPEC, store) as (server, port):
        yield server, port, store


def pull(request_id: int) -> protocol.Pull:
    return protocol.Pull(request_id, ("fc",), 0, 0, 256 * 1024)


HEADER = encode(protocol.Status(7))[0]
GARBAGE = {
    "an empty frame": [b""],
    "a byte": [b"\xc1"],
    "a header cut off": [HEADER[:-3]],
    "something after the header": [HEADER + b"\x00"],
    "three frames": [HEADER, b"a", b"b"],
    "a hundred frames": [b"x"] * 100,
    "data that was not announced": [HEADER, b"data"],
    "no type": [b"\x91\x81\xa2id\x07"],
    "an unknown type": [b"\x91\x82\xa1t\xa5steal\xa2id\x07"],
    "an id that is a string": [b"\x91\x82\xa1t\xa6status\xa2id\xa17"],
    "a negative id": [b"\x91\x82\xa1t\xa6status\xa2id\xff"],
    "the same key twice": [b"\x91\x83\xa1t\xa6status\xa2id\x07\xa2id\x08"],
    "a bomb": [b"\x91\xdf\xff\xff\xff\xff"],
    "nesting": [b"\x91" * 5000],
    "a header too long": [b"\x91" + b"\xa1" * 20_000],
    "a reply as request": encode(protocol.Error(7, "busy", "")),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_counted_answered_with_an_error_and_ends_nothing(place, what):
    server, port, _ = place
    with Raw(port) as raw:
        raw.greet(W1)
        raw.send_frames(GARBAGE[what])
        answer = raw.receive()
        assert isinstance(answer, protocol.Error)
        assert answer.code in ("bad-request", "unsupported")
        assert answer.id in (0, 7)
        assert sum(server.refusals.values()) == 1
        raw.send(STATUS)
        assert isinstance(raw.receive(), protocol.StatusOk)


def test_a_thousand_random_and_damaged_messages_are_each_answered():
    store = MODEL.store(MODEL.weights())
    with serving(SPEC, store, rates=ANY_RATE) as (server, port):
        answers_all_garbage(server, port, store)


def answers_all_garbage(server: Server, port: int, store: SnapshotStore) -> None:
    chance = random.Random(4)
    originals = [
        encode(protocol.Hello(1, "w1", SPEC.model, (0.5, 0.5), 10)),
        encode(pull(2)),
        encode(protocol.Probe(3, 10)),
        encode(STATUS),
    ]

    def damaged() -> list[bytes]:
        if chance.random() < 0.5:
            return [chance.randbytes(chance.randrange(300)) for _ in range(chance.randrange(1, 4))]
        header = bytearray(bytes(chance.choice(originals)[0]))
        for _ in range(chance.randrange(1, 4)):
            header[chance.randrange(len(header))] = chance.randrange(256)
        return [bytes(header)]

    with Raw(port) as raw, Puller(W1, {"w0": port}) as good:
        for _ in range(100):
            for _ in range(10):
                raw.send_frames(damaged())
            raw.send(protocol.Ping(1, 0.0))
            raw.receive_until(protocol.Pong)
        assert sum(server.refusals.values()) > 500
        good.greet()
        assert_bits(good.layers(good.pull("fc")), store.latest(), "fc")


@pytest.mark.parametrize(
    "noise",
    [b"GET / HTTP/1.1\r\nHost: w0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01", bytes(range(256))],
)
def test_row_43_noise_on_the_port_ends_nothing(place, noise):
    _, port, _ = place
    for _ in range(5):
        with (
            socket.create_connection(("127.0.0.1", port), DEADLINE_S) as stranger,
            suppress(OSError),  # it may be thrown out at any point
        ):
            stranger.sendall(noise * 4)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
    with Raw(port) as raw:
        raw.greet(W1)
        raw.send(STATUS)
        assert isinstance(raw.receive(), protocol.StatusOk)
