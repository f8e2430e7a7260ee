"""What is mixed in: outliers are refused by the votes of all peers, long copies are clipped."""

from __future__ import annotations

from math import inf, nan, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.core.gate import ABSURD, FAR, NEAR, NOT_FINITE, TOO_FAR, Bar, Gate, as_it_is
from mpls.core.mixing import LayerSum, norm

PEERS = ("w1", "w2", "w3", "w4")
NEARBY = st.floats(0.1, 0.1 * FAR * 0.99)


def voted(**distances: float) -> Gate:
    gate = Gate()
    for peer, distance in distances.items():
        assert gate.allowed(peer, "fc", distance) == distance
    return gate


# --- outliers -----------------------------------------------------------------------------------


@given(st.permutations(PEERS), st.lists(NEARBY, min_size=4, max_size=4))
def test_peers_that_are_about_as_far_as_each_other_are_left_as_they_are(
    order: list[str], distances: list[float]
) -> None:
    gate = Gate()
    assert all(gate.allowed(peer, "fc", it) == it for peer, it in zip(order * 3, distances * 3))


@given(st.lists(NEARBY, min_size=2, max_size=8), st.floats(0.1 * FAR * ABSURD, 1e300))
def test_row_51_one_that_is_absurdly_far_never_gets_in_however_often_it_comes(
    distances: list[float], far: float
) -> None:
    gate = voted(**{f"w{number}": distance for number, distance in enumerate(distances)})
    assert {gate.allowed("liar", "fc", far) for _ in range(50)} == {0.0}
    assert gate.allowed("w0", "fc", distances[0]) == distances[0]


@given(st.lists(NEARBY, min_size=2, max_size=8), st.floats(0.0, 1e300))
def test_an_outlier_is_never_allowed_further_than_an_honest_peer_might_be(
    distances: list[float], far: float
) -> None:
    gate = voted(**{f"w{number}": distance for number, distance in enumerate(distances)})
    allowed = gate.allowed("liar", "fc", far)
    assert allowed <= min(far, FAR * max(distances))


def test_row_51_an_outlier_is_moved_to_where_the_nearer_half_is() -> None:
    gate = voted(w1=0.1, w2=0.2, w3=0.3)
    assert gate.allowed("w4", "fc", 0.2 * FAR * 1.01) == 0.2
    assert gate.allowed("w4", "fc", 0.2 * ABSURD * 1.01) == 0.0


@pytest.mark.parametrize("liars", [1, 2])
def test_less_than_half_of_the_peers_cannot_move_the_bar(liars: int) -> None:
    names = [f"liar{number}" for number in range(liars)]
    gate = voted(w1=0.1, w2=0.1, w3=0.15)
    for _ in range(20):
        assert not any(gate.allowed(name, "fc", 2.0) for name in names)
        assert gate.allowed("w3", "fc", 0.15) == 0.15


def test_a_worker_that_comes_back_far_behind_refuses_each_peer_once_at_most() -> None:
    gate = voted(w1=0.1, w2=0.1, w3=0.1, w4=0.1)
    turns = [[gate.allowed(peer, "fc", 1.3) for peer in PEERS] for _ in range(2)]
    assert turns[0].count(0.0) <= 3
    assert turns[1] == [1.3] * 4


def test_the_votes_of_peers_that_went_away_are_forgotten() -> None:
    gate = voted(w1=0.1, w2=0.1)
    assert gate.allowed("w1", "fc", 1.3) == 0.0
    gate.keep(["w1"])
    assert gate.allowed("w1", "fc", 1.3) == 1.3


def test_with_nobody_to_compare_with_every_copy_is_left_as_it_is() -> None:
    assert Gate().allowed("w1", "fc", 1e9) == 1e9


def test_what_is_near_is_no_outlier_though_the_others_are_nearer_still() -> None:
    gate = voted(w1=0.0001, w2=0.0001)
    assert gate.allowed("w3", "fc", FAR * NEAR) == FAR * NEAR
    assert gate.allowed("w3", "fc", FAR * NEAR * 1.01) == NEAR


def test_layers_have_votes_of_their_own() -> None:
    gate = voted(w1=0.1, w2=0.1)
    assert gate.allowed("w3", "conv", 5.0) == 5.0
    assert gate.allowed("w3", "fc", 5.0) == 0.0


# --- the bar ------------------------------------------------------------------------------------

OWN = np.array([3, 4], np.float32)


def brought(copy: list[float], norm_clip: float = 1.5, own: np.ndarray = OWN) -> tuple[str, object]:
    """Why it is refused, or what is mixed in for it."""
    layer_sum = LayerSum()
    reason = Bar(own, norm_clip).add(layer_sum, np.array(copy, np.float32))
    assert layer_sum.count == (not reason)
    mixed = np.zeros(2, np.float32)
    layer_sum.mix_into(mixed)
    return reason, (2 * mixed).tolist()


def test_a_copy_within_the_ratio_is_taken_as_it_is() -> None:
    assert brought([3, 4]) == ("", [3, 4])
    assert brought([4.5, 6]) == ("", [4.5, 6])
    assert brought([-3, -4]) == ("", [-3, -4])


def test_a_longer_copy_is_clipped_to_the_ratio_and_keeps_its_direction() -> None:
    assert brought([3000, 4000]) == ("", [4.5, 6])
    assert brought([0, 3e38])[1] == pytest.approx([0, 7.5])


@pytest.mark.parametrize("norm_clip", [0.0, 1.5])
@pytest.mark.parametrize("poison", [nan, inf, -inf])
def test_what_is_not_finite_is_refused_and_says_so(poison: float, norm_clip: float) -> None:
    assert brought([1, poison], norm_clip)[0] == NOT_FINITE


def test_nothing_is_clipped_without_a_ratio_or_against_an_own_layer_of_zeros_or_no_numbers() -> (
    None
):
    assert brought([3000, 4000], 0.0) == ("", [3000, 4000])
    for own in ([0, 0], [nan, 1]):
        assert brought([30, 40], own=np.array(own, np.float32)) == ("", [30, 40])


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=2),
    st.floats(1.0, 4.0),
)
def test_no_copy_ever_brings_more_than_the_ratio_allows(copy: list[float], clip: float) -> None:
    _, values = brought(copy, clip)
    assert norm(np.array(values, np.float64)) <= max(clip, 0) * 5 * (1 + 1e-5)


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=2))
def test_the_gate_hears_how_far_a_copy_is_and_can_refuse_it(copy: list[float]) -> None:
    heard: list[float] = []

    def allowed(distance: float) -> float:
        heard.append(distance)
        return 0.0

    layer_sum = LayerSum()
    reason = Bar(OWN, 1.5).add(layer_sum, np.array(copy, np.float32), allowed)
    exact = sqrt((copy[0] - 3) ** 2 + (copy[1] - 4) ** 2) / 5
    assert heard == [pytest.approx(exact, rel=1e-4, abs=2e-3)]
    assert (reason, layer_sum.count) == ((TOO_FAR, 0) if heard[0] else ("", 1))


def test_an_outlier_is_moved_towards_the_own_layer_on_the_straight_line() -> None:
    layer_sum, mixed = LayerSum(), OWN.copy()
    assert Bar(OWN, 2.0).add(layer_sum, np.array([-3, -4], np.float32), lambda _: 0.5) == ""
    layer_sum.mix_into(mixed)
    assert mixed.tolist() == pytest.approx([2.25, 3.0])


def test_values_whose_squares_overflow_are_infinitely_far_and_finite() -> None:
    heard: list[float] = []
    huge = np.full(2, 1e30, np.float32)
    Bar(OWN, 1.5).add(LayerSum(), huge, lambda it: heard.append(it) or 0.0)
    assert heard == [inf]
    assert as_it_is(1e9) == 1e9
