"""What the live tests share: a small model, a server in a thread, and those who ask it.

Everything here is real: sockets on loopback at ports that the system chose, and threads whose
failure is the test's failure. Whoever waits, waits for something to happen, with a deadline.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import numpy as np
import zmq

from mpls.core import protocol
from mpls.core.messages import (
    Event,
    LayerReceived,
    LayerRefused,
    Replied,
    RequestFailed,
    SendRequest,
)
from mpls.core.plan import Layer
from mpls.core.serving import Condition, Serving
from mpls.core.settings import PaceSettings, PlanSettings, PullSettings
from mpls.core.spec import WorkerSpec
from mpls.runtime.emulation import Pacing
from mpls.runtime.journal import Clock
from mpls.runtime.keys import Keychain
from mpls.runtime.mailbox import Bell
from mpls.runtime.server import Listening, Server
from mpls.runtime.snapshots import Snapshot, SnapshotStore
from mpls.runtime.zmq_transport import ZmqTransport
from mpls.wire import decode, encode

DEADLINE_S = 10.0
CREDIT = 2**20
UNPACED = Pacing({}, None)


def until(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> None:
    """Wait until the condition holds; fails with `what` after the deadline."""
    end_s, turn = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        assert time.monotonic() < end_s, f"waited {timeout_s:g} s in vain: {what}"
        turn.wait(0.002)


class Job(threading.Thread):
    """A thread that hands what it raised to whoever waits for its end."""

    def __init__(self, name: str, job: Callable[[], Any]) -> None:
        super().__init__(name=name, daemon=True)
        self._job = job
        self.result: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._job()
        except BaseException as error:
            self.error = error

    def finish(self, timeout_s: float = DEADLINE_S) -> Any:
        """Its result, or its error raised here."""
        self.join(timeout_s)
        assert not self.is_alive(), f"thread {self.name} still runs after {timeout_s:g} s"
        if self.error is not None:
            raise self.error
        return self.result


# --- a model ---


class Model:
    """Layers of so many bytes, in one flat float32 buffer."""

    def __init__(self, **layer_bytes: int) -> None:
        self.layer_bytes: Mapping[str, int] = layer_bytes
        self.spans: dict[str, tuple[int, int]] = {}
        start = 0
        for name, size in layer_bytes.items():
            assert size % 4 == 0
            self.spans[name] = (start, start + size)
            start += size
        self.values = start // 4

    def layer(self, name: str, flat: np.ndarray) -> np.ndarray:
        """Of a flat buffer, as numbers."""
        start, stop = self.spans[name]
        return np.frombuffer(flat, np.float32)[start // 4 : stop // 4]

    def weights(self, seed: int = 1) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal(self.values).astype(np.float32)

    def store(self, *versions: np.ndarray) -> SnapshotStore:
        """With these weights published, one after the other."""
        store = SnapshotStore(self.spans, self.values, np.dtype(np.float32))
        for round_number, weights in enumerate(versions):
            store.publish(weights, round_number, keep_path=False)
        return store

    def spec(self, name: str, *peers: str, **settings: Any) -> WorkerSpec:
        return WorkerSpec(
            name=name,
            seed=1,
            peers=peers,
            layers=tuple(Layer(layer, size) for layer, size in self.layer_bytes.items()),
            model="0" * 64,
            histogram=(0.5, 0.5),
            samples=100,
            plan=settings.get("plan", PlanSettings()),
            pull=settings.get("pull", PullSettings()),
            pace=settings.get("pace", PaceSettings()),
        )


# --- a server ---


def listening_socket() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    return listener


@contextmanager
def serving(
    spec: WorkerSpec, store: SnapshotStore, pacing: Pacing = UNPACED, **settings: Any
) -> Iterator[tuple[Server, int]]:
    """A server in its own thread, and its port. `settings` are further arguments of the server, its
    `keys`, and its class as `kind`."""
    listener = listening_socket()
    port = listener.getsockname()[1]
    kind, keys = settings.pop("kind", Server), settings.pop("keys", None)
    server = kind(
        Serving(spec),
        store,
        lambda: Condition("running", 3, 0.25),
        Listening("127.0.0.1", port, listener.detach(), keys),
        pacing,
        Clock(),
        **settings,
    )
    ready = threading.Event()
    thread = Job(f"serving {spec.name}", lambda: server.run(ready.set))
    assert ready.wait(DEADLINE_S)
    try:
        yield server, port
    finally:
        server.stop()
        thread.finish()


# --- those who ask ---


class Puller:
    """A ZmqTransport in the hands of a test: `peer` is asked, and its answers are waited for."""

    def __init__(
        self,
        spec: WorkerSpec,
        ports: Mapping[str, int],
        stall_s: float = 3.0,
        keys: Keychain | None = None,
    ) -> None:
        self.spec = spec
        self.peer = next(iter(ports))
        layer_bytes = {layer.name: layer.bytes for layer in spec.layers}
        addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        self.transport = ZmqTransport(addresses, layer_bytes, stall_s, keys)
        self.transport.open()
        self.bell: Bell[Event] = Bell()
        self._last_id = 0

    def __enter__(self) -> Puller:
        return self

    def __exit__(self, *_: object) -> None:
        self.transport.close()
        self.bell.close()

    def new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def send(self, message: Any) -> list[Event]:
        return self.transport.send(SendRequest(self.peer, message))

    def events(self, ended: Callable[[list[Event]], Any], what: str) -> list[Event]:
        """All that happens until then."""
        events: list[Event] = []
        end_s = time.monotonic() + DEADLINE_S
        while not ended(events):
            assert time.monotonic() < end_s, f"waited in vain for {what}; had {events}"
            events += self.transport.wait(0.1, self.bell.fileno())
        return events

    def ask(self, message: Any) -> Any:
        """The small answer to a message, or its failure."""
        failures = self.send(message)
        if failures:
            return failures[0]
        events = self.events(lambda events: _settled(events, message.id), f"answer to {message}")
        return next(event for event in events if _is_end(event, message.id))

    def ask_connected(self, message: Any) -> Any:
        """The answer to a message sent as soon as there is a connection."""
        end_s = time.monotonic() + DEADLINE_S
        while isinstance(answer := self.ask(message), RequestFailed):
            assert time.monotonic() < end_s, f"{self.peer} cannot be reached: {answer}"
            self.transport.wait(0.01, self.bell.fileno())
        return answer

    def greet(self) -> protocol.Welcome:
        """Say hello; the welcome."""
        spec = self.spec
        reply = self.ask_connected(
            protocol.Hello(self.new_id(), spec.name, spec.model, spec.histogram, spec.samples)
        ).reply
        assert isinstance(reply, protocol.Welcome), reply
        return reply

    def pull(
        self, *layers: str, version: int = 0, offset: int = 0, credit: int = CREDIT
    ) -> list[Event]:
        """What a pull brings until all of it ended, one way or the other."""
        pull = protocol.Pull(self.new_id(), layers, version, offset, credit)
        failures = self.send(pull)
        if failures:
            return failures
        return self.events(lambda events: _pulled(events, pull), f"the end of {pull}")

    def layers(self, events: Sequence[Event]) -> dict[str, np.ndarray]:
        """The layers among these events, claimed."""
        return {
            event.layer: self.transport.claim(event.request_id, event.layer)
            for event in events
            if isinstance(event, LayerReceived)
        }


def _is_end(event: Event, request_id: int) -> bool:
    if isinstance(event, Replied):
        return event.reply.id == request_id
    return isinstance(event, RequestFailed) and event.request_id == request_id


def _settled(events: Sequence[Event], request_id: int) -> bool:
    return any(_is_end(event, request_id) for event in events)


def _pulled(events: Sequence[Event], pull: protocol.Pull) -> bool:
    ends = (LayerReceived, LayerRefused)
    ended = [e for e in events if isinstance(e, ends) and e.request_id == pull.id]
    return len(ended) == len(pull.layers) or _settled(events, pull.id)


class Raw:
    """A DEALER without manners: sends what it is told, and sees each message that comes back."""

    def __init__(self, port: int, **options: Any) -> None:
        """`options` are ZeroMQ's, such as RCVHWM=1."""
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        for option, value in options.items():
            self._socket.setsockopt(getattr(zmq, option), value)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, int(DEADLINE_S * 1000))
        self._cuts = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(f"tcp://127.0.0.1:{port}")

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.disable_monitor()
        self._cuts.close(0)
        self._socket.close()
        self._context.term()

    def was_cut(self) -> bool:
        """Whether a connection of it has ended."""
        return bool(self._cuts.poll(0))

    def send(self, *messages: Any) -> None:
        for message in messages:
            self._socket.send_multipart(encode(message))

    def send_frames(self, frames: Sequence[bytes]) -> None:
        self._socket.send_multipart(frames)

    def receive(self) -> Any:
        return decode(self._socket.recv_multipart())

    def greet(self, spec: WorkerSpec) -> None:
        self.send(protocol.Hello(1, spec.name, spec.model, spec.histogram, spec.samples))
        assert isinstance(self.receive(), protocol.Welcome)

    def until_quiet(self) -> list[Any]:
        """All that the server has to send to this peer. A probe's answer shows that it is sending,
        and it reads a ping only when it can send nothing more."""
        self.send(protocol.Probe(2**32, 1))
        got = self.receive_until(protocol.ProbeData)
        self.send(protocol.Ping(2**32 + 1, 0.0))
        return got + self.receive_until(protocol.Pong)

    def rest(self, quiet_s: float) -> list[Any]:
        """All that comes before nothing comes for so long."""
        got: list[Any] = []
        while self._socket.poll(ceil(quiet_s * 1000)):
            got.append(self.receive())
        return got

    def receive_until(self, last: type[Any]) -> list[Any]:
        """What comes before a message of this kind."""
        got: list[Any] = []
        while not isinstance(message := self.receive(), last):
            got.append(message)
        return got


@contextmanager
def fake_server(answer: Callable[[Any], list[Sequence[bytes]]]) -> Iterator[int]:
    """A ROUTER that answers each message with whatever frames `answer` makes of it; its port."""
    context: zmq.Context[Any] = zmq.Context()
    router, listener = context.socket(zmq.ROUTER), listening_socket()
    port = listener.getsockname()[1]
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.USE_FD, listener.detach())
    router.bind(f"tcp://127.0.0.1:{port}")
    bell: Bell[None] = Bell()

    def serve() -> None:
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(bell.fileno(), zmq.POLLIN)
        while bell.fileno() not in (readable := dict(poller.poll())):
            assert router in readable
            route, *frames = router.recv_multipart()
            for reply in answer(decode(frames)):
                router.send_multipart([route, *reply])
        router.close(0)

    thread = Job("fake server", serve)
    try:
        yield port
    finally:
        bell.post(None)
        thread.finish()
        context.term()
        bell.close()


def welcome(message: Any) -> list[Any]:
    """How a fake server answers what is no pull."""
    if isinstance(message, protocol.Hello):
        return [encode(protocol.Welcome(message.id, "w0", "m", (1.0,), 1))]
    if isinstance(message, protocol.Status):
        return [encode(protocol.StatusOk(message.id, "running", 1, 1, None, 0.1))]
    return []


# --- what came ---


def received(events: Sequence[Event]) -> list[LayerReceived]:
    """The layers that arrived."""
    return [event for event in events if isinstance(event, LayerReceived)]


def assert_bits(layers: dict[str, np.ndarray], snapshot: Snapshot, *names: str) -> None:
    """These layers, in this order, are those of the snapshot."""
    assert list(layers) == list(names)
    for name in names:
        assert layers[name].tobytes() == bytes(snapshot.layer(name)), name
