"""Pulls from end to end, over real frames: what arrives whatever happens, and what it costs."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpls.core.protocol import Chunk, Pull
from mpls.wire import encoded_bytes, pull_messages, pull_traffic
from mpls.wire.transfer import plan_chunks
from tests.wire.link import FAULTS, ROUND, Play, named

LEAST, MOST = 256 * 1024, 4096 * 1024
CHUNK = 64 * 1024
"""The length of a chunk when the window is the least."""
NEAR_CHUNKS = (1, 4, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7, 5 * CHUNK - 1)

layer_bytes = st.sampled_from(NEAR_CHUNKS) | st.integers(1, 700_000)
layer_sizes = st.lists(layer_bytes, min_size=1, max_size=5)
credits = st.just(LEAST) | st.integers(LEAST, 2 * LEAST)
seeds = st.integers(0, 2**32)


def every_layer_is_of_one_version(play: Play) -> bool:
    return all(
        arrived.buffer.tobytes() == play.server.published[arrived.version - 1][layer]
        for layer, arrived in play.arrived.items()
    )


@given(layer_sizes, credits, seeds, st.lists(st.sampled_from(FAULTS), max_size=12))
@settings(max_examples=300, deadline=None)
def test_row_14_and_15_whatever_befalls_a_pull_each_layer_arrives_from_one_version(
    sizes: list[int], credit: int, seed: int, faults: list[str]
) -> None:
    play = Play(named(sizes), credit, seed, faults)
    play.run()
    assert play.arrived.keys() == named(sizes).keys()
    assert every_layer_is_of_one_version(play)


def test_the_faults_of_these_tests_strike() -> None:
    seen: Counter[str] = Counter()
    for seed in range(150):
        play = Play(named([3 * CHUNK, 10, 6 * CHUNK]), LEAST, seed, 3 * FAULTS)
        play.run()
        assert every_layer_is_of_one_version(play)
        seen.update(play.seen)
    assert seen.keys() == {"", "disconnected", "checksum", "gone", "resumed", "rewound", "lost"}
    assert min(seen.values()) >= 5, seen


@given(layer_sizes, credits, seeds, st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_an_undisturbed_pull_costs_what_the_closed_form_says(
    sizes: list[int], credit: int, seed: int, cuts: int
) -> None:
    """Which the last attempt of each play is, whether it resumes others or not."""
    progress = (0.5,) * len(sizes) if seed % 2 else None
    play = Play(named(sizes), credit, seed, ["cut"] * cuts, progress)
    play.run()
    play.settle()
    ask = play.asks[-1]
    asked_sizes = [named(sizes)[layer] for layer in ask.layers]
    expected = pull_traffic(ask, asked_sizes, 1, ROUND, None if progress is None else len(sizes))
    assert play.server.succeeded == [ask]
    assert play.moved_bytes == sum(sizes)
    assert play.to_puller.messages == {"chunk": expected.chunks}
    assert play.to_server.messages == {"pull": 1, "credit": expected.credits}
    assert play.to_puller.bytes == expected.reply_bytes
    assert play.to_server.bytes == expected.request_bytes


@pytest.mark.parametrize(
    ("sizes", "credit", "expected"),
    [
        ([1], LEAST, (1, 1)),
        ([2 * CHUNK], LEAST, (2, 1)),
        ([2 * CHUNK + 1], LEAST, (3, 2)),
        ([2 * CHUNK - 2, 3], LEAST, (3, 1)),
        ([44_000_000], MOST, (45, 21)),
        ([1, 1, 1], MOST, (3, 1)),
    ],
)
def test_the_number_of_messages_is_a_closed_form(
    sizes: list[int], credit: int, expected: tuple[int, int]
) -> None:
    assert pull_messages(sizes, credit) == expected


def test_offsets_beyond_4_gib_are_counted_as_they_are_sent() -> None:
    total, first = 2**32 + 2_000_000, 2**32 - 3_000_000
    pull = Pull(1, ("vast",), 9, first, MOST)
    sent_bytes = 0
    for layer, offset, length, _, ends, _ in plan_chunks(pull.layers, [total], first, MOST):
        sum_of_all, data = 2**63 if ends else None, bytes(length)
        chunk = Chunk(1, layer, 9, ROUND, offset, total, 0.0, data, sum_of_all, None, ends)
        sent_bytes += encoded_bytes(chunk)
    assert pull_traffic(pull, [total], 9, ROUND, None).reply_bytes == sent_bytes
