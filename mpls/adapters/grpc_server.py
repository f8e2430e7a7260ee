"""The serving end of the earlier implementation's contract, over the same serving core.

gRPC's threads, a bounded number of them, answer from the latest snapshot; what they share is used
under one lock, and an answer is put together outside of it. A reader that stops costs its server at
most LIMIT_BYTES of answers: while so much is on its way to one worker, that worker is refused more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from mpls.adapters import contract, npy
from mpls.adapters import mpls_service_pb2 as messages
from mpls.adapters.contract import Catalogue
from mpls.adapters.credentials import Certificates, names_in
from mpls.core import protocol
from mpls.core.serving import Condition, Serving, Transfer
from mpls.core.spec import WorkerSpec
from mpls.errors import BadInput, ProtocolError
from mpls.runtime.emulation import Pacing
from mpls.runtime.journal import Clock, Meter
from mpls.runtime.limits import RATES, REQUEST_TOKENS, Allowances, Rates, Refusals
from mpls.runtime.snapshots import Snapshot, SnapshotStore

THREADS = 64
"""Answers at once; where links are emulated, one on its way takes a thread."""
CALLS_LIMIT = 256
"""Calls that are known at once; further ones are refused by gRPC itself."""
CALLS_OF_ONE = 4
"""Answers on their way to one worker."""
GRACE_S = 1.0
_STATUS = {
    "refused": grpc.StatusCode.PERMISSION_DENIED,
    "busy": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "too-long": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "starting": grpc.StatusCode.UNAVAILABLE,
}
"""What a refusal of this kind is answered with; all others are INVALID_ARGUMENT."""
_OPTIONS = (
    ("grpc.max_send_message_length", contract.LIMIT_BYTES),
    ("grpc.max_receive_message_length", contract.REQUEST_LIMIT_BYTES),
    ("grpc.max_concurrent_streams", 32),
    # Nothing else tells that a reader has stopped for good.
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
)


@dataclass(frozen=True)
class Served:
    """What is served, under which number, and to whom: `names` has those of all workers, by their
    numbers; only the spec's peers are served."""

    worker_id: int
    names: Mapping[int, str]
    speed: float
    spec: WorkerSpec
    catalogue: Catalogue
    store: SnapshotStore
    condition: Callable[[], Condition]
    pacing: Pacing
    clock: Clock
    rates: Rates = RATES


@dataclass(eq=False)
class _Answer:
    """One that is on its way to its asker."""

    bytes: int
    began_s: float
    context: Any
    ended: threading.Event = field(default_factory=threading.Event)


class GrpcServer:
    """Serves from `open` to `close`. Problems with a peer are counted by kind, and never end it."""

    def __init__(self, served: Served, certificates: Certificates | None = None) -> None:
        self.sent = Meter()
        self.received = Meter()
        self._served = served
        peers = set(served.spec.peers)
        self._names = {number: name for number, name in served.names.items() if name in peers}
        self._certificates = certificates
        self._serving = Serving(served.spec)
        self._refused = Refusals()
        self._allowances = Allowances(served.rates)
        self._answers: dict[str, list[_Answer]] = {}
        self._lock = threading.Lock()
        self._methods: dict[str, tuple[Any, Callable[[Any, str, Any], bytes]]] = {
            "PullLayers": (messages.LayerRequest, self._pull),
            "GetMetadata": (messages.MetadataRequest, self._describe),
            "Heartbeat": (messages.HeartbeatRequest, self._beat),
            "MeasureBandwidth": (messages.BandwidthRequest, self._probe),
        }

    @property
    def refusals(self) -> dict[str, int]:
        """How many calls were refused, by kind."""
        return self._refused.counts

    def open(self, *addresses: str, shared: bool = False) -> list[int]:
        """Bind each `host:port` and begin to serve; returns the ports. `shared` says that a socket
        of this worker's already listens there. Raises BadInput if it cannot."""
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(partial(self._call, method))
            for method in self._methods
        }
        self._pool = ThreadPoolExecutor(THREADS, "grpc")
        self._server = grpc.server(
            self._pool,
            (grpc.method_handlers_generic_handler(contract.SERVICE, handlers),),
            options=(*_OPTIONS, ("grpc.so_reuseport", int(shared))),
            maximum_concurrent_rpcs=CALLS_LIMIT,
        )
        ports = [self._bind(address) for address in addresses]
        self._server.start()
        return ports

    def close(self) -> None:
        """Answers under way have GRACE_S to arrive."""
        self._server.stop(GRACE_S).wait()
        self._pool.shutdown()
        with self._lock:
            self._refused.flush(inf)

    def _bind(self, address: str) -> int:
        try:
            if self._certificates is None:
                port: int = self._server.add_insecure_port(address)
            else:
                credentials = self._certificates.server_credentials()
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            port = 0
        if port == 0:
            name = self._served.spec.name
            raise BadInput(
                f"worker {name}: cannot serve gRPC on {address}; is the port in use, or a"
                " certificate damaged?"
            )
        return port

    # --- one call, in one of gRPC's threads ---

    def _call(self, method: str, content: bytes, context: Any) -> bytes:
        kind, answer = self._methods[method]
        name = ""
        try:
            request = _parsed(kind, content)
            with self._lock:
                name = self._admit(method, request, content, context)
            reply = answer(request, name, context)
        except ProtocolError as error:
            why = str(error)
            with self._lock:
                self._refused.note(name, error.kind, why, self._now())
            context.abort(_STATUS.get(error.kind, grpc.StatusCode.INVALID_ARGUMENT), why)
        with self._lock:
            self.sent.count(name, method.lower(), len(reply))
        return reply

    def _admit(self, method: str, request: Any, content: bytes, context: Any) -> str:
        """Who asks; "" for a stranger's heartbeat, which anybody may send."""
        number = request.sender_id if method == "Heartbeat" else request.requester_id
        name = self._names.get(number, "")
        if not self._allowances.of(name, "").messages.take(self._now(), REQUEST_TOKENS):
            raise ProtocolError("you send too much; wait", kind="busy")
        mine = self._served.spec.name
        if not name and method != "Heartbeat":
            raise ProtocolError(f"worker {number} is no peer of {mine}", kind="refused")
        mutual = self._certificates is not None and self._certificates.mutual
        if name and mutual and name not in names_in(context.auth_context()):
            raise ProtocolError(f"your certificate does not name {name}", kind="refused")
        self.received.count(name, method.lower(), len(content))
        return name

    def _pull(self, request: messages.LayerRequest, name: str, context: Any) -> bytes:
        served = self._served
        layers = served.catalogue.chosen(request.layer_indices)
        long = served.catalogue.message_bytes(layers)
        if long > contract.LIMIT_BYTES:
            raise ProtocolError(
                f"these layers take {long} bytes, and a message carries {contract.LIMIT_BYTES};"
                f" ask for fewer at once, or {contract.USE_ZMQ}",
                kind="too-long",
            )
        pull = protocol.Pull(0, layers, 0, 0, 0)
        transfer = self._ask(name, pull)
        assert isinstance(transfer, Transfer)
        assert isinstance(transfer.snapshot, Snapshot)
        answer = self._begin(name, long, context)
        reply = self._layers(transfer.snapshot, layers)
        self._pace(name, len(reply), answer)
        return reply

    def _layers(self, snapshot: Snapshot, layers: tuple[str, ...]) -> bytes:
        catalogue = self._served.catalogue
        response = messages.LayerResponse(peer_id=self._served.worker_id, iteration=snapshot.round)
        for layer in layers:
            index = catalogue.index(layer)
            values = catalogue.values[index]
            response.layers.add(
                layer_index=index,
                parameters=npy.image(snapshot.layer(layer)[: values * npy.ITEM_BYTES]),
                shape=[values],
                dtype=contract.DTYPE,
            )
        return bytes(response.SerializeToString())

    def _describe(self, request: messages.MetadataRequest, name: str, context: Any) -> bytes:
        served = self._served
        condition = served.condition()
        reply = messages.PeerMetadata(
            peer_id=served.worker_id,
            data_distribution=served.spec.histogram,
            status="training" if condition.state == "running" else "idle",
            current_iteration=condition.round,
            compute_speed=served.speed,
        )
        return bytes(reply.SerializeToString())

    def _beat(self, request: messages.HeartbeatRequest, name: str, context: Any) -> bytes:
        reply = messages.HeartbeatResponse(
            peer_id=self._served.worker_id, alive=True, timestamp=_unix_ms()
        )
        return bytes(reply.SerializeToString())

    def _probe(self, request: messages.BandwidthRequest, name: str, context: Any) -> bytes:
        if request.payload_size_mb < 0:
            raise ProtocolError(f"payload_size_mb {request.payload_size_mb}: less than nothing")
        wanted = min(request.payload_size_mb * 2**20, contract.PROBE_LIMIT_BYTES)
        data = self._ask(name, protocol.Probe(0, wanted))
        assert isinstance(data, protocol.ProbeData)
        answer = self._begin(name, wanted, context)
        reply = messages.BandwidthResponse(
            peer_id=self._served.worker_id, payload=bytes(data.data), timestamp=_unix_ms()
        )
        self._pace(name, wanted, answer)
        return bytes(reply.SerializeToString())

    def _ask(self, name: str, request: protocol.Pull | protocol.Probe) -> Any:
        """What the serving core says. This contract has no hello: a peer that asks has said it."""
        served = self._served
        hello = protocol.Hello(0, name, served.spec.model, (), 0)
        with self._lock:
            condition, now = served.condition(), self._now()
            for question in (hello, request):
                snapshot = served.store.newest()
                reply = self._serving.answer(name, question, snapshot, condition, now)
                if isinstance(reply, protocol.Error):
                    kind = "starting" if snapshot is None else reply.code
                    raise ProtocolError(reply.message, kind=kind)
            self._serving.expire(inf)  # nothing is ever resumed
        return reply

    # --- what is on its way ---

    def _begin(self, name: str, long: int, context: Any) -> _Answer:
        """Put an answer on its way to this peer, if there is room for it."""
        answer = _Answer(long, self._now(), context)
        with self._lock:
            self._end_old_ones(answer.began_s)
            under_way = self._answers.setdefault(name, [])
            full = sum(old.bytes for old in under_way) + long > contract.LIMIT_BYTES
            if len(under_way) >= CALLS_OF_ONE or (full and under_way):
                raise ProtocolError("what you asked for before is still on its way", kind="busy")
            under_way.append(answer)
        if not context.add_callback(partial(self._end, name, answer)):
            self._end(name, answer)
        return answer

    def _end_old_ones(self, now: float) -> None:
        """Not every caller sets a deadline."""
        for under_way in self._answers.values():
            for answer in under_way:
                if now - answer.began_s > contract.PULL_S:
                    answer.context.cancel()

    def _end(self, name: str, answer: _Answer) -> None:
        answer.ended.set()
        with self._lock:
            self._answers[name].remove(answer)

    def _pace(self, name: str, long: int, answer: _Answer) -> None:
        """Where links are emulated, wait until the answer would have arrived over the real one."""
        with self._lock:
            now = self._now()
            _, leaves_s = self._served.pacing.carry(name, now, long)
        answer.ended.wait(min(contract.PULL_S, max(0.0, leaves_s - now)))

    def _now(self) -> float:
        return self._served.clock.now()


def _parsed(kind: Any, content: bytes) -> Any:
    try:
        return kind.FromString(content)
    except DecodeError:
        raise ProtocolError(f"no {kind.__name__}", kind="message") from None


def _unix_ms() -> int:
    return int(time.time() * 1000)
