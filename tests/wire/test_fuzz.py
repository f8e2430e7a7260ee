"""Twenty thousand seeded messages that are nearly right: only ProtocolError comes out of `decode`.

Each case begins with a valid message and spoils its frames, its header's bytes or its header's
structure. The number in a failing test's name is the seed that makes it again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from mpls.core.protocol import ERROR_CODES
from mpls.errors import ProtocolError
from mpls.wire import decode, encode, refusal
from tests.wire.samples import EXAMPLES, framed, frames_of

SEEDS = 20
CASES = 1000
Made = list[bytes]

VALID = [[bytes(frame) for frame in encode(message)] for message in EXAMPLES]
PARTS = [msgpack.unpackb(b"".join(frames)) for frames in VALID]
"""Header, and data where there is any, of each example."""
NUMBERS = (-1, 0, 1, 2**32, 2**64 - 1, -(2**63), 0.0, -0.0, 1e308, float("nan"), float("inf"))
TEXTS = ("", "fc1", "x" * 129, "x" * 2000, "\x00", "\x1b[2J", "\u202e")
BYTES = (b"", bytes(8), b"\xff" * 8, bytes(9), bytes(8200))
LISTS: tuple[object, ...] = ([], [1], ["a", "a"], ["a"] * 300, [[[[[[]]]]]])
OTHERS: tuple[object, ...] = (None, True, {}, {"t": "ping"}, {1: 2})
EXTS = (msgpack.ExtType(1, b""), msgpack.ExtType(42, b"abc"), msgpack.Timestamp(1))
VALUES: tuple[object, ...] = (*NUMBERS, *TEXTS, *BYTES, *LISTS, *OTHERS, *EXTS)
BOMBS = (
    *(bytes([kind]) + b"\xff" * 4 for kind in b"\xc6\xc9\xdb\xdd\xdf"),
    *(nest * 1500 for nest in (b"\x91", b"\x9f", b"\x81\xa1a", b"\xdc\x01\x00")),
    *(bytes([kind]) for kind in b"\xc1\xc4\xc7\xca\xcb\xcf\xd3\xd4\xd8"),
    b"\xa4\xff\xfe\xfd\xfc",
)


def noise(draw: random.Random) -> Made:
    return [draw.randbytes(draw.choice((0, 1, 5, 40, 300))) for _ in range(draw.randrange(4))]


def noise_in_a_map(draw: random.Random) -> Made:
    return framed(bytes([0x80 + draw.randrange(16)]) + draw.randbytes(draw.randrange(200)))


def spoilt_bytes(draw: random.Random) -> Made:
    frames = list(draw.choice(VALID))
    index = draw.randrange(len(frames))
    spoilt = bytearray(frames[index])
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        byte = draw.choice((0, 0x7F, 0xC1, 0xFF, draw.randrange(256)))
        spoilt[draw.randrange(len(spoilt))] = byte
    frames[index] = bytes(spoilt)
    return frames


def truncated(draw: random.Random) -> Made:
    frames = list(draw.choice(VALID))
    index = draw.randrange(len(frames))
    frames[index] = frames[index][: draw.randrange(len(frames[index]))]
    return frames


def trailing(draw: random.Random) -> Made:
    frames = list(draw.choice(VALID))
    index = draw.randrange(len(frames))
    frames[index] += draw.choice((frames[index], draw.randbytes(1), draw.randbytes(9)))
    return frames


def spliced(draw: random.Random) -> Made:
    """The beginning of one message and the end of another."""
    first, second = draw.choice(VALID)[0], draw.choice(VALID)[0]
    cut, joint = draw.randrange(len(first)), draw.randrange(len(second))
    return [first[:cut] + second[joint:], *draw.choice(VALID)[1:]]


def other_frames(draw: random.Random) -> Made:
    """Frames of several messages, in any order and number."""
    pool = [*draw.choice(VALID), *draw.choice(VALID), b""]
    return [draw.choice(pool) for _ in range(draw.randrange(5))]


def other_data(draw: random.Random) -> Made:
    """Data of another length than announced."""
    header, _ = draw.choice([frames for frames in VALID if len(frames) == 2])
    return [header, draw.randbytes(draw.choice((0, 1, 5, 6, 255, 256, 70_000)))]


def other_structure(draw: random.Random) -> Made:
    """A header with keys and values changed, correctly packed and framed."""
    header, *data = draw.choice(PARTS)
    changed: dict[Any, Any] = dict(header)
    for _ in range(draw.choice((0, 1, 1, 1, 2, 4))):
        key = draw.choice((*header, *header, *header, "x", "sum", "progress", 1, b"t", None))
        if draw.random() < 0.25:
            changed.pop(key, None)
        else:
            changed[key] = draw.choice(VALUES)
    return frames_of(changed, *data)


def repeated_key(draw: random.Random) -> Made:
    """A header with one key twice, the second time perhaps with another value."""
    header, *data = draw.choice(PARTS)
    key = draw.choice(list(header))
    pairs = [*header.items(), (key, draw.choice((header[key], *VALUES)))]
    packed = b"".join(msgpack.packb(item) for pair in pairs for item in pair)
    return framed(bytes([0x80 + len(pairs)]) + packed, *data)


def bomb(draw: random.Random) -> Made:
    """A key or value that announces more than comes, nests deeply, or is none."""
    header, *data = draw.choice(PARTS)
    items = [msgpack.packb(item) for pair in header.items() for item in pair]
    items[draw.randrange(len(items))] = draw.choice(BOMBS) + draw.randbytes(draw.randrange(12))
    return framed(bytes([0x80 + len(header)]) + b"".join(items), *data)


SPOILERS: tuple[Callable[[random.Random], Made], ...] = (
    noise,
    noise_in_a_map,
    spoilt_bytes,
    truncated,
    trailing,
    spliced,
    other_frames,
    other_data,
    *(3 * (other_structure,)),
    repeated_key,
    bomb,
)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_nearly_right_is_accepted_or_refused_and_nothing_else(seed: int) -> None:
    draw = random.Random(f"wire {seed}")
    ends = Counter(_end(draw.choice(SPOILERS)(draw)) for _ in range(CASES))
    assert set(ends) == {"accepted", "frames", "msgpack", "keys", "value", "unsupported"}
    assert ends["accepted"] >= CASES / 50, "a fuzzer that is always turned away tries nothing"


def _end(frames: Made) -> str:
    """What became of the frames: accepted, or the kind of refusal."""
    try:
        message = decode(frames)
    except ProtocolError as caught:
        error = caught
    else:
        assert decode(encode(message)) == message, "what is accepted may also be sent"
        return "accepted"
    assert error.code in ERROR_CODES
    assert encode(refusal(error)), "every refusal can be sent"
    return error.kind
