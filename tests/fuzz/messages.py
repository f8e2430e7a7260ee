"""Messages that are nearly right, as frames: each begins with a valid one and spoils its frames,
the bytes of its header, or its header's structure.

Everything is drawn from the generator that is given, so a seed makes the same messages again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from mpls.core.protocol import Message
from mpls.wire import encode
from tests.wire.samples import EXAMPLES, framed, frames_of

Made = list[bytes]

NUMBERS = (-1, 0, 1, 2**31, 2**32, 2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 1e308)
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
TEXTS = ("", "fc1", "fc2", "x" * 129, "x" * 2000, "\x00", "\x1b[2J", "\u202e", "é" * 128)
BYTES = (b"", bytes(8), b"\xff" * 8, bytes(9), bytes(8192), bytes(8200))
LISTS: tuple[object, ...] = ([], [1], ["a", "a"], ["a"] * 300, ["fc1", None], [[[[[[]]]]]])
OTHERS: tuple[object, ...] = (None, True, {}, {"t": "ping"}, {1: 2}, {"layers": ["fc1"]})
EXTS = (msgpack.ExtType(1, b""), msgpack.ExtType(42, b"abc"), msgpack.Timestamp(1))
VALUES: tuple[object, ...] = (*NUMBERS, *NOT_FINITE, *TEXTS, *BYTES, *LISTS, *OTHERS, *EXTS)
KEYS: tuple[object, ...] = ("x", "sum", "progress", "layers", "last", "data", 1, b"t", None)
BOMBS = (
    *(bytes([kind]) + b"\xff" * 4 for kind in b"\xc6\xc9\xdb\xdd\xdf"),
    *(nest * 1500 for nest in (b"\x91", b"\x9f", b"\x81\xa1a", b"\xdc\x01\x00", b"\xde\x00\x0f")),
    *(bytes([kind]) for kind in b"\xc1\xc4\xc7\xca\xcb\xcf\xd3\xd4\xd8"),
    b"\xa4\xff\xfe\xfd\xfc",
    b"\xa3\xed\xa0\x80",
)


class Spoiler:
    """Draws spoilt messages from `draw`, beginning with those of `originals`."""

    def __init__(self, draw: random.Random, originals: Sequence[Message] = EXAMPLES) -> None:
        self.draw = draw
        self.valid: list[Made] = [[bytes(part) for part in encode(one)] for one in originals]
        self.parts = [msgpack.unpackb(b"".join(frames)) for frames in self.valid]
        """Header, and data where there is any, of each original."""
        self.ways: tuple[Callable[[], Made], ...] = (
            self.noise,
            self.noise_in_a_map,
            self.spoilt_bytes,
            self.truncated,
            self.trailing,
            self.spliced,
            self.other_frames,
            self.other_data,
            *(3 * (self.other_structure,)),
            self.repeated_key,
            self.bomb,
        )

    def make(self) -> Made:
        """The frames of one more; now and then it is still valid."""
        return self.draw.choice(self.ways)()

    def noise(self) -> Made:
        lengths = (0, 1, 5, 40, 300)
        return [self._bytes(self.draw.choice(lengths)) for _ in range(self.draw.randrange(4))]

    def noise_in_a_map(self) -> Made:
        head = bytes([0x80 + self.draw.randrange(16)])
        return framed(head + self._bytes(self.draw.randrange(200)))

    def spoilt_bytes(self) -> Made:
        frames = self._one()
        index = self.draw.randrange(len(frames))
        spoilt = bytearray(frames[index])
        for _ in range(self.draw.choice((1, 1, 1, 2, 5))):
            byte = self.draw.choice((0, 0x7F, 0xC1, 0xFF, self.draw.randrange(256)))
            spoilt[self.draw.randrange(len(spoilt))] = byte
        frames[index] = bytes(spoilt)
        return frames

    def truncated(self) -> Made:
        frames = self._one()
        index = self.draw.randrange(len(frames))
        frames[index] = frames[index][: self.draw.randrange(len(frames[index]))]
        return frames

    def trailing(self) -> Made:
        frames = self._one()
        index = self.draw.randrange(len(frames))
        frames[index] += self.draw.choice((frames[index], self._bytes(1), self._bytes(9)))
        return frames

    def spliced(self) -> Made:
        """The beginning of one message and the end of another."""
        first, second = self._one()[0], self._one()[0]
        cut, joint = self.draw.randrange(len(first)), self.draw.randrange(len(second))
        return [first[:cut] + second[joint:], *self._one()[1:]]

    def other_frames(self) -> Made:
        """Frames of several messages, in any order and number."""
        pool = [*self._one(), *self._one(), b""]
        return [self.draw.choice(pool) for _ in range(self.draw.randrange(5))]

    def other_data(self) -> Made:
        """Data of another length than announced, or where there should be none."""
        return [self._one()[0], self._bytes(self.draw.choice((0, 1, 5, 6, 255, 256, 60_000)))]

    def other_structure(self) -> Made:
        """A header with keys and values changed, correctly packed and framed."""
        header, *data = self.draw.choice(self.parts)
        changed: dict[Any, Any] = dict(header)
        for _ in range(self.draw.choice((0, 1, 1, 1, 2, 4))):
            key = self.draw.choice((*header, *header, *header, *KEYS))
            if self.draw.random() < 0.25:
                changed.pop(key, None)
            else:
                changed[key] = self.draw.choice(VALUES)
        return frames_of(changed, *data)

    def repeated_key(self) -> Made:
        """A header with one key twice, the second time perhaps with another value."""
        header, *data = self.draw.choice(self.parts)
        key = self.draw.choice(list(header))
        pairs = [*header.items(), (key, self.draw.choice((header[key], *VALUES)))]
        packed = b"".join(msgpack.packb(item) for pair in pairs for item in pair)
        return framed(bytes([0x80 + len(pairs)]) + packed, *data)

    def bomb(self) -> Made:
        """A key or value that announces more than comes, nests deeply, or is none."""
        header, *data = self.draw.choice(self.parts)
        items = [msgpack.packb(item) for pair in header.items() for item in pair]
        burst = self.draw.choice(BOMBS) + self._bytes(self.draw.randrange(12))
        items[self.draw.randrange(len(items))] = burst
        return framed(bytes([0x80 + len(header)]) + b"".join(items), *data)

    def _one(self) -> Made:
        return list(self.draw.choice(self.valid))

    def _bytes(self, length: int) -> bytes:
        return self.draw.randbytes(length)
