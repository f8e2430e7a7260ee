"""A DEALER's connection to one peer: whether there is one, and if not, who is told why.

libzmq gives an endpoint up for good when the other side refuses its key or speaks no ZMTP, and
tries others every 0.1 s for ever. So whatever fails in a handshake is tried again from here, after
pauses that grow up to LONGEST_PAUSE_S, and always with the key that the peer has by then.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from math import inf
from time import monotonic

import zmq
from zmq.utils.monitor import recv_monitor_message

from mpls.runtime.keys import Keychain, prefix
from mpls.runtime.sockets import dealer

log = logging.getLogger("mpls")
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
LINE_EVERY_S = 60.0
_FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_WATCHED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | _FAILURES


class Connection:
    """Of one peer at `host:port`; without a keychain in plaintext. Owned by one thread, which polls
    `socket` and `monitor` and calls `tend` at `due_s` (time.monotonic) or before."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        peer: str,
        address: str,
        keychain: Keychain | None,
    ) -> None:
        self.socket = dealer(context, address, keychain)
        self.monitor = self.socket.get_monitor_socket(_WATCHED)
        self.is_up = False
        self.due_s = inf
        """When to try again."""
        self.trouble = ""
        """Why the last handshake failed."""
        self._peer = peer
        self._address = address
        self._keychain = keychain
        self._pause_s = FIRST_PAUSE_S
        self._line_due_s = -inf
        self._connect()

    def look(self) -> bool:
        """Hear what became of it; True if it was lost, or not made."""
        lost = False
        while self.monitor.poll(0):
            event = recv_monitor_message(self.monitor)["event"]
            self.is_up = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            lost = lost or not self.is_up
            if self.is_up:
                self._pause_s = FIRST_PAUSE_S
            elif event & _FAILURES:
                self._fail(event)
        return lost

    def tend(self) -> bool:
        """Try again if it is time. When the peer's key was changed or taken out, end the connection
        and begin one with the new key, if any; True then."""
        if self._key != self._peers_key():
            self.look()
            self._disconnect()
            self._connect()
            return True
        if self.due_s <= monotonic():
            self._connect()
        return False

    def close(self) -> None:
        """Give everything back."""
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(0)

    def _peers_key(self) -> str:
        return self._keychain.ring.public.get(self._peer, "") if self._keychain else ""

    def _connect(self) -> None:
        """A peer that has no key any more is not connected to before it has one again."""
        self.due_s = inf
        self._key = self._peers_key()
        if self._key:
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, self._key.encode())
        if self._key or not self._keychain:
            self.socket.connect(f"tcp://{self._address}")

    def _disconnect(self) -> None:
        self.is_up = False
        with suppress(zmq.ZMQError):  # libzmq may have given it up already
            self.socket.disconnect(f"tcp://{self._address}")

    def _fail(self, event: int) -> None:
        self._disconnect()
        self.trouble = self._why(event == zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        now = monotonic()
        self.due_s = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        if now >= self._line_due_s:
            self._line_due_s = now + LINE_EVERY_S
            log.warning("no connection to %s at %s: %s", self._peer, self._address, self.trouble)

    def _why(self, refused: bool) -> str:
        if self._keychain is None:
            return "it does not speak plaintext ZeroMQ, or hung up; has it [network] security?"
        if refused:
            return f"it does not let in this worker's key, {prefix(self._keychain.public)}"
        expected = prefix(self._key)
        return f"it has not the key expected of it, {expected}, or speaks plaintext, or hung up"
