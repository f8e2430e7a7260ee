"""Shards are complete, seeded and of the kind that was asked for, or refused in one line."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpls.core.streams import Stream
from mpls.errors import BadInput
from mpls.model.data import load
from mpls.model.partition import KINDS, label_histograms, label_table, partition

DIGITS = load("digits", "").train_labels
THIRDS = [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]


def deal(labels: np.ndarray, workers: int, kind: str, **changes: Any) -> list[np.ndarray]:
    settings: dict[str, Any] = {
        "alpha": 0.5,
        "balanced": True,
        "min_samples": 1,
        "chi": 0.5,
        "classes": None,
        "seed": 1,
    }
    return partition(labels, workers, kind=kind, **{**settings, **changes})


def table(labels: np.ndarray, workers: int, kind: str, **changes: Any) -> np.ndarray:
    return label_table(labels, deal(labels, workers, kind, **changes), int(labels.max()) + 1)


def sizes(shards: list[np.ndarray]) -> list[int]:
    return [len(shard) for shard in shards]


@settings(max_examples=150, deadline=None)
@given(
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=120).map(np.array),
    workers=st.integers(1, 12),
    kind=st.sampled_from(KINDS),
    alpha=st.floats(0.001, 1000),
    balanced=st.booleans(),
    chi=st.floats(0.01, 1),
    seed=st.integers(0, 2**32),
)
def test_every_sample_is_in_exactly_one_shard(labels, workers, kind, alpha, balanced, chi, seed):
    present = np.unique(labels).tolist()
    try:
        shards = deal(
            labels,
            workers,
            kind,
            alpha=alpha,
            balanced=balanced,
            chi=chi,
            classes=[present] * workers,
            seed=seed,
        )
    except BadInput:
        return
    assert sorted(np.concatenate(shards).tolist()) == list(range(len(labels)))
    assert min(sizes(shards)) >= 1
    if kind in ("iid", "main-label") or (balanced and kind != "shards"):
        assert max(sizes(shards)) - min(sizes(shards)) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_everything(kind):
    first, again, other = (
        np.concatenate(deal(DIGITS, 3, kind, chi=0.2, classes=THIRDS, seed=seed))
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_default_shards_are_the_same_on_every_machine():
    shards = deal(DIGITS, 3, "dirichlet", min_samples=32)
    digest = hashlib.sha256(np.concatenate(shards).astype("<i8").tobytes()).hexdigest()
    assert digest == "68ed5821a1d894eb10a12d81a0d4d7b0def20e594ac21d895c6bbbccc6e38f27"


def test_iid_gives_every_worker_nearly_the_same_mix():
    shares = label_histograms(table(DIGITS, 4, "iid"))
    assert np.abs(shares - np.bincount(DIGITS) / len(DIGITS)).max() < 0.03
    assert sizes(deal(DIGITS, 3, "iid")) == [2667, 2667, 2666]


def test_dirichlet_shares_have_the_mean_and_variance_of_the_distribution():
    labels = np.repeat(np.arange(500), 1_000)
    for alpha in (0.2, 0.5, 1.0, 4.0):
        shares = table(labels, 3, "dirichlet", alpha=alpha, balanced=False) / 1_000
        assert shares.mean(axis=1) == pytest.approx([1 / 3] * 3, abs=0.05)
        assert shares.var() == pytest.approx(2 / 9 / (3 * alpha + 1), rel=0.1)


def test_a_small_alpha_gives_each_label_to_few_workers_and_a_large_one_to_all_alike():
    skewed = table(DIGITS, 5, "dirichlet", alpha=0.01, balanced=False)
    even = table(DIGITS, 5, "dirichlet", alpha=1000.0, balanced=False)
    assert (skewed.max(axis=0) / skewed.sum(axis=0)).mean() > 0.9
    assert (even.max(axis=0) / even.sum(axis=0)).max() < 0.25


@pytest.mark.parametrize("seed", range(1, 6))
def test_balancing_evens_the_sizes_and_keeps_the_skew(seed):
    balanced = table(DIGITS, 3, "dirichlet", seed=seed)
    assert balanced.sum(axis=1).tolist() == [2667, 2667, 2666]
    distance = np.abs(label_histograms(balanced) - np.bincount(DIGITS) / len(DIGITS)).sum(axis=1)
    assert distance.min() > 0.25


def test_unbalanced_dirichlet_is_redrawn_until_everybody_has_enough():
    small = [
        min(sizes(deal(DIGITS, 10, "dirichlet", balanced=False, min_samples=least, seed=3)))
        for least in (1, 300)
    ]
    assert small[0] < 300 <= small[1]


def test_each_worker_mostly_has_its_named_classes():
    counts = table(DIGITS, 3, "classes", classes=THIRDS)
    for worker, named in enumerate(THIRDS):
        assert counts[worker, named].sum() / counts[worker].sum() > 0.8
    assert counts.min() > 0


def test_a_label_named_twice_is_shared_by_both():
    counts = table(
        DIGITS, 3, "classes", classes=[[0, 1, 2, 3, 4], [4, 5, 6, 7], [8, 9]], balanced=False
    )
    assert counts[0, 4] == pytest.approx(counts[1, 4], abs=1)
    assert counts[2, 4] == pytest.approx(0.1 * counts[:, 4].sum(), abs=1)


@pytest.mark.parametrize(("workers", "chi"), [(30, 0.3), (30, 0.7), (15, 0.5), (10, 0.8)])
def test_chi_is_the_share_of_the_main_label(workers, chi):
    shares = label_histograms(table(DIGITS, workers, "main-label", chi=chi))
    main = shares[np.arange(workers), np.arange(workers) % 10]
    assert np.abs(main - chi).max() <= 0.02


def test_shards_give_a_worker_two_pieces_of_the_sorted_labels():
    counts = table(DIGITS, 10, "shards")
    assert (counts > 0).sum(axis=1).max() <= 4
    assert counts.sum(axis=1).tolist() == [800] * 10


def test_ten_thousand_workers_take_seconds():
    labels = np.floor(Stream(1, "labels").uniforms(200_000) * 10).astype(np.int64)
    started = time.perf_counter()
    for kind in ("iid", "dirichlet", "main-label", "shards"):
        assert len(deal(labels, 10_000, kind)) == 10_000
    assert time.perf_counter() - started < 10


def test_the_label_table_counts_what_is_in_the_shards():
    labels = np.array([0, 1, 1, 3])
    counts = label_table(labels, [np.array([0, 1]), np.array([2, 3])], 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 1]]
    assert label_histograms(counts).tolist() == [[0.5, 0.5, 0, 0], [0, 0.5, 0, 0.5]]


@pytest.mark.parametrize(
    ("workers", "kind", "changes", "message"),
    [
        (3, "by-name", {}, "choose one of iid, dirichlet"),
        (0, "iid", {}, "0 workers"),
        (8001, "iid", {}, "8001 workers cannot share 8000 samples"),
        (3, "iid", {"min_samples": 3000}, "min_samples = 3000 is unreachable"),
        (3, "dirichlet", {"min_samples": 2667}, "min_samples = 2667 is unreachable"),
        (100, "dirichlet", {"balanced": False, "min_samples": 70}, "100 draws of alpha = 0.5"),
        (3, "dirichlet", {"alpha": 0.0}, "alpha = 0.0 is not allowed"),
        (3, "dirichlet", {"alpha": float("nan")}, "alpha = nan is not allowed"),
        (3, "main-label", {"chi": 1.5}, "chi = 1.5 is not allowed"),
        (3, "main-label", {"chi": 0.5}, "chi = 0.5 is unreachable"),
        (1, "main-label", {"chi": 0.05}, "use a larger chi"),
        (3, "classes", {}, "classes has 0 lists; 3 workers need one each"),
        (3, "classes", {"classes": THIRDS[:2]}, "classes has 2 lists"),
        (3, "classes", {"classes": [[0, 1, 2], [], [3, 4, 5, 6, 7, 8, 9]]}, "worker 1 without"),
        (3, "classes", {"classes": [[0, 1], [3, 4, 5], [6, 7, 8, 9]]}, "label 2 without a worker"),
        (3, "classes", {"classes": [[10], *THIRDS[1:]]}, "worker 0 the label 10"),
        (3, "classes", {"classes": THIRDS, "balanced": False, "min_samples": 2600}, "worker"),
    ],
)
def test_an_impossible_partition_is_refused_in_one_line(workers, kind, changes, message):
    with pytest.raises(BadInput) as raised:
        deal(DIGITS, workers, kind, **changes)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
