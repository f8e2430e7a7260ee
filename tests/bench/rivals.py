"""What else moves layers: bare TCP sockets, which are the limit, bare ZeroMQ, which is the limit of
what we build on, and pickle over ZeroMQ.

Each serves the same random bytes from memory, and each puller ends with them in memory of its own.
"""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Sequence

import numpy as np
import zmq

from tests.bench.ends import Offer, Rival

PULL, PING = b"p", b"?"


def layers(sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Weights of these sizes in bytes, by name; what they are does not matter, only that every page
    is really there."""
    return {
        f"layer{index}": np.arange(size // 4, dtype=np.float32) for index, size in enumerate(sizes)
    }


def in_thread(target: object, *args: object) -> None:
    """Until the process is killed."""
    threading.Thread(target=target, args=args, daemon=True).start()  # type: ignore[arg-type]


# --- raw TCP: one blocking thread for each connection ---


def _serve_raw(offer: Offer) -> int:
    listener = socket.create_server(("127.0.0.1", 0), backlog=offer.pullers)
    in_thread(_accept, listener, [layer.data.cast("B") for layer in layers(offer.sizes).values()])
    port: int = listener.getsockname()[1]
    return port


def _accept(listener: socket.socket, weights: list[memoryview]) -> None:
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        in_thread(_answer, connection, weights)


def _answer(connection: socket.socket, weights: list[memoryview]) -> None:
    while asked := connection.recv(1):
        if asked == PING:
            connection.sendall(PING)
        else:
            for layer in weights:
                connection.sendall(layer)


class _RawPuller:
    def __init__(self, offer: Offer, port: int, index: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sizes = offer.sizes
        self._buffers: list[memoryview] = []

    def pull(self) -> None:
        """Into the same buffers each time."""
        if not self._buffers:
            self._buffers = [memoryview(bytearray(size)) for size in self._sizes]
        self._socket.sendall(PULL)
        for buffer in self._buffers:
            got = 0
            while got < len(buffer):
                got += self._socket.recv_into(buffer[got:])

    def ping(self) -> None:
        """A byte there and back."""
        self._socket.sendall(PING)
        self._socket.recv(1)


# --- bare ZeroMQ: a frame for each layer, not copied; no chunks, credit or checksum ---


def _serve_bare(offer: Offer) -> int:
    router = zmq.Context().socket(zmq.ROUTER)
    port: int = router.bind_to_random_port("tcp://127.0.0.1")
    in_thread(_answer_bare, router, list(layers(offer.sizes).values()))
    return port


def _answer_bare(router: zmq.Socket[bytes], weights: list[np.ndarray]) -> None:
    while True:
        route, asked = router.recv_multipart()
        reply = [PING] if asked == PING else weights
        router.send_multipart([route, *reply], copy=False)


class _BarePuller:
    def __init__(self, offer: Offer, port: int, index: int) -> None:
        self._socket = zmq.Context().socket(zmq.DEALER)
        self._socket.connect(f"tcp://127.0.0.1:{port}")
        self.weights: list[zmq.Frame] = []

    def pull(self) -> None:
        """Into the frames that ZeroMQ takes."""
        self._socket.send(PULL)
        self.weights = self._socket.recv_multipart(copy=False)

    def ping(self) -> None:
        """A byte there and back."""
        self._socket.send(PING)
        self._socket.recv()


# --- pickle over ZeroMQ: the whole dictionary of arrays as one message ---


def _serve_pickled(offer: Offer) -> int:
    router = zmq.Context().socket(zmq.ROUTER)
    port: int = router.bind_to_random_port("tcp://127.0.0.1")
    in_thread(_answer_pickled, router, layers(offer.sizes))
    return port


def _answer_pickled(router: zmq.Socket[bytes], weights: dict[str, np.ndarray]) -> None:
    while True:
        route, asked = router.recv_multipart()
        router.send_multipart([route, PING if asked == PING else pickle.dumps(weights)])


class _PicklePuller:
    def __init__(self, offer: Offer, port: int, index: int) -> None:
        self._socket = zmq.Context().socket(zmq.DEALER)
        self._socket.connect(f"tcp://127.0.0.1:{port}")
        self.weights: dict[str, np.ndarray] = {}

    def pull(self) -> None:
        """Into whatever memory pickle takes."""
        self._socket.send(PULL)
        self.weights = pickle.loads(self._socket.recv())

    def ping(self) -> None:
        """A byte there and back."""
        self._socket.send(PING)
        self._socket.recv()


raw = Rival(_serve_raw, _RawPuller)
bare = Rival(_serve_bare, _BarePuller)
pickled = Rival(_serve_pickled, _PicklePuller)
