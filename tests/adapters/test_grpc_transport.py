"""Pulling over gRPC: what a sound peer sends arrives bit by bit, and what any other sends is a
value that the Conductor understands.

Method: our transport against our server, and against servers of other make that answer whatever the
test likes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from mpls.adapters import answers, contract, npy
from mpls.adapters import mpls_service_pb2 as messages
from mpls.adapters.grpc_transport import PORTION_BYTES
from mpls.core import protocol
from mpls.core.messages import (
    CancelRequest,
    LayerReceived,
    LayerRefused,
    Progress,
    Replied,
    RequestFailed,
)
from tests.adapters.rig import (
    CATALOGUE,
    MODEL,
    Gate,
    GrpcPuller,
    alive,
    catalogue_of,
    fake_server,
    serving_grpc,
)
from tests.runtime.rig import Model, received

Status = grpc.StatusCode
WEIGHTS = MODEL.weights()


def good_layer(name: str) -> messages.LayerData:
    index = CATALOGUE.index(name)
    values = MODEL.layer(name, WEIGHTS)
    return messages.LayerData(
        layer_index=index,
        parameters=npy.image(values.tobytes()),
        shape=[values.size],
        dtype="torch.float32",
    )


def good_layers(request: messages.LayerRequest) -> messages.LayerResponse:
    layers = [good_layer(CATALOGUE.names[index]) for index in request.layer_indices]
    return messages.LayerResponse(peer_id=0, layers=layers, iteration=5)


def good_metadata(_: Any) -> messages.PeerMetadata:
    return messages.PeerMetadata(
        peer_id=0, data_distribution=[0.25, 0.75], status="training", current_iteration=4
    )


# --- from a sound peer ---


def test_layers_arrive_bit_by_bit_with_their_round() -> None:
    with serving_grpc(MODEL.store(WEIGHTS)) as (_, port), GrpcPuller(port) as puller:
        events = puller.pull("fc1", "conv", "fc2")
        layers = puller.layers(events)
    assert list(layers) == ["fc1", "conv", "fc2"]
    for name, buffer in layers.items():
        assert buffer.tobytes() == MODEL.layer(name, WEIGHTS).tobytes()
    for event in received(events):
        assert (event.version, event.round, event.progress) == (0, 0, None)


def test_a_large_pull_comes_in_portions_and_each_layer_as_soon_as_it_is_here() -> None:
    model = Model(a=2 * 2**20, b=2**20, c=2**20, d=8 * 2**20, e=2**20)
    asked: list[list[int]] = []
    catalogue, weights = catalogue_of(model), model.weights()

    def layers(request: messages.LayerRequest) -> messages.LayerResponse:
        asked.append(list(request.layer_indices))
        assert (request.requester_id, request.iteration) == (1, 7)
        response = messages.LayerResponse(peer_id=0, iteration=1)
        for index in request.layer_indices:
            values = model.layer(catalogue.names[index], weights)
            image = npy.image(values.tobytes())
            response.layers.add(
                layer_index=index, parameters=image, shape=[values.size], dtype="torch.float32"
            )
        return response

    with (
        fake_server(PullLayers=layers, Heartbeat=alive) as port,
        GrpcPuller(port, model, catalogue) as puller,
    ):
        got = puller.layers(puller.pull("a", "b", "c", "d", "e"))
    assert asked == [[0, 1], [2], [3], [4]]
    assert PORTION_BYTES < 4.01 * 2**20
    for name, buffer in got.items():
        assert buffer.tobytes() == model.layer(name, weights).tobytes()


def test_a_hello_is_answered_from_the_metadata() -> None:
    with fake_server(GetMetadata=good_metadata) as port, GrpcPuller(port) as puller:
        welcome = puller.greet()
    assert (welcome.name, welcome.model, welcome.v) == ("w0", puller.spec.model, 1)
    assert welcome.histogram == (0.25, 0.75)


def test_a_status_has_no_progress_and_no_version() -> None:
    with serving_grpc() as (_, port), GrpcPuller(port) as puller:
        reply = puller.ask(protocol.Status(puller.new_id())).reply
    assert reply == protocol.StatusOk(1, "running", 3, 0, None, 0.0)


@pytest.mark.parametrize(
    ("status", "iteration", "state"),
    [
        ("training", 4, "running"),
        ("aggregating", 4, "running"),
        ("idle", 4, "draining"),
        ("idle", 0, "ready"),
        ("initializing", 0, "ready"),
        ("x" * 10_000, 4, "draining"),
    ],
)
def test_their_status_is_one_of_our_states(status: str, iteration: int, state: str) -> None:
    metadata = messages.PeerMetadata(peer_id=0, status=status, current_iteration=iteration)
    reply = answers.status_in(metadata.SerializeToString(), 0, 9)
    assert (reply.state, reply.round) == (state, iteration)


@pytest.mark.parametrize(
    ("told", "believed"),
    [
        ([0.1] * 10, (0.1,) * 10),
        ([30.0, 10.0], (0.75, 0.25)),
        ([], (0.5, 0.5)),
        ([0.0, 0.0], (0.0, 0.0)),
        ([-1.0, 2.0], (-1.0, 2.0)),
    ],
)
def test_a_label_histogram_is_scaled_to_shares(
    told: list[float], believed: tuple[float, ...]
) -> None:
    """What has no sum stays as it is, and is refused by whoever looks at it next."""
    metadata = messages.PeerMetadata(peer_id=0, data_distribution=told)
    hello = protocol.Hello(1, "w1", "m", (0.5, 0.5), 10)
    welcome = answers.welcome_in(metadata.SerializeToString(), 0, "w0", hello)
    assert np.allclose(welcome.histogram, believed, atol=1e-7)


def test_a_probe_reports_the_bytes_that_came() -> None:
    with serving_grpc() as (_, port), GrpcPuller(port) as puller:
        puller.send(protocol.Probe(puller.new_id(), 65_536))
        [event] = puller.events(bool, "the probe")
    assert event == Progress(1, contract.PROBE_LIMIT_BYTES, 1)


def test_a_peer_that_answers_late_is_asked_whether_it_lives() -> None:
    """Else the Conductor would take a long answer, of which nothing is seen, for a stall."""
    gate = Gate()

    def late(request: messages.LayerRequest) -> messages.LayerResponse:
        gate.wait()
        return good_layers(request)

    with (
        fake_server(PullLayers=late, Heartbeat=alive) as port,
        GrpcPuller(port, stall_s=0.2) as puller,
    ):
        pull = protocol.Pull(puller.new_id(), ("conv",), 0, 0, 1)
        puller.send(pull)
        beats = puller.events(lambda events: len(events) == 3, "three heartbeats")
        assert beats == [Progress(1, 0, 0)] * 3
        gate.open()
        [layer] = received(puller.events(received, "the layer"))
        assert layer.layer == "conv"


# --- from others ---


def changed(name: str, **fields: Any) -> messages.LayerData:
    layer = good_layer(name)
    for field, value in fields.items():
        if field == "shape":
            layer.shape[:] = value
        else:
            setattr(layer, field, value)
    return layer


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    return file.getvalue()


UNUSABLE = {
    "pickled": (changed("conv", parameters=pickled()), "dtype"),
    "another dtype": (changed("conv", dtype="torch.float16"), "dtype"),
    "a dtype of a megabyte": (changed("conv", dtype="x" * 2**20), "dtype"),
    "no dtype": (changed("conv", dtype=""), "dtype"),
    "another shape": (changed("conv", shape=[601]), "shape"),
    "two dimensions": (changed("conv", shape=[20, 30]), "shape"),
    "2^31 - 1 values": (changed("conv", shape=[2**31 - 1]), "shape"),
    "a hundred thousand dimensions": (changed("conv", shape=[1] * 100_000), "shape"),
    "no parameters": (changed("conv", parameters=b""), "npy"),
    "the values alone": (changed("conv", parameters=bytes(2400)), "npy"),
    "another length inside": (changed("conv", parameters=npy.image(bytes(2396))), "shape"),
    "cut off": (changed("conv", parameters=npy.image(bytes(2400))[:-1]), "npy"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_layer_is_refused_and_the_others_kept(name: str) -> None:
    layer, kind = UNUSABLE[name]

    def reply(_: Any) -> messages.LayerResponse:
        return messages.LayerResponse(layers=[layer, good_layer("fc2")])

    with fake_server(PullLayers=reply) as port, GrpcPuller(port) as puller:
        events = puller.pull("conv", "fc2")
        assert LayerRefused(1, "conv", kind) in events
        assert [event.layer for event in received(events)] == ["fc2"]
        assert puller.transport.dropped == 1
        assert puller.transport.refused.counts == {kind: 1}


def test_a_layer_that_is_left_out_is_missing() -> None:
    with (
        fake_server(PullLayers=lambda _: messages.LayerResponse()) as port,
        GrpcPuller(port) as puller,
    ):
        assert puller.pull("conv") == [LayerRefused(1, "conv", "missing")]


BROKEN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "bytes that are no message": (lambda _: b"\xff\xff\xff", "message"),
    "another worker": (lambda _: messages.LayerResponse(peer_id=5), "peer"),
    "an index that there is not": (
        lambda _: messages.LayerResponse(layers=[changed("conv", layer_index=3)]),
        "layers",
    ),
    "a negative index": (
        lambda _: messages.LayerResponse(layers=[changed("conv", layer_index=-1)]),
        "layers",
    ),
    "a layer twice": (
        lambda _: messages.LayerResponse(layers=[good_layer("conv")] * 2),
        "layers",
    ),
    "a million layers": (
        lambda _: messages.LayerResponse(layers=[messages.LayerData()] * 10**6),
        "layers",
    ),
    "a negative iteration": (lambda _: messages.LayerResponse(iteration=-1), "value"),
    "more than it could need": (
        lambda _: messages.LayerResponse(layers=[changed("conv", parameters=bytes(2**23))]),
        "size",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_answer_that_breaks_the_contract_ends_the_pull_and_counts(name: str) -> None:
    reply, kind = BROKEN[name]
    with fake_server(PullLayers=reply) as port, GrpcPuller(port) as puller:
        assert puller.pull("conv") == [RequestFailed(1, f"protocol-{kind}")]
        assert puller.transport.refused.counts == {kind: 1}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (Status.UNAVAILABLE, "unreachable"),
        (Status.CANCELLED, "disconnected"),
        (Status.DEADLINE_EXCEEDED, "timed-out"),
        (Status.RESOURCE_EXHAUSTED, "busy"),
        (Status.INVALID_ARGUMENT, "bad-request"),
        (Status.UNIMPLEMENTED, "unsupported"),
        (Status.PERMISSION_DENIED, "refused"),
        (Status.INTERNAL, "failed"),
        (Status.UNKNOWN, "failed"),
    ],
)
def test_a_status_is_a_reason_that_the_conductor_knows(status: Status, reason: str) -> None:
    with fake_server(PullLayers=lambda _: status) as port, GrpcPuller(port) as puller:
        assert puller.pull("conv") == [RequestFailed(1, reason)]


def test_one_that_claims_to_be_another_is_not_greeted() -> None:
    def other(_: Any) -> messages.PeerMetadata:
        return messages.PeerMetadata(peer_id=2)

    with fake_server(GetMetadata=other) as port, GrpcPuller(port) as puller:
        hello = protocol.Hello(puller.new_id(), "w1", "m", (0.5, 0.5), 1)
        assert puller.ask(hello) == RequestFailed(1, "protocol-peer")


def test_a_histogram_of_a_million_classes_is_refused() -> None:
    def many(_: Any) -> messages.PeerMetadata:
        return messages.PeerMetadata(data_distribution=[0.0] * 10**6)

    with fake_server(GetMetadata=many) as port, GrpcPuller(port) as puller:
        hello = protocol.Hello(puller.new_id(), "w1", "m", (0.5, 0.5), 1)
        assert puller.ask(hello) == RequestFailed(1, "protocol-value")


def test_a_probe_that_brings_too_little_has_failed() -> None:
    def short(_: Any) -> messages.BandwidthResponse:
        return messages.BandwidthResponse(payload=b"few")

    with fake_server(MeasureBandwidth=short) as port, GrpcPuller(port) as puller:
        puller.send(protocol.Probe(puller.new_id(), 65_536))
        assert puller.events(bool, "the probe") == [RequestFailed(1, "failed", 3)]


# --- without ---


def test_nobody_there_is_unreachable_and_somebody_later_is_reached() -> None:
    with serving_grpc() as (_, port):
        pass
    with GrpcPuller(port) as puller:
        assert puller.ask(protocol.Status(puller.new_id())) == RequestFailed(1, "unreachable")


def test_a_server_that_goes_away_fails_what_it_was_asked() -> None:
    gate = Gate()

    def never(_: Any) -> Status:
        gate.wait()
        return Status.UNKNOWN

    with GrpcPullerOf(never) as puller:
        puller.send(protocol.Pull(puller.new_id(), ("conv",), 0, 0, 1))
        puller.stop_server()
        try:
            [event] = puller.events(bool, "the failure")
        finally:
            gate.open()
        assert isinstance(event, RequestFailed)
        assert event.reason in ("unreachable", "disconnected")


class GrpcPullerOf(GrpcPuller):
    """A puller of a server that can be stopped."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self._server = fake_server(PullLayers=answer, Heartbeat=alive)
        super().__init__(self._server.__enter__())

    def stop_server(self) -> None:
        from tests.runtime.rig import Job

        self._stopping = Job("stopping", lambda: self._server.__exit__(None, None, None))

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._stopping.finish()


def test_what_was_cancelled_is_heard_of_no_more() -> None:
    gate = Gate()

    def late(request: messages.LayerRequest) -> messages.LayerResponse:
        gate.wait()
        return good_layers(request)

    with (
        fake_server(PullLayers=late, GetMetadata=good_metadata, Heartbeat=alive) as port,
        GrpcPuller(port) as puller,
    ):
        pull = protocol.Pull(puller.new_id(), ("conv",), 0, 0, 1)
        puller.send(pull)
        puller.transport.cancel(CancelRequest("w0", pull.id))
        gate.open()
        answer = puller.ask(protocol.Status(puller.new_id()))
        assert isinstance(answer, Replied)
        assert puller.transport.wait(0.05, puller.bell.fileno()) == []


def test_what_nobody_claims_is_forgotten_and_its_memory_used_again() -> None:
    with serving_grpc() as (_, port), GrpcPuller(port) as puller:
        events = puller.pull("conv")
        assert isinstance(events[0], LayerReceived)
        puller.transport.forget()
        assert not puller.transport.holds(1, "conv")
        [again] = puller.layers(puller.pull("conv")).values()
        puller.transport.recycle(again)
