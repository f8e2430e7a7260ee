"""Malformed messages to a live server, malformed answers to a live puller, and broken sessions.

Each attack makes sure, now and then, that its victim still answers somebody who behaves.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import zmq
from xxhash import xxh3_64_intdigest

from mpls.core import protocol
from mpls.errors import ProtocolError
from mpls.runtime.keys import Keychain
from mpls.wire import decode, encode
from mpls.wire.transfer import plan_chunks
from tests.bench.ends import STARTED_S, End
from tests.fuzz import victims
from tests.fuzz.messages import Spoiler
from tests.fuzz.sessions import Sessions, flood
from tests.fuzz.victims import MODEL
from tests.wire.samples import EXAMPLES

HANG_S = 10.0
PONG_MS = 100
HEARTBEATS_S = 3.0
"""By then every timer of a connection that ended has run out."""
BATCH = 50
SESSIONS_A_CHECK = 100
REQUESTS = (
    *EXAMPLES,
    victims.hello(1),
    protocol.Pull(2, ("conv", "fc"), 0, 0, victims.CREDIT),
    protocol.Pull(3, ("fc",), 1, 64, victims.CREDIT),
    protocol.Credit(2, 1000),
    protocol.Cancel(2),
    protocol.Probe(4, 100),
)

Told = Callable[[int], None]
"""Hears how much was done, now and then."""


class Hung(AssertionError):
    """A victim gave no answer in time."""


@dataclass(frozen=True)
class Server:
    """A server under attack, and the keys of one who may talk to it, if it speaks CURVE."""

    end: End
    port: int
    keys: Keychain | None


@contextmanager
def attacked_server(key_folder: Path | None = None) -> Iterator[Server]:
    """With keys in that folder, or in plaintext."""
    with End(victims.server, key_folder) as victim:
        port = victim.hear(STARTED_S)
        yield Server(victim, port, key_folder and victims.keychain(key_folder, "w1"))


@contextmanager
def dealer(victim: Server) -> Iterator[zmq.Socket[bytes]]:
    """A connection of one who says what he likes."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        if victim.keys is not None:
            socket.setsockopt(zmq.CURVE_SERVERKEY, victim.keys.ring.public["w0"].encode())
            socket.setsockopt(zmq.CURVE_PUBLICKEY, victim.keys.public.encode())
            socket.setsockopt(zmq.CURVE_SECRETKEY, victim.keys.secret.encode())
        socket.connect(f"tcp://127.0.0.1:{victim.port}")
        yield socket


def spoilt_requests(victim: Server, draw: random.Random, messages: int, told: Told) -> None:
    """So many to the server, in batches that each end with a ping."""
    spoiler = Spoiler(draw, REQUESTS)
    with dealer(victim) as socket:
        for done in range(0, messages, BATCH):
            socket.send_multipart(encode(victims.hello(1)))
            for _ in range(min(BATCH, messages - done)):
                socket.send_multipart(spoiler.make() or [b""])
            await_pong(socket, done)
            told(done)


def await_pong(socket: zmq.Socket[bytes], number: int) -> None:
    """Ask whether it lives, and read all that it said before. Who does not read loses answers, so
    it is asked more than once. Raises Hung."""
    end_s = time.monotonic() + HANG_S
    while time.monotonic() < end_s:
        socket.send_multipart(encode(protocol.Ping(2**40 + number, 0.5)))
        while socket.poll(PONG_MS):
            if decode(socket.recv_multipart()) == protocol.Pong(2**40 + number, 0.5):
                return
    raise Hung(f"no answer in {HANG_S:g} s")


class Liar:
    """A server that answers every request of the puller with nonsense, and then with an error."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.LINGER, 0)
        self._router.setsockopt(zmq.SNDHWM, 0)
        self._router.setsockopt(zmq.RCVTIMEO, int(HANG_S * 1000))
        self.port: int = self._router.bind_to_random_port("tcp://127.0.0.1")

    def __enter__(self) -> Liar:
        return self

    def __exit__(self, *_: object) -> None:
        self._router.close()
        self._context.term()

    def lie(self, messages: int, told: Told) -> None:
        """So many malformed answers. Raises Hung if the puller asks no more."""
        sent = 0
        while sent < messages:
            route, request = self._next()
            spoiler = Spoiler(self._draw, [*truth(request), *self._draw.sample(EXAMPLES, 3)])
            for _ in range(self._draw.randrange(1, 12)):
                self._router.send_multipart([route, *(spoiler.make() or [b""])])
                sent += 1
            self._answer(route, protocol.Error(request.id, "busy", ""))
            told(sent)

    def behave(self, enough: Callable[[], bool]) -> None:
        """Tell the truth until that is enough. Raises Hung if it never is."""
        end_s = time.monotonic() + HANG_S
        while not enough():
            if time.monotonic() > end_s:
                raise Hung("what is true is no longer believed")
            route, request = self._next()
            for answer in truth(request):
                self._answer(route, answer)

    def _answer(self, route: bytes, answer: protocol.Message) -> None:
        self._router.send_multipart([route, *encode(answer)])

    def _next(self) -> tuple[bytes, protocol.Message]:
        """The next request that wants an answer."""
        while True:
            try:
                route, *frames = self._router.recv_multipart()
            except zmq.Again:
                raise Hung(f"the puller asked nothing for {HANG_S:g} s") from None
            with suppress(ProtocolError):
                request = decode(frames)
                if not isinstance(request, (protocol.Credit, protocol.Cancel)):
                    return route, request


def truth(request: protocol.Message) -> list[protocol.Message]:
    """What a server that behaves would answer."""
    if isinstance(request, protocol.Hello):
        who = victims.SERVER
        return [protocol.Welcome(request.id, who.name, who.model, who.histogram, who.samples)]
    if isinstance(request, protocol.Probe):
        return [protocol.ProbeData(request.id, bytes(request.bytes))]
    if isinstance(request, protocol.Pull):
        return list(_chunks(request))
    return [protocol.StatusOk(request.id, "running", 1, 1, None, 0.1)]


def _chunks(pull: protocol.Pull) -> Iterator[protocol.Chunk]:
    """Of layers of zeros."""
    sizes = [MODEL.layer_bytes[layer] for layer in pull.layers]
    for plan in plan_chunks(pull.layers, sizes, pull.offset, pull.credit):
        yield protocol.Chunk(
            pull.id,
            plan.layer,
            1,
            1,
            plan.offset,
            plan.total,
            0.0,
            bytes(plan.length),
            xxh3_64_intdigest(bytes(plan.total)) if plan.ends_layer else None,
            last=plan.ends_pull,
        )


def broken_sessions(victim: Server, draw: random.Random, sessions: int, told: Told) -> None:
    """So many."""
    attack = Sessions(draw, victim.keys and victim.keys.ring.public["w0"].encode())
    for done in range(sessions):
        attack.run(victim.port)
        if done % SESSIONS_A_CHECK == 0:
            told(done)
            assert_alive(victim)
    attack.close()


def floods(victim: Server, draw: random.Random, connections: int, told: Told) -> None:
    """So many connections that each flood the server, and end in the midst of it."""
    attack = Sessions(draw)
    for done in range(connections):
        attack.run(victim.port, flood(draw))
        told(done)
    attack.close()
    end_s = time.monotonic() + HEARTBEATS_S
    while time.monotonic() < end_s:
        assert_alive(victim)


def assert_alive(victim: Server) -> None:
    """It answers somebody new. Raises Hung."""
    with dealer(victim) as socket:
        await_pong(socket, 0)
