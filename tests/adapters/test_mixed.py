"""Both transports of one worker behave as one: dispatched by peer, woken by whatever happens first.

Method: a puller whose two peers are real servers of both kinds, in one thread as in a worker.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpls.adapters.mixed import BothEnds, GrpcEnd, MixedTransport, adapt
from mpls.config import builtin, changed
from mpls.core import protocol
from mpls.core.messages import Event, Progress, Replied, SendRequest
from mpls.core.serving import Condition, Serving
from mpls.errors import BadInput, Refused
from mpls.runtime.journal import Clock
from mpls.runtime.mailbox import Bell
from mpls.runtime.outfit import Outfit
from mpls.runtime.server import Server
from mpls.runtime.sockets import listener_at
from mpls.runtime.zmq_transport import ZmqTransport
from tests.adapters.rig import MODEL, GrpcPuller, catalogue_of, serving_grpc
from tests.runtime.rig import DEADLINE_S, Job, Model, Puller, received, serving, until

WEIGHTS = {"w0": MODEL.weights(1), "w2": MODEL.weights(2)}


class Pair:
    """w1, whose peers are w0 by gRPC and w2 by ZeroMQ."""

    def __init__(self, grpc_port: int, zmq_port: int) -> None:
        layer_bytes = dict(MODEL.layer_bytes)
        zmq = ZmqTransport({"w2": f"127.0.0.1:{zmq_port}"}, layer_bytes, 3.0)
        grpc = GrpcPuller(grpc_port)
        grpc.transport.close()
        self.transport = MixedTransport(zmq, grpc.transport, frozenset({"w0"}))
        grpc.transport.sent = zmq.sent
        self.transport.open()
        self.bell: Bell[None] = Bell()
        self.spec = MODEL.spec("w1", "w0", "w2")

    def events(self, enough: Any) -> list[Event]:
        events: list[Event] = []
        end_s = time.monotonic() + DEADLINE_S
        while not enough(events):
            assert time.monotonic() < end_s, events
            events += self.transport.wait(1.0, self.bell.fileno())
        return events

    def greet(self) -> None:
        """Both are connected and have said welcome, one perhaps before the other is there."""
        early: list[Event] = []
        for number, peer in enumerate(("w0", "w2"), 1):
            spec = self.spec
            hello = protocol.Hello(number, "w1", spec.model, spec.histogram, spec.samples)
            end_s = time.monotonic() + DEADLINE_S
            while self.transport.send(SendRequest(peer, hello)):
                assert time.monotonic() < end_s
                early += self.transport.wait(0.01, self.bell.fileno())
        replies = early + self.events(lambda events: len(early) + len(events) == 2)
        assert all(isinstance(event, Replied) for event in replies)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with (
        serving_grpc(MODEL.store(WEIGHTS["w0"])) as (_, grpc_port),
        serving(MODEL.spec("w2", "w1"), MODEL.store(WEIGHTS["w2"])) as (_, zmq_port),
    ):
        pair = Pair(grpc_port, zmq_port)
        yield pair
        pair.transport.close()
        pair.bell.close()


def test_layers_come_from_either_kind_at_the_same_time(pair: Pair) -> None:
    pair.greet()
    for number, peer in ((5, "w0"), (6, "w2")):
        pull = protocol.Pull(number, tuple(MODEL.layer_bytes), 0, 0, 2**20)
        assert pair.transport.send(SendRequest(peer, pull)) == []
    layers = received(pair.events(lambda events: len(received(events)) == 6))
    for event in layers:
        weights = WEIGHTS["w0" if event.request_id == 5 else "w2"]
        buffer = pair.transport.claim(event.request_id, event.layer)
        assert buffer.tobytes() == MODEL.layer(event.layer, weights).tobytes()
        pair.transport.recycle(buffer)
    assert [event.version for event in layers if event.request_id == 6] == [1, 1, 1]
    pair.transport.forget()
    assert set(pair.transport.sent.as_plain()) == {"w0", "w2"}


def test_a_ring_of_the_bell_ends_the_wait(pair: Pair) -> None:
    ringer = Job("ringer", lambda: pair.bell.post(None))
    began_s = time.monotonic()
    while not pair.bell.collect():
        pair.transport.wait(5.0, pair.bell.fileno())
    assert time.monotonic() - began_s < 4.0
    ringer.finish()


def test_a_probe_by_grpc_wakes_a_thread_that_sleeps_for_zeromq(pair: Pair) -> None:
    pair.transport.send(SendRequest("w0", protocol.Probe(9, 65_536)))
    began_s = time.monotonic()
    [event] = pair.events(bool)
    assert event == Progress(9, 2**20, 1)
    assert time.monotonic() - began_s < 1.0


# --- what a worker is given ---


def outfit(workers: list[dict[str, Any]], number: int, fd: int, **network: Any) -> Outfit:
    config = changed(
        builtin(), {"workers": workers, "network": {"emulate": "", "security": "plaintext"}}
    )
    config = changed(config, {"network": network})
    spec = MODEL.spec(f"w{number}", *(f"w{peer}" for peer in config.peers_of(number)))
    return Outfit(
        config,
        number,
        spec,
        Serving(spec),
        MODEL.store(MODEL.weights()),
        lambda: Condition("running", 3, 0.25),
        Clock(),
        fd,
        None,
        lambda: {name: size // 4 for name, size in MODEL.layer_bytes.items()},
    )


def three(*extra: dict[str, Any], ports: tuple[int, int, int] = (0, 0, 0)) -> list[dict[str, Any]]:
    return [
        {"id": number, "address": f"127.0.0.1:{port}", **more}
        for (number, port), more in zip(enumerate(ports), extra)
    ]


def test_each_worker_serves_what_the_cluster_file_says() -> None:
    workers = three({}, {"transport": "grpc"}, {"grpc_port": 9})
    kinds = [Server, GrpcEnd, BothEnds]
    for number, kind in enumerate(kinds):
        transport, server = adapt(outfit(workers, number, -1))
        assert type(server) is kind
        assert isinstance(transport, MixedTransport)


def test_a_worker_on_grpc_takes_over_the_port_that_was_held_for_it() -> None:
    """While it was held, somebody has connected already."""
    listener = listener_at("w1", "127.0.0.1", 0, shared=True)
    port = listener.getsockname()[1]
    with GrpcPuller(port, worker_id=0) as early:
        early.send(protocol.Status(early.new_id()))
        workers = three({}, {"transport": "grpc"}, {}, ports=(0, port, 0))
        _, server = adapt(outfit(workers, 1, listener.detach()))
        ready: list[bool] = []
        thread = Job("serving", lambda: server.run(lambda: ready.append(True)))
        until(lambda: ready, "bound")
        with GrpcPuller(port, worker_id=2) as puller:
            puller.transport._peers["w0"] = replace(puller.transport._peers["w0"], worker_id=1)
            assert isinstance(puller.ask(protocol.Status(puller.new_id())), Replied)
        server.stop()
        thread.finish()
    assert server.sent.total_bytes > 0


def test_a_worker_on_both_serves_both_and_counts_both() -> None:
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        beside = held.getsockname()[1]
    listener = listener_at("w0", "127.0.0.1", 0)
    port = listener.getsockname()[1]
    workers = three({"grpc_port": beside}, {}, {}, ports=(port, 0, 0))
    _, server = adapt(outfit(workers, 0, listener.detach()))
    ready: list[bool] = []
    thread = Job("serving", lambda: server.run(lambda: ready.append(True)))
    until(lambda: ready, "bound")
    with GrpcPuller(beside) as puller, Puller(MODEL.spec("w2", "w0"), {"w0": port}) as other:
        assert len(received(puller.pull("conv"))) == 1
        other.greet()
        assert len(received(other.pull("conv"))) == 1
    server.stop()
    thread.finish()
    assert set(server.sent.as_plain()) == {"w1", "w2"}
    assert set(server.received.as_plain()) == {"w1", "w2"}
    assert server.refusals == {}


def test_certificates_that_are_not_there_are_named(tmp_path: Path) -> None:
    network = {"grpc_ca": "ca.pem", "grpc_cert": str(tmp_path / "{name}.pem"), "grpc_key": "k"}
    with pytest.raises(BadInput, match=r"\[network\] grpc_ca: ca.pem cannot be read"):
        adapt(outfit(three({}, {"transport": "grpc"}, {}), 1, -1, **network))


def test_a_layer_beyond_the_limit_is_refused_with_the_remedy() -> None:
    with pytest.raises(Refused, match=r'layer big .* use transport = "zmq"'):
        catalogue_of(Model(big=100 * 2**20))
