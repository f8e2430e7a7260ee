"""The server's side of a pull: which chunk may leave next, and whether the puller has it all."""

from __future__ import annotations

from collections.abc import Sequence

from mpls.core.protocol import Pull
from mpls.errors import ProtocolError
from mpls.wire.transfer import ChunkPlan, first_offset, plan_chunks


class Outgoing:
    """One pull, served from snapshot `version` whose layers, as named, have `layer_sizes` bytes.

    Never are more bytes in flight than the pull's credit. It holds no data: the caller cuts each
    planned chunk from its snapshot. Raises ProtocolError for a pull that cannot be served.
    """

    def __init__(self, pull: Pull, layer_sizes: Sequence[int], version: int) -> None:
        assert len(layer_sizes) == len(pull.layers)
        if min(layer_sizes) < 1:
            raise _refused(pull, "an empty layer has nothing to pull")
        offset = first_offset(pull, version)
        if offset >= layer_sizes[0]:
            raise _refused(pull, f"offset {offset} in a layer of {layer_sizes[0]} bytes")
        self.pull = pull
        self.version = version
        self.total_bytes = sum(layer_sizes) - offset
        self.sent_bytes = 0
        self.confirmed_bytes = 0
        self._chunks = plan_chunks(pull.layers, layer_sizes, offset, pull.credit)
        self._next = next(self._chunks, None)

    def next_chunk(self) -> ChunkPlan | None:
        """The chunk to send now; None while the window has no room for it, or after the last."""
        chunk = self._next
        if chunk is None or self.in_flight_bytes + chunk.length > self.pull.credit:
            return None
        self.sent_bytes += chunk.length
        self._next = next(self._chunks, None)
        return chunk

    def grant(self, credit_bytes: int) -> None:
        """The puller gave credit back. More than is in flight raises ProtocolError."""
        if not 0 < credit_bytes <= self.in_flight_bytes:
            why = f"credit for {credit_bytes} bytes while {self.in_flight_bytes} are in flight"
            raise _refused(self.pull, why, kind="credit")
        self.confirmed_bytes += credit_bytes

    @property
    def in_flight_bytes(self) -> int:
        """Sent, but not yet known to have arrived."""
        return self.sent_bytes - self.confirmed_bytes

    @property
    def sent_all(self) -> bool:
        """Nothing is left to send."""
        return self._next is None

    @property
    def confirmed(self) -> bool:
        """Credit came back for every byte: the pull succeeded."""
        return self.confirmed_bytes == self.total_bytes


def _refused(pull: Pull, why: str, kind: str = "order") -> ProtocolError:
    return ProtocolError(f"pull {pull.id}: {why}", kind=kind, request_id=pull.id)
