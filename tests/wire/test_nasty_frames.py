"""A corpus of frames that no peer should send, each by name, and what becomes of them.

Only ProtocolError may come out of `decode`, in little time and memory, and it must be possible to
answer it.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from mpls.core.protocol import ERROR_CODES
from mpls.errors import ProtocolError
from mpls.wire import decode, encode, refusal
from tests.wire.samples import framed, frames_of

PING = msgpack.packb({"t": "ping", "id": 1, "time_s": 0.5})
CHUNK = {
    "t": "chunk",
    "id": 1,
    "layer": "fc1",
    "version": 1,
    "round": 0,
    "offset": 0,
    "total": 4,
    "wait_s": 0.0,
}
CHUNK_BODY = msgpack.packb(CHUNK)


def ping(**changes: object) -> list[bytes]:
    return frames_of({"t": "ping", "id": 1, "time_s": 0.5, **changes})


def pull_body(layers: object) -> bytes:
    """The header of a pull, with its layers last."""
    header = {"t": "pull", "id": 1, "version": 0, "offset": 0, "credit": 2**20, "layers": layers}
    packed: bytes = msgpack.packb(header)
    return packed


def pull(layers: object) -> list[bytes]:
    return framed(pull_body(layers))


FRAMES: dict[str, Sequence[Any]] = {
    "no frame": [],
    "an empty frame": [b""],
    "two empty frames": [b"", b""],
    "three frames": [*framed(CHUNK_BODY, b"data"), b""],
    "three frames of which one is announced": [b"\x91" + PING, b"", b""],
    "10,000 empty frames": [b""] * 10_000,
    "a delimiter frame first": [b"", *framed(PING)],
    "one frame that announces two": [b"\x92" + PING],
    "two frames of which one is announced": [b"\x91" + PING, b"data"],
    "an array of no elements": [b"\x90"],
    "an array of three": [b"\x93" + PING + b"\xc0\xc0"],
    "an array that is not in its shortest form": [b"\xdc\x00\x01" + PING],
    "a header that is no array": [PING],
    "data announced a byte too long": [framed(CHUNK_BODY, b"data1")[0], b"data"],
    "data announced a byte too short": [framed(CHUNK_BODY, b"dat")[0], b"data"],
    "data announced with a longer prefix": [b"\x92" + CHUNK_BODY + b"\xc5\x00\x04", b"data"],
    "data announced as a string": [b"\x92" + CHUNK_BODY + b"\xa4", b"data"],
    "data inside the first frame": [b"\x92" + CHUNK_BODY + b"\xc4\x04data"],
    "a chunk without data": framed(CHUNK_BODY),
    "a chunk with no byte of data": framed(CHUNK_BODY, b""),
    "a chunk a byte too long": framed(CHUNK_BODY, bytes(960 * 1024 + 1)),
    "a ping with data": framed(PING, b"data"),
    "a ping with no byte of data": framed(PING, b""),
    "a frame a byte longer than ZeroMQ lets in": framed(CHUNK_BODY, bytes(2**20 + 1)),
    "a header of 16 KiB and a byte": [b"\x91" + bytes(16 * 1024)],
    "a header of 64 MiB": [bytes(64 * 2**20)],
    "a ZMTP 1.0 greeting": [b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f"],
    "HTTP": [b"GET / HTTP/1.1\r\nHost: w0\r\n\r\n"],
    "a TLS hello": [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", bytes(64)],
    "a pickle": [b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94."],
    "nothing": [None],
    "a number for a frame": [7],
    "text for a frame": ["ping"],
    "a list for a frame": [[b"ping"]],
    "every second byte of a buffer": [memoryview(b"\x91\x91\x80\x80")[::2]],
    "an array of objects": [np.array([{}], dtype=object)],
    "a zmq frame of noise": [zmq.Frame(b"\xc1" * 40)],
}
MSGPACK: dict[str, bytes] = {
    "an empty header": b"",
    "the byte that msgpack never uses": b"\xc1",
    "nil": b"\xc0",
    "a list for a header": msgpack.packb(["t", "ping"]),
    "a truncated header": PING[:-1],
    "a trailing byte": PING + b"\xc0",
    "two headers": PING + PING,
    "a map16 for a fixmap": b"\xde\x00\x03" + PING[1:],
    "a map of 16": msgpack.packb({f"k{number}": 0 for number in range(16)}),
    "a map of 16 for a time": msgpack.packb(
        {"t": "ping", "id": 1, "time_s": {f"k{number}": 0 for number in range(16)}}
    ),
    "a map of 2**32 - 1": b"\xdf\xff\xff\xff\xff",
    "an array of 2**32 - 1": b"\x81\xa1t\xdd\xff\xff\xff\xff",
    "a string of 4 GiB": b"\x81\xa1t\xdb\xff\xff\xff\xff",
    "a bin of 4 GiB": b"\x81\xa1t\xc6\xff\xff\xff\xff",
    "a string a byte too long": msgpack.packb({"t": "x" * 1025}),
    "a bin a byte too long": msgpack.packb({"t": bytes(8193)}),
    "an array of 257": msgpack.packb({"t": [0] * 257}),
    "a type that is a list": msgpack.packb({"t": ["ping"], "id": 1}),
    "a time of nested lists": b"\x83\xa1t\xa4ping\xa2id\x01\xa6time_s" + b"\x91" * 500 + b"\xc0",
    "a time of 2,000 empty maps": msgpack.packb({"t": "ping", "id": 1, "time_s": [[{}] * 250] * 8}),
    "layers in lists": pull_body([["fc1"]]),
    "layers as one string": pull_body("fc1"),
    "layers as a map": pull_body({"fc1": 1}),
    "257 layers": pull_body([str(number) for number in range(257)]),
    "2**32 - 1 layers": pull_body([])[:-1] + b"\xdd\xff\xff\xff\xff",
    "fewer layers than announced": pull_body([])[:-1] + b"\x92\xa3fc1",
    "layers of nested arrays of 256": pull_body([])[:-1] + b"\xdc\x01\x00" * 5_000,
    "layers of layers of arrays": b"\x81\xa6layers" * 800 + b"\xdc\x01\x00" * 1_000,
    "layers twice": b"\x87" + pull_body(["fc1"])[1:] + b"\xa6layers\x91\xa3fc1",
    "a pull and a trailing byte": pull_body(["fc1"]) + b"\xc0",
    "a pull for a list": b"\x9c" + pull_body(["fc1"])[1:],
    "a pull with a list for a key": b"\x87" + pull_body(["fc1"])[1:] + b"\x90\x02",
    "a map in a map with layers": b"\x82\xa6layers\x90\xa1t" + b"\x81\xa1t" * 5_000,
    "an ext": b"\x81\xa1t" + msgpack.packb(msgpack.ExtType(5, b"abcd")),
    "a timestamp": b"\x81\xa1t\xd6\xff\x00\x00\x00\x00",
    "a timestamp of no bytes": b"\x81\xa1t\xc7\x00\xff",
    "bad UTF-8": b"\x81\xa1t\xa4p\xffng",
    "a surrogate in UTF-8": b"\x81\xa1t\xa3\xed\xa0\x80",
    "bad UTF-8 in a key": b"\x81\xa2\xc3\x28\xc0",
    "a repeated key": b"\x84" + PING[1:] + msgpack.packb("id") + b"\x02",
    "a repeated t": b"\x84" + PING[1:] + msgpack.packb("t") + msgpack.packb("pong"),
    "an integer for a key": b"\x84" + PING[1:] + b"\x01\x02",
    "nil for a key": b"\x84" + PING[1:] + b"\xc0\x02",
    "a list for a key": b"\x84" + PING[1:] + b"\x90\x02",
    "16 KiB of nested arrays": b"\x91" * 16_000,
    "16 KiB of nested maps": b"\x81\xa1t" * 5_000,
    "nested arrays of 256": b"\x81\xa1t" + b"\xdc\x01\x00" * 5_000,
    "nested arrays beyond msgpack's stack": b"\x81\xa1t" + b"\x91" * 2_000 + b"\xc0",
}
KEYS: dict[str, bytes] = {
    "an empty map": b"\x80",
    "no type": msgpack.packb({"id": 1, "time_s": 0.5}),
    "a type that is a number": msgpack.packb({"t": 1, "id": 1}),
    "a type that is an empty list": msgpack.packb({"t": [], "id": 1}),
    "a type in bytes": msgpack.packb({"t": b"ping", "id": 1, "time_s": 0.5}),
    "an ext of no bytes": b"\x81\xa1t\xc7\x00\x05",
    "a key in bytes": b"\x84" + PING[1:] + b"\xc4\x01x\x02",
    "a pull with a number for a key": b"\x87" + pull_body(["fc1"])[1:] + b"\x01\x02",
    "no id": msgpack.packb({"t": "ping", "time_s": 0.5}),
    "a key too many": msgpack.packb({"t": "ping", "id": 1, "time_s": 0.5, "x": 0}),
    "a version in letters": msgpack.packb({"t": "hello", "id": 1, "v": "2"}),
    "a chunk with progress but no sum": msgpack.packb({**CHUNK, "progress": None}),
}
TYPES: dict[str, bytes] = {
    "an unknown type": msgpack.packb({"t": "gossip", "id": 1}),
    "an empty type": msgpack.packb({"t": "", "id": 1}),
    "a class's name for a type": msgpack.packb({"t": "Ping", "id": 1, "time_s": 0.5}),
    "a type with an escape sequence": msgpack.packb({"t": "\x1b[2J\n", "id": 1}),
    "a type of 1,000 characters": msgpack.packb({"t": "é" * 500, "id": 1}),
}
VALUES: dict[str, list[bytes]] = {
    "a negative id": ping(id=-1),
    "a true id": ping(id=True),
    "a fractional id": ping(id=1.0),
    "an id that is nil": ping(id=None),
    "an id in letters": ping(id="1"),
    "a time that is no number": ping(time_s=float("nan")),
    "an infinite time": ping(time_s=float("inf")),
    "a negative time": ping(time_s=-1e-300),
    "a whole time": ping(time_s=1),
    "a time that repeats a key": framed(
        b"\x83\xa1t\xa4ping\xa2id\x01\xa6time_s\x82\xa1a\x01\xa1a\x02"
    ),
    "no layers": pull([]),
    "layers by index": pull([-1, 2**31]),
    "a layer twice": pull(["fc1", "fc1"]),
    "a layer with a newline": pull(["fc\n1"]),
    "a layer that writes from right to left": pull(["fc\u202e1"]),
    "a layer that is nil": pull(["fc1", None]),
    "progress of seven bytes": framed(
        msgpack.packb({**CHUNK, "sum": 1, "progress": bytes(7)}), b"data"
    ),
    "progress of NaN": framed(msgpack.packb({**CHUNK, "sum": 1, "progress": b"\xff" * 8}), b"data"),
    "progress of floats in a map": framed(
        msgpack.packb({**CHUNK, "sum": 1, "progress": {"fc1": 0.5}}), b"data"
    ),
    "a sum that is nil": framed(msgpack.packb({**CHUNK, "sum": None}), b"data"),
    "a probe of 2 GB": frames_of({"t": "probe", "id": 1, "bytes": 2**31}),
    "an error code of our own making": frames_of(
        {"t": "error", "id": 1, "code": {"gone": 1}, "message": ""}
    ),
    "version 0 of a chunk": framed(msgpack.packb({**CHUNK, "version": 0}), b"data"),
}
CORPUS: list[tuple[str, str, Sequence[Any]]] = [
    *(("frames", name, nasty) for name, nasty in FRAMES.items()),
    *(("msgpack", name, framed(nasty)) for name, nasty in MSGPACK.items()),
    *(("keys", name, framed(nasty)) for name, nasty in KEYS.items()),
    *(("unsupported", name, framed(nasty)) for name, nasty in TYPES.items()),
    *(("value", name, nasty) for name, nasty in VALUES.items()),
]
EXTRA_MEMORY_LIMIT_BYTES = 300_000
EXTRA_TIME_LIMIT_S = 0.05


@pytest.mark.parametrize(
    ("kind", "nasty"),
    [pytest.param(kind, nasty, id=name) for kind, name, nasty in CORPUS],
)
def test_row_45_a_nasty_message_is_refused_and_can_be_answered(
    kind: str, nasty: Sequence[Any]
) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(nasty)
    assert caught.value.kind == kind
    assert caught.value.code in ERROR_CODES
    assert encode(refusal(caught.value))


def test_row_45_no_nasty_message_costs_much_memory() -> None:
    tracemalloc.start()
    try:
        for _, name, nasty in CORPUS:
            tracemalloc.reset_peak()
            before_bytes = tracemalloc.get_traced_memory()[0]
            _refused(nasty)
            extra_bytes = tracemalloc.get_traced_memory()[1] - before_bytes
            assert extra_bytes <= EXTRA_MEMORY_LIMIT_BYTES, name
    finally:
        tracemalloc.stop()


def test_no_nasty_message_costs_much_time() -> None:
    for _, name, nasty in CORPUS:
        assert min(_refused(nasty) for _ in range(3)) <= EXTRA_TIME_LIMIT_S, name


def _refused(nasty: Sequence[Any]) -> float:
    """Seconds of processor time that the refusal took."""
    started_s = time.process_time()
    with pytest.raises(ProtocolError):
        decode(nasty)
    return time.process_time() - started_s
