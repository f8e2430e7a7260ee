"""A connection that breaks costs what was on its way, and never more.

Method: between a real transport and a real server there is a proxy that cuts when it is told to.
"""

from __future__ import annotations

import socket
from typing import Any

import zmq

from mpls.core import protocol
from mpls.core.messages import (
    CancelRequest,
    LayerRefused,
    Progress,
    Replied,
    RequestFailed,
)
from mpls.runtime.emulation import Pacing
from tests.runtime.proxy import Proxy
from tests.runtime.rig import (
    CREDIT,
    Model,
    Puller,
    assert_bits,
    fake_server,
    received,
    serving,
    welcome,
)

MODEL = Model(conv1=4_000, conv2=600_000, fc=1_500_000, out=400)
SPEC = MODEL.spec("w0", "w1")
W1 = MODEL.spec("w1", "w0")


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


def test_row_14_a_restarted_server_wants_a_new_hello_and_its_versions_are_not_mixed_up():
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
