"""Draws are named, repeatable, and the same on every platform and numpy version."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mpls.core.streams import Stream

SEEDS = st.integers(0, 2**63 - 1)
COUNTS = st.integers(0, 200)
NAMES = st.lists(st.sampled_from(["data", "links", "w0", "w1", 0, 1]), max_size=4)


@given(SEEDS, NAMES)
def test_the_same_seed_and_names_give_the_same_draws(seed: int, names: list[str | int]) -> None:
    first, second = Stream(seed, *names), Stream(seed, *names)
    assert first.uniforms(20).tolist() == second.uniforms(20).tolist()


@given(SEEDS)
def test_streams_of_other_names_or_seeds_are_unrelated(seed: int) -> None:
    others = [Stream(seed, "links", 1), Stream(seed, "links", 0, 1), Stream(seed + 1, "links", 0)]
    drawn = np.array([stream.uniforms(500) for stream in (Stream(seed, "links", 0), *others)])
    correlation = np.corrcoef(drawn) - np.eye(4)
    # Six deviations: 1 / sqrt(500) each, so that no seed fails by chance.
    assert abs(correlation).max() < 6 / 500**0.5


@given(SEEDS, COUNTS)
def test_many_uniforms_are_as_many_single_ones(seed: int, count: int) -> None:
    one_by_one = Stream(seed, "x")
    assert Stream(seed, "x").uniforms(count).tolist() == [
        one_by_one.uniform() for _ in range(count)
    ]


@given(SEEDS, COUNTS)
def test_a_permutation_has_every_number_once(seed: int, count: int) -> None:
    assert sorted(Stream(seed, "x").permutation(count).tolist()) == list(range(count))


def test_every_order_of_three_is_about_equally_likely() -> None:
    stream = Stream(1, "x")
    orders = [tuple(stream.permutation(3).tolist()) for _ in range(6000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert max(abs(count - 1000) for count in counts) < 150


@given(SEEDS, st.integers(1, 2**53))
def test_below_stays_below(seed: int, bound: int) -> None:
    assert 0 <= Stream(seed, "x").below(bound) < bound


@given(SEEDS, st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_between_stays_between(seed: int, low: float, width: float) -> None:
    assert low <= Stream(seed, "x").between(low, low + width) <= low + width


def test_pick_reaches_every_item() -> None:
    stream = Stream(1, "x")
    assert {stream.pick("abc") for _ in range(50)} == set("abc")


@given(SEEDS, COUNTS)
def test_a_restored_stream_goes_on_where_the_state_was_taken(seed: int, count: int) -> None:
    stream, other = Stream(seed, "x"), Stream(0, "another")
    stream.uniforms(count)
    other.restore(json.loads(json.dumps(stream.state())))
    assert other.uniforms(5).tolist() == stream.uniforms(5).tolist()


def test_the_draws_are_those_of_every_platform_and_numpy_version() -> None:
    stream = Stream(1, "links", 0, 2)
    assert [stream.uniform() for _ in range(3)] == [
        0.4575400578477271,
        0.3493409117258399,
        0.7777771254679712,
    ]
    assert stream.permutation(8).tolist() == [1, 0, 6, 3, 5, 4, 7, 2]
    assert [stream.below(1000) for _ in range(4)] == [622, 807, 41, 365]
