"""What a pull costs in messages and bytes, without sending it.

The simulator counts with these closed forms; tests hold them equal to the real frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import msgpack

from mpls.core.protocol import Chunk, Credit, Pull
from mpls.wire.codec import encoded_bytes
from mpls.wire.frames import bin_prefix
from mpls.wire.transfer import chunk_bytes, first_offset, quantum_bytes


class PullTraffic(NamedTuple):
    """What one pull puts on the wire when nothing is cut: messages to the puller (chunks) and from
    it (credits, besides the pull itself), and the bytes of their frames in each direction."""

    chunks: int
    credits: int
    reply_bytes: int
    request_bytes: int


def pull_messages(layer_sizes: Sequence[int], credit: int) -> tuple[int, int]:
    """How many chunks and credits a pull of layers of so many bytes takes. Of a layer that is
    resumed, the bytes that are left count.

    The last chunk brings one credit; before it, each quantum that filled brought one, because no
    chunk is as long as a quantum."""
    length = chunk_bytes(credit)
    chunks = sum(_ceil(size, length) for size in layer_sizes)
    last_bytes = (layer_sizes[-1] - 1) % length + 1
    return chunks, (sum(layer_sizes) - last_bytes) // quantum_bytes(credit) + 1


def pull_traffic(
    pull: Pull, layer_sizes: Sequence[int], version: int, round: int, progress_layers: int | None
) -> PullTraffic:
    """All that a pull costs when it is served from snapshot `version` of `round`, with g of so many
    layers (None: nil) in its last chunk. A checksum counts 9 bytes; one in 2^32 is shorter."""
    offset = first_offset(pull, version)
    rest_sizes = [layer_sizes[0] - offset, *layer_sizes[1:]]
    chunks, credits = pull_messages(rest_sizes, pull.credit)
    reply_bytes = chunks * _common_header_bytes(pull.id, version, round)
    for layer, total, rest in zip(pull.layers, layer_sizes, rest_sizes):
        reply_bytes += _layer_bytes(layer, total, rest, chunk_bytes(pull.credit))
    progress = None if progress_layers is None else bytes(8 * progress_layers)
    reply_bytes += _packed_bytes("progress") + _packed_bytes(progress)
    return PullTraffic(chunks, credits, reply_bytes, _request_bytes(pull, credits, sum(rest_sizes)))


def _request_bytes(pull: Pull, credits: int, rest_bytes: int) -> int:
    quantum = quantum_bytes(pull.credit)
    last = rest_bytes - (credits - 1) * quantum
    quanta_bytes = (credits - 1) * encoded_bytes(Credit(pull.id, quantum))
    return encoded_bytes(pull) + quanta_bytes + encoded_bytes(Credit(pull.id, last))


@lru_cache(1024)
def _common_header_bytes(request_id: int, version: int, round: int) -> int:
    """A chunk without its layer, offset, total, bin prefix and data, which vary."""
    chunk = Chunk(request_id, "-", version, round, 0, 0, 0.0, b"-")
    varying_bytes = 2 + 1 + 1 + len(bin_prefix(1)) + 1
    return encoded_bytes(chunk) - varying_bytes


@lru_cache(4096)
def _layer_bytes(layer: str, total: int, rest: int, length: int) -> int:
    """The last `rest` bytes of a layer in chunks of `length`, and what varies in their headers."""
    chunks = _ceil(rest, length)
    names_bytes = chunks * (_packed_bytes(layer) + _packed_bytes(total))
    prefixes_bytes = (chunks - 1) * len(bin_prefix(length))
    prefixes_bytes += len(bin_prefix(rest - (chunks - 1) * length))
    sum_bytes = _packed_bytes("sum") + 9
    return (
        rest
        + names_bytes
        + prefixes_bytes
        + sum_bytes
        + _offsets_bytes(total - rest, length, chunks)
    )


def _offsets_bytes(first: int, step: int, count: int) -> int:
    """Every offset but the first is at least 2^16, so it takes 5 bytes, or 9 from 2^32 on."""
    narrow = min(count - 1, max(0, _ceil(2**32 - first, step) - 1))
    return _packed_bytes(first) + 5 * narrow + 9 * (count - 1 - narrow)


def _packed_bytes(value: object) -> int:
    return len(msgpack.packb(value))


def _ceil(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
