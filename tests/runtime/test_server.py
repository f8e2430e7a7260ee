"""What a server does for those who ask it nicely, for those who do not, and for those who stop.

Method: a real server in its thread, and a bare DEALER that sends whatever the test wants and sees
every message that comes back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import islice

import numpy as np
import pytest
import xxhash

from mpls.core import protocol
from mpls.core.settings import PlanSettings
from mpls.runtime.clients import PULLS_LIMIT
from mpls.runtime.emulation import Pacing
from mpls.runtime.server import Server
from mpls.runtime.snapshots import SnapshotStore
from mpls.wire import encode
from tests.runtime.rig import Job, Model, Raw, serving, until

MODEL = Model(conv=4_000, fc=4_000_000)
SPEC = MODEL.spec("w0", "w1", "w2")
W1, W2 = MODEL.spec("w1", "w0"), MODEL.spec("w2", "w0")
WINDOW = 256 * 1024
CHUNK = WINDOW // 4
STATUS = protocol.Status(7)

Place = tuple[Server, int, SnapshotStore]


@pytest.fixture
def place() -> Iterator[Place]:
    store = MODEL.store(MODEL.weights(1), MODEL.weights(2))
    with serving(SPEC, store) as (server, port):
        yield server, port, store


def pull(request_id: int, *layers: str, version: int = 0, offset: int = 0) -> protocol.Pull:
    return protocol.Pull(request_id, layers or ("fc",), version, offset, WINDOW)


def chunk_bytes(messages: list[protocol.Message]) -> int:
    return sum(len(message.data) for message in messages if isinstance(message, protocol.Chunk))


def read_pull(raw: Raw, *layers: str, request_id: int = 50) -> tuple[list[protocol.Chunk], bytes]:
    """Pull as a good reader does; the chunks, and all of their bytes."""
    raw.send(pull(request_id, *layers))
    chunks = [raw.receive()]
    while not chunks[-1].last:
        raw.send(protocol.Credit(request_id, len(chunks[-1].data)))
        chunks.append(raw.receive())
    raw.send(protocol.Credit(request_id, len(chunks[-1].data)))
    return chunks, b"".join(bytes(chunk.data) for chunk in chunks)


# --- who may ask ---


def test_a_hello_is_welcomed_with_name_model_histogram_and_samples(place):
    _, port, _ = place
    with Raw(port) as raw:
        raw.send(protocol.Hello(5, "w1", SPEC.model, (1.0, 0.0), 10))
        assert raw.receive() == protocol.Welcome(5, "w0", SPEC.model, (0.5, 0.5), 100)


@pytest.mark.parametrize(
    "request_of_a_stranger",
    [
        STATUS,
        pull(7),
        protocol.Probe(7, 100),
        protocol.Chunk(7, "fc", 1, 1, 0, 4, 0.0, b"data", sum=1),
    ],
)
def test_whoever_has_not_said_hello_is_refused(place, request_of_a_stranger):
    _, port, _ = place
    with Raw(port) as raw:
        raw.send(request_of_a_stranger)
        assert raw.receive() == protocol.Error(7, "refused", "say hello first")


def test_row_54_a_peer_with_another_model_is_told_both_hashes_and_gets_nothing(place):
    _, port, _ = place
    with Raw(port) as raw:
        raw.send(protocol.Hello(5, "w1", "f" * 64, (1.0, 0.0), 10))
        refusal = raw.receive()
        assert (refusal.id, refusal.code) == (5, "refused")
        assert "f" * 16 in refusal.message
        assert SPEC.model[:16] in refusal.message
        raw.send(pull(6))
        assert raw.receive().code == "refused"


def test_a_worker_that_is_no_peer_of_this_one_is_refused(place):
    _, port, _ = place
    with Raw(port) as raw:
        raw.send(protocol.Hello(5, "w9", SPEC.model, (1.0, 0.0), 10))
        assert raw.receive() == protocol.Error(5, "refused", "w9 is not a peer of w0")


def test_a_refused_hello_does_not_take_the_connection_of_the_peer_it_names(place):
    """Only one who is welcomed may say that it has left its old connection."""
    _, port, _ = place
    with Raw(port) as peer, Raw(port) as impostor:
        peer.greet(W1)
        peer.send(pull(3))
        assert chunk_bytes(peer.until_quiet()) == WINDOW
        impostor.send(protocol.Hello(5, "w1", "f" * 64, (1.0, 0.0), 10))
        assert impostor.receive().code == "refused"
        peer.send(protocol.Credit(3, CHUNK))
        assert len(peer.receive().data) == CHUNK


def test_a_peer_that_says_hello_again_on_a_new_connection_has_left_the_old_one(place):
    _, port, _ = place
    with Raw(port) as old, Raw(port) as new:
        old.greet(W1)
        new.greet(W1)
        old.send(STATUS)
        assert old.receive().code == "refused"
        new.send(STATUS)
        assert isinstance(new.receive(), protocol.StatusOk)


def test_strangers_are_not_remembered_however_many_come(place):
    server, port, _ = place
    for number in range(30):
        with Raw(port) as raw:
            raw.send(protocol.Hello(5, f"x{number}", SPEC.model, (1.0, 0.0), 10), STATUS)
            assert [raw.receive().code for _ in range(2)] == ["refused"] * 2
    for _ in range(10):
        with Raw(port) as raw:
            raw.greet(W1)
    assert len(server._clients) <= 1


# --- small answers ---


def test_a_status_tells_state_round_version_progress_and_step_time(place):
    _, port, store = place
    with Raw(port) as raw:
        raw.greet(W1)
        raw.send(STATUS)
        assert raw.receive() == protocol.StatusOk(7, "running", 3, 2, None, 0.25)
        read_pull(raw, "conv")
        pulled = store.latest()
        raw.send(STATUS)
        assert raw.receive().progress == (0.0, 0.0)
        store.publish(MODEL.weights(3), 4, keep_path=False)
        raw.send(STATUS)
        status = raw.receive()
        assert status.version == 3
        assert status.progress == store.latest().squared_distance(pulled)
        assert min(status.progress) > 0


def test_progress_counts_from_the_last_pull_that_succeeded_not_from_one_that_was_cancelled(place):
    _, port, store = place
    with Raw(port) as raw:
        raw.greet(W1)
        read_pull(raw, "conv")
        first = store.latest()
        store.publish(MODEL.weights(3), 4, keep_path=False)
        raw.send(pull(60))
        raw.until_quiet()
        raw.send(protocol.Cancel(60))
        store.publish(MODEL.weights(4), 5, keep_path=False)
        raw.send(STATUS)
        assert raw.receive().progress == store.latest().squared_distance(first)


def test_a_ping_is_answered_with_its_own_time(place):
    _, port, _ = place
    with Raw(port) as raw:
        raw.send(protocol.Ping(5, 12.5))
        assert raw.receive() == protocol.Pong(5, 12.5)


def test_a_probe_is_answered_with_as_many_bytes(place):
    _, port, _ = place
    with Raw(port) as raw:
        raw.greet(W1)
        raw.send(protocol.Probe(5, 1_000_000))
        answer = raw.receive()
        assert (answer.id, len(answer.data)) == (5, 1_000_000)


# --- pulls ---


def test_layers_come_whole_in_order_bit_for_bit_with_their_sums(place):
    _, port, store = place
    with Raw(port) as raw:
        raw.greet(W1)
        chunks, content = read_pull(raw, "fc", "conv")
    snapshot = store.latest()
    assert content == bytes(snapshot.layer("fc")) + bytes(snapshot.layer("conv"))
    ends = [chunk for chunk in chunks if chunk.sum is not None]
    assert [chunk.layer for chunk in ends] == ["fc", "conv"]
    for chunk in ends:
        assert chunk.sum == xxhash.xxh3_64_intdigest(snapshot.layer(chunk.layer))
    assert {(chunk.version, chunk.round) for chunk in chunks} == {(2, 1)}
    assert len({chunk.wait_s for chunk in chunks}) == 1


def test_row_48_an_unknown_layer_is_an_error_that_names_it_and_never_another_layer(place):
    _, port, _ = place
    with Raw(port) as raw:
        raw.greet(W1)
        raw.send(pull(5, "conv", "fc2"))
        assert raw.receive() == protocol.Error(5, "unknown-layer", "no layer fc2")
        assert raw.until_quiet() == []


@pytest.mark.parametrize("offset", [4_000_000, 4_000_001, 2**63])
def test_an_offset_beyond_the_layer_is_an_error(place, offset):
    _, port, store = place
    with Raw(port) as raw:
        raw.greet(W1)
        raw.send(pull(5, "fc", version=store.latest().version, offset=offset))
        assert raw.receive().code == "bad-request"
        raw.send(STATUS)
        assert isinstance(raw.receive(), protocol.StatusOk)


def test_a_version_that_is_gone_is_an_error(place):
    _, port, _ = place
    with Raw(port) as raw:
        raw.greet(W1)
        raw.send(pull(5, version=1))
        assert raw.receive() == protocol.Error(5, "gone", "version 1 is gone")


def test_a_reader_that_grants_no_credit_gets_its_window_and_not_a_byte_more(place):
    server, port, _ = place
    with Raw(port) as raw:
        raw.greet(W1)
        raw.send(pull(5))
        assert chunk_bytes(raw.until_quiet()) == WINDOW
        for _ in range(3):
            raw.send(protocol.Credit(5, CHUNK))
            assert chunk_bytes(raw.until_quiet()) == CHUNK
        raw.send(protocol.Credit(5, CHUNK - 1))
        assert chunk_bytes(raw.until_quiet()) == 0, "there is no room for another whole chunk"
        (sending,) = server._clients[next(iter(server._clients))].sendings
        unsent = sending.outgoing.total_bytes - sending.outgoing.sent_bytes
        assert unsent == 4_000_000 - WINDOW - 3 * CHUNK


def test_a_reader_that_reads_nothing_holds_up_nobody_else(place):
    server, port, store = place
    with Raw(port) as stalled, Raw(port) as reader:
        stalled.greet(W1)
        stalled.send(*(pull(number) for number in range(10, 10 + PULLS_LIMIT)))
        reader.greet(W2)
        for _ in range(3):
            _, content = read_pull(reader, "fc")
            assert content == bytes(store.latest().layer("fc"))
        sent_bytes = server.sent.bytes["w1", "chunk"]
        assert sent_bytes <= PULLS_LIMIT * WINDOW + 100 * server.sent.messages["w1", "chunk"]


def test_a_cancelled_pull_sends_nothing_more_even_for_credit(place):
    _, port, _ = place
    with Raw(port) as raw:
        raw.greet(W1)
        raw.send(pull(5))
        raw.until_quiet()
        raw.send(protocol.Cancel(5), protocol.Credit(5, CHUNK))
        assert raw.until_quiet() == []


def test_one_connection_may_have_so_many_pulls_at_once_and_is_told_when_it_asks_for_more(place):
    _, port, _ = place
    numbers = range(10, 10 + PULLS_LIMIT)
    with Raw(port) as raw:
        raw.greet(W1)
        raw.send(*map(pull, numbers), pull(99))
        messages = []
        while chunk_bytes(messages) < PULLS_LIMIT * WINDOW or len(messages) % 4 == 0:
            messages.append(raw.receive())
        assert {message.id for message in messages} == {*numbers, 99}
        assert protocol.Error(99, "busy", f"{PULLS_LIMIT} at a time") in messages
        raw.send(protocol.Cancel(10), pull(100))
        assert [raw.receive().id for _ in range(WINDOW // CHUNK)] == [100] * 4


def test_credit_for_more_than_is_in_flight_is_refused(place):
    server, port, _ = place
    with Raw(port) as raw:
        raw.greet(W1)
        raw.send(pull(5))
        raw.until_quiet()
        raw.send(protocol.Credit(5, WINDOW + 1))
        refusal = raw.receive()
        assert (refusal.id, refusal.code) == (5, "bad-request")
        assert server.refusals == {"credit": 1}


def test_credit_and_cancel_for_a_pull_that_is_over_are_nobodys_business(place):
    server, port, _ = place
    with Raw(port) as raw:
        raw.greet(W1)
        read_pull(raw, "conv")
        raw.send(protocol.Credit(50, 5), protocol.Cancel(50), protocol.Cancel(12345))
        assert raw.until_quiet() == []
        assert server.refusals == {}


def read_chunks(raw: Raw, number: int) -> Iterator[int]:
    """The pulls that the next chunks belong to; credit is given back for each."""
    for _ in range(number):
        chunk = raw.receive()
        raw.send(protocol.Credit(chunk.id, len(chunk.data)))
        yield chunk.id


def test_two_pulls_of_one_peer_are_served_in_turns():
    """From when both are known; a paced link keeps the first from being through by then."""
    with (
        serving(SPEC, MODEL.store(MODEL.weights()), Pacing({"w1": 8e6}, None)) as (_, port),
        Raw(port) as raw,
    ):
        raw.greet(W1)
        raw.send(pull(1), pull(2))
        chunks = read_chunks(raw, 50)
        assert 2 in chunks
        turns = Counter(islice(chunks, 24))
    assert abs(turns[1] - turns[2]) <= 4, "no more than a window ahead"


def test_two_peers_behind_one_card_are_served_in_turns():
    with (
        serving(SPEC, MODEL.store(MODEL.weights()), Pacing({}, card_Bps=8e6)) as (server, port),
        Raw(port) as one,
        Raw(port) as two,
    ):
        one.greet(W1)
        two.greet(W2)
        one.send(pull(1))
        two.send(pull(1))
        readers = [
            Job(raw_name, partial(list, read_chunks(raw, 30)))
            for raw_name, raw in (("one", one), ("two", two))
        ]
        until(lambda: not all(reader.is_alive() for reader in readers), "one to have all of its")
        sent = dict(server.sent.messages)
        for reader in readers:
            reader.finish()
    assert min(sent["w1", "chunk"], sent["w2", "chunk"]) >= 20


def test_weights_too_large_to_be_squared_are_served_without_a_progress(place):
    """A peer's huge (finite) weights, once mixed, must not end the serving thread."""
    _, port, store = place
    with Raw(port) as raw:
        raw.greet(W1)
        read_pull(raw, "conv")
        store.publish(np.full(MODEL.values, 1e30, np.float32), 4, keep_path=False)
        raw.send(STATUS)
        assert raw.receive().progress is None
        chunks, content = read_pull(raw, "conv")
        assert chunks[-1].progress is None
        assert content == bytes(store.latest().layer("conv"))


def test_paths_too_large_to_be_squared_are_served_without_a_progress():
    store = SnapshotStore(MODEL.spans, MODEL.values, np.dtype(np.float32))
    store.publish(MODEL.weights(), 0, keep_path=True)
    spec = MODEL.spec("w0", "w1", plan=PlanSettings(progress="path"))
    with serving(spec, store) as (_, port), Raw(port) as raw:
        raw.greet(W1)
        read_pull(raw, "conv")
        for size in (1e30, -1e30):
            store.publish(np.full(MODEL.values, size, np.float32), 4, keep_path=True)
            raw.send(STATUS)
            assert raw.receive().progress is None
            assert read_pull(raw, "conv")[0][-1].progress is None


def test_a_reader_that_goes_away_in_mid_pull_is_forgotten_with_what_it_held(place):
    server, port, store = place
    with Raw(port) as raw:
        raw.greet(W1)
        raw.send(pull(5))
        raw.until_quiet()
    for number in range(5):
        store.publish(MODEL.weights(number), number, keep_path=False)
    with Raw(port) as raw:
        raw.greet(W1)
        read_pull(raw, "conv")
        raw.until_quiet()
        assert len(server._clients) == 1
        until(lambda: len(store.pool._free) >= store.pool.made - 2, "its snapshot to be let go")


def test_the_bytes_of_every_message_are_counted_by_peer_and_type(place):
    server, port, _ = place
    with Raw(port) as raw:
        raw.greet(W1)
        chunks, content = read_pull(raw, "fc")
        raw.until_quiet()
        hello = sum(map(len, encode(protocol.Hello(1, "w1", W1.model, W1.histogram, W1.samples))))
        assert server.received.as_plain()["w1"]["hello"] == [1, hello]
        assert server.received.as_plain()["w1"]["pull"] == [1, len(encode(pull(50))[0])]
        assert server.received.messages["w1", "credit"] == len(chunks)
        chunk_bytes = sum(sum(map(len, encode(chunk))) for chunk in chunks)
        assert server.sent.as_plain()["w1"]["chunk"] == [len(chunks), chunk_bytes]
        assert chunk_bytes > len(content)
