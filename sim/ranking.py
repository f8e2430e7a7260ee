"""Which strategy is best where: the seeds of each put together, with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpls.core.streams import Stream

SETTING = (
    "bw",
    "vary",
    "nic",
    "workers",
    "topology",
    "dataset",
    "model",
    "partition",
    "train",
    "net",
    "faults",
)
"""What is equal among those that are ranked against each other."""
CONTENDER = ("strategy", "scheduler")
RESAMPLES = 2000
CONFIDENCE = 0.95
Row = dict[str, Any]


def ranking(rows: Sequence[Row], target: float | None = None) -> list[dict[str, Any]]:
    """For each setting its contenders, the best first.

    They are ranked by the virtual seconds to the target accuracy, by default the best that all runs
    reach (`common_accuracy`); where accuracy is not known, by the seconds for their rounds.
    A measure is `{"mean", "low", "high"}` over the seeds, or None where any seed has no value.
    """
    settings: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        settings.setdefault(tuple(row[name] for name in SETTING), []).append(row)
    return [_setting(of_one, target) for of_one in settings.values()]


def seconds_to(curve: Sequence[Sequence[float]], target: float) -> float | None:
    """When the accuracy was first that high, on straight lines between the points of the curve,
    (seconds, accuracy); None if never."""
    before: Sequence[float] | None = None
    for at_s, accuracy in curve:
        if accuracy >= target:
            if before is None or accuracy == before[1]:
                return at_s
            way = (target - before[1]) / (accuracy - before[1])
            return before[0] + way * (at_s - before[0])
        before = (at_s, accuracy)
    return None


def common_accuracy(rows: Sequence[Row]) -> float | None:
    """The best that every run reached, down to a tenth of a percent; None if one is unknown. Runs
    that pulled nothing do not count beside others: what they miss is what pulling is for."""
    learning = [row for row in rows if row["bytes"]] or rows
    peaks = [max((accuracy for _, accuracy in row["curve"]), default=None) for row in learning]
    known = [peak for peak in peaks if peak is not None]
    return math.floor(min(known) * 1000) / 1000 if known and len(known) == len(peaks) else None


def interval(values: Sequence[float]) -> dict[str, float]:
    """The mean, and the percentile bootstrap interval of it."""
    sample = np.array(values, dtype=np.float64)
    draws = Stream(0, "bootstrap").uniforms(RESAMPLES * len(sample))
    picks = (draws * len(sample)).astype(np.int64).reshape(RESAMPLES, -1)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(sample[picks].mean(axis=1), [tail, 100 - tail])
    return {"mean": float(sample.mean()), "low": float(low), "high": float(high)}


def _setting(rows: Sequence[Row], asked: float | None) -> dict[str, Any]:
    target = common_accuracy(rows) if asked is None else asked
    contenders: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        contenders.setdefault(tuple(row[name] for name in CONTENDER), []).append(row)
    ranked = [_contender(of_one, target) for of_one in contenders.values()]
    return {
        **{name: rows[0][name] for name in SETTING},
        "target": target,
        "contenders": sorted(ranked, key=_rank),
    }


def _contender(rows: Sequence[Row], target: float | None) -> dict[str, Any]:
    times = [None if target is None else seconds_to(row["curve"], target) for row in rows]
    return {
        **{name: rows[0][name] for name in CONTENDER},
        "seeds": sorted(row["seed"] for row in rows),
        "reached": sum(seconds is not None for seconds in times),
        "seconds_to_target": _over_seeds(times),
        "accuracy": _over_seeds([row["accuracy"] for row in rows]),
        "bytes": _over_seeds([row["bytes"] for row in rows]),
        "seconds": _over_seeds([row["seconds"] for row in rows]),
    }


def _over_seeds(values: Sequence[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    return interval(known) if known and len(known) == len(values) else None


def _rank(contender: dict[str, Any]) -> tuple[float, float, float]:
    to_target, in_all = contender["seconds_to_target"], contender["seconds"]
    return to_target["mean"] if to_target else math.inf, -contender["reached"], in_all["mean"]
