"""Broken ZMTP: what a stranger may write into a TCP connection to a worker's port.

A session begins with one from the corpus, with a valid one in plaintext, or with a valid CURVE
handshake as far as a stranger gets, and is then cut, flipped, repeated, reordered or lengthened.
Everything is drawn from the generator that is given.
"""

from __future__ import annotations

import random
import socket
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress

import zmq

from mpls.core.protocol import Ping
from mpls.wire import encode
from tests.fuzz.corpus import sessions

MORE, LONG, COMMAND = 1, 2, 4
LENGTHS = (0, 1, 2**16, 2**20, 2**20 + 1, 20 * 2**30, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
HELD_LIMIT = 100
"""Connections that are left open at once; the server has to evict those without a handshake."""
REPLY_S = 0.01


def greeting(mechanism: bytes = b"NULL", major: int = 3, minor: int = 1) -> bytes:
    """The first 64 bytes of ZMTP 3."""
    signature = b"\xff" + bytes(7) + b"\x01\x7f"
    return signature + bytes([major, minor]) + mechanism.ljust(20, b"\0") + bytes(32)


def frame(flags: int, body: bytes, length: int | None = None) -> bytes:
    """A frame, which may lie about its length."""
    length = len(body) if length is None else length
    if length > 255 or flags & LONG:
        return struct.pack(">BQ", flags | LONG, length) + body
    return struct.pack(">BB", flags, length) + body


def command(name: bytes, body: bytes = b"") -> bytes:
    """A command frame."""
    return frame(COMMAND, bytes([len(name)]) + name + body)


def ready(*properties: tuple[bytes, bytes]) -> bytes:
    """The command that ends a NULL handshake."""
    parts = [
        bytes([len(key)]) + key + struct.pack(">I", len(value)) + value for key, value in properties
    ]
    return command(b"READY", b"".join(parts))


def plain_session() -> list[bytes]:
    """What a valid DEALER writes: a greeting, READY, and two messages."""
    identified = ready((b"Socket-Type", b"DEALER"), (b"Identity", b""))
    pings = [frame(0, bytes(encode(Ping(number, 0.0))[0])) for number in (1, 2)]
    return [greeting(), identified, *pings]


def curve_session(server_key: bytes) -> list[bytes]:
    """What a valid CURVE client writes before it gets an answer: its greeting and its HELLO, taken
    from a real one."""
    with socket.create_server(("127.0.0.1", 0)) as listener, zmq.Context() as context:
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.CURVE_SERVERKEY, server_key)
        dealer.curve_publickey, dealer.curve_secretkey = zmq.curve_keypair()
        dealer.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        with closing(dealer), closing(listener.accept()[0]) as connection:
            connection.settimeout(10)
            connection.sendall(greeting(b"CURVE")[:32] + b"\x01" + bytes(31))
            wanted = 64 + 2 + 200
            got = b""
            while len(got) < wanted:
                got += connection.recv(wanted - len(got))
    return [got[:64], got[64:]]


def flood(draw: random.Random) -> list[bytes]:
    """A valid session that goes on with more messages than anybody reads in time, and heartbeats
    in between. When its connection ends while libzmq 4.3.5 holds back its input, because a receive
    queue is full, the next heartbeat aborts the process (libzmq issues 4364 and 4841)."""
    short = frame(0, draw.randbytes(draw.randrange(3)))
    mixed = short * draw.choice((20, 3000)) + draw.choice((b"", command(b"PING", b"\0\x0a")))
    return [*plain_session(), mixed * (3000 * len(short) // len(mixed) + 1)]


class Sessions:
    """Draws broken sessions, and holds some of their connections open."""

    def __init__(self, draw: random.Random, server_key: bytes | None = None) -> None:
        self.draw = draw
        self._originals = [plain_session(), *sessions().values()]
        if server_key is not None:
            initiate = command(b"INITIATE", draw.randbytes(8 + 16 + 96 + 128))
            self._originals += 8 * [[*curve_session(server_key), initiate]]
        self._held: deque[socket.socket] = deque()

    def make(self) -> list[bytes]:
        """What one session writes, piece by piece."""
        pieces = list(self.draw.choice(self._originals))
        for _ in range(self.draw.choice((0, 1, 1, 2, 3))):
            spoil = self.draw.choice((self._flip, self._cut, self._insert, self._reorder))
            pieces = spoil(pieces)
        return pieces

    def run(self, port: int, pieces: Sequence[bytes] | None = None) -> None:
        """One session; the server may end it at any point."""
        connection = socket.create_connection(("127.0.0.1", port), 10)
        with suppress(OSError):
            for piece in pieces or self.make():
                connection.sendall(piece)
                if self.draw.random() < 0.6:
                    connection.settimeout(REPLY_S)
                    connection.recv(4096)
        self._leave(connection)

    def close(self) -> None:
        """Let go of all that is held open."""
        while self._held:
            self._held.popleft().close()

    def _leave(self, connection: socket.socket) -> None:
        """Close, reset, or say nothing more."""
        end = self.draw.random()
        if end < 0.2:
            self._held.append(connection)
            if len(self._held) > HELD_LIMIT:
                self._held.popleft().close()
            return
        if end < 0.4:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def _flip(self, pieces: list[bytes]) -> list[bytes]:
        index = self.draw.randrange(len(pieces))
        spoilt = bytearray(pieces[index] or b"\0")
        for _ in range(self.draw.choice((1, 1, 2, 8))):
            spoilt[self.draw.randrange(len(spoilt))] = self.draw.choice(
                (0, 0x7F, 0xFF, self.draw.randrange(256))
            )
        return [*pieces[:index], bytes(spoilt), *pieces[index + 1 :]]

    def _cut(self, pieces: list[bytes]) -> list[bytes]:
        index = self.draw.randrange(len(pieces))
        end = self.draw.randrange(len(pieces[index]) + 1)
        return [*pieces[:index], pieces[index][:end], *pieces[index + 1 + self.draw.randrange(2) :]]

    def _insert(self, pieces: list[bytes]) -> list[bytes]:
        index = self.draw.randrange(len(pieces) + 1)
        return [*pieces[:index], self.draw.choice(list(self._oddities())), *pieces[index:]]

    def _reorder(self, pieces: list[bytes]) -> list[bytes]:
        return [self.draw.choice(pieces) for _ in range(self.draw.randrange(1, len(pieces) + 3))]

    def _oddities(self) -> Iterator[bytes]:
        flags, noise = self.draw.randrange(256), self.draw.randbytes(self.draw.randrange(300))
        yield noise
        yield frame(flags, noise)
        yield frame(flags | LONG, noise, self.draw.choice(LENGTHS))
        yield frame(MORE, b"") * self.draw.randrange(1, 2000)
        yield command(
            self.draw.choice((b"READY", b"PING", b"PONG", b"ERROR", b"HELLO", b"")), noise
        )
        yield command(b"SUBSCRIBE", noise)
        yield ready((b"Socket-Type", b"DEALER"), (noise[:200], noise))
        yield command(b"READY", b"\x0bSocket-Type" + struct.pack(">I", 2**32 - 1))
