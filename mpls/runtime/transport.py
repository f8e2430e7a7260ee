"""What the aggregation driver needs of a transport; ZeroMQ's is in `zmq_transport`, others are
adapters. The Conductor does not know which of them carries its requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mpls.core.messages import CancelRequest, Event, SendRequest
from mpls.wire import Buffer


class Transport(Protocol):
    """Used by one thread only, the one that calls `open`."""

    def open(self) -> None:
        """Begin to connect to every peer."""

    def reach(self, addresses: Mapping[str, str]) -> list[Event]:
        """From now on these are the peers, at host:port; requests to one who moved have failed.
        Those to one who left are the Conductor's to cancel, which does nothing here any more."""

    def send(self, command: SendRequest) -> list[Event]:
        """Send a request; a RequestFailed comes back if that is impossible now."""

    def cancel(self, command: CancelRequest) -> None:
        """Stop a request. What arrived of it can still be claimed or resumed."""

    def wait(self, timeout_s: float, bell_fd: int) -> list[Event]:
        """What happened; returns early when `bell_fd` becomes readable."""

    def claim(self, request_id: int, layer: str) -> Buffer:
        """The bytes of a layer that was reported as received; the caller owns them."""

    def forget(self) -> None:
        """Drop every layer that nobody claimed, and what is here of others that no live pull goes
        on with."""

    def recycle(self, buffer: Buffer) -> None:
        """A claimed buffer may be used again. From any thread."""

    def close(self) -> None:
        """Give everything back."""
