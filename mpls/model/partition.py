"""Who trains on which samples.

Every partition is seeded and complete: each sample is in exactly one shard. Label-skewed kinds
first decide a table, how many samples of each label each worker gets (W workers, C labels), and
then deal the samples of each label at random. Only raw draws of a Stream are used, and drawn
gammas are rounded, so that the same seed gives the same shards on every machine and numpy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpls.core.streams import Stream
from mpls.errors import BadInput

KINDS = ("iid", "dirichlet", "main-label", "shards", "classes")
NAMED_SHARE = 0.9
"""Of a label that workers are named for with `classes`, so much goes to them, the rest to the
others."""
SHARDS_PER_WORKER = 2

_REDRAWS = 100
_SWEEPS = 50
_CHI_TOLERANCE = 0.02
_TINY = 1e-300

Table = np.ndarray


def partition(
    labels: np.ndarray,
    workers: int,
    *,
    kind: str,
    alpha: float,
    balanced: bool,
    min_samples: int,
    chi: float,
    classes: Sequence[Sequence[int]] | None,
    seed: int,
) -> list[np.ndarray]:
    """The shard of each worker: ascending indices into `labels`.

    - `iid`: equal sizes, at random.
    - `dirichlet`: for each label, shares over the workers from a symmetric Dirichlet(`alpha`),
      redrawn until each worker has `min_samples`.
    - `main-label`: equal sizes; worker i has the share `chi` of its samples from label i mod C,
      the rest from the others.
    - `shards`: sorted by label, cut into twice as many pieces as workers, two pieces each.
    - `classes`: worker i mostly has the labels in `classes[i]`.

    With `balanced`, `dirichlet` and `classes` end with equal sizes too: the table nearest to the
    drawn one (by iterative proportional fitting, which keeps the ratios between workers' odds).

    Raises BadInput for a partition that cannot exist, or gives a worker less than `min_samples`.
    """
    least = max(1, min_samples)
    _check(len(labels), workers, kind, least)
    stream = Stream(seed, "data", "partition")
    present, compact, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sizes = _even_sizes(len(labels), workers)
    if kind == "iid":
        owner = _deal_evenly(sizes, stream)
    elif kind == "shards":
        owner = _deal_pieces(compact, workers, stream)
    else:
        if kind == "dirichlet":
            table = _dirichlet(counts, sizes, alpha, balanced, least, stream)
        elif kind == "main-label":
            table = _main_label(counts, sizes, chi)
        else:
            table = _named(present, counts, sizes, classes or (), balanced)
        owner = _deal_table(compact, table, stream)
    return _shards(owner, workers, least)


def label_table(labels: np.ndarray, shards: Sequence[np.ndarray], classes: int) -> Table:
    """How many samples of each label each worker has: (W, classes) int64."""
    return np.stack([np.bincount(labels[shard], minlength=classes) for shard in shards])


def label_histograms(table: Table) -> np.ndarray:
    """The share of each label in each worker's samples: (W, C) float64, each row sums to 1."""
    shares: np.ndarray = table / table.sum(axis=1, keepdims=True)
    return shares


def _check(samples: int, workers: int, kind: str, least: int) -> None:
    if kind not in KINDS:
        raise BadInput(f"partition {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    if workers < 1:
        raise BadInput(f"{workers} workers cannot share a data set; at least 1 is needed")
    if samples < workers:
        raise BadInput(f"{workers} workers cannot share {samples} samples; use fewer workers")
    if samples < workers * least:
        raise BadInput(
            f"min_samples = {least} is unreachable: {workers} workers share {samples} samples, "
            f"{samples // workers} each"
        )


def _even_sizes(samples: int, workers: int) -> np.ndarray:
    sizes: np.ndarray = samples // workers + (np.arange(workers) < samples % workers)
    return sizes


def _shards(owner: np.ndarray, workers: int, least: int) -> list[np.ndarray]:
    sizes = np.bincount(owner, minlength=workers)
    poorest = int(sizes.argmin())
    if sizes[poorest] < least:
        raise BadInput(
            f"worker {poorest} would have {sizes[poorest]} samples, min_samples is {least}; "
            "use fewer workers, balanced = true, or a smaller min_samples"
        )
    return np.split(np.argsort(owner, kind="stable"), np.cumsum(sizes)[:-1])


# From a decision to owners: owner[i] is the worker that has sample i.


def _deal_evenly(sizes: np.ndarray, stream: Stream) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes).take(stream.permutation(int(sizes.sum())))


def _deal_pieces(compact: np.ndarray, workers: int, stream: Stream) -> np.ndarray:
    pieces = SHARDS_PER_WORKER * workers
    piece_owner = stream.permutation(pieces) // SHARDS_PER_WORKER
    owner = np.empty(len(compact), np.int64)
    owner[np.argsort(compact, kind="stable")] = np.repeat(
        piece_owner, _even_sizes(len(compact), pieces)
    )
    return owner


def _deal_table(compact: np.ndarray, table: Table, stream: Stream) -> np.ndarray:
    owner = np.empty(len(compact), np.int64)
    for label, column in enumerate(table.T):
        owner[compact == label] = _deal_evenly(column, stream)
    return owner


# The tables, (W, C) integers whose columns sum to the labels' counts.


def _dirichlet(
    counts: np.ndarray,
    sizes: np.ndarray,
    alpha: float,
    balanced: bool,
    least: int,
    stream: Stream,
) -> Table:
    if not 1e-6 <= alpha <= 1e6:
        raise BadInput(f"alpha = {alpha} is not allowed; it must be within 1e-6 and 1e6")
    shape = (len(sizes), len(counts))
    if balanced:
        return _even_out(_dirichlet_weights(alpha, shape, stream), counts, sizes)
    for _ in range(_REDRAWS):
        table = _apportion(_dirichlet_weights(alpha, shape, stream), counts)
        if table.sum(axis=1).min() >= least:
            return table
    raise BadInput(
        f"min_samples = {least} was not reached in {_REDRAWS} draws of alpha = {alpha} for "
        f"{len(sizes)} workers; use balanced = true, a larger alpha or a smaller min_samples"
    )


def _main_label(counts: np.ndarray, sizes: np.ndarray, chi: float) -> Table:
    if not 0 < chi <= 1:
        raise BadInput(f"chi = {chi} is not allowed; it must be above 0 and at most 1")
    worker = np.arange(len(sizes))
    main = worker % len(counts)
    wanted = np.bincount(main, weights=sizes, minlength=len(counts))
    limit = (counts / np.maximum(wanted, 1)).min()
    if chi > limit:
        raise BadInput(
            f"chi = {chi} is unreachable with {len(sizes)} workers: the rarest main label suffices "
            f"for {limit:.2f}; use a smaller chi, or as many workers as labels or a multiple"
        )
    table = np.zeros((len(sizes), len(counts)), np.int64)
    table[worker, main] = np.floor(chi * sizes)
    others = np.ones(table.shape)
    others[worker, main] = 1e-9
    rest = counts - table.sum(axis=0)
    table += _even_out(others, rest, sizes - table[worker, main])
    excess = table[worker, main] - chi * sizes
    if (excess > np.maximum(_CHI_TOLERANCE * sizes, 2)).any():
        raise BadInput(
            f"chi = {chi} is unreachable with {len(sizes)} workers: too few others can take the "
            "rest of a main label; use a larger chi or more workers"
        )
    return table


def _named(
    present: np.ndarray,
    counts: np.ndarray,
    sizes: np.ndarray,
    classes: Sequence[Sequence[int]],
    balanced: bool,
) -> Table:
    if len(classes) != len(sizes):
        raise BadInput(f"classes has {len(classes)} lists; {len(sizes)} workers need one each")
    is_named = np.zeros((len(sizes), len(counts)), bool)
    for worker, named in enumerate(classes):
        if not named:
            raise BadInput(f"classes leaves worker {worker} without a label")
        for label in named:
            if label not in present:
                raise BadInput(
                    f"classes gives worker {worker} the label {label}; the data set has "
                    f"{present[0]} to {present[-1]}"
                )
            is_named[worker, np.searchsorted(present, label)] = True
    owners = is_named.sum(axis=0)
    if not owners.all():
        raise BadInput(f"classes leaves label {present[owners.argmin()]} without a worker")
    others = np.maximum(len(sizes) - owners, 1)
    weights = np.where(is_named, NAMED_SHARE / owners, (1 - NAMED_SHARE) / others)
    return _even_out(weights, counts, sizes) if balanced else _apportion(weights, counts)


def _apportion(weights: np.ndarray, counts: np.ndarray) -> Table:
    """Share each label's count in proportion to a column of weights, in whole samples."""
    bounds = np.cumsum(weights, axis=0)
    bounds = np.rint(bounds / bounds[-1] * counts).astype(np.int64)
    return np.diff(bounds, axis=0, prepend=0)


def _even_out(weights: np.ndarray, counts: np.ndarray, sizes: np.ndarray) -> Table:
    """The whole-number table with row sums `sizes` and column sums `counts` whose odds are nearest
    to those of the positive `weights`."""
    ideal = weights
    for _ in range(_SWEEPS):
        ideal = ideal * (sizes / np.maximum(ideal.sum(axis=1), _TINY))[:, None]
        ideal = ideal * (counts / np.maximum(ideal.sum(axis=0), _TINY))
    table = _apportion(np.maximum(ideal, _TINY), counts)
    _settle(table, ideal, sizes)
    return table


def _settle(table: Table, ideal: np.ndarray, sizes: np.ndarray) -> None:
    """Make the row sums exact, moving the last few samples one by one to where they are missed
    most."""
    surplus = table.sum(axis=1) - sizes
    for taker in np.flatnonzero(surplus < 0):
        while surplus[taker] < 0:
            giver = int(surplus.argmax())
            excess = (table[giver] - ideal[giver]) - (table[taker] - ideal[taker])
            label = int(np.where(table[giver] > 0, excess, -np.inf).argmax())
            table[giver, label] -= 1
            table[taker, label] += 1
            surplus[[giver, taker]] += -1, 1


def _dirichlet_weights(alpha: float, shape: tuple[int, int], stream: Stream) -> np.ndarray:
    """Gamma(alpha, 1) variates; normalised, each column is one draw of a symmetric Dirichlet.

    In logarithms, since for a small alpha most of them are below the smallest float. Rounded
    against the largest of its column, because the last bits of log and cos differ between
    platforms, and shifted by the same grain, so that none is 0.
    """
    count = shape[0] * shape[1]
    # Gamma(a) = Gamma(a + 1) U^(1/a), because the sampler needs a shape of at least 1.
    logs = np.log(_gammas(alpha + 1, count, stream))
    logs += np.log1p(-stream.uniforms(count)) / alpha
    logs = logs.reshape(shape)
    weights: np.ndarray = np.round(np.exp(logs - logs.max(axis=0)), 9) + 1e-9
    return weights


def _gammas(alpha: float, count: int, stream: Stream) -> np.ndarray:
    """Gamma(alpha, 1) variates for alpha >= 1, by rejection (Marsaglia and Tsang, 2000)."""
    d = alpha - 1 / 3
    drawn = np.empty(count)
    pending = np.arange(count)
    while len(pending):
        radius, angle, accept = stream.uniforms(3 * len(pending)).reshape(3, -1)
        normal = np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)
        cube = np.maximum(1 + normal / np.sqrt(9 * d), 1e-9) ** 3
        taken = np.log1p(-accept) < normal**2 / 2 + d - d * cube + d * np.log(cube)
        drawn[pending[taken]] = d * cube[taken]
        pending = pending[~taken]
    return drawn
