"""Messages to frames and back: what is sent, in which bytes, and what encode refuses to send."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import msgpack
import numpy as np
import pytest
import zmq
from hypothesis import given, settings

from mpls.core import receipt
from mpls.core.protocol import (
    PROBE_LIMIT_BYTES,
    Chunk,
    Error,
    Hello,
    Message,
    Ping,
    Probe,
    ProbeData,
    Pull,
    Status,
    StatusOk,
)
from mpls.errors import ProtocolError
from mpls.wire import decode, encode, encoded_bytes, frames, refusal
from tests.wire import samples

CHUNK = "t id layer version round offset total wait_s"
KEYS = {
    "hello": ["t id name model histogram samples v"],
    "welcome": ["t id name model histogram samples v"],
    "status": ["t id"],
    "status-ok": ["t id state round version progress step_s"],
    "pull": ["t id layers version offset credit"],
    "chunk": [CHUNK, f"{CHUNK} sum", f"{CHUNK} sum progress"],
    "credit": ["t id bytes"],
    "cancel": ["t id"],
    "ping": ["t id time_s"],
    "pong": ["t id time_s"],
    "probe": ["t id bytes"],
    "probe-data": ["t id"],
    "error": ["t id code message"],
}
"""The protocol's own list of types and keys, written down apart from the code that derives it."""

AT_THE_LIMIT: tuple[Message, ...] = (
    Hello(2**64 - 1, "n" * 128, "m" * 128, (1.0,) + (0.0,) * 1023, 2**64 - 1, 2**64 - 1),
    StatusOk(0, "s" * 128, 0, 0, (0.0,) * 1024, 1.7e308),
    Pull(0, tuple(map(str, range(256))), 2**64 - 1, 2**64 - 1, 4 * 2**20),
    Pull(0, ("a",), 0, 0, 256 * 2**10),
    Chunk(0, "é" * 128, 1, 0, 0, 0, 0.0, bytes(960 * 1024), 2**64 - 1, (0.0,) * 1024, True),
    Probe(0, PROBE_LIMIT_BYTES),
    ProbeData(0, bytes(PROBE_LIMIT_BYTES)),
    Error(0, "gone", "\U0001f409" * 256),
)
BEYOND_THE_LIMIT: dict[str, Message] = {
    "an id of 65 bits": Status(2**64),
    "a negative id": Status(-1),
    "a true id": Status(True),
    "a long name": Hello(0, "n" * 129, "m", (1.0,), 1),
    "no name": Hello(0, "", "m", (1.0,), 1),
    "a line break": Hello(0, "line\nbreak", "m", (1.0,), 1),
    "a surrogate": Hello(0, "\ud800", "m", (1.0,), 1),
    "a histogram that sums to 0.9": Hello(0, "n", "m", (0.5, 0.4), 1),
    "a negative share": Hello(0, "n", "m", (1.5, -0.5), 1),
    "no histogram": Hello(0, "n", "m", (), 1),
    "1,025 classes": Hello(0, "n", "m", (1.0,) + (0.0,) * 1024, 1),
    "progress that is no number": StatusOk(0, "s", 0, 0, (float("nan"),), 0.0),
    "infinite progress": StatusOk(0, "s", 0, 0, (float("inf"),), 0.0),
    "negative progress": StatusOk(0, "s", 0, 0, (-1.0,), 0.0),
    "a negative duration": StatusOk(0, "s", 0, 0, None, -1.0),
    "no layers": Pull(0, (), 0, 0, 2**20),
    "a layer twice": Pull(0, ("a", "a"), 0, 0, 2**20),
    "257 layers": Pull(0, tuple(map(str, range(257))), 0, 0, 2**20),
    "a long header": Pull(0, tuple(f"{number:0128}" for number in range(200)), 0, 0, 2**20),
    "too much credit": Pull(0, ("a",), 0, 0, 4 * 2**20 + 1),
    "too little credit": Pull(0, ("a",), 0, 0, 256 * 2**10 - 1),
    "version 0": Chunk(0, "a", 0, 0, 0, 1, 0.0, b"x"),
    "a chunk without data": Chunk(0, "a", 1, 0, 0, 1, 0.0, b""),
    "a long chunk": Chunk(0, "a", 1, 0, 0, 1, 0.0, bytes(960 * 1024 + 1)),
    "a probe for nothing": Probe(0, 0),
    "a large probe": Probe(0, PROBE_LIMIT_BYTES + 1),
    "large probe data": ProbeData(0, bytes(PROBE_LIMIT_BYTES + 1)),
    "an unknown code": Error(0, "no-such-code", "m"),
    "a long text": Error(0, "busy", "m" * 257),
}


def joined(message: Message) -> bytes:
    return b"".join(encode(message))


def name_of(message: Message) -> str:
    return type(message).__name__


@given(samples.messages)
def test_a_message_comes_out_as_it_went_in(message: Message) -> None:
    assert decode([bytes(frame) for frame in encode(message)]) == message


@given(samples.messages)
def test_joined_frames_are_what_any_msgpack_library_reads(message: Message) -> None:
    header, *rest = msgpack.unpackb(joined(message))
    data = getattr(message, "data", None)
    assert rest == ([] if data is None else [data])
    assert header["id"] == message.id
    assert " ".join(header) in KEYS[header["t"]]


@given(samples.messages)
@settings(max_examples=50)
def test_the_size_is_that_of_the_frames(message: Message) -> None:
    assert encoded_bytes(message) == len(joined(message))


@pytest.mark.parametrize("length", [1, 255, 256, 65_535, 65_536, 960 * 1024])
def test_data_of_every_length_joins_to_valid_msgpack(length: int) -> None:
    chunk = Chunk(1, "a", 1, 0, 0, length, 0.0, bytes(length))
    assert msgpack.unpackb(joined(chunk))[1] == chunk.data


def test_there_is_an_example_of_every_message() -> None:
    assert {type(message) for message in samples.EXAMPLES} == set(get_args(Message))


def test_every_message_has_exactly_the_keys_of_the_protocol() -> None:
    seen: dict[str, list[str]] = {}
    for message in samples.EXAMPLES:
        header = msgpack.unpackb(joined(message))[0]
        seen.setdefault(header["t"], []).append(" ".join(header))
    assert seen == KEYS


@pytest.mark.parametrize("message", samples.EXAMPLES, ids=name_of)
def test_a_key_too_few_or_too_many_is_refused(message: Message) -> None:
    header, *data = msgpack.unpackb(joined(message))
    headers = [{key: header[key] for key in header if key != left_out} for left_out in header]
    headers += [{**header, extra: 0} for extra in ("x", "data", "last", "")]
    for wrong in headers:
        if " ".join(wrong) not in KEYS[header["t"]]:
            with pytest.raises(ProtocolError):
                decode(samples.frames_of(wrong, *data))


def test_vectors_are_little_endian_float64() -> None:
    header = msgpack.unpackb(joined(Hello(1, "w0", "m", (0.25, 0.75), 10)))[0]
    assert np.frombuffer(header["histogram"], "<f8").tolist() == [0.25, 0.75]


def test_a_hello_of_another_version_is_read_so_that_it_can_be_answered() -> None:
    hello = Hello(1, "w0", "m", (1.0,), 10, v=2)
    assert decode(encode(hello)) == hello


def test_a_hello_with_the_keys_of_another_version_is_refused_by_both_numbers() -> None:
    header = msgpack.unpackb(joined(samples.EXAMPLES[0]))[0]
    with pytest.raises(ProtocolError, match="version 2; this worker speaks 1") as caught:
        decode(samples.frames_of({**header, "v": 2, "new": 1}))
    assert caught.value.code == "unsupported"


def test_row_47_a_type_of_another_version_is_unsupported() -> None:
    with pytest.raises(ProtocolError, match='"gossip" is not in protocol version 1') as caught:
        decode(samples.frames_of({"t": "gossip", "id": 7}))
    assert (caught.value.code, caught.value.request_id) == ("unsupported", 7)


@pytest.mark.parametrize("message", AT_THE_LIMIT, ids=name_of)
def test_what_is_just_allowed_travels(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("message", BEYOND_THE_LIMIT.values(), ids=BEYOND_THE_LIMIT)
def test_nothing_leaves_that_a_peer_would_refuse(message: Message) -> None:
    with pytest.raises(ProtocolError) as caught:
        encode(message)
    assert str(caught.value).isprintable()


def test_every_window_that_the_core_grants_can_be_asked_for() -> None:
    rates_Bps = (0.0, 1e3, 262_144.5, 1e6, 12.5e6, 99e6, 101e6, 1e12, float("inf"))
    windows = {receipt.window_bytes(rate_Bps) for rate_Bps in rates_Bps}
    for window in windows:
        encode(Pull(0, ("a",), 0, 0, window))
    assert min(windows) == frames.CREDIT_LEAST_BYTES
    assert max(windows) == frames.CREDIT_LIMIT_BYTES
    assert receipt.LAYERS_PER_PULL == frames.LAYERS_LIMIT


def test_data_is_never_copied() -> None:
    weights = np.arange(1000, dtype=np.float32)
    received = decode(encode(Chunk(1, "a", 1, 0, 0, 4000, 0.0, weights.data)))
    assert isinstance(received, Chunk)
    assert np.shares_memory(np.frombuffer(received.data, np.float32), weights)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, zmq.Frame])
def test_a_frame_may_be_anything_with_a_buffer(wrap: type) -> None:
    for message in samples.EXAMPLES:
        assert decode([wrap(bytes(frame)) for frame in encode(message)]) == message


def test_a_frame_that_zeromq_should_not_have_let_in_is_not_looked_into() -> None:
    with pytest.raises(ProtocolError, match="a frame of 1048577 bytes is too long"):
        decode([b"\x92", bytes(frames.MESSAGE_LIMIT_BYTES + 1)])


def test_a_refusal_can_always_be_sent() -> None:
    error = ProtocolError("bad \x1b[31m\n\ud800 " + "é" * 500, "gone", request_id=9)
    answer = decode(encode(refusal(error)))
    assert isinstance(answer, Error)
    assert (answer.id, answer.code, len(answer.message)) == (9, "gone", 256)
    assert answer.message.startswith("bad ?[31m?? é")


@pytest.mark.parametrize("request_id", [-1, True, 1.0, None, [], "1"])
def test_an_id_that_is_none_is_answered_as_request_0(request_id: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(samples.frames_of({"t": "status", "id": request_id}))
    assert refusal(caught.value).id == 0


def test_a_refusal_names_the_field_the_value_and_what_is_allowed() -> None:
    with pytest.raises(ProtocolError) as caught:
        encode(replace(Ping(1, 0.0), time_s=-2.5))
    assert str(caught.value) == "ping: time_s must be a finite float of at least 0, not -2.5"
