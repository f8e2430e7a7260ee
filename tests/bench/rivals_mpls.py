"""Ours, as a worker has it: Server and ZmqTransport, with chunks, credit and checksums."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial

from mpls.core import protocol
from mpls.core.messages import Event, LayerReceived, Replied, RequestFailed, SendRequest
from mpls.core.receipt import window_bytes
from mpls.core.serving import Condition, Serving
from mpls.runtime.allocator import keep_freed_memory
from mpls.runtime.journal import Clock
from mpls.runtime.keys import Keychain, KeyFiles
from mpls.runtime.limits import Rates
from mpls.runtime.mailbox import Bell
from mpls.runtime.server import Listening, Server
from mpls.runtime.snapshots import SnapshotStore
from mpls.runtime.zmq_transport import ZmqTransport
from mpls.wire import Buffer
from tests.bench.ends import Offer, Rival
from tests.bench.rivals import in_thread
from tests.runtime.rig import UNPACED, Model, listening_socket

FAST_Bps = 1e9
STALL_S = 3.0
UNBOUNDED = 1e12


def model(sizes: Sequence[int]) -> Model:
    """Layers of these sizes in bytes."""
    return Model(**{f"layer{index}": size for index, size in enumerate(sizes)})


def names(pullers: int) -> list[str]:
    """Of those who may pull from the server."""
    return [f"puller{index}" for index in range(pullers)]


def keychain(offer: Offer, name: str) -> Keychain:
    """The keys of one end; the server's process, which is the first, makes those of all."""
    files, everybody = KeyFiles(offer.folder / "bench.toml"), ["server", *names(offer.pullers)]
    if name == "server":
        files.make(everybody)
    return Keychain(files, name, everybody)


def serve_store(
    served: Model, store: SnapshotStore, pullers: int, keys: Keychain | None = None
) -> int:
    """Serve what is or will be published there, whoever asks how often; the port."""
    keep_freed_memory()
    listener = listening_socket()
    port: int = listener.getsockname()[1]
    server = Server(
        Serving(served.spec("server", *names(pullers))),
        store,
        lambda: Condition("running", 1, 0.01),
        Listening("127.0.0.1", port, listener.detach(), keys),
        UNPACED,
        Clock(),
        Rates(peer=UNBOUNDED, strangers=UNBOUNDED),
    )
    ready = threading.Event()
    in_thread(server.run, ready.set)
    assert ready.wait(30)
    return port


def _serve(offer: Offer) -> int:
    served = model(offer.sizes)
    return serve_store(served, served.store(served.weights()), offer.pullers)


def _serve_encrypted(offer: Offer) -> int:
    served, keys = model(offer.sizes), keychain(offer, "server")
    return serve_store(served, served.store(served.weights()), offer.pullers, keys)


class Puller:
    """The aggregation thread's end of one peer, without what it decides."""

    def __init__(self, offer: Offer, port: int, index: int, encrypted: bool = False) -> None:
        keep_freed_memory()
        self._model, name = model(offer.sizes), names(index + 1)[index]
        self._layers = tuple(self._model.layer_bytes)
        self._transport = ZmqTransport(
            {"server": f"127.0.0.1:{port}"},
            self._model.layer_bytes,
            STALL_S,
            keychain(offer, name) if encrypted else None,
        )
        self._transport.open()
        self._bell: Bell[Event] = Bell()
        self._last_id = 0
        spec = self._model.spec(name, "server")
        hello = protocol.Hello(0, spec.name, spec.model, spec.histogram, spec.samples)
        while self._transport.send(SendRequest("server", hello)):
            self._wait()
        while not any(isinstance(event, Replied) for event in self._wait()):
            continue

    def pull(self) -> None:
        """Every layer, into the buffers of the pull before."""
        request_id, here = self._ask(self._pull_message()), []
        while len(here) < len(self._layers):
            here += [self._claim(event) for event in self._wait() if self._brings(event)]
        assert all(key[0] == request_id for key, _ in here)
        for _, buffer in here:
            self._transport.recycle(buffer)

    def ping(self) -> None:
        """A status request, which is our heartbeat."""
        self._ask(protocol.Status(self._next_id()))
        while not self._wait():
            continue

    def bytes_within(self, seconds: float) -> int:
        """What comes within so many seconds of pulling without a pause."""
        before, end_s = self._transport.received.total_bytes, time.monotonic() + seconds
        left = 0
        while time.monotonic() < end_s:
            if not left:
                self._ask(self._pull_message())
                left = len(self._layers)
            for event in filter(self._brings, self._wait(0.05)):
                self._transport.recycle(self._claim(event)[1])
                left -= 1
        return self._transport.received.total_bytes - before

    def _pull_message(self) -> protocol.Pull:
        return protocol.Pull(self._next_id(), self._layers, 0, 0, window_bytes(FAST_Bps))

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _ask(self, message: protocol.Message) -> int:
        failures = self._transport.send(SendRequest("server", message))
        assert not failures, failures
        return message.id

    def _wait(self, timeout_s: float = 10.0) -> list[Event]:
        return self._transport.wait(timeout_s, self._bell.fileno())

    def _brings(self, event: Event) -> bool:
        assert not isinstance(event, RequestFailed), event
        return isinstance(event, LayerReceived)

    def _claim(self, event: Event) -> tuple[tuple[int, str], Buffer]:
        assert isinstance(event, LayerReceived)
        key = event.request_id, event.layer
        return key, self._transport.claim(*key)


plain = Rival(_serve, Puller)
curve = Rival(_serve_encrypted, partial(Puller, encrypted=True))
