"""Eq. 2-6, the floor and the mask: against exact fractions, and where floats are treacherous."""

from __future__ import annotations

from fractions import Fraction
from math import fsum
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from mpls.core import selection
from mpls.core.selection import Floats, Pairs

NAN = float("nan")
ANY_SIZE = st.floats(min_value=0, max_value=1.7e308)


@st.composite
def tables(draw: st.DrawFn) -> Floats:
    """Non-negative (S, L), with many zeros and equal values."""
    peers, layers = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    cell = st.one_of(st.sampled_from([0.0, 1.0, 0.1]), ANY_SIZE)
    return np.array(
        draw(
            st.lists(
                st.lists(cell, min_size=layers, max_size=layers), min_size=peers, max_size=peers
            )
        )
    )


def exact_shares(column: list[float]) -> list[Fraction]:
    total = sum(map(Fraction, column))
    return [Fraction(v) / total if total else Fraction(1, len(column)) for v in column]


def mask_of(merit: Floats) -> Pairs:
    return selection.worthwhile(merit, selection.floors(merit))


def test_divergence_is_the_sum_of_absolute_differences_of_label_shares() -> None:
    own = np.array([0.5, 0.5, 0.0])
    theirs = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.25, 0.5, 0.25]])
    assert selection.divergence(own, theirs).tolist() == [0.0, 2.0, 0.5]


def test_a_peer_score_weighs_the_shares_of_bandwidth_and_divergence() -> None:
    p = selection.peer_scores(np.array([30.0, 10.0]), np.array([0.5, 1.5]), 0.75, 0.25)
    assert p.tolist() == [0.625, 0.375]


def test_a_layer_score_is_a_share_of_the_progress_of_all_peers() -> None:
    q = selection.layer_scores(np.array([[1.0, 0.0], [3.0, 2.0]]))
    assert q.tolist() == [[0.25, 0.0], [0.75, 1.0]]


def test_row_53_a_sum_of_zero_is_shared_evenly() -> None:
    assert selection.shares(np.zeros(4)).tolist() == [0.25] * 4
    assert selection.layer_scores(np.array([[0.0, 1.0], [0.0, 3.0]])).tolist() == [
        [0.5, 0.25],
        [0.5, 0.75],
    ]


def test_equal_data_leave_the_bandwidth_to_decide_half_of_the_peer_score() -> None:
    p = selection.peer_scores(np.array([3.0, 1.0]), np.zeros(2), 0.5, 0.5)
    assert p.tolist() == [0.625, 0.375]


def test_unknown_progress_counts_with_the_mean_of_the_known() -> None:
    progress = np.array([[1.0, 4.0], [NAN, NAN], [3.0, 0.0]])
    expected = selection.layer_scores(np.array([[1.0, 4.0], [2.0, 2.0], [3.0, 0.0]]))
    assert_array_equal(selection.layer_scores(progress), expected)


def test_progress_that_nobody_knows_is_shared_evenly() -> None:
    assert selection.layer_scores(np.full((5, 2), NAN)).tolist() == [[0.2, 0.2]] * 5


@given(tables())
def test_shares_equal_exact_fractions_to_the_last_bits(values: Floats) -> None:
    result = selection.shares(values)
    for got, column in zip(result.T.tolist(), values.T.tolist()):
        wanted = [float(share) for share in exact_shares(column)]
        assert got == pytest.approx(wanted, rel=1e-15, abs=1e-300)


@given(tables())
def test_shares_of_peers_have_the_bits_of_shares_of_layers(values: Floats) -> None:
    columns = [selection.shares(column).tolist() for column in values.T]
    assert selection.shares(values).T.tolist() == columns


@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_the_peers_changes_no_bit(values: Floats, random: Random) -> None:
    order = random.sample(range(len(values)), len(values))
    q = selection.layer_scores(values)
    merit = q * selection.shares(values[:, 0])[:, None]
    assert_array_equal(selection.layer_scores(values[order]), q[order])
    assert_array_equal(selection.floors(merit[order]), selection.floors(merit))
    assert_array_equal(mask_of(merit[order]), mask_of(merit)[order])


@given(tables())
def test_every_layer_keeps_its_best_pair_and_whatever_reaches_the_floor(values: Floats) -> None:
    merit = selection.layer_scores(values)
    allowed = mask_of(merit)
    best = merit.argmax(axis=0)
    assert allowed[best, range(merit.shape[1])].all()
    for row, kept in zip(merit.T.tolist(), allowed.T.tolist()):
        theta = sum(map(Fraction, row)) / len(row)
        assert all(keep for value, keep in zip(row, kept) if Fraction(value) >= theta)


@pytest.mark.parametrize("peers", range(1, 41))
@pytest.mark.parametrize("score", [None, 0.1, 1 / 3, 0.7])
def test_equal_scores_mask_nobody(peers: int, score: float | None) -> None:
    """At S = 6 and S = 10 the float mean of equal products exceeds them by one ulp."""
    even = np.full(peers, 1 / peers if score is None else score)
    assert mask_of(even[:, None] * np.full((peers, 9), 1 / peers)).all()


def test_a_clear_loser_is_masked() -> None:
    merit = np.array([[0.5, 0.2], [0.1, 0.2], [0.3, 0.2]])
    assert mask_of(merit).tolist() == [[True, True], [False, True], [True, True]]


@given(st.lists(st.tuples(*[st.floats(1e-3, 1e9)] * 3), min_size=1, max_size=20), st.floats(0, 1))
def test_the_arrays_hold_the_bits_of_plain_python(
    peers: list[tuple[float, float, float]], tau1: float
) -> None:
    """So no numpy version, and no vector unit, can change a decision: neither its sums nor fused
    multiplications are in use."""
    bandwidth, divergence, progress = (list(column) for column in zip(*peers))
    mixed = [
        tau1 * (b / fsum(bandwidth)) + (1 - tau1) * (d / fsum(divergence))
        for b, d in zip(bandwidth, divergence)
    ]
    p = [value / fsum(mixed) for value in mixed]
    q = [g / fsum(progress) for g in progress]
    merit = [a * b for a, b in zip(p, q)]

    arrays = selection.peer_scores(np.array(bandwidth), np.array(divergence), tau1, 1 - tau1)
    assert arrays.tolist() == p
    assert selection.layer_scores(np.array([progress]).T)[:, 0].tolist() == q
    assert selection.floors(np.array([merit]).T).tolist() == [fsum(merit) / len(merit)]


@given(st.lists(st.floats(0, 1e9), min_size=2, max_size=9), st.floats(0, 1), st.data())
def test_row_52_whatever_it_claims_a_peer_s_score_is_bounded_by_its_measured_bandwidth(
    bandwidths_Bps: list[float], tau1: float, data: st.DataObject
) -> None:
    count = len(bandwidths_Bps)
    claimed = data.draw(st.lists(st.floats(0, 2), min_size=count, max_size=count))
    fast = np.array(bandwidths_Bps)
    scores = selection.peer_scores(fast, np.array(claimed), tau1, 1 - tau1)
    assert (scores <= tau1 * selection.shares(fast) + (1 - tau1) + 1e-12).all()
