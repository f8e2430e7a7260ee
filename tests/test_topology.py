"""Each topology has the shape its name says, for any number of workers and any seed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.errors import BadInput
from mpls.topology import KINDS, is_connected, neighbours, spectral_gap

COUNTS = st.integers(1, 24)
SEEDS = st.integers(0, 2**31)


def draw(kind: str, workers: int, seed: int = 1, prob: float = 0.5, degree: int = 4):
    return neighbours(kind, workers, seed=seed, random_prob=prob, degree=degree)


@given(st.sampled_from(sorted(KINDS)), st.integers(5, 24), SEEDS, st.floats(0.0, 1.0))
def test_peers_are_mutual_sorted_and_never_oneself(
    kind: str, workers: int, seed: int, prob: float
) -> None:
    peers = draw(kind, workers, seed, prob)
    assert sorted(peers) == list(range(workers))
    for worker, others in peers.items():
        assert worker not in others
        assert list(others) == sorted(set(others))
        assert all(worker in peers[other] for other in others)
    assert peers == draw(kind, workers, seed, prob)


@given(COUNTS, SEEDS)
def test_a_ring_gives_everyone_two_peers_and_is_connected(workers: int, seed: int) -> None:
    ring = draw("ring", workers, seed)
    assert {len(others) for others in ring.values()} == {min(2, workers - 1)}
    assert is_connected(ring)


def test_the_seed_draws_the_order_of_the_ring() -> None:
    rings = {tuple(draw("ring", 5, seed).items()) for seed in range(40)}
    assert len(rings) > 6


@given(COUNTS)
def test_full_star_and_exponential_have_their_degrees(workers: int) -> None:
    assert all(len(others) == workers - 1 for others in draw("full", workers).values())
    assert len(draw("star", workers)[0]) == workers - 1
    assert all(draw("star", workers)[worker] == (0,) for worker in range(1, workers))
    assert is_connected(draw("exponential", workers))
    assert all(
        len(others) <= 2 * workers.bit_length() for others in draw("exponential", workers).values()
    )


def test_exponential_links_workers_a_power_of_two_apart() -> None:
    assert draw("exponential", 9)[0] == (1, 2, 4, 5, 7, 8)


@given(st.integers(2, 5), st.integers(0, 9), SEEDS)
def test_k_regular_gives_everyone_exactly_k_peers(half: int, more: int, seed: int) -> None:
    degree = 2 * half
    regular = draw("k-regular", degree + 1 + more, seed, degree=degree)
    assert {len(others) for others in regular.values()} == {degree}


def test_small_world_without_rewiring_is_a_lattice_and_with_it_is_not() -> None:
    assert draw("small-world", 9, prob=0.0)[0] == (1, 2, 7, 8)
    assert draw("small-world", 9, prob=1.0) != draw("small-world", 9, prob=0.0)
    assert sum(map(len, draw("small-world", 9, prob=0.7).values())) == 9 * 4


def test_random_links_are_as_frequent_as_asked() -> None:
    assert draw("random", 9, prob=1.0) == draw("full", 9)
    assert not any(draw("random", 9, prob=0.0).values())
    links = sum(map(len, draw("random", 60, prob=0.3).values())) / 2
    assert links / (60 * 59 / 2) == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize(
    ("kind", "workers", "degree", "why"),
    [
        ("k-regular", 3, 4, "degree 4 needs at least 5 workers, not 3"),
        ("k-regular", 5, 3, "degree 3 x 5 workers must be even"),
        ("small-world", 4, 4, "degree 4 needs at least 5 workers, not 4"),
        ("small-world", 9, 3, "degree 3 must be even"),
    ],
)
def test_a_graph_that_cannot_exist_is_refused(
    kind: str, workers: int, degree: int, why: str
) -> None:
    with pytest.raises(BadInput, match=why):
        draw(kind, workers, degree=degree)


def test_two_islands_are_not_connected_and_have_no_spectral_gap() -> None:
    islands = {0: (1,), 1: (0,), 2: (3,), 3: (2,)}
    assert not is_connected(islands)
    assert spectral_gap(islands) == pytest.approx(0.0)


def test_spectral_gaps_equal_their_closed_forms() -> None:
    assert spectral_gap(draw("full", 7)) == pytest.approx(1.0)
    assert spectral_gap(draw("full", 1)) == 1.0
    # A ring of 4 has the circulant matrix (1/3, 1/3, 0, 1/3), whose eigenvalues are 1, 1/3, 1/3
    # and -1/3; a star of 3 has 1, 2/3 and 0.
    assert spectral_gap(draw("ring", 4)) == pytest.approx(2 / 3)
    assert spectral_gap(draw("star", 3)) == pytest.approx(1 / 3)


def test_a_worker_on_a_ring_starts_without_networkx() -> None:
    code = """
import sys
from mpls.topology import neighbours
for kind in ("ring", "full", "star", "random", "exponential"):
    neighbours(kind, 9, seed=1, random_prob=0.5, degree=4)
assert "networkx" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
