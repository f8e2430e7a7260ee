"""Does a server keep the gRPC contract? One function for each promise, for any server of it.

`mpls grpc-conformance HOST:PORT` runs them all; with pytest:

    import pytest
    from mpls.adapters.conformance import CHECKS, Target

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_server(check):
        with Target("127.0.0.1:50051", requester_id=1) as target:
            check(target)

A check returns when the promise is kept, and raises Unmet, which says what came instead. Nothing
here knows the server's model; it must have weights to serve.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import fsum, isfinite
from typing import Any

import grpc
import numpy as np

from mpls.adapters import contract
from mpls.adapters import mpls_service_pb2 as messages
from mpls.adapters.mpls_service_pb2_grpc import MPLSServiceStub

LAYERS_LIMIT = 4096
LAST_INDEX = 2**31 - 1
CLOCKS_APART_MS = 24 * 3600 * 1000
STATUSES = ("initializing", "training", "idle", "aggregating")


class Unmet(AssertionError):
    """A promise that is not kept."""


class Target:
    """A server at host:port, asked under the number of one of its peers."""

    def __init__(self, address: str, requester_id: int, credentials: Any = None) -> None:
        self.requester_id = requester_id
        options = (("grpc.max_receive_message_length", contract.LIMIT_BYTES),)
        if credentials is None:
            self.channel = grpc.insecure_channel(address, options)
        else:
            self.channel = grpc.secure_channel(address, credentials, options)
        self._stub: Any = MPLSServiceStub(self.channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def metadata(self) -> messages.PeerMetadata:
        """The answer to GetMetadata."""
        request = messages.MetadataRequest(requester_id=self.requester_id)
        return self._stub.GetMetadata(request, timeout=contract.METADATA_S)  # type: ignore[no-any-return]

    def heartbeat(self) -> messages.HeartbeatResponse:
        """The answer to Heartbeat."""
        now_ms = int(time.time() * 1000)
        request = messages.HeartbeatRequest(sender_id=self.requester_id, timestamp=now_ms)
        return self._stub.Heartbeat(request, timeout=contract.HEARTBEAT_S)  # type: ignore[no-any-return]

    def probe(self, megabytes: int) -> messages.BandwidthResponse:
        """The answer to MeasureBandwidth."""
        request = messages.BandwidthRequest(
            requester_id=self.requester_id, payload_size_mb=megabytes
        )
        return self._stub.MeasureBandwidth(request, timeout=contract.PROBE_S)  # type: ignore[no-any-return]

    def pull(self, *indices: int) -> messages.LayerResponse:
        """The answer to PullLayers."""
        request = messages.LayerRequest(requester_id=self.requester_id, layer_indices=indices)
        return self._stub.PullLayers(request, timeout=contract.PULL_S)  # type: ignore[no-any-return]

    def count_layers(self) -> int:
        """How many there are: the first index that is refused."""
        for index in range(LAYERS_LIMIT):
            if self.status(partial(self.pull, index)) is not grpc.StatusCode.OK:
                return index
        raise Unmet(f"{LAYERS_LIMIT} layers, and still no index is refused")

    @staticmethod
    def status(call: Callable[[], Any]) -> grpc.StatusCode:
        """What a call ends with."""
        try:
            call()
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK


# --- what is promised ---


def a_heartbeat_is_answered_with_the_time_in_milliseconds(target: Target) -> None:
    """And by a worker that says it is alive."""
    beat = target.heartbeat()
    _must(beat.alive, "alive is false")
    apart_ms = abs(beat.timestamp - int(time.time() * 1000))
    _must(apart_ms < CLOCKS_APART_MS, f"timestamp {beat.timestamp} is no milliseconds since 1970")


def metadata_describe_the_peer(target: Target) -> None:
    """Every field has a value that can be."""
    metadata = target.metadata()
    shares = list(metadata.data_distribution)
    sound = bool(shares) and min(shares) >= 0 and abs(fsum(shares) - 1) < 1e-4
    _must(sound, f"data_distribution {shares[:8]} is no distribution")
    _must(metadata.status in STATUSES, f"status {metadata.status!r} is none of {STATUSES}")
    _must(metadata.current_iteration >= 0, f"current_iteration {metadata.current_iteration}")
    speed = metadata.compute_speed
    _must(isfinite(speed) and speed > 0, f"compute_speed {speed}")


def all_answers_come_from_the_same_worker(target: Target) -> None:
    """peer_id is the server's own number, whatever is asked."""
    numbers = [
        answer.peer_id
        for answer in (target.heartbeat(), target.metadata(), target.pull(0), target.probe(1))
    ]
    _must(len(set(numbers)) == 1, f"peer_id was {numbers}")


def a_layer_is_a_flat_npy_file_of_float32(target: Target) -> None:
    """Without pickle, and with the shape and type that are said beside it."""
    for index in range(target.count_layers()):
        response = target.pull(index)
        _must(len(response.layers) == 1, f"{len(response.layers)} layers for index {index}")
        _check_layer(response.layers[0], index)


def several_layers_come_as_they_were_asked_for(target: Target) -> None:
    """Each with its own index and the length that it has alone."""
    indices = list(reversed(range(target.count_layers())))
    together = target.pull(*indices)
    came = [layer.layer_index for layer in together.layers]
    _must(came == indices, f"asked for {indices}, got {came}")
    alone = [list(target.pull(index).layers[0].shape) for index in indices]
    shapes = [list(layer.shape) for layer in together.layers]
    _must(shapes == alone, f"shapes {shapes} together, {alone} alone")


def no_indices_bring_no_layers(target: Target) -> None:
    """And no error."""
    came = len(target.pull().layers)
    _must(came == 0, f"{came} layers")


def an_index_that_there_is_not_is_refused(target: Target) -> None:
    """Never another layer, nor an answer without it."""
    count = target.count_layers()
    for indices in ((-1,), (count,), (LAST_INDEX,), (-(2**31),), (0, -1), (0, count)):
        _must_refuse(target, f"layer_indices {indices}", partial(target.pull, *indices))


def more_indices_than_layers_are_refused(target: Target) -> None:
    """However often the same one is among them."""
    many = [0] * (target.count_layers() + 1)
    _must_refuse(target, f"{len(many)} indices", partial(target.pull, *many))


def the_iteration_never_falls(target: Target) -> None:
    """Nor is it negative."""
    rounds = [target.pull(0).iteration for _ in range(3)]
    _must(rounds == sorted(rounds) and rounds[0] >= 0, f"iterations {rounds}")


def a_probe_brings_what_was_asked_for(target: Target) -> None:
    """For one megabyte."""
    came = len(target.probe(1).payload)
    _must(10**6 <= came <= contract.PROBE_LIMIT_BYTES, f"{came} bytes")


def a_large_probe_is_cut_to_one_MiB(target: Target) -> None:
    """Or refused."""
    for megabytes in (2, 2000, LAST_INDEX):
        try:
            came = len(target.probe(megabytes).payload)
        except grpc.RpcError:
            continue
        limit = contract.PROBE_LIMIT_BYTES
        _must(came <= limit, f"{came} bytes for payload_size_mb {megabytes}, limit {limit}")


def a_negative_probe_is_refused(target: Target) -> None:
    """Nothing is sent for less than nothing."""
    _must_refuse(target, "payload_size_mb -1", partial(target.probe, -1))


def broken_requests_are_refused_and_change_nothing(target: Target) -> None:
    """Bytes that are no message, too many of them, and a call that there is not."""
    junk = (b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x12\x05\x00", bytes(8 * 2**20))
    for method in ("PullLayers", "GetMetadata", "MeasureBandwidth", "NoSuchCall"):
        call = target.channel.unary_unary(f"/{contract.SERVICE}/{method}")
        for content in junk:
            status = target.status(partial(call, content, timeout=5.0))
            what = f"{method} with {len(content)} bytes of junk"
            _must(status is not grpc.StatusCode.OK, f"{what} was answered")
    _must(target.heartbeat().alive, "not alive afterwards")


CHECKS: Sequence[Callable[[Target], None]] = (
    a_heartbeat_is_answered_with_the_time_in_milliseconds,
    metadata_describe_the_peer,
    all_answers_come_from_the_same_worker,
    a_layer_is_a_flat_npy_file_of_float32,
    several_layers_come_as_they_were_asked_for,
    no_indices_bring_no_layers,
    an_index_that_there_is_not_is_refused,
    more_indices_than_layers_are_refused,
    the_iteration_never_falls,
    a_probe_brings_what_was_asked_for,
    a_large_probe_is_cut_to_one_MiB,
    a_negative_probe_is_refused,
    broken_requests_are_refused_and_change_nothing,
)


def run(target: Target) -> dict[str, str]:
    """Every check by name with what is wrong, "" where the promise is kept."""
    return {check.__name__: _outcome(check, target) for check in CHECKS}


def _outcome(check: Callable[[Target], None], target: Target) -> str:
    try:
        check(target)
    except Unmet as unmet:
        return str(unmet)
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"
    return ""


def _check_layer(layer: messages.LayerData, index: int) -> None:
    _must(layer.layer_index == index, f"layer_index {layer.layer_index} for index {index}")
    _must(layer.dtype == contract.DTYPE, f"layer {index}: dtype {layer.dtype!r}")
    try:
        values = np.load(io.BytesIO(layer.parameters), allow_pickle=False)
    except ValueError as error:
        raise Unmet(f"layer {index}: no .npy file without pickle: {error}") from None
    _must(values.dtype == np.float32, f"layer {index}: values of type {values.dtype}")
    shapes = f"shape {list(layer.shape)} beside a file of shape {list(values.shape)}"
    _must(list(layer.shape) == list(values.shape), f"layer {index}: {shapes}")
    _must(values.ndim == 1, f"layer {index}: {values.ndim} dimensions, not 1")


def _must(kept: bool, otherwise: str) -> None:
    if not kept:
        raise Unmet(otherwise)


def _must_refuse(target: Target, what: str, call: Callable[[], Any]) -> None:
    status = target.status(call)
    _must(status is grpc.StatusCode.INVALID_ARGUMENT, f"{what}: {status.name}")
