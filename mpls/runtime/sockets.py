"""ZeroMQ sockets with every option that matters set explicitly (docs/protocol.md), and the rule
that a socket is born, used and closed in one thread: used by two it kills the process."""

from __future__ import annotations

import socket
import threading

import zmq

from mpls.errors import BadInput
from mpls.wire import MESSAGE_LIMIT_BYTES

SEND_QUEUE_MESSAGES = 64


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
    context: zmq.Context[zmq.Socket[bytes]], address: str, listen_fd: int | None
) -> zmq.Socket[bytes]:
    """The serving socket, bound to `host:port`. `listen_fd` is a TCP socket that already listens
    there."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.IPV6, "[" in address)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_MESSAGES)
    socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_LIMIT_BYTES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    socket.setsockopt(zmq.TCP_MAXRT, 5000)
    socket.setsockopt(zmq.LINGER, 0)
    if listen_fd is not None:
        socket.setsockopt(zmq.USE_FD, listen_fd)
    socket.bind(f"tcp://{address}")
    return socket


def dealer(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    """The socket for one peer's `host:port`. It is not yet connected, so that whoever wants to
    hear of every connection can begin to listen first."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IPV6, "[" in address)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3000)
    socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_LIMIT_BYTES)
    socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_MESSAGES)
    socket.setsockopt(zmq.LINGER, 0)
    return socket


def listener_at(name: str, host: str, port: int) -> socket.socket:
    """A TCP socket that listens for the worker of this name. Raises BadInput if it cannot."""
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
    listener.listen(128)
    return listener
