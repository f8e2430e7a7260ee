"""The puller's side of a pull: what it accepts, when it gives credit, and what it can continue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from xxhash import xxh3_64_intdigest

from mpls.core.protocol import Chunk, Pull
from mpls.errors import ProtocolError
from mpls.wire import BufferPool, Incoming, LayerArrived, LayerRefused
from mpls.wire.transfer import plan_chunks

LEAST = 256 * 1024
CHUNK = 64 * 1024
WEIGHTS = np.random.default_rng(1).bytes(3 * CHUNK)
PULL = Pull(1, ("fc1", "fc2"), 0, 0, LEAST)


def incoming() -> Incoming:
    """A pull of fc1, which is three chunks long, and of fc2, one byte."""
    return Incoming(PULL, {"fc1": len(WEIGHTS), "fc2": 1})


def piece(number: int, **changes: Any) -> Chunk:
    """Chunk 0 to 3 of what `incoming` asks for, from version 5 of round 4."""
    offset = number * CHUNK
    chunk = Chunk(1, "fc1", 5, 4, offset, len(WEIGHTS), 0.0, WEIGHTS[offset : offset + CHUNK])
    if number == 2:
        chunk = replace(chunk, sum=xxh3_64_intdigest(WEIGHTS))
    if number == 3:
        chunk = Chunk(1, "fc2", 5, 4, 0, 1, 0.0, b"x", xxh3_64_intdigest(b"x"), (0.5,), True)
    return replace(chunk, **changes)


def broken_off(pieces: int) -> Incoming:
    """The same pull, of which so many chunks came."""
    pull = incoming()
    for number in range(pieces):
        pull.accept(piece(number))
    return pull


def test_credit_comes_back_in_halves_of_the_window_and_the_rest_with_the_last_byte() -> None:
    pull = incoming()
    credits = [pull.accept(piece(number)).credit_bytes for number in range(4)]
    assert credits == [0, 2 * CHUNK, 0, CHUNK + 1]
    assert pull.ended
    assert pull.complete


def test_a_layer_arrives_with_its_version_and_the_last_with_progress() -> None:
    pull = incoming()
    layers = [pull.accept(piece(number)).layer for number in range(4)]
    assert layers[:2] == [None, None]
    assert isinstance(layers[2], LayerArrived)
    assert isinstance(layers[3], LayerArrived)
    assert layers[2].buffer.tobytes() == WEIGHTS
    assert (layers[2].progress, layers[3].progress) == (None, (0.5,))
    assert (layers[3].version, layers[3].round) == (5, 4)


def test_a_refused_layer_withholds_the_last_credit() -> None:
    """The server would take that one for success."""
    pull = broken_off(2)
    refused, last = pull.accept(piece(2, sum=7)), pull.accept(piece(3))
    assert refused == (0, LayerRefused("fc1", 5, "checksum"))
    assert isinstance(last.layer, LayerArrived)
    assert last.credit_bytes == 0
    assert pull.ended
    assert not pull.complete


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("order", {"offset": 2 * CHUNK}),
        ("order", {"offset": CHUNK + 1}),
        ("order", {"layer": "fc2"}),
        ("order", {"layer": "fc3"}),
        ("order", {"total": 2**63}),
        ("order", {"total": 2 * CHUNK}),
        ("order", {"data": WEIGHTS[: CHUNK - 1]}),
        ("order", {"data": WEIGHTS[: CHUNK + 1]}),
        ("order", {"sum": 1}),
        ("order", {"last": True}),
        ("version", {"version": 6}),
    ],
)
def test_a_chunk_that_is_not_the_next_ends_the_pull(kind: str, wrong: dict[str, Any]) -> None:
    pull = broken_off(1)
    with pytest.raises(ProtocolError, match=r"^chunk: .*, not ") as caught:
        pull.accept(piece(1, **wrong))
    assert (caught.value.kind, caught.value.request_id) == (kind, 1)
    assert pull.received_bytes == CHUNK


def test_another_version_ends_the_pull_between_two_layers_too() -> None:
    pull = broken_off(3)
    with pytest.raises(ProtocolError, match="version 6, not 5") as caught:
        pull.accept(piece(3, version=6))
    assert caught.value.kind == "version"


def test_a_layer_that_is_thrown_away_leaves_its_buffer_to_the_next_one() -> None:
    pool = BufferPool()
    pull = Incoming(PULL, {"fc1": len(WEIGHTS), "fc2": 1}, pool)
    buffer = np.empty(len(WEIGHTS), np.uint8)
    pool.give(buffer)
    pull.accept(piece(0))
    pull.accept(piece(1))
    assert pool.take(len(WEIGHTS)) is not buffer
    pull.accept(piece(2, sum=7))
    assert pool.take(len(WEIGHTS)) is buffer


def test_row_13_late_and_repeated_chunks_change_nothing() -> None:
    pull = incoming()
    for number in range(4):
        pull.accept(piece(number))
        for earlier in range(number + 1):
            assert pull.accept(piece(earlier)) == (0, None)
        assert pull.accept(piece(number, id=9)) == (0, None)
    assert pull.ignored == 14
    assert pull.received_bytes == len(WEIGHTS) + 1


def test_a_layer_after_the_last_is_refused() -> None:
    with pytest.raises(ProtocolError, match="after the last"):
        broken_off(4).accept(piece(3, layer="fc9"))


@pytest.mark.parametrize("known_bytes", [1, CHUNK, CHUNK + 5, 2 * CHUNK])
def test_a_pull_rewinds_to_where_the_asker_believes_that_it_broke_off(known_bytes: int) -> None:
    pull = broken_off(2)
    again = Pull(2, ("fc1",), 5, known_bytes, LEAST)
    assert pull.can_resume(again)
    pull.resume(again)
    assert pull.received_bytes == known_bytes
    layer = None
    for _, start, length, total, ends, _ in plan_chunks(
        ("fc1",), (len(WEIGHTS),), known_bytes, LEAST
    ):
        whole = xxh3_64_intdigest(WEIGHTS) if ends else None
        data = WEIGHTS[start : start + length]
        layer = pull.accept(Chunk(2, "fc1", 5, 4, start, total, 0.0, data, whole, last=ends)).layer
    assert isinstance(layer, LayerArrived)
    assert layer.buffer.tobytes() == WEIGHTS


@pytest.mark.parametrize(
    "again",
    [
        Pull(2, ("fc1",), 5, 2 * CHUNK + 1, LEAST),
        Pull(2, ("fc1",), 6, CHUNK, LEAST),
        Pull(2, ("fc2", "fc1"), 5, CHUNK, LEAST),
    ],
    ids=["beyond what came", "another version", "another layer"],
)
def test_what_is_not_here_cannot_be_continued(again: Pull) -> None:
    pull = broken_off(2)
    assert not pull.can_resume(again)
    assert pull.can_resume(replace(again, offset=0))


def test_a_layer_that_ended_cannot_be_continued() -> None:
    assert not broken_off(3).can_resume(Pull(2, ("fc1",), 5, CHUNK, LEAST))


def test_row_14_another_version_begins_a_broken_layer_anew() -> None:
    pull = broken_off(1)
    pull.resume(replace(PULL, version=5, offset=CHUNK))
    layers = [pull.accept(piece(number, version=6)).layer for number in range(3)]
    assert isinstance(layers[2], LayerArrived)
    assert (layers[2].version, layers[2].buffer.tobytes()) == (6, WEIGHTS)


def test_another_version_cannot_continue_a_broken_layer() -> None:
    pull = broken_off(1)
    pull.resume(replace(PULL, version=5, offset=CHUNK))
    with pytest.raises(ProtocolError, match="version 6, not 5"):
        pull.accept(piece(1, version=6))


def test_buffers_are_used_again_and_not_hoarded() -> None:
    pool = BufferPool(spares=2)
    given = [pool.take(8) for _ in range(4)]
    for buffer in given:
        pool.give(buffer)
    taken = [pool.take(8) for _ in range(4)]
    assert sum(any(buffer is old for old in given) for buffer in taken) == 2
    assert pool.take(9).nbytes == 9


def test_the_buffer_of_a_refused_layer_is_used_again() -> None:
    pool = BufferPool()
    pull = Incoming(PULL, {"fc1": len(WEIGHTS), "fc2": 1}, pool)
    buffer = pool.take(len(WEIGHTS))
    pool.give(buffer)
    pull.accept(piece(0))
    pull.accept(piece(1))
    assert pool.take(len(WEIGHTS)) is not buffer
    pull.accept(piece(2, sum=7))
    assert pool.take(len(WEIGHTS)) is buffer
