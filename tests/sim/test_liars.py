"""Row 51 of the faults: one bad peer of four costs no more than a point of accuracy."""

from __future__ import annotations

from functools import cache

import pytest

from mpls.config import builtin
from tests.sim.liars import LIAR, LIES, STALE, Learned, learned

POINT = 0.01
NORM_CLIP = builtin().network.norm_clip


@cache
def clean(strategy: str, norm_clip: float = NORM_CLIP) -> Learned:
    return learned("", strategy, norm_clip)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", ["mpls", "appg"])
@pytest.mark.parametrize("lie", [*LIES, STALE])
def test_row_51_one_bad_peer_of_four_costs_at_most_a_point_of_accuracy(
    lie: str, strategy: str
) -> None:
    seen = learned(lie, strategy, NORM_CLIP)
    assert seen.accuracy >= clean(strategy).accuracy - POINT
    assert seen.refused[f"w{LIAR}"] > 0
    assert seen.liars_share < 0.1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", ["mpls", "appg"])
def test_among_honest_peers_nothing_is_refused_and_nothing_changes(strategy: str) -> None:
    assert clean(strategy).refused == {}
    assert clean(strategy) == clean(strategy, 0.0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_the_gate_a_bad_peer_ruins_the_run() -> None:
    assert learned("sign-flipped", "appg", 0.0).accuracy < clean("appg").accuracy - 0.2


def test_row_51_a_liar_is_noticed_within_a_few_rounds_and_left_out() -> None:
    assert NORM_CLIP > 0
    seen = learned("times a thousand", "appg", NORM_CLIP, rounds=6)
    assert list(seen.refused) == [f"w{LIAR}"]
    assert "away" in seen.standings


def test_row_50_a_peer_that_sends_no_numbers_is_quarantined() -> None:
    seen = learned("not finite", "appg", NORM_CLIP, rounds=6)
    assert "quarantined" in seen.standings
