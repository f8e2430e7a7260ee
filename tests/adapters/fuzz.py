"""Malformed gRPC messages by the million, into both ends: `make fuzz-grpc MESSAGES=1000000`.

Requests go into the server's own handlers, as gRPC's threads hand them over, and answers into what
reads them. Each is a good message that was mutated: fields with extreme values, bytes changed, cut,
doubled or made up. Whatever comes, a request is answered or refused with a status, an answer read
or refused as a ProtocolError; nothing is left under way, and memory does not grow.
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc

from mpls.adapters import answers, npy
from mpls.adapters import mpls_service_pb2 as messages
from mpls.adapters.grpc_server import GrpcServer
from mpls.core import protocol
from mpls.errors import ProtocolError
from tests.adapters.rig import CATALOGUE, MODEL, serving_grpc

INTEGERS = (0, 1, -1, 2, 3, 127, 128, 2**31 - 1, -(2**31))
FLOATS = (0.0, -1.0, 1.0, 1e30, float("inf"), float("nan"), 1e-40)
TEXTS = ("", "training", "torch.float32", "\0", "x" * 1000, "\U0001f600")
BLOBS = (b"", b"\x93NUMPY", npy.image(bytes(4)), npy.image(bytes(2400)), bytes(3000))
GROWTH_LIMIT_BYTES = 64 * 2**20
HELLO = protocol.Hello(1, "w1", "m", (0.5, 0.5), 10)


class Refused(Exception):
    """What `abort` raises."""


class Context:
    """Of a call that ends as soon as it was answered."""

    def __init__(self) -> None:
        self.status: grpc.StatusCode | None = None
        self._ends: list[Callable[[], None]] = []

    def abort(self, status: grpc.StatusCode, why: str) -> None:
        assert status is not grpc.StatusCode.OK
        assert len(why) < 500
        self.status = status
        raise Refused

    def add_callback(self, call: Callable[[], None]) -> bool:
        self._ends.append(call)
        return True

    def cancel(self) -> None:
        return

    def end(self) -> None:
        for call in self._ends:
            call()


REQUESTS = {
    "PullLayers": messages.LayerRequest,
    "GetMetadata": messages.MetadataRequest,
    "Heartbeat": messages.HeartbeatRequest,
    "MeasureBandwidth": messages.BandwidthRequest,
}
READERS: tuple[tuple[Any, Callable[[bytes], object]], ...] = (
    (messages.LayerResponse, lambda content: answers.layers_in(content, 0, CATALOGUE)),
    (messages.PeerMetadata, lambda content: answers.welcome_in(content, 0, "w0", HELLO)),
    (messages.PeerMetadata, lambda content: answers.status_in(content, 0, 1)),
    (messages.BandwidthResponse, lambda content: answers.probe_bytes(content, 0)),
    (messages.HeartbeatResponse, lambda c: answers.parsed(messages.HeartbeatResponse, c, 0)),
)


def random_message(kind: Any, chance: random.Random) -> Any:
    """Fields with values that mean something to somebody."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.2:
            continue
        if field.is_repeated:
            many = chance.choice((0, 1, 2, 3, 5, 200))
            values = getattr(message, field.name)
            for _ in range(many):
                if field.message_type is not None:
                    values.add().CopyFrom(random_message(messages.LayerData, chance))
                else:
                    values.append(_value(field, chance))
        else:
            setattr(message, field.name, _value(field, chance))
    if "requester_id" in message.DESCRIPTOR.fields_by_name and chance.random() < 0.7:
        message.requester_id = 1
    if "peer_id" in message.DESCRIPTOR.fields_by_name and chance.random() < 0.7:
        message.peer_id = 0
    return message


def _value(field: Any, chance: random.Random) -> Any:
    pools: dict[int, tuple[Any, ...]] = {2: FLOATS, 8: (True, False), 9: TEXTS, 12: BLOBS}
    return chance.choice(pools.get(field.type, INTEGERS))


def mutated(content: bytes, chance: random.Random) -> bytes:
    """As it is, or changed, cut, doubled, spliced or made up."""
    data = bytearray(content)
    kind = chance.randrange(7)
    if kind == 0 or not data:
        return content if data else chance.randbytes(chance.randrange(40))
    place = chance.randrange(len(data))
    if kind == 1:
        for _ in range(chance.choice((1, 2, 8))):
            data[chance.randrange(len(data))] = chance.randrange(256)
    elif kind == 2:
        del data[place:]
    elif kind == 3:
        data[place:place] = chance.choice((b"\xff" * 10, b"\x80" * 9 + b"\x01", b"\0", data))
    elif kind == 4:
        data = data * chance.choice((2, 3))
    elif kind == 5:
        del data[place : place + chance.randrange(1, 9)]
    else:
        data[place:place] = chance.randbytes(chance.randrange(1, 30))
    return bytes(data)


def ask(server: GrpcServer, method: str, content: bytes) -> str:
    """What the server makes of it."""
    context = Context()
    try:
        reply = server._call(method, content, context)
        assert len(reply) < 2 * 2**20
        return "answered"
    except Refused:
        assert context.status is not None
        return context.status.name
    finally:
        context.end()


def read(reader: Callable[[bytes], object], content: bytes) -> str:
    """What the puller makes of it."""
    try:
        reader(content)
        return "read"
    except ProtocolError as error:
        return f"protocol-{error.kind}"


def fuzz(count: int, seed: int) -> Counter[str]:
    """So many messages, half of them to each end; how they ended."""
    chance, ends = random.Random(seed), Counter[str]()
    with serving_grpc(MODEL.store(MODEL.weights())) as (server, _):
        before_bytes = 0
        for number in range(count):
            if number == min(10_000, count // 2):
                before_bytes = _rss_bytes()
            if number % 2:
                method, kind = chance.choice(list(REQUESTS.items()))
                content = mutated(random_message(kind, chance).SerializeToString(), chance)
                ends[ask(server, method, content)] += 1
            else:
                kind, reader = chance.choice(READERS)
                content = mutated(random_message(kind, chance).SerializeToString(), chance)
                ends[read(reader, content)] += 1
        assert not any(server._answers.values()), "something is still under way"
        grown_bytes = _rss_bytes() - before_bytes
        assert grown_bytes < GROWTH_LIMIT_BYTES, f"memory grew by {grown_bytes}"
    return ends


def _rss_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main() -> None:
    logging.getLogger("mpls").setLevel(logging.CRITICAL)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began_s = time.monotonic()
    ends = fuzz(options.messages, options.seed)
    seconds = time.monotonic() - began_s
    for name, number in ends.most_common():
        print(f"{number:>9}  {name}")
    print(f"{options.messages} messages, seed {options.seed}, {seconds:.0f} s: nothing was killed")


if __name__ == "__main__":
    sys.exit(main())
