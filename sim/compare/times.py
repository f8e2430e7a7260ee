"""Metrics 3 to 5 and 8: transfers, rounds and staleness."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from statistics import median

from sim.compare.course import Run
from sim.compare.metrics import Metric, at_most, unknown
from sim.compare.pulls import Pull
from sim.compare.statistics import kolmogorov_smirnov, quantile

LEAST_BYTES = 1_000_000
Pair = tuple[Run, Run]
"""A live run and its twin."""


def transfer_time(pulls: Sequence[Pull]) -> list[Metric]:
    """Metric 3."""
    name = "transfer time of pulls >= 1 MB"
    errors = [pull.error for pull in pulls if pull.bytes >= LEAST_BYTES]
    if not errors:
        return [unknown(3, name, "median <= 3 %", "no pull moved 1 MB")]
    return _of_errors(3, name, errors, (0.03, 0.10), f"{len(errors)} pulls")


def round_time_alike(pairs: Sequence[Pair]) -> list[Metric]:
    """Metric 4: round by round."""
    errors = [
        simulated / live - 1
        for run, twin in pairs
        for ours, theirs in zip(run.courses, twin.courses)
        for live, simulated in zip(ours.round_s, theirs.round_s)
        if live > 0
    ]
    name = "round time, same decisions"
    if not errors:
        return [unknown(4, name, "median <= 3 %", "no worker did two rounds")]
    return _of_errors(4, name, errors, (0.03, 0.08), f"{len(errors)} rounds")


def round_time_free(pairs: Sequence[Pair]) -> list[Metric]:
    """Metric 5: of each worker, and of all rounds together."""
    name = "round time, by itself"
    of = [
        (live.round_s, simulated.round_s)
        for run, twin in pairs
        for live, simulated in zip(run.courses, twin.courses)
        if live.round_s and simulated.round_s
    ]
    if not of:
        return [unknown(5, f"{name}: mean of a worker", "<= 5 %", "no worker did two rounds")]
    means = [_mean(simulated) / _mean(live) - 1 for live, simulated in of]
    tails = [quantile(simulated, 0.95) / quantile(live, 0.95) - 1 for live, simulated in of]
    worst, tail = max(means, key=abs), max(tails, key=abs)
    everything = [list(chain.from_iterable(side)) for side in zip(*of)]
    distance = kolmogorov_smirnov(everything[0], everything[1])
    return [
        at_most(5, f"{name}: mean of the worst worker", abs(worst), 0.05, worst),
        at_most(5, f"{name}: p95 of the worst worker", abs(tail), 0.10, tail),
        at_most(5, f"{name}: KS distance", distance, 0.10, unit=""),
    ]


def staleness(pairs: Sequence[Pair]) -> Metric:
    """Metric 8."""
    live = [lag for run, _ in pairs for one in run.courses for lag in one.staleness.elements()]
    twin = [lag for _, run in pairs for one in run.courses for lag in one.staleness.elements()]
    if not live or not twin:
        return unknown(8, "staleness, KS distance", "<= 0.1", "nothing was pulled")
    distance = kolmogorov_smirnov(live, twin)
    return at_most(8, "staleness, KS distance", distance, 0.10, unit="")


def _of_errors(
    number: int, name: str, errors: Sequence[float], limits: tuple[float, float], note: str
) -> list[Metric]:
    """Median and 95th percentile of the absolute errors."""
    sizes, signed = [abs(error) for error in errors], median(errors)
    return [
        at_most(number, f"{name}: median error", median(sizes), limits[0], signed, note=note),
        at_most(number, f"{name}: p95 error", quantile(sizes, 0.95), limits[1]),
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
