"""Who may talk to whom: each worker's peers, drawn from the run's seed, and how well they mix.

A topology is a map from each worker's id, 0 to N-1, to its peers' ids in rising order. networkx
draws the two graphs that are hard to draw well, and is imported only for them, so that a worker on
a ring starts fast.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np

from mpls.core.streams import Stream
from mpls.errors import BadInput, shown

Neighbours = Mapping[int, Collection[int]]
Edges = Iterable[tuple[int, int]]
GAP_WORKERS = 2_000
"""The spectral gap of a larger topology would take minutes."""


def neighbours(
    kind: str, workers: int, *, seed: int, random_prob: float, degree: int
) -> dict[int, tuple[int, ...]]:
    """The peers of each of `workers` workers in a topology of one of KINDS.

    `random_prob` is the chance of each link in `random` and of a link's being rewired in
    `small-world`; `degree` is the number of peers in `k-regular` and, before rewiring, in
    `small-world`. Raises BadInput where no such graph exists. The graph may be disconnected.
    """
    assert workers >= 1
    stream = Stream(seed, "topology")
    peers: dict[int, list[int]] = {worker: [] for worker in range(workers)}
    for a, b in KINDS[kind](workers, stream, random_prob, degree):
        if a != b:
            peers[a].append(b)
    return both_ways(peers)


def both_ways(peers: Neighbours) -> dict[int, tuple[int, ...]]:
    """The same links, each known at both of its ends."""
    mutual = {worker: set(others) for worker, others in peers.items()}
    for worker, others in peers.items():
        for other in others:
            mutual[other].add(worker)
    return {worker: tuple(sorted(others)) for worker, others in sorted(mutual.items())}


def is_connected(peers: Neighbours) -> bool:
    """Whether what one worker learns can reach every other."""
    first = next(iter(peers))
    reached, frontier = {first}, [first]
    while frontier:
        fresh = set(peers[frontier.pop()]) - reached
        reached |= fresh
        frontier.extend(fresh)
    return len(reached) == len(peers)


def spectral_gap(peers: Neighbours) -> float:
    """How fast plain averaging over this graph forgets who started where: 1 minus the second
    largest absolute eigenvalue of the Metropolis mixing matrix. In [0, 1]; 0 is never (the graph
    is disconnected), 1 is in one step."""
    count = len(peers)
    if count == 1:
        return 1.0
    mixing = np.zeros((count, count))
    for a, others in peers.items():
        for b in others:
            mixing[a, b] = 1.0 / (1 + max(len(others), len(peers[b])))
    mixing[np.diag_indices(count)] = 1.0 - mixing.sum(axis=1)
    sizes = np.sort(np.abs(np.linalg.eigvalsh(mixing)))
    return float(np.clip(1.0 - sizes[-2], 0.0, 1.0))


def _ring(workers: int, stream: Stream, random_prob: float, degree: int) -> Edges:
    order = stream.permutation(workers).tolist()
    return zip(order, order[1:] + order[:1])


def _full(workers: int, stream: Stream, random_prob: float, degree: int) -> Edges:
    return ((a, b) for a in range(workers) for b in range(a + 1, workers))


def _star(workers: int, stream: Stream, random_prob: float, degree: int) -> Edges:
    return ((0, worker) for worker in range(1, workers))


def _random(workers: int, stream: Stream, random_prob: float, degree: int) -> Edges:
    pairs = _full(workers, stream, random_prob, degree)
    return (pair for pair in pairs if stream.uniform() < random_prob)


def _exponential(workers: int, stream: Stream, random_prob: float, degree: int) -> Edges:
    hops = [2**power for power in range(workers.bit_length()) if 2**power < workers]
    return ((worker, (worker + hop) % workers) for worker in range(workers) for hop in hops)


def _k_regular(workers: int, stream: Stream, random_prob: float, degree: int) -> Edges:
    _check_degree("k-regular", workers, degree)
    if degree * workers % 2:
        raise _refusal("k-regular", f"degree {degree} x {workers} workers must be even")
    import networkx

    graph = networkx.random_regular_graph(degree, workers, seed=stream.below(2**32))
    return list(graph.edges)


def _small_world(workers: int, stream: Stream, random_prob: float, degree: int) -> Edges:
    _check_degree("small-world", workers, degree)
    if degree % 2:
        raise _refusal("small-world", f"degree {degree} must be even")
    import networkx

    seed = stream.below(2**32)
    return list(networkx.watts_strogatz_graph(workers, degree, random_prob, seed=seed).edges)


def _check_degree(kind: str, workers: int, degree: int) -> None:
    if degree >= workers:
        raise _refusal(kind, f"degree {degree} needs at least {degree + 1} workers, not {workers}")


def _refusal(kind: str, why: str) -> BadInput:
    return BadInput(f"[cluster] topology = {shown(kind)}: {why}")


KINDS: dict[str, Callable[[int, Stream, float, int], Edges]] = {
    "ring": _ring,
    "full": _full,
    "star": _star,
    "random": _random,
    "k-regular": _k_regular,
    "small-world": _small_world,
    "exponential": _exponential,
}
"""Every topology that can be drawn; a cluster file may also list its peers itself."""
