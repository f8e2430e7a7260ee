"""Who is let in: the ZAP handler of a worker's ROUTER, and whose connection a message came by.

Before a CURVE handshake succeeds, libzmq asks over an inproc socket (ZeroMQ RFC 27) whether the key
may come in. Without an answer nobody gets in. The handler lives in the serving thread: were it to
fail, serving would end with it, and so would the worker, with a reason.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import zmq
from zmq.utils import z85

from mpls.core import protocol
from mpls.errors import ProtocolError
from mpls.runtime.keys import Keychain, prefix
from mpls.runtime.limits import Refusals

ENDPOINT = "inproc://zeromq.zap.01"
REQUESTS_PER_TURN = 64
"""After so many who want to come in, those who are in have their turn."""


class Door:
    """Lets in whoever has the secret of a key that is in the keychain now; `refusals` counts and
    logs the others. Must be there before the ROUTER of its context is bound."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], keychain: Keychain, refusals: Refusals
    ) -> None:
        self.socket = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(ENDPOINT)
        self._keychain = keychain
        self._ring = keychain.ring
        self._refusals = refusals

    def answer(self, now: float) -> None:
        """Decide on those who stand outside."""
        for _ in range(REQUESTS_PER_TURN):
            try:
                request = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            version, request_id, _, address, _, mechanism, *credentials = request
            assert mechanism == b"CURVE", f"a ROUTER with keys let {mechanism!r} be asked for"
            key = z85.encode(credentials[0])
            if self._may_come_in(key):
                self.socket.send_multipart([version, request_id, b"200", b"OK", key, b""])
                continue
            self.socket.send_multipart([version, request_id, b"400", b"unknown key", b"", b""])
            where = address.decode("ascii", "replace")
            why = f"unknown key, {prefix(key.decode())} from {where}"
            self._refusals.note("", "key", why, now)

    def caller(self, frame: zmq.Frame) -> str:
        """The worker by whose connection this frame came; "" if its key is let in no more."""
        return self._keychain.ring.name_of(str(frame.get("User-Id")))

    def gone(self) -> set[str]:
        """The workers whose key was taken out or changed since this was asked last."""
        before, self._ring = self._ring, self._keychain.ring
        if before is self._ring:
            return set()
        return {name for name, key in before.public.items() if self._ring.public.get(name) != key}

    def close(self) -> None:
        """Nobody gets in any more."""
        self.socket.close(0)

    def _may_come_in(self, key: bytes) -> bool:
        return self._keychain.ring.name_of(key.decode()) != ""


@dataclass(frozen=True)
class Session:
    """One TCP connection of a ROUTER. Its descriptor alone would not do: the number of a closed
    one is soon another's. `far_end` is None if it was closed before anybody looked."""

    fd: int
    far_end: Any

    @classmethod
    def of(cls, frame: zmq.Frame) -> Session:
        """The one that this frame came by."""
        fd = int(frame.get(zmq.SRCFD))
        return cls(fd, _far_end(fd))

    def is_open(self) -> bool:
        """Whether nothing has closed it at this end. When the peer's machine vanishes, the missing
        heartbeats do."""
        return self.far_end is not None and _far_end(self.fd) == self.far_end

    def hang_up(self) -> None:
        """End it at once, with whatever is still on its way."""
        with suppress(OSError), _duplicate(self.fd) as connection:
            if connection.getpeername() == self.far_end:
                connection.shutdown(socket.SHUT_RDWR)


def check_caller(request: protocol.Message, caller: str, others: Iterable[Session]) -> None:
    """Whether this request may come from a connection with the key of `caller`, who said hello by
    the `others` before. Raises ProtocolError if not. Of two that have one key, the first is
    believed: it may be the one that the key was stolen from."""
    if not caller:
        _refuse(request, "key", "refused", "your key is not known here any more")
    if isinstance(request, protocol.Hello):
        if request.name != caller:
            _refuse(request, "name", "refused", f"your key is that of {caller}")
        if any(other.is_open() for other in others):
            _refuse(request, "twice", "busy", f"{caller} is connected already; ask later")


def _refuse(request: protocol.Message, kind: str, code: str, why: str) -> NoReturn:
    raise ProtocolError(why, code, kind=kind, request_id=request.id)


def _far_end(fd: int) -> Any:
    with suppress(OSError), _duplicate(fd) as connection:
        return connection.getpeername()
    return None


def _duplicate(fd: int) -> socket.socket:
    """Stays what the descriptor is now, whatever its number comes to mean."""
    return socket.socket(fileno=os.dup(fd))
