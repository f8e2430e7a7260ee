"""Ours over gRPC, as a worker has it: GrpcServer and GrpcTransport, .npy images in messages."""

from __future__ import annotations

from mpls.adapters.contract import Catalogue
from mpls.adapters.grpc_server import GrpcServer, Served
from mpls.adapters.grpc_transport import GrpcTransport, Reached
from mpls.core.messages import Event
from mpls.core.serving import Condition
from mpls.runtime.journal import Clock
from mpls.runtime.limits import Rates
from mpls.runtime.mailbox import Bell
from tests.bench.ends import Offer, Rival
from tests.bench.rivals_mpls import UNBOUNDED, Puller, model, names
from tests.runtime.rig import UNPACED, Model

SERVER = 0
_running: list[GrpcServer] = []
"""A server that nothing refers to stops."""


def _catalogue(served: Model) -> Catalogue:
    return Catalogue({name: size // 4 for name, size in served.layer_bytes.items()})


def _serve(offer: Offer) -> int:
    served = model(offer.sizes)
    pullers = names(offer.pullers)
    server = GrpcServer(
        Served(
            worker_id=SERVER,
            names=dict(enumerate(pullers, SERVER + 1)),
            speed=1.0,
            spec=served.spec("server", *pullers),
            catalogue=_catalogue(served),
            store=served.store(served.weights()),
            condition=lambda: Condition("running", 1, 0.01),
            pacing=UNPACED,
            clock=Clock(),
            rates=Rates(peer=UNBOUNDED, strangers=UNBOUNDED),
        )
    )
    [port] = server.open("127.0.0.1:0")
    _running.append(server)
    return port


class _GrpcPuller(Puller):
    _transport: GrpcTransport  # type: ignore[assignment]

    def __init__(self, offer: Offer, port: int, index: int) -> None:
        self._model = model(offer.sizes)
        self._layers = tuple(self._model.layer_bytes)
        self._transport = GrpcTransport(
            index + 1,
            self._model.spec(names(index + 1)[index], "server"),
            {"server": Reached(SERVER, f"127.0.0.1:{port}")},
            _catalogue(self._model),
            lambda: 1,
        )
        self._transport.open()
        self._bell: Bell[Event] = Bell()
        self._last_id = 0
        self.ping()


adapter = Rival(_serve, _GrpcPuller)
