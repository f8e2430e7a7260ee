"""The copies of a round are added up in the order of the plan, and only those fit to be mixed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.core.gate import Gate
from mpls.core.messages import LayerRefused, Source
from mpls.runtime.updates import LayerUpdate, add_up, mix

SIZES = {"conv": 7, "fc": 3}


class Round:
    """Copies as they lie in the transport, and the own weights."""

    def __init__(self, *copies: tuple[str, np.ndarray]) -> None:
        self.sources = [
            Source(f"w{number}", layer, number, version=4, round=20 - number)
            for number, (layer, _) in enumerate(copies)
        ]
        self.buffers = {
            (number, layer): np.frombuffer(bytearray(copy.tobytes()), np.uint8)
            for number, (layer, copy) in enumerate(copies)
        }
        self.own = {name: np.ones(size, np.float32) for name, size in SIZES.items()}
        self.claimed: list[np.ndarray] = []

    def claim(self, request_id: int, layer: str) -> np.ndarray:
        self.claimed.append(self.buffers.pop((request_id, layer)))
        return self.claimed[-1]

    def add_up(self, norm_clip: float = 0.0) -> LayerUpdate:
        return add_up(9, self.sources, self.claim, self.own.__getitem__, norm_clip, Gate())

    def mixed(self, norm_clip: float = 0.0) -> dict[str, np.ndarray]:
        mix(self.add_up(norm_clip), self.own.__getitem__)
        return self.own


def copy(layer: str, *values: float) -> tuple[str, np.ndarray]:
    """Of the layer, these values repeated."""
    return layer, np.resize(np.array(values, np.float32), SIZES[layer])


def test_each_layer_becomes_the_mean_of_its_copies_and_the_own_one():
    own = Round(copy("fc", 4), copy("fc", 7), copy("conv", 3)).mixed()
    assert own["fc"].tolist() == [4.0] * 3
    assert own["conv"].tolist() == [2.0] * 7


def test_a_layer_that_nobody_delivered_stays_as_it_is():
    this_round = Round(copy("fc", 3))
    update = this_round.add_up()
    assert mix(update, this_round.own.__getitem__) == 1
    assert this_round.own["conv"].tolist() == [1.0] * 7


def test_no_copies_make_an_update_that_changes_nothing():
    this_round = Round()
    assert mix(this_round.add_up(), this_round.own.__getitem__) == 0


copies_of_a_round = st.lists(
    st.tuples(
        st.sampled_from(sorted(SIZES)),
        st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=3, max_size=3),
    ),
    max_size=6,
)


@given(copies_of_a_round, st.randoms())
def test_the_last_bit_of_a_sum_does_not_depend_on_who_was_faster(drawn, random):
    """What arrived lies in the transport in the order of arrival; only the plan's order counts."""
    copies = [copy(layer, *values) for layer, values in drawn]
    in_order, shuffled = Round(*copies), Round(*copies)
    arrivals = list(shuffled.buffers.items())
    random.shuffle(arrivals)
    shuffled.buffers = dict(arrivals)
    expected, found = in_order.mixed(), shuffled.mixed()
    for layer in SIZES:
        assert expected[layer].tobytes() == found[layer].tobytes()


@given(copies_of_a_round)
def test_a_sum_is_that_of_float32_additions_one_after_the_other(drawn):
    copies = [copy(layer, *values) for layer, values in drawn]
    own = Round(*copies).mixed()
    for layer, size in SIZES.items():
        mine = [values for name, values in copies if name == layer]
        expected = np.ones(size, np.float32)
        if mine:
            total = mine[0]
            for other in mine[1:]:
                total = total + other
            expected = (expected + total) / np.float32(len(mine) + 1)
        assert own[layer].tobytes() == expected.tobytes()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_row_50_a_copy_that_is_not_finite_is_refused_by_request_and_layer_and_the_others_count(
    poison, place
):
    copies = [copy("fc", 4), copy("fc", 7)]
    copies.insert(place, copy("fc", 1, poison, 1))
    this_round = Round(*copies)
    update = this_round.add_up()
    assert update.refused == (LayerRefused(place, "fc", "not-finite"),)
    assert [it.round for it in update.applied] == [20 - n for n in range(3) if n != place]
    assert mix(update, this_round.own.__getitem__) == 1
    assert this_round.own["fc"].tolist() == [4.0] * 3


def test_a_layer_of_which_every_copy_was_refused_stays_as_it_is():
    this_round = Round(copy("fc", np.nan), copy("fc", np.inf))
    update = this_round.add_up()
    assert [(refusal.request_id, refusal.layer) for refusal in update.refused] == [
        (0, "fc"),
        (1, "fc"),
    ]
    assert mix(update, this_round.own.__getitem__) == 0
    assert this_round.own["fc"].tolist() == [1.0] * 3


def test_a_copy_longer_than_allowed_is_scaled_down_to_the_limit():
    """Own norm sqrt(3), at most twice that: a copy of (100, 100, 100) counts as (2, 2, 2)."""
    own = Round(copy("fc", 100)).mixed(norm_clip=2.0)
    assert own["fc"] == pytest.approx([1.5] * 3)


def test_a_copy_within_the_limit_is_mixed_as_it_is():
    own = Round(copy("fc", 1.9), copy("fc", -1.9)).mixed(norm_clip=2.0)
    assert own["fc"].tobytes() == Round(copy("fc", 1.9), copy("fc", -1.9)).mixed()["fc"].tobytes()


def test_a_clipped_first_copy_does_not_spoil_those_added_to_it():
    own = Round(copy("fc", 100), copy("fc", 3), copy("fc", 2)).mixed(norm_clip=2.0)
    assert own["fc"] == pytest.approx([(2 + 2 + 2 + 1) / 4] * 3)


def test_every_buffer_is_claimed_once_and_handed_over_refused_or_not():
    this_round = Round(copy("fc", 4), copy("fc", np.nan), copy("conv", 3), copy("fc", 100))
    update = this_round.add_up(norm_clip=2.0)
    assert this_round.buffers == {}
    assert list(map(id, update.buffers)) == list(map(id, this_round.claimed))
    assert len(update.buffers) == 4
