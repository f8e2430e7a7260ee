"""The two ends of the link that `mpls calibrate` measures: the real Server and the real
ZmqTransport, in this process and in another one.

Each end serves the same made-up layers twice, as fast as it goes and over a paced link, and pulls
from the other one: what a request costs here, it costs a live worker.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from mpls.core import protocol
from mpls.core.messages import Event, LayerReceived, Replied, RequestFailed, SendRequest
from mpls.core.plan import Layer
from mpls.core.receipt import window_bytes
from mpls.core.serving import Condition, Serving
from mpls.core.spec import WorkerSpec
from mpls.errors import RunFailed
from mpls.runtime.emulation import Pacing
from mpls.runtime.journal import Clock
from mpls.runtime.limits import ANY_RATE
from mpls.runtime.mailbox import Bell
from mpls.runtime.server import Listening, Server
from mpls.runtime.snapshots import SnapshotStore
from mpls.runtime.zmq_transport import ZmqTransport

PACED_BPS = 12.5e6
LAYERS = {"1 kB": 1_000, "200 kB": 200_000, "4 MB": 4_000_000}
"""What can be pulled: bytes by name."""
FAST, PACED = "fast", "paced"
"""The two servers of an end, by the names that they say hello with."""
ANSWER_S = 20.0
"""Nothing that is measured takes longer."""
HOST = "127.0.0.1"
Addresses = dict[str, str]


def _spec(name: str, peer: str) -> WorkerSpec:
    layers = tuple(Layer(layer, size) for layer, size in LAYERS.items())
    return WorkerSpec(name, 0, (peer,), layers, "0" * 64, (1.0,), 1)


@contextmanager
def serving(peer: str, host: str = HOST) -> Iterator[Addresses]:
    """Two servers for this peer, each in a thread of its own; yields where they listen."""
    with ExitStack() as stack:
        rates: dict[str, dict[str, float]] = {FAST: {}, PACED: {peer: PACED_BPS}}
        yield {
            name: stack.enter_context(_server(_spec(name, peer), Pacing(rate, None), host))
            for name, rate in rates.items()
        }


@contextmanager
def _server(spec: WorkerSpec, pacing: Pacing, host: str) -> Iterator[str]:
    spans, end = {}, 0
    for layer in spec.layers:
        spans[layer.name] = (end, end + layer.bytes)
        end += layer.bytes
    store = SnapshotStore(spans, end // 4, np.dtype("<f4"))
    store.publish(np.ones(end // 4, "<f4"), 0, keep_path=False)
    with socket.create_server((host, 0)) as listener:
        port = listener.getsockname()[1]
        fd = listener.detach()
    condition = Condition("running", 0, 0.0)
    at = Listening(host, port, fd)
    server = Server(Serving(spec), store, lambda: condition, at, pacing, Clock(), ANY_RATE)
    thread = threading.Thread(target=server.run, args=(lambda: None,), daemon=True)
    thread.start()
    try:
        yield f"{host}:{port}"
    finally:
        server.stop()
        thread.join()


@dataclass(frozen=True)
class Pulled:
    """A layer that came: how long it took in all, and how long the server said it waited."""

    seconds: float
    wait_s: float


class Puller:
    """Asks the servers of the other end, as `name`; used by the thread that made it."""

    def __init__(self, name: str, addresses: Addresses) -> None:
        self._transport = ZmqTransport(addresses, LAYERS, stall_s=ANSWER_S)
        self._transport.open()
        self._bell: Bell[None] = Bell()
        self._ids = count(1)
        for server in addresses:
            self._greet(name, server)

    def round_trip_s(self, server: str) -> float:
        """Of a status request and its answer."""
        began_s = time.perf_counter()
        self._ask(server, protocol.Status(next(self._ids)))
        return time.perf_counter() - began_s

    def pull(self, server: str, layer: str) -> Pulled:
        """One layer."""
        credit = window_bytes(PACED_BPS if server == PACED else 1e9)
        pull = protocol.Pull(next(self._ids), (layer,), 0, 0, credit)
        began_s = time.perf_counter()
        received = self._ask(server, pull)
        assert isinstance(received, LayerReceived)
        seconds = time.perf_counter() - began_s
        self._transport.recycle(self._transport.claim(pull.id, layer))
        return Pulled(seconds, received.wait_s)

    def close(self) -> None:
        """Give the sockets back."""
        self._transport.close()
        self._bell.close()

    def _greet(self, name: str, server: str) -> None:
        """As soon as there is a connection."""
        end_s = time.monotonic() + ANSWER_S
        spec = _spec(name, server)
        while time.monotonic() < end_s:
            hello = protocol.Hello(next(self._ids), name, spec.model, spec.histogram, spec.samples)
            if not self._transport.send(SendRequest(server, hello)):
                self._await(hello.id)
                return
            self._transport.wait(0.005, self._bell.fileno())
        raise RunFailed(f"calibrate: the other end did not answer within {ANSWER_S:.0f} s")

    def _ask(self, server: str, message: Any) -> Event:
        failures = self._transport.send(SendRequest(server, message))
        assert not failures, failures
        return self._await(message.id)

    def _await(self, request_id: int) -> Event:
        end_s = time.monotonic() + ANSWER_S
        while time.monotonic() < end_s:
            for event in self._transport.wait(1.0, self._bell.fileno()):
                if isinstance(event, RequestFailed):
                    raise RunFailed(f"calibrate: a request {event.reason}")
                if isinstance(event, LayerReceived) and event.request_id == request_id:
                    return event
                if isinstance(event, Replied) and event.reply.id == request_id:
                    return event
        raise RunFailed(f"calibrate: no answer within {ANSWER_S:.0f} s")


def paced_Bps(puller: Puller, pulls: int) -> float:
    """Bytes per second of so many large layers over the paced link."""
    seconds = [puller.pull(PACED, "4 MB").seconds for _ in range(pulls)]
    return pulls * LAYERS["4 MB"] / sum(seconds)


class PullingThread(threading.Thread):
    """Pulls over the paced link, again and again, until `stop`."""

    def __init__(self, name: str, addresses: Addresses) -> None:
        super().__init__(daemon=True)
        self._asker, self._addresses = name, addresses
        self._stopping = threading.Event()
        self.start()

    def run(self) -> None:
        puller = Puller(self._asker, self._addresses)
        while not self._stopping.is_set():
            puller.pull(PACED, "200 kB")
        puller.close()

    def stop(self) -> None:
        """At the end of the pull under way."""
        self._stopping.set()
        self.join()
