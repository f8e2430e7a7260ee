"""Pulling over a real connection: bit for bit, resumed where it broke off, and never waited for in
vain.

Method: a real ZmqTransport, driven by the test's thread; behind it a real server, a proxy that cuts
the connection when told, or a server that tells lies.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import zmq

from mpls.core import protocol
from mpls.core.messages import (
    CancelRequest,
    Event,
    LayerReceived,
    LayerRefused,
    Progress,
    Replied,
    RequestFailed,
)
from mpls.runtime.emulation import Pacing
from mpls.runtime.snapshots import Snapshot
from mpls.wire import encode
from tests.runtime.rig import (
    CREDIT,
    DEADLINE_S,
    Job,
    Model,
    Proxy,
    Puller,
    fake_server,
    serving,
)

MODEL = Model(conv1=4_000, conv2=600_000, fc=1_500_000, out=400)
SPEC = MODEL.spec("w0", "w1")
W1 = MODEL.spec("w1", "w0")


def assert_bits(layers: dict[str, np.ndarray], snapshot: Snapshot, *names: str) -> None:
    assert list(layers) == list(names)
    for name in names:
        assert layers[name].tobytes() == bytes(snapshot.layer(name)), name


def test_several_layers_arrive_in_order_bit_for_bit():
    store = MODEL.store(MODEL.weights(1), MODEL.weights(2))
    with serving(SPEC, store) as (_, port), Puller(W1, {"w0": port}) as puller:
        assert puller.greet() == protocol.Welcome(
            puller.new_id() - 1, "w0", SPEC.model, SPEC.histogram, SPEC.samples
        )
        events = puller.pull("fc", "out", "conv1")
        received = [event for event in events if isinstance(event, LayerReceived)]
        assert_bits(puller.layers(events), store.latest(), "fc", "out", "conv1")
    assert {(event.version, event.round) for event in received} == {(2, 1)}
    assert [event.layer_bytes for event in received] == [1_500_000, 400, 4_000]
    assert [event.progress for event in received] == [None] * 3


def test_the_progress_since_the_last_pull_comes_with_the_last_layer():
    store = MODEL.store(MODEL.weights(1))
    with serving(SPEC, store) as (_, port), Puller(W1, {"w0": port}) as puller:
        puller.greet()
        puller.pull("conv1", "out")
        first = store.latest()
        store.publish(MODEL.weights(2), 1, keep_path=False)
        events = puller.pull("out", "conv1")
        progress = [event.progress for event in events if isinstance(event, LayerReceived)]
        assert progress == [None, store.latest().squared_distance(first)]


def test_a_status_is_answered():
    with (
        serving(SPEC, MODEL.store(MODEL.weights())) as (_, port),
        Puller(W1, {"w0": port}) as puller,
    ):
        puller.greet()
        answer = puller.ask(protocol.Status(puller.new_id()))
        assert answer.reply == protocol.StatusOk(answer.reply.id, "running", 3, 1, None, 0.25)


def test_an_unknown_layer_is_answered_with_an_error():
    odd = Model(**MODEL.layer_bytes, extra=8)
    with (
        serving(SPEC, MODEL.store(MODEL.weights())) as (_, port),
        Puller(odd.spec("w1", "w0"), {"w0": port}) as puller,
    ):
        puller.greet()
        (event,) = puller.pull("extra")
        assert isinstance(event, Replied)
        assert event.reply.code == "unknown-layer"


def test_two_peers_are_pulled_from_at_the_same_time():
    stores = [MODEL.store(MODEL.weights(seed)) for seed in (1, 2)]
    pacing = [Pacing({"w1": 6e6}, None) for _ in stores]
    with (
        serving(MODEL.spec("w0", "w1"), stores[0], pacing[0]) as (_, one),
        serving(MODEL.spec("w2", "w1"), stores[1], pacing[1]) as (_, two),
        Puller(MODEL.spec("w1", "w0", "w2"), {"w0": one, "w2": two}) as puller,
    ):
        pulls = {}
        for peer in ("w0", "w2"):
            puller.peer = peer
            puller.greet()
        for peer in ("w0", "w2"):
            puller.peer = peer
            pulls[peer] = protocol.Pull(puller.new_id(), ("fc",), 0, 0, CREDIT)
            assert puller.send(pulls[peer]) == []
        events = puller.events(lambda events: len(received(events)) == 2, "both layers")
        for peer, store in zip(("w0", "w2"), stores):
            buffer = puller.transport.claim(pulls[peer].id, "fc")
            assert buffer.tobytes() == bytes(store.latest().layer("fc"))
        progress = [event.request_id for event in events if isinstance(event, Progress)]
        assert {pull.id for pull in pulls.values()} <= set(progress[:2])


def received(events: Sequence[Event]) -> list[LayerReceived]:
    return [event for event in events if isinstance(event, LayerReceived)]


def test_received_buffers_are_used_again():
    store = MODEL.store(MODEL.weights())
    with serving(SPEC, store) as (_, port), Puller(W1, {"w0": port}) as puller:
        puller.greet()
        addresses = set()
        for _ in range(20):
            (buffer,) = puller.layers(puller.pull("fc")).values()
            addresses.add(buffer.ctypes.data)
            puller.transport.recycle(buffer)
        assert len(addresses) <= 2


def test_layers_that_nobody_claims_are_forgotten_when_told_to():
    store = MODEL.store(MODEL.weights())
    with serving(SPEC, store) as (_, port), Puller(W1, {"w0": port}) as puller:
        puller.greet()
        (event,) = received(puller.pull("out"))
        puller.transport.forget()
        with pytest.raises(KeyError):
            puller.transport.claim(event.request_id, "out")


# --- progress ---


def test_the_first_bytes_are_told_at_once_and_later_ones_not_before_half_the_stall_time():
    """Else a slow link would look stalled: its first chunk would be told of after the deadline."""
    store = MODEL.store(MODEL.weights())
    with (
        serving(SPEC, store, Pacing({"w1": 10e6}, None)) as (_, port),
        Puller(W1, {"w0": port}, stall_s=1000.0) as puller,
    ):
        puller.greet()
        events = puller.pull("fc", "conv2", credit=256 * 1024)
    told = [event for event in events if isinstance(event, Progress)]
    assert [(event.received_bytes, event.version) for event in told] == [(64 * 1024, 1)]
    assert isinstance(events[0], Progress)


def test_bytes_are_never_withheld_longer_than_half_the_stall_time():
    store = MODEL.store(MODEL.weights())
    with (
        serving(SPEC, store, Pacing({"w1": 6e6}, None)) as (_, port),
        Puller(W1, {"w0": port}, stall_s=0.1) as puller,
    ):
        puller.greet()
        events = puller.pull("fc", credit=256 * 1024)
    told = [event.received_bytes for event in events if isinstance(event, Progress)]
    assert 3 <= len(told) <= 7, "a quarter of a second in steps of 0.05 s"
    assert told == sorted(set(told))


def test_bytes_that_came_just_before_a_silence_are_told_in_it():
    """A server that stops after two chunks: the second is told of though nothing follows it."""
    layer = bytes(256 * 1024)

    def two_chunks(message: Any) -> list[Any]:
        if not isinstance(message, protocol.Pull):
            return welcome(message)
        return [
            encode(
                protocol.Chunk(
                    message.id, "fc", 1, 1, offset, len(layer), 0.0, layer[offset : offset + 65536]
                )
            )
            for offset in (0, 65536)
        ]

    model = Model(fc=len(layer))
    with (
        fake_server(two_chunks) as port,
        Puller(model.spec("w1", "w0"), {"w0": port}, stall_s=0.2) as puller,
    ):
        puller.greet()
        pull = protocol.Pull(puller.new_id(), ("fc",), 0, 0, 256 * 1024)
        assert puller.send(pull) == []
        events = puller.events(lambda events: len(events) == 2, "two reports")
    assert events == [Progress(pull.id, 65536, 1), Progress(pull.id, 131072, 1)]


def test_a_probe_is_over_with_its_answer():
    with (
        serving(SPEC, MODEL.store(MODEL.weights())) as (_, port),
        Proxy(port) as proxy,
        Puller(W1, {"w0": proxy.port}) as puller,
    ):
        puller.greet()
        probe = protocol.Probe(puller.new_id(), 300_000)
        assert puller.send(probe) == []
        events = puller.events(len, "the probe's bytes")
        assert [(event.request_id, event.received_bytes) for event in events] == [
            (probe.id, 300_000)
        ]
        status = protocol.Status(puller.new_id())
        proxy.upstream = 1
        assert puller.send(status) == []
        proxy.cut()
        events = puller.events(len, "the failure")
        ids = {event.request_id for event in events if isinstance(event, RequestFailed)}
        assert probe.id not in ids


# --- a connection that is cut ---


def test_a_pull_cut_in_mid_layer_resumes_there_and_is_bit_equal():
    store = MODEL.store(MODEL.weights(1), MODEL.weights(2))
    with (
        serving(SPEC, store) as (_, port),
        Proxy(port) as proxy,
        Puller(W1, {"w0": proxy.port}) as puller,
    ):
        puller.greet()
        pulled = store.latest()
        proxy.cut_after(1_300_000)
        events = puller.pull("conv2", "fc", "out", credit=256 * 1024)
        assert_bits(puller.layers(events), pulled, "conv2")
        failure = events[-1]
        assert isinstance(failure, RequestFailed)
        assert (failure.reason, failure.version) == ("disconnected", 2)
        assert 900_000 < failure.received_bytes < 1_300_000

        store.publish(MODEL.weights(3), 2, keep_path=False)
        puller.greet()
        before_bytes = proxy.down_bytes
        offset = failure.received_bytes - 600_000
        events = puller.pull("fc", "out", version=2, offset=offset)
        assert_bits(puller.layers(events), pulled, "fc", "out")
        assert proxy.down_bytes - before_bytes < 1_500_000 - offset + 5_000


def test_a_pull_cut_again_and_again_still_arrives_whole():
    store = MODEL.store(MODEL.weights())
    cuts, offset, version = 0, 0, 0
    with (
        serving(SPEC, store) as (_, port),
        Proxy(port) as proxy,
        Puller(W1, {"w0": proxy.port}) as puller,
    ):
        while True:
            puller.greet()
            proxy.cut_after(400_000)
            events = puller.pull("fc", version=version, offset=offset, credit=256 * 1024)
            if received(events):
                break
            failure = events[-1]
            assert isinstance(failure, RequestFailed)
            assert failure.received_bytes > offset, "every attempt brings something"
            cuts, offset, version = cuts + 1, failure.received_bytes, failure.version
        assert_bits(puller.layers(events), store.latest(), "fc")
    assert cuts >= 3


def test_a_version_that_is_gone_is_said_to_be_and_the_layer_starts_anew():
    store = MODEL.store(MODEL.weights(1))
    with (
        serving(SPEC, store) as (_, port),
        Proxy(port) as proxy,
        Puller(W1, {"w0": proxy.port}) as puller,
    ):
        puller.greet()
        proxy.cut_after(700_000)
        failure = puller.pull("fc", credit=256 * 1024)[-1]
        assert isinstance(failure, RequestFailed)
        store.publish(MODEL.weights(2), 1, keep_path=False)
        with Puller(W1, {"w0": port}) as other_life:
            other_life.greet()
            other_life.pull("out")
        puller.greet()
        (event,) = puller.pull("fc", version=1, offset=failure.received_bytes)
        assert isinstance(event, Replied)
        assert event.reply.code == "gone"
        events = puller.pull("fc")
        assert_bits(puller.layers(events), store.latest(), "fc")
        assert received(events)[0].version == 2


def test_what_is_to_be_resumed_but_is_not_here_fails_at_once():
    with (
        serving(SPEC, MODEL.store(MODEL.weights())) as (_, port),
        Puller(W1, {"w0": port}) as puller,
    ):
        puller.greet()
        for _ in range(2):
            (failure,) = puller.pull("fc", version=1, offset=64 * 1024)
            assert isinstance(failure, RequestFailed)
            assert (failure.reason, failure.received_bytes) == ("gone", 0)
            assert received(puller.pull("out"))


def test_a_restarted_server_wants_a_new_hello_and_its_versions_are_not_mixed_up():
    """The new life of the server counts versions from 1 again: the same number is another model."""
    first, second = MODEL.store(MODEL.weights(1)), MODEL.store(MODEL.weights(2))
    with (
        serving(SPEC, first) as (_, port),
        serving(SPEC, second) as (_, new_port),
        Proxy(port) as proxy,
        Puller(W1, {"w0": proxy.port}) as puller,
    ):
        puller.greet()
        proxy.cut_after(700_000)
        failure = puller.pull("fc", credit=256 * 1024)[-1]
        assert isinstance(failure, RequestFailed)
        proxy.upstream = new_port
        proxy.cut()
        refusal = puller.ask_connected(protocol.Status(puller.new_id())).reply
        assert (refusal.code, refusal.message) == ("refused", "say hello first")
        puller.greet()
        events = puller.pull("fc", version=1, offset=failure.received_bytes)
        assert [type(event) for event in events if not isinstance(event, Progress)] == [
            LayerRefused
        ]
        assert_bits(puller.layers(puller.pull("fc")), second.latest(), "fc")


def test_a_connection_is_watched_from_before_it_begins(monkeypatch):
    """Else one that is made at once is never noticed, and its peer unreachable for ever."""
    endpoints = []
    watch = zmq.Socket.get_monitor_socket

    def note(connection: zmq.Socket[bytes], *args: Any) -> Any:
        endpoints.append(connection.getsockopt(zmq.LAST_ENDPOINT).strip(b"\0"))
        return watch(connection, *args)

    monkeypatch.setattr(zmq.Socket, "get_monitor_socket", note)
    with Puller(W1, {"w0": 1}):
        assert endpoints == [b""]


def test_a_peer_that_is_not_there_is_unreachable_at_once():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with Puller(W1, {"w0": nobody.getsockname()[1]}) as puller:
            for message in (protocol.Status(1), protocol.Pull(2, ("fc",), 0, 0, CREDIT)):
                assert puller.send(message) == [RequestFailed(message.id, "unreachable")]


def test_a_lost_connection_fails_whatever_was_in_flight():
    def silence(message: Any) -> list[Any]:
        return welcome(message) if isinstance(message, protocol.Hello) else []

    with (
        fake_server(silence) as port,
        Proxy(port) as proxy,
        Puller(W1, {"w0": proxy.port}) as puller,
    ):
        puller.greet()
        first = puller.new_id()
        assert puller.send(protocol.Status(first)) == []
        assert puller.send(protocol.Pull(first + 1, ("fc",), 0, 0, CREDIT)) == []
        assert puller.send(protocol.Probe(first + 2, 1000)) == []
        proxy.upstream = 1
        proxy.cut()
        events = puller.events(lambda events: len(events) >= 3, "three failures")
        assert [(event.request_id, event.reason) for event in events] == [
            (first + number, "disconnected") for number in range(3)
        ]
        assert puller.send(protocol.Status(first + 3)) == [RequestFailed(first + 3, "unreachable")]


def test_a_cancelled_pull_is_heard_of_no_more_and_its_slot_is_free():
    store = MODEL.store(MODEL.weights())
    with (
        serving(SPEC, store, Pacing({"w1": 2e6}, None)) as (_, port),
        Puller(W1, {"w0": port}) as puller,
    ):
        puller.greet()
        for _ in range(10):
            pull = protocol.Pull(puller.new_id(), ("fc",), 0, 0, 256 * 1024)
            assert puller.send(pull) == []
            puller.events(len, "its first bytes")
            puller.transport.cancel(CancelRequest("w0", pull.id))
        events = puller.pull("conv1")
        assert {event.request_id for event in received(events)} == {pull.id + 1}
        assert_bits(puller.layers(events), store.latest(), "conv1")
        assert puller.transport.dropped > 0, "chunks that were on their way already"


# --- a server that tells lies ---


def welcome(message: Any) -> list[Any]:
    if isinstance(message, protocol.Hello):
        return [encode(protocol.Welcome(message.id, "w0", "m", (1.0,), 1))]
    if isinstance(message, protocol.Status):
        return [encode(protocol.StatusOk(message.id, "running", 1, 1, None, 0.1))]
    return []


def chunk_of(pull: protocol.Pull, **changes: Any) -> Any:
    """The one chunk that answers a pull of `out`, with something else in it."""
    fields = {
        "layer": "out",
        "version": 3,
        "round": 2,
        "offset": 0,
        "total": 400,
        "wait_s": 0.0,
        "data": bytes(400),
        "sum": 123,
        "last": True,
    }
    return encode(protocol.Chunk(pull.id, **(fields | changes)))


LIES = {
    "another layer": lambda pull: chunk_of(pull, layer="fc"),
    "a layer larger than it is": lambda pull: chunk_of(pull, total=800),
    "more data than there is": lambda pull: chunk_of(pull, data=bytes(404)),
    "less data than there is": lambda pull: chunk_of(pull, data=bytes(396)),
    "an offset in the middle": lambda pull: chunk_of(pull, offset=8, data=bytes(392)),
    "the end missing": lambda pull: chunk_of(pull, last=False),
    "a welcome": lambda pull: encode(protocol.Welcome(pull.id, "w0", "m", (1.0,), 1)),
    "a status": lambda pull: encode(protocol.StatusOk(pull.id, "running", 1, 1, None, 0.1)),
    "a probe's bytes": lambda pull: encode(protocol.ProbeData(pull.id, b"data")),
    "a request": lambda pull: encode(protocol.Status(pull.id)),
    "a chunk of version 0": lambda pull: [
        encode(protocol.Chunk(pull.id, "out", 1, 1, 0, 400, 0.0, b"x", sum=1, last=True))[
            0
        ].replace(b"version\x01", b"version\x00"),
        b"x",
    ],
}


@pytest.mark.parametrize("what", LIES)
def test_a_lie_ends_the_request_that_it_answers_and_no_other(what):
    asked: list[protocol.Status] = []

    def lie(message: Any) -> list[Any]:
        """The status is answered after the pull."""
        if isinstance(message, protocol.Status):
            asked.append(message)
            return []
        if isinstance(message, protocol.Pull):
            return [LIES[what](message), *(reply for m in asked for reply in welcome(m))]
        return welcome(message)

    with fake_server(lie) as port, Puller(W1, {"w0": port}) as puller:
        puller.greet()
        status = protocol.Status(puller.new_id())
        assert puller.send(status) == []
        pull = protocol.Pull(puller.new_id(), ("out",), 0, 0, CREDIT)
        assert puller.send(pull) == []
        events = puller.events(lambda events: len(events) >= 2, "both ends")
        failure, answer = events
        assert isinstance(failure, RequestFailed)
        assert failure.request_id == pull.id
        assert failure.reason.startswith("protocol-")
        assert isinstance(answer, Replied)
        assert answer.reply.id == status.id


def test_a_layer_with_a_wrong_sum_is_refused_and_the_server_is_told_to_stop():
    got: list[Any] = []

    def lie(message: Any) -> list[Any]:
        got.append(message)
        return [chunk_of(message)] if isinstance(message, protocol.Pull) else welcome(message)

    with fake_server(lie) as port, Puller(W1, {"w0": port}) as puller:
        puller.greet()
        (event,) = puller.pull("out")
        assert event == LayerRefused(event.request_id, "out", "checksum")
        puller.ask(protocol.Status(puller.new_id()))
    assert protocol.Cancel(event.request_id) in got
    assert not [message for message in got if isinstance(message, protocol.Credit)]


@pytest.mark.parametrize(
    "garbage", [[b""], [b"\xc1"], [b"x"] * 5, [b"\x91\x81\xa1t\xa5chunk"], [bytes(20_000)]]
)
def test_garbage_that_names_no_request_is_dropped_counted_and_disturbs_nobody(garbage):
    def answer(message: Any) -> list[Any]:
        return [garbage, *welcome(message)]

    with fake_server(answer) as port, Puller(W1, {"w0": port}) as puller:
        puller.greet()
        dropped = puller.transport.dropped
        assert dropped >= 1
        for _ in range(3):
            assert isinstance(puller.ask(protocol.Status(puller.new_id())), Replied)
        assert puller.transport.dropped == dropped + 3


def test_answers_to_requests_that_nobody_waits_for_are_dropped_and_counted():
    def answer(message: Any) -> list[Any]:
        return [*welcome(message), *welcome(message)]

    with fake_server(answer) as port, Puller(W1, {"w0": port}) as puller:
        puller.greet()
        puller.ask(protocol.Status(puller.new_id()))
        puller.ask(protocol.Status(puller.new_id()))
        assert puller.transport.dropped >= 2


# --- one owner ---


def test_a_socket_touched_by_another_thread_names_both_threads():
    with Puller(W1, {"w0": 1}) as puller:
        owner = threading.current_thread().name
        for touch in (
            lambda: puller.send(protocol.Status(1)),
            lambda: puller.transport.wait(0.0, puller.bell.fileno()),
            lambda: puller.transport.cancel(CancelRequest("w0", 1)),
            puller.transport.close,
        ):
            with pytest.raises(AssertionError, match=f"{owner}.*intruder"):
                Job("intruder", touch).finish()


def test_waiting_ends_early_when_the_bell_rings():
    with Puller(W1, {"w0": 1}) as puller:
        ringer = threading.Timer(0.01, lambda: puller.bell.post(RequestFailed(1, "test")))
        ringer.start()
        while not (events := puller.bell.collect()):
            assert puller.transport.wait(DEADLINE_S, puller.bell.fileno()) == []
        ringer.join()
        assert events == [RequestFailed(1, "test")]
