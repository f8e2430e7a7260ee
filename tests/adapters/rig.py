"""What the gRPC tests share: a server of ours, one that answers whatever a test likes, and pullers.

Everything is real: sockets on loopback at ports that the system chose.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from mpls.adapters import contract
from mpls.adapters import mpls_service_pb2 as messages
from mpls.adapters.contract import Catalogue
from mpls.adapters.credentials import Certificates
from mpls.adapters.grpc_server import GrpcServer, Served
from mpls.adapters.grpc_transport import GrpcTransport, Reached
from mpls.core.messages import Event
from mpls.core.serving import Condition
from mpls.core.settings import PullSettings
from mpls.runtime.emulation import Pacing
from mpls.runtime.journal import Clock
from mpls.runtime.limits import Rates
from mpls.runtime.mailbox import Bell
from mpls.runtime.snapshots import SnapshotStore
from tests.runtime.rig import UNPACED, Model, Puller

ANY_RATE = Rates(peer=1e9, strangers=1e9)
MODEL = Model(conv=4 * 600, fc1=4 * 5000, fc2=4 * 170)
CATALOGUE = Catalogue({"conv": 600, "fc1": 5000, "fc2": 170})


def catalogue_of(model: Model) -> Catalogue:
    """Every value of every layer travels."""
    return Catalogue({name: size // 4 for name, size in model.layer_bytes.items()})


@contextmanager
def serving_grpc(
    store: SnapshotStore | None = None,
    model: Model = MODEL,
    catalogue: Catalogue | None = None,
    certificates: Certificates | None = None,
    pacing: Pacing = UNPACED,
    rates: Rates = ANY_RATE,
    state: str = "running",
) -> Iterator[tuple[GrpcServer, int]]:
    """Worker 0, whose peers are w1 and w2, and its port; w3 is in the cluster, and no peer."""
    served = Served(
        worker_id=0,
        names={0: "w0", 1: "w1", 2: "w2", 3: "w3"},
        speed=1.5,
        spec=model.spec("w0", "w1", "w2"),
        catalogue=catalogue or catalogue_of(model),
        store=store or model.store(model.weights()),
        condition=lambda: Condition(state, 3, 0.25),
        pacing=pacing,
        clock=Clock(),
        rates=rates,
    )
    server = GrpcServer(served, certificates)
    [port] = server.open("127.0.0.1:0")
    try:
        yield server, port
    finally:
        server.close()


class GrpcPuller(Puller):
    """Worker 1, which asks worker 0 under the name w0."""

    transport: GrpcTransport  # type: ignore[assignment]

    def __init__(
        self,
        port: int,
        model: Model = MODEL,
        catalogue: Catalogue | None = None,
        certificates: Certificates | None = None,
        stall_s: float = 3.0,
        worker_id: int = 1,
    ) -> None:
        self.spec = model.spec("w1", "w0", pull=PullSettings(stall_s=stall_s))
        self.peer = "w0"
        self.transport = GrpcTransport(
            worker_id,
            self.spec,
            {"w0": Reached(0, f"127.0.0.1:{port}")},
            catalogue or catalogue_of(model),
            lambda: 7,
            certificates,
        )
        self.transport.open()
        self.bell: Bell[Event] = Bell()
        self._last_id = 0


Answer = Callable[[Any], Any]
_KINDS: Mapping[str, Any] = {
    "PullLayers": messages.LayerRequest,
    "GetMetadata": messages.MetadataRequest,
    "Heartbeat": messages.HeartbeatRequest,
    "MeasureBandwidth": messages.BandwidthRequest,
}


def alive(_: Any) -> messages.HeartbeatResponse:
    """The usual answer to a heartbeat."""
    return messages.HeartbeatResponse(peer_id=0, alive=True, timestamp=1)


@contextmanager
def fake_server(**answers: Answer) -> Iterator[int]:
    """A server of other make: each answer is a message, bytes, or a status to end with."""

    def handler(method: str, answer: Answer) -> Any:
        def handle(content: bytes, context: Any) -> bytes:
            reply = answer(_KINDS[method].FromString(content))
            if isinstance(reply, grpc.StatusCode):
                context.abort(reply, "as told")
            return reply if isinstance(reply, bytes) else bytes(reply.SerializeToString())

        return grpc.unary_unary_rpc_method_handler(handle)

    table = {method: handler(method, answer) for method, answer in answers.items()}
    generic = grpc.method_handlers_generic_handler(contract.SERVICE, table)
    pool = ThreadPoolExecutor(8)
    server = grpc.server(pool, (generic,), options=(("grpc.max_send_message_length", -1),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()
        pool.shutdown()


class Gate:
    """Holds an answer back until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    def wait(self) -> None:
        assert self._open.wait(20.0)
