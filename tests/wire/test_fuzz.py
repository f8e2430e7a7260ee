"""Twenty thousand seeded messages that are nearly right: only ProtocolError comes out of `decode`.

The number in a failing test's name is the seed that makes its messages again.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from mpls.core.protocol import ERROR_CODES
from mpls.errors import ProtocolError
from mpls.wire import decode, encode, refusal
from tests.fuzz.messages import Made, Spoiler

SEEDS = 20
CASES = 1000


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_nearly_right_is_accepted_or_refused_and_nothing_else(seed: int) -> None:
    spoiler = Spoiler(random.Random(f"wire {seed}"))
    ends = Counter(_end(spoiler.make()) for _ in range(CASES))
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
