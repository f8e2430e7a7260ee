"""Pulling over a real connection: bit for bit, with progress told in time, by one thread only.

Method: a real ZmqTransport, driven by the test's thread, and a real server behind it.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import Any

import pytest
import xxhash

from mpls.core import protocol
from mpls.core.messages import (
    CancelRequest,
    LayerReceived,
    Progress,
    Replied,
    RequestFailed,
)
from mpls.runtime.emulation import Pacing
from mpls.runtime.limits import LINES_LIMIT
from mpls.wire import encode
from tests.runtime.proxy import Proxy
from tests.runtime.rig import (
    CREDIT,
    DEADLINE_S,
    Job,
    Model,
    Puller,
    assert_bits,
    fake_server,
    received,
    serving,
    until,
    welcome,
)

MODEL = Model(conv1=4_000, conv2=600_000, fc=1_500_000, out=400)
SPEC = MODEL.spec("w0", "w1")
W1 = MODEL.spec("w1", "w0")


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


def test_what_is_here_of_a_cancelled_pull_can_be_resumed_until_all_is_forgotten():
    """Then its buffer is there for others: a peer that dies in mid-pull costs nothing for long."""
    store = MODEL.store(MODEL.weights())
    with (
        serving(SPEC, store, Pacing({"w1": 2e6}, None)) as (_, port),
        Puller(W1, {"w0": port}) as puller,
    ):
        puller.greet()
        pull = protocol.Pull(puller.new_id(), ("fc",), 0, 0, 256 * 1024)
        assert puller.send(pull) == []
        (begun,) = puller.events(len, "its first bytes")
        puller.transport.cancel(CancelRequest("w0", pull.id))
        resumed = replace(pull, id=puller.new_id(), version=1, offset=begun.received_bytes)
        assert puller.send(resumed) == []
        puller.transport.cancel(CancelRequest("w0", resumed.id))
        puller.transport.forget()
        again = replace(resumed, id=puller.new_id())
        assert puller.send(again) == [RequestFailed(again.id, "gone")]
        assert [len(spares) for spares in puller.transport.pool._waiting.values()] == [1]


def test_row_13_late_duplicate_and_foreign_replies_change_nothing():
    """A server that answers each pull with what belongs to another, twice, and then rightly."""
    layer = bytes(range(256)) * 256

    def chunks(message: Any) -> list[Any]:
        if not isinstance(message, protocol.Pull):
            return welcome(message)
        sum_ = xxhash.xxh3_64_intdigest(layer)
        right = protocol.Chunk(
            message.id, "fc", 1, 1, 0, len(layer), 0.0, layer, sum=sum_, last=True
        )
        stale = replace(right, id=message.id - 1, data=bytes(len(layer)))
        late = protocol.StatusOk(message.id - 1, "running", 9, 9, None, 0.1)
        return [encode(each) for each in (stale, late, stale, right, right, stale)]

    model = Model(fc=len(layer))
    with (
        fake_server(chunks) as port,
        Puller(model.spec("w1", "w0"), {"w0": port}) as puller,
    ):
        puller.greet()
        for _ in range(3):
            events = puller.pull("fc")
            (arrived,) = received(events)
            assert events[-1] == arrived
            assert puller.transport.claim(arrived.request_id, "fc").tobytes() == layer
        until(
            lambda: (
                puller.transport.wait(0.01, puller.bell.fileno())
                or puller.transport.dropped == 3 * 5
            ),
            "the rest of them",
        )
        assert puller.transport.refused.counts == {}


def test_a_server_that_breaks_the_protocol_is_counted_by_kind_and_logged_within_limits(caplog):
    caplog.set_level(logging.WARNING, logger="mpls")

    def garbage(message: Any) -> list[Any]:
        return welcome(message) if isinstance(message, protocol.Hello) else [[b"\x91\xc1"]] * 100

    with fake_server(garbage) as port, Puller(W1, {"w0": port}) as puller:
        puller.greet()
        assert puller.send(protocol.Status(puller.new_id())) == []
        until(
            lambda: (
                puller.transport.wait(0.01, puller.bell.fileno())
                or puller.transport.refused.counts == {"msgpack": 100}
            ),
            "all of it",
        )
        assert puller.transport.dropped == 100
    assert len(caplog.messages) == LINES_LIMIT + 1
    assert caplog.messages[-1] == f"refused (msgpack) w0: and {100 - LINES_LIMIT} more"


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


# --- one owner ---


def test_row_60_a_socket_touched_by_another_thread_names_both_threads():
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
