"""The puller's side: chunks in, whole verified layers and credit out.

Layers arrive in the order asked for, each from one version of the snapshot only. What is received
goes straight into a buffer of the layer's size: one copy and one hash update for each byte. A layer
cut off in the middle is kept, and continued by a later pull of the same version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from xxhash import xxh3_64

from mpls.core.protocol import Bytes, Chunk, Pull, Vector
from mpls.errors import ProtocolError
from mpls.wire.buffers import Buffer, BufferPool
from mpls.wire.transfer import ChunkPlan, plan_chunks, quantum_bytes

CHECKSUM = "checksum"
"""Why a layer is refused here: its bytes do not hash to the sum that came with them."""


class LayerArrived(NamedTuple):
    """A layer is here, whole and verified. `buffer` now belongs to the receiver of this; `progress`
    (g, Eq. 5) comes with a pull's last layer."""

    layer: str
    version: int
    round: int
    wait_s: float
    buffer: Buffer
    progress: Vector | None


class LayerRefused(NamedTuple):
    """A layer came to its end and was thrown away."""

    layer: str
    version: int
    reason: str


class Accepted(NamedTuple):
    """What a chunk led to: credit to give back now (0: none yet), and the layer that it ended."""

    credit_bytes: int
    layer: LayerArrived | LayerRefused | None


class Incoming:
    """What a pull brings, and the pulls that continue it.

    `layer_bytes` holds the size of every layer by name, from our own manifest: a peer's word never
    decides how much is allocated. Raises ProtocolError for a chunk that is not the next one of the
    plan; the pull is over then, and what is whole or partly here stays.
    """

    _expected: ChunkPlan | None

    def __init__(
        self, pull: Pull, layer_bytes: Mapping[str, int], pool: BufferPool | None = None
    ) -> None:
        self.ignored = 0
        """Chunks that came late or twice."""
        self._layer_bytes = layer_bytes
        self._pool = pool or BufferPool()
        self._partial: _Partial | None = None
        self.resume(pull)

    def can_resume(self, pull: Pull) -> bool:
        """Whether the partial layer is the one that the pull continues, and reaches that far. It
        need not: whoever asks can have missed that the layer came to its end, or was dropped."""
        if pull.offset == 0:
            return True
        here = self._partial
        return (
            here is not None
            and (here.layer, here.version) == (pull.layers[0], pull.version)
            and here.received_bytes >= pull.offset
        )

    def resume(self, pull: Pull) -> None:
        """Expect this pull's chunks from now on, and no longer those of the pull before.

        A pull from the middle of a layer continues the partial one; any other drops it.
        """
        assert self.can_resume(pull), "nothing is here to continue"
        if pull.offset == 0:
            self.drop_partial()
        elif self._partial is not None:
            self._partial.rewind(pull.offset)
        self.pull = pull
        self.version = 0
        """Of the snapshot that the layers come from; 0 until the first chunk tells."""
        self._arrived: set[str] = set()
        self._ended_layers = 0
        self._expect_from(pull.offset)

    def accept(self, chunk: Chunk) -> Accepted:
        """Take the next chunk; late and repeated ones change nothing."""
        if chunk.id != self.pull.id:
            return self._ignore()
        self._settle_version(chunk)
        found = ChunkPlan(
            chunk.layer,
            chunk.offset,
            len(chunk.data),
            chunk.total,
            chunk.sum is not None,
            chunk.last,
        )
        if found == self._expected:
            layer = self._take(chunk)
            self._expected = next(self._chunks, None)
            return Accepted(self._credit_due(), layer)
        if self._is_repeated(found):
            return self._ignore()
        raise self._error(_difference(found, self._expected), "order")

    def drop_partial(self) -> None:
        """Forget what is here of a layer that is not whole."""
        if self._partial is not None:
            self._pool.give(self._partial.buffer)
            self._partial = None

    @property
    def received_bytes(self) -> int:
        """The position reached in the pull's layers laid end to end, what was resumed included."""
        return self._start + self._taken_bytes

    @property
    def ended(self) -> bool:
        """The pull's last chunk is here."""
        return self._expected is None

    @property
    def complete(self) -> bool:
        """Every layer of the pull arrived whole. A pull that ended incomplete had a layer refused:
        its last credit is withheld, and the server is to be told by a `cancel`."""
        return len(self._arrived) == len(self.pull.layers)

    def _expect_from(self, offset: int) -> None:
        pull = self.pull
        sizes = [self._layer_bytes[layer] for layer in pull.layers]
        self._chunks = plan_chunks(pull.layers, sizes, offset, pull.credit)
        self._expected = next(self._chunks, None)
        self._start = offset
        self._taken_bytes = 0
        self._returned_bytes = 0

    def _settle_version(self, chunk: Chunk) -> None:
        """The first chunk tells the version of the rest. One that is not that of the partial layer
        cannot continue it, but may begin it anew."""
        expected = self.version or (self._partial.version if self._partial else chunk.version)
        if chunk.version != expected:
            if self.version or chunk.offset:
                raise self._error(f"version {chunk.version}, not {expected}", "version")
            self.drop_partial()
            self._expect_from(0)
        self.version = chunk.version

    def _take(self, chunk: Chunk) -> LayerArrived | LayerRefused | None:
        if self._partial is None:
            buffer = self._pool.take(chunk.total)
            self._partial = _Partial(chunk.layer, chunk.version, buffer)
        self._partial.append(chunk.data)
        self._taken_bytes += len(chunk.data)
        return None if chunk.sum is None else self._end_layer(self._partial, chunk)

    def _end_layer(self, whole: _Partial, chunk: Chunk) -> LayerArrived | LayerRefused:
        self._ended_layers += 1
        if whole.hash.intdigest() != chunk.sum:
            self.drop_partial()
            return LayerRefused(whole.layer, whole.version, CHECKSUM)
        self._partial = None
        self._arrived.add(whole.layer)
        return LayerArrived(
            whole.layer, whole.version, chunk.round, chunk.wait_s, whole.buffer, chunk.progress
        )

    def _credit_due(self) -> int:
        """Whole quanta as they fill, and the rest with the last byte: the server takes that for
        success, so it never gets it for a pull that had a layer refused."""
        covered_bytes = self._taken_bytes
        if not self.ended:
            covered_bytes -= covered_bytes % quantum_bytes(self.pull.credit)
        elif not self.complete:
            return 0
        due_bytes = covered_bytes - self._returned_bytes
        self._returned_bytes = covered_bytes
        return due_bytes

    def _is_repeated(self, found: ChunkPlan) -> bool:
        if self._expected is not None and found.layer == self._expected.layer:
            return found.offset + found.length <= self._expected.offset
        return found.layer in self.pull.layers[: self._ended_layers]

    def _ignore(self) -> Accepted:
        self.ignored += 1
        return Accepted(0, None)

    def _error(self, why: str, kind: str) -> ProtocolError:
        return ProtocolError(f"chunk: {why}", kind=kind, request_id=self.pull.id)


def _difference(found: ChunkPlan, expected: ChunkPlan | None) -> str:
    if expected is None:
        return f"layer {found.layer!r} after the last"
    return ", ".join(
        f"{field} {ours!r}, not {due!r}"
        for field, ours, due in zip(ChunkPlan._fields, found, expected)
        if ours != due
    )


class _Partial:
    """The layer that is arriving: its buffer, how much of it is there, and the hash of that."""

    def __init__(self, layer: str, version: int, buffer: Buffer) -> None:
        self.layer = layer
        self.version = version
        self.buffer = buffer
        self.received_bytes = 0
        self.hash = xxh3_64()
        self._view = buffer.data

    def append(self, data: Bytes) -> None:
        end = self.received_bytes + len(data)
        self._view[self.received_bytes : end] = data
        self.hash.update(data)
        self.received_bytes = end

    def rewind(self, received_bytes: int) -> None:
        """The asker may know of less than came; what is beyond will come again."""
        if received_bytes < self.received_bytes:
            self.received_bytes = received_bytes
            self.hash = xxh3_64(self._view[:received_bytes])
