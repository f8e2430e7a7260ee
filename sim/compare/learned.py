"""Metrics 6 and 7: accuracy over time, and which strategy is the fastest. They need repeats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean, stdev

from sim.compare.course import Run, mean_accuracies, seconds_to
from sim.compare.metrics import Metric, at_most, unknown
from sim.compare.statistics import apart, kendall_tau

REPEATS = 3
"""Live runs of one setting that its band is drawn from, at least."""
BAND = 2.0
"""Standard deviations of the live runs to both sides of their mean."""
TARGET = 0.97
"""Of the lowest last accuracy, live: what the time to accuracy is measured to."""
Pair = tuple[Run, Run]


def accuracy(pairs: Sequence[Pair]) -> list[Metric]:
    """Metric 6, of each strategy by itself; the worst is shown."""
    names = "accuracy within the live band", "time to accuracy"
    groups = [of for of in _by_strategy(pairs).values() if len(of) >= REPEATS]
    if not groups:
        why = f"needs {REPEATS} live repeats with seeds of their own"
        return [unknown(6, names[0], "all tests", why), unknown(6, names[1], "<= 5 %", why)]
    outside = max(_outside(of) for of in groups)
    inside = Metric(
        6,
        names[0],
        f"within {BAND:g} sd",
        outside,
        "within" if outside <= 0 else f"{outside:.3f} beyond",
        outside <= 0,
    )
    errors = [error for of in groups if (error := _time_error(of)) is not None]
    if not errors:
        return [inside, unknown(6, names[1], "<= 5 %", "the twin never gets there")]
    worst = max(errors, key=abs)
    return [inside, at_most(6, names[1], abs(worst), 0.05, worst)]


def ranking(pairs: Sequence[Pair]) -> Metric:
    """Metric 7."""
    name, goal = "ranking of strategies, Kendall tau", "1"
    groups = _by_strategy(pairs)
    target = _target([live for live, _ in pairs])
    times = {
        strategy: [(seconds_to(target, a.courses), seconds_to(target, b.courses)) for a, b in of]
        for strategy, of in groups.items()
    }
    complete = {s: t for s, t in times.items() if all(None not in pair for pair in t)}
    if len(complete) < 2:
        return unknown(7, name, goal, "needs runs of two strategies that reach one accuracy")
    live = {s: [a for a, _ in of if a is not None] for s, of in complete.items()}
    twin = {s: [b for _, b in of if b is not None] for s, of in complete.items()}
    counted = apart([(min(times_s), max(times_s)) for times_s in live.values()])
    if not counted:
        return unknown(7, name, goal, "all live intervals overlap")
    tau = kendall_tau([(mean(live[s]), mean(twin[s])) for s in complete], counted)
    note = f"{len(counted)} pairs of {', '.join(complete)}"
    return Metric(7, name, goal, tau, f"{tau:.2f}", tau == 1.0, note=note)


def _by_strategy(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    groups: defaultdict[str, list[Pair]] = defaultdict(list)
    for live, twin in pairs:
        groups[live.strategy].append((live, twin))
    return dict(groups)


def _outside(pairs: Sequence[Pair]) -> float:
    """How far the twins' mean accuracy leaves the band at its worst test; below 0 nowhere."""
    live = [mean_accuracies(run.courses) for run, _ in pairs]
    twin = [mean_accuracies(run.courses) for _, run in pairs]
    shared = set.intersection(*(set(of) for of in (*live, *twin)))
    gaps = []
    for number in shared:
        band = [of[number][1] for of in live]
        gap = abs(mean(of[number][1] for of in twin) - mean(band))
        gaps.append(gap - BAND * stdev(band))
    return max(gaps, default=0.0)


def _time_error(pairs: Sequence[Pair]) -> float | None:
    target = _target([live for live, _ in pairs])
    times = [(seconds_to(target, a.courses), seconds_to(target, b.courses)) for a, b in pairs]
    ours = [live_s for live_s, _ in times if live_s is not None]
    theirs = [twin_s for _, twin_s in times if twin_s is not None]
    return mean(theirs) / mean(ours) - 1 if len(theirs) == len(ours) == len(pairs) else None


def _target(runs: Sequence[Run]) -> float:
    last = [list(mean_accuracies(run.courses).values()) for run in runs]
    return TARGET * min((tests[-1][1] for tests in last if tests), default=1.0)
