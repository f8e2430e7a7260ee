"""What the fabric keeps of a request that brings bytes, from its sending to its end."""

from __future__ import annotations

from typing import Any

from mpls.core.serving import Transfer
from sim.clock import Timer
from sim.driver import VirtualWorker
from sim.network import Flow, Network


class Pulling:
    """A pull or probe in flight, as both of its ends see it."""

    def __init__(self, puller: VirtualWorker, server: VirtualWorker, message: Any) -> None:
        self.puller = puller
        self.server = server
        self.message = message
        self.flow: Flow | None = None
        self.transfer: Transfer | None = None
        self.started_at = 0
        """Position that it resumed from, in bytes."""
        self.slowdown = 1.0
        """It moves so many bytes of the network for each of its own."""
        self.asked_s = 0.0
        self.wait_s = 0.0
        self.due_s = 0.0
        """Nothing of its answer arrives earlier: what was sent first is late."""
        self.reported = 0
        self.report: Timer | None = None

    def position(self, network: Network) -> int:
        """How far it has come in its layers laid end to end."""
        if self.flow is None:
            return self.started_at
        return self.started_at + int(network.position(self.flow) / self.slowdown)

    def version(self) -> int:
        """Of the snapshot that it brings; 0 before its first byte."""
        return self.transfer.snapshot.version if self.transfer else 0
