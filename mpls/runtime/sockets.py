"""ZeroMQ sockets with every option that matters set explicitly (docs/protocol.md), and the rule
that a socket is born, used and closed in one thread: used by two it kills the process."""

from __future__ import annotations

import socket
import threading

import zmq

from mpls.errors import BadInput
from mpls.runtime.keys import Keychain
from mpls.wire import MESSAGE_LIMIT_BYTES

SEND_QUEUE_MESSAGES = 64
RECEIVE_QUEUE_MESSAGES = 0
"""No limit: libzmq 4.3.5 ends the process when a connection ends whose input it held back. Credit
bounds what honest peers send, and `runtime.floods` hangs up on others."""
REQUEST_LIMIT_BYTES = 64 * 1024
"""A server takes no larger frame, before or after the handshake: a request is a header only."""
BACKLOG = 1024
"""Connections that may wait to be accepted; of more, each would be tried again after a second."""
ZAP_DOMAIN = b"mpls"
HEARTBEAT_MS = 1000
CONNECT_MS = 2000
SILENCE_MS = 3000
"""A connection by which nothing came for this long is closed, at either end."""


class OwnedByThread:
    """Something that only the thread which adopted it may touch."""

    def __init__(self) -> None:
        self._owner: threading.Thread | None = None

    def adopt(self) -> None:
        """From now on this thread owns it."""
        self._owner = threading.current_thread()

    def assert_owner(self) -> None:
        """Names both threads if another one calls."""
        here = threading.current_thread()
        assert here is self._owner, f"{self._owner} owns this socket, {here} touched it"


def router(
    context: zmq.Context[zmq.Socket[bytes]],
    address: str,
    listen_fd: int | None,
    keys: Keychain | None = None,
) -> zmq.Socket[bytes]:
    """The serving socket, bound to `host:port`. `listen_fd` is a TCP socket that already listens
    there. With keys, whoever connects is let in by the context's ZAP handler or not at all."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.IPV6, "[" in address)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_MESSAGES)
    socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE_MESSAGES)
    socket.setsockopt(zmq.MAXMSGSIZE, REQUEST_LIMIT_BYTES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    socket.setsockopt(zmq.TCP_MAXRT, 5000)
    # Else what a peer that vanished leaves behind would be in its own way when it comes back. The
    # peer's heartbeats, which come however slowly its pulls go, count as signs of life.
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
    socket.setsockopt(zmq.LINGER, 0)
    if keys is not None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
        socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    if listen_fd is not None:
        socket.setsockopt(zmq.USE_FD, listen_fd)
    socket.bind(f"tcp://{address}")
    return socket


def dealer(
    context: zmq.Context[zmq.Socket[bytes]], address: str, keys: Keychain | None = None
) -> zmq.Socket[bytes]:
    """The socket for one peer's `host:port`. It is not yet connected, so that whoever wants to
    hear of every connection can begin to listen first; nor does it know the peer's key."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IPV6, "[" in address)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5000)
    # Else the kernel's back-off decides when a peer is found again: a minute after 75 s of silence.
    socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_LIMIT_BYTES)
    socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_MESSAGES)
    socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE_MESSAGES)
    socket.setsockopt(zmq.LINGER, 0)
    if keys is not None:
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
    return socket


def listener_at(name: str, host: str, port: int, shared: bool = False) -> socket.socket:
    """A TCP socket that listens for the worker of this name. Raises BadInput if it cannot. One that
    is `shared` holds the port for whoever binds it with SO_REUSEPORT."""
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        raise BadInput(
            f"worker {name}: cannot listen on {host}:{port}: {error.strerror};"
            " choose another address, or port 0 for any free one"
        ) from None
    if shared:
        # Only now, lest two be bound unnoticed; and not later, since connections inherit it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.listen(BACKLOG)
    return listener
