"""Our server of the gRPC contract: it keeps every promise of the contract, and nothing that a peer
does costs it more than a bounded amount.

Method: the conformance suite that third parties use runs against a real server; what is ours alone
(who is let in, how much, how fast) is tested beside it.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from mpls.adapters import conformance, contract, npy
from mpls.adapters import mpls_service_pb2 as messages
from mpls.adapters.conformance import CHECKS, Target
from mpls.adapters.contract import Catalogue
from mpls.adapters.grpc_server import CALLS_OF_ONE, GrpcServer
from mpls.errors import BadInput
from mpls.runtime.emulation import Pacing
from mpls.runtime.limits import Rates
from tests.adapters.rig import MODEL, catalogue_of, serving_grpc
from tests.runtime.rig import Model, until

Status = grpc.StatusCode


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving_grpc() as (_, port):
        yield port


@pytest.fixture
def target(port: int) -> Iterator[Target]:
    with Target(f"127.0.0.1:{port}", requester_id=1) as target:
        yield target


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_row_56_and_57_it_conforms(check: Callable[[Target], None], target: Target) -> None:
    check(target)


def test_layers_are_those_of_the_newest_snapshot_bit_by_bit() -> None:
    first, second = MODEL.weights(1), MODEL.weights(2)
    store = MODEL.store(first)
    with serving_grpc(store) as (_, port), Target(f"127.0.0.1:{port}", 2) as target:
        store.publish(second, 9, keep_path=False)
        response = target.pull(1, 0)
    assert (response.peer_id, response.iteration) == (0, 9)
    for layer, name in zip(response.layers, ("fc1", "conv")):
        expected = MODEL.layer(name, second)
        assert layer.parameters == npy.image(expected.tobytes())
        assert list(layer.shape) == [expected.size]


def test_a_batch_norm_stays_at_home() -> None:
    """Of a layer with a BatchNorm only the convolution's own values travel: the first."""
    weights = MODEL.weights()
    catalogue = Catalogue({"conv": 560, "fc1": 5000, "fc2": 170})
    with (
        serving_grpc(MODEL.store(weights), catalogue=catalogue) as (_, port),
        Target(f"127.0.0.1:{port}", 1) as target,
    ):
        [layer] = target.pull(0).layers
    assert layer.parameters == npy.image(MODEL.layer("conv", weights)[:560].tobytes())


def test_metadata_say_how_it_is(target: Target) -> None:
    metadata = target.metadata()
    assert list(metadata.data_distribution) == [0.5, 0.5]
    assert (metadata.status, metadata.current_iteration) == ("training", 3)
    assert metadata.compute_speed == 1.5


@pytest.mark.parametrize("state", ["ready", "draining"])
def test_a_worker_that_does_not_train_is_idle(state: str) -> None:
    with serving_grpc(state=state) as (_, port), Target(f"127.0.0.1:{port}", 1) as target:
        assert target.metadata().status == "idle"


def test_before_the_first_weights_it_says_that_it_is_starting() -> None:
    with (
        serving_grpc(MODEL.store()) as (_, port),
        Target(f"127.0.0.1:{port}", 1) as target,
    ):
        assert target.status(lambda: target.pull(0)) is Status.UNAVAILABLE
        assert target.metadata().peer_id == 0
        assert target.heartbeat().alive


@pytest.mark.parametrize("requester", [3, 4, 0, -1, 2**31 - 1])
def test_whoever_is_no_peer_gets_heartbeats_only(port: int, requester: int) -> None:
    with Target(f"127.0.0.1:{port}", requester) as target:
        for call in (target.metadata, lambda: target.pull(0), lambda: target.probe(1)):
            assert target.status(call) is Status.PERMISSION_DENIED
        assert target.heartbeat().alive


def test_a_flood_is_refused_and_its_sender_alone() -> None:
    with (
        serving_grpc(rates=Rates(peer=50.0, strangers=50.0)) as (server, port),
        Target(f"127.0.0.1:{port}", 1) as flood,
        Target(f"127.0.0.1:{port}", 2) as other,
    ):
        ends = [flood.status(flood.heartbeat) for _ in range(60)]
        assert set(ends) == {Status.OK, Status.RESOURCE_EXHAUSTED}
        assert other.metadata().peer_id == 0
        assert server.refusals["busy"] == ends.count(Status.RESOURCE_EXHAUSTED)


def test_an_answer_beyond_100_MiB_is_refused_with_the_remedy() -> None:
    model = Model(a=60 * 2**20, b=60 * 2**20)
    with (
        serving_grpc(model.store(model.weights()), model) as (_, port),
        Target(f"127.0.0.1:{port}", 1) as target,
    ):
        with pytest.raises(grpc.RpcError) as refusal:
            target.pull(0, 1)
        assert refusal.value.code() is Status.RESOURCE_EXHAUSTED
        assert 'use transport = "zmq"' in refusal.value.details()
        assert target.status(lambda: target.pull(1)) is Status.OK


def test_so_much_is_on_its_way_to_one_worker_and_no_more() -> None:
    """Readers that wait for a slow link are as good as readers that stopped."""
    slow = Pacing({"w1": 1000.0}, None)
    with (
        serving_grpc(pacing=slow) as (server, port),
        Target(f"127.0.0.1:{port}", 1) as target,
        Target(f"127.0.0.1:{port}", 2) as other,
    ):
        call = target.channel.unary_unary(f"/{contract.SERVICE}/PullLayers")
        ask = messages.LayerRequest(requester_id=1, layer_indices=[1]).SerializeToString()
        waiting = [call.future(ask, timeout=30) for _ in range(CALLS_OF_ONE)]
        until(lambda: len(server._answers.get("w1", [])) == CALLS_OF_ONE, "all under way")
        assert target.status(lambda: target.pull(1)) is Status.RESOURCE_EXHAUSTED
        assert len(other.pull(1).layers) == 1
        for future in waiting:
            future.cancel()
        until(lambda: not server._answers["w1"], "what was cancelled makes room")


def test_a_call_without_a_deadline_gets_the_server_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "PULL_S", 0.2)
    slow = Pacing({"w1": 1.0}, None)
    with (
        serving_grpc(pacing=slow) as (server, port),
        Target(f"127.0.0.1:{port}", 1) as target,
        Target(f"127.0.0.1:{port}", 2) as other,
    ):
        call = target.channel.unary_unary(f"/{contract.SERVICE}/PullLayers")
        ask = messages.LayerRequest(requester_id=1, layer_indices=[1]).SerializeToString()
        began_s = time.monotonic()
        assert call(ask)  # without a deadline: the server has one
        assert time.monotonic() - began_s < 10
        until(lambda: not server._answers["w1"], "nothing on its way")
        assert other.heartbeat().alive


def test_emulated_links_pace_an_answer() -> None:
    paced = Pacing({"w1": 100_000.0}, None)
    with (
        serving_grpc(pacing=paced) as (_, port),
        Target(f"127.0.0.1:{port}", 1) as target,
    ):
        began_s = time.monotonic()
        target.pull(1)  # 20 kB
        assert 0.19 < time.monotonic() - began_s < 2.0


def test_a_port_in_use_is_a_clear_error() -> None:
    with serving_grpc() as (server, port):
        another = GrpcServer(server._served)
        with pytest.raises(BadInput, match=rf"worker w0: cannot serve gRPC on 127.0.0.1:{port}"):
            another.open(f"127.0.0.1:{port}")


def test_pulling_keeps_no_snapshot_alive() -> None:
    """No version is resumed over gRPC, and no progress told: nothing refers to what was pulled."""
    store = MODEL.store(MODEL.weights())
    with serving_grpc(store) as (_, port), Target(f"127.0.0.1:{port}", 1) as target:
        for round_number in range(20):
            target.pull(0, 1, 2)
            store.publish(MODEL.weights(round_number), round_number, keep_path=False)
        assert store.pool.made <= 3


# --- the suite itself bites ---


def broken(method: str, spoil: Callable[[Any], Any]) -> dict[str, str]:
    """What the suite says of a server that spoils the answers of one method."""
    with serving_grpc() as (server, _):
        kind, answer = server._methods[method]

        def spoilt(request: Any, name: str, context: Any) -> bytes:
            reply_kind = {
                "PullLayers": messages.LayerResponse,
                "GetMetadata": messages.PeerMetadata,
                "Heartbeat": messages.HeartbeatResponse,
                "MeasureBandwidth": messages.BandwidthResponse,
            }[method]
            reply = reply_kind.FromString(answer(request, name, context))
            spoil(reply)
            return bytes(reply.SerializeToString())

        server._methods[method] = (kind, spoilt)
        [port] = GrpcPort(server).ports
        with Target(f"127.0.0.1:{port}", 1) as target:
            return {name: why for name, why in conformance.run(target).items() if why}


class GrpcPort:
    """Opens a server once more, at a port of its own."""

    def __init__(self, server: GrpcServer) -> None:
        server.close()
        self.ports = server.open("127.0.0.1:0")


def first(change: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda reply: change(reply.layers[0]) if reply.layers else None


@pytest.mark.parametrize(
    ("method", "spoil", "noticed"),
    [
        ("Heartbeat", lambda r: setattr(r, "alive", False), "a_heartbeat_is_answered"),
        ("Heartbeat", lambda r: setattr(r, "timestamp", 5), "a_heartbeat_is_answered"),
        ("Heartbeat", lambda r: setattr(r, "peer_id", 8), "all_answers_come_from"),
        ("GetMetadata", lambda r: setattr(r, "status", "busy"), "metadata_describe"),
        ("GetMetadata", lambda r: r.data_distribution.append(1), "metadata_describe"),
        ("GetMetadata", lambda r: setattr(r, "compute_speed", 0.0), "metadata_describe"),
        ("PullLayers", first(lambda x: setattr(x, "dtype", "f4")), "a_layer_is_a_flat"),
        ("PullLayers", first(lambda x: x.shape.append(1)), "a_layer_is_a_flat"),
        ("PullLayers", first(lambda x: setattr(x, "layer_index", 9)), "a_layer_is_a_flat"),
        ("PullLayers", first(lambda x: setattr(x, "parameters", b"no")), "a_layer_is_a_flat"),
        ("PullLayers", lambda r: setattr(r, "iteration", -1), "the_iteration_never_falls"),
        ("PullLayers", lambda r: r.layers.add(), "no_indices_bring_no_layers"),
        ("MeasureBandwidth", lambda r: setattr(r, "payload", b""), "a_probe_brings"),
        (
            "MeasureBandwidth",
            lambda r: setattr(r, "payload", bytes(2**20 + 1)),
            "a_large_probe_is_cut",
        ),
    ],
)
def test_a_server_that_breaks_a_promise_is_found_out(
    method: str, spoil: Callable[[Any], Any], noticed: str
) -> None:
    failed = broken(method, spoil)
    assert any(name.startswith(noticed) for name in failed), failed


def test_layers_of_any_size_come_whole() -> None:
    model = Model(a=4, b=4 * 1_000_003, c=8)
    weights = model.weights()
    with (
        serving_grpc(model.store(weights), model, catalogue_of(model)) as (_, port),
        Target(f"127.0.0.1:{port}", 1) as target,
    ):
        for layer, name in zip(target.pull(0, 1, 2).layers, "abc"):
            values = np.frombuffer(layer.parameters, "<f4", offset=128)
            assert np.array_equal(values, model.layer(name, weights))


STOPPING = """
import sys, grpc
from mpls.adapters import mpls_service_pb2 as messages
options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
channels = [grpc.insecure_channel("127.0.0.1:" + sys.argv[1], options) for _ in range(10)]
for channel in channels:
    grpc.channel_ready_future(channel).result(20)
ask = messages.LayerRequest(requester_id=1, layer_indices=[0]).SerializeToString()
path = "/mpls.MPLSService/PullLayers"
calls = [c.unary_unary(path).future(ask) for c in channels for _ in range(4)]
print("asked", flush=True)
sys.stdin.read()
"""


@pytest.mark.live
def test_readers_that_stop_cost_one_answer_for_some_seconds() -> None:
    """Forty calls for 80 MiB each, by a process that is stopped as soon as it has asked."""
    model = Model(a=80 * 2**20)
    with serving_grpc(model.store(model.weights()), model) as (server, port):
        command = [sys.executable, "-c", STOPPING, str(port)]
        before_bytes = rss_bytes()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as asker:
            assert asker.stdout is not None
            assert asker.stdout.readline() == b"asked\n"
            asker.send_signal(signal.SIGSTOP)
            try:
                until(lambda: server.refusals.get("busy", 0) >= 30, "most are refused")
                assert sum(map(len, server._answers.values())) <= 1
                assert rss_bytes() - before_bytes < 4 * 80 * 2**20
                until(lambda: not server._answers["w1"], "given up", 20.0)
            finally:
                asker.kill()


def rss_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()
