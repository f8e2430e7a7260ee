"""What a virtual worker asks of whatever carries its messages; `sim.fabric` is it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from mpls.core.messages import CancelRequest, Event, SendRequest, Source

if TYPE_CHECKING:
    from sim.driver import VirtualWorker


class Carrier(Protocol):
    """Carries what workers say to each other."""

    def send(self, worker: VirtualWorker, command: SendRequest) -> list[Event]:
        """Send a request; a RequestFailed comes back if that is impossible now."""

    def cancel(self, worker: VirtualWorker, command: CancelRequest) -> None:
        """Stop a request."""

    def copy(self, worker: VirtualWorker, source: Source) -> Any:
        """The snapshot that a layer which was reported as received came from."""

    def forget(self, worker: VirtualWorker) -> None:
        """Drop every layer that was received and not asked for."""

    def settle(self, worker: VirtualWorker) -> None:
        """Report how far the worker's pulls have come."""
