"""What else moves layers: gRPC, all layers in one protobuf message, or streamed in pieces.

The messages are protobuf's own BytesValue, so that no code has to be generated; the weights are
read from the arrays that training would write to, and end in an array, as in any such program.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from google.protobuf.wrappers_pb2 import BytesValue, Int64Value

from tests.bench.ends import Offer, Rival
from tests.bench.rivals import layers

PIECE_BYTES = 2**20
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
SERVICE = "mpls.Bench"


def _serve(offer: Offer) -> int:
    weights = layers(offer.sizes)

    def whole(request: Int64Value, context: object) -> BytesValue:
        return BytesValue(value=b"".join(weights.values()))  # type: ignore[arg-type]

    def pieces(request: Int64Value, context: object) -> Iterator[BytesValue]:
        for layer in weights.values():
            view = layer.data.cast("B")
            for start in range(0, len(view), PIECE_BYTES):
                yield BytesValue(value=bytes(view[start : start + PIECE_BYTES]))

    def beat(request: Int64Value, context: object) -> Int64Value:
        return request

    server = grpc.server(ThreadPoolExecutor(max(4, offer.pullers)), options=OPTIONS)
    coding: dict[str, Any] = {
        "request_deserializer": Int64Value.FromString,
        "response_serializer": lambda message: message.SerializeToString(),
    }
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(whole, **coding),
        "Stream": grpc.unary_stream_rpc_method_handler(pieces, **coding),
        "Heartbeat": grpc.unary_unary_rpc_method_handler(beat, **coding),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port: int = server.add_insecure_port("127.0.0.1:0")
    server.start()
    _running.append(server)
    return port


_running: list[grpc.Server] = []
"""A server that nothing refers to stops."""


class _Puller:
    def __init__(self, offer: Offer, port: int, index: int) -> None:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", OPTIONS)
        grpc.channel_ready_future(channel).result(30)
        coding: dict[str, Any] = {
            "request_serializer": lambda message: message.SerializeToString(),
            "response_deserializer": BytesValue.FromString,
        }
        self._unary = channel.unary_unary(f"/{SERVICE}/Unary", **coding)
        self._stream = channel.unary_stream(f"/{SERVICE}/Stream", **coding)
        coding["response_deserializer"] = Int64Value.FromString
        self._beat = channel.unary_unary(f"/{SERVICE}/Heartbeat", **coding)
        self._bytes = sum(offer.sizes)
        self._buffer = memoryview(b"")

    def ping(self) -> None:
        """A number there and back."""
        self._beat(Int64Value(value=1))


class _UnaryPuller(_Puller):
    weights: np.ndarray

    def pull(self) -> None:
        """Into the bytes that protobuf takes."""
        self.weights = np.frombuffer(self._unary(Int64Value(value=1)).value, np.float32)


class _StreamPuller(_Puller):
    def pull(self) -> None:
        """Into the same buffer each time."""
        if not self._buffer:
            self._buffer = memoryview(bytearray(self._bytes))
        got = 0
        for piece in self._stream(Int64Value(value=1)):
            data = piece.value
            self._buffer[got : got + len(data)] = data
            got += len(data)
        assert got == self._bytes


unary = Rival(_serve, _UnaryPuller)
stream = Rival(_serve, _StreamPuller)
