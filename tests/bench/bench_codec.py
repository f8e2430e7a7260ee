"""What the wire costs without a wire: frames made and read, and a pull from end to end in memory.

    .venv/bin/python tests/bench/bench_codec.py

Medians of interleaved repeats, in processor time. The pull is of one layer: an Outgoing plans the
chunks, each is encoded, decoded and taken in by an Incoming whose buffer was used before, and
credit goes back. Its rival is a memcpy of the same bytes in the same chunks, for the puller copies
each byte once, and without the checksum does nothing else for it. Sums are made beforehand, as a
snapshot's are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import process_time
from unittest.mock import patch

import numpy as np
from xxhash import xxh3_64_intdigest

from mpls.core.protocol import Chunk, Credit, Message, Pull, StatusOk
from mpls.core.receipt import FAST_WINDOW_BYTES, LEAST_WINDOW_BYTES, WINDOW_BYTES
from mpls.wire import BufferPool, Incoming, LayerArrived, Outgoing, chunk_bytes, decode, encode
from mpls.wire import incoming as puller

REPEATS = 7
LAYER_BYTES = 47_000_000
MESSAGES = 2000
MESSAGE_KINDS: dict[str, Message] = {
    "status-ok, 62 layers": StatusOk(1, "running", 7, 8, (0.5,) * 62, 0.003),
    "credit": Credit(1, 2**20),
    "chunk of 64 KiB": Chunk(1, "layer4.1.conv2", 8, 7, 2**20, 2**24, 0.001, bytes(2**16)),
    "chunk of 960 KiB": Chunk(1, "layer4.1.conv2", 8, 7, 2**20, 2**24, 0.001, bytes(960 * 2**10)),
}


class NoHash:
    """In the place of XXH3, to see what it costs: does nothing, and finds every sum right."""

    def update(self, data: object) -> None:
        """Looks at nothing."""

    def intdigest(self) -> int:
        """The sum of everything."""
        return 0


def main() -> None:
    """A line for each kind of message, and for each window of a pull."""
    exchanges = [partial(exchange, message) for message in MESSAGE_KINDS.values()]
    for name, exchange_s in zip(MESSAGE_KINDS, interleaved(exchanges)):
        print(f"{name:22} encode + decode {MESSAGES / exchange_s:8,.0f} /s")
    print(f"\na layer of {LAYER_BYTES / 1e6:.0f} MB; in brackets the ratio to memcpy")
    layer = np.random.default_rng(1).integers(0, 256, LAYER_BYTES, dtype=np.uint8)
    for credit in (LEAST_WINDOW_BYTES, WINDOW_BYTES, FAST_WINDOW_BYTES):
        report_pull(layer, credit)


def exchange(message: Message) -> None:
    """A message made into frames and read again, MESSAGES times."""
    for _ in range(MESSAGES):
        decode(encode(message))


def report_pull(layer: np.ndarray, credit: int) -> None:
    """The pull beside its rival, in one window."""
    pool, target, layer_sum = BufferPool(), np.empty_like(layer), xxh3_64_intdigest(layer.data)
    copy_s, bare_s, pull_s = interleaved(
        [
            lambda: copy(layer, target, chunk_bytes(credit)),
            lambda: pull_unhashed(layer, credit, pool),
            lambda: pull(layer, layer_sum, credit, pool),
        ]
    )
    copied, bare, pulled = (layer.nbytes / seconds / 1e6 for seconds in (copy_s, bare_s, pull_s))
    print(
        f"window {credit // 1024:4} KiB  memcpy {copied:6,.0f} MB/s"
        f"  pull without checksum {bare:6,.0f} ({bare / copied:.2f})"
        f"  with {pulled:6,.0f} ({pulled / copied:.2f})"
    )


def copy(source: np.ndarray, target: np.ndarray, length: int) -> None:
    """The bytes, chunk by chunk."""
    read, write = source.data, target.data
    for start in range(0, source.nbytes, length):
        write[start : start + length] = read[start : start + length]


def pull_unhashed(layer: np.ndarray, credit: int, pool: BufferPool) -> None:
    """The same without the checksum."""
    with patch.object(puller, "xxh3_64", NoHash):
        pull(layer, NoHash().intdigest(), credit, pool)


def pull(layer: np.ndarray, layer_sum: int, credit: int, pool: BufferPool) -> None:
    """All that both ends do for a pull, short of sending it."""
    ask = Pull(1, ("layer",), 0, 0, credit)
    serving, taking = Outgoing(ask, [layer.nbytes], 1), Incoming(ask, {"layer": layer.nbytes}, pool)
    memory = layer.data
    while not serving.confirmed:
        plan = serving.next_chunk()
        assert plan is not None, "each chunk is taken in at once, so the window never shuts"
        chunk = Chunk(
            1,
            "layer",
            1,
            1,
            plan.offset,
            plan.total,
            0.0,
            memory[plan.offset : plan.offset + plan.length],
            sum=layer_sum if plan.ends_layer else None,
            last=plan.ends_pull,
        )
        arrived = decode(encode(chunk))
        assert isinstance(arrived, Chunk)
        credit_bytes, whole = taking.accept(arrived)
        if credit_bytes:
            serving.grant(credit_bytes)
    assert isinstance(whole, LayerArrived)
    pool.give(whole.buffer)


def interleaved(calls: Sequence[Callable[[], None]]) -> list[float]:
    """Median seconds of each call; each repeat makes all in turn, and the first does not count."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(REPEATS + 1):
        for call, samples in zip(calls, taken):
            started_s = process_time()
            call()
            samples.append(process_time() - started_s)
    return [median(samples[1:]) for samples in taken]


if __name__ == "__main__":
    main()
