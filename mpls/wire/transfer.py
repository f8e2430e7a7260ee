"""How a pull is cut into chunks and paid for with credit.

A pull asks for layers, in order, and grants a window of `credit` bytes, which is the puller's to
choose. Both ends derive the same plan of chunks from it: the server sends by it while the window
has room (`mpls.wire.outgoing`), the puller accepts nothing else (`mpls.wire.incoming`) and gives
credit back each time another half window has arrived, and the rest with the last byte. So what a
pull costs is known before it begins (`mpls.wire.traffic`).

It cannot get stuck: once all that was sent has arrived, less than half the window is not given back
yet, and no chunk is longer than the other half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mpls.core.protocol import Pull
from mpls.wire.frames import CHUNK_LEAST_BYTES, CHUNK_LIMIT_BYTES


class ChunkPlan(NamedTuple):
    """One chunk: `length` bytes at `offset` of a layer of `total` bytes."""

    layer: str
    offset: int
    length: int
    total: int
    ends_layer: bool
    ends_pull: bool


def chunk_bytes(credit: int) -> int:
    """The length of every chunk but a layer's last: a quarter of the window, within the limits."""
    return min(max(credit // 4, CHUNK_LEAST_BYTES), CHUNK_LIMIT_BYTES)


def quantum_bytes(credit: int) -> int:
    """How much credit the puller gives back at a time."""
    return credit // 2


def first_offset(pull: Pull, version: int) -> int:
    """Where a server whose snapshot is `version` begins: it resumes only the version asked for."""
    return pull.offset if pull.version == version else 0


def plan_chunks(
    layers: Sequence[str], layer_sizes: Sequence[int], offset: int, credit: int
) -> Iterator[ChunkPlan]:
    """The chunks of a pull in order, from `offset` bytes into the first layer on. A chunk never
    spans two layers; `layer_sizes` are in bytes, each at least 1."""
    length_limit = chunk_bytes(credit)
    for index, (layer, total) in enumerate(zip(layers, layer_sizes)):
        ends_pull = index == len(layers) - 1
        for start in range(offset, total, length_limit):
            length = min(length_limit, total - start)
            ends_layer = start + length == total
            yield ChunkPlan(layer, start, length, total, ends_layer, ends_layer and ends_pull)
        offset = 0
