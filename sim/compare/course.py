"""How a run went, live or simulated: its rounds, what was stale in them, and what was learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from mpls.config import ClusterConfig
from mpls.core.trace import Record, read
from sim.recorded import RecordedRun, read_run


@dataclass(frozen=True)
class Course:
    """One worker's way through a run. Times are seconds since the run began."""

    worker: str
    ends_s: tuple[float, ...]
    """Of each round: when it was mixed."""
    staleness: Counter[int]
    """Rounds that a copy's sender was behind (negative: ahead) -> copies."""
    tests: tuple[tuple[float, int, float], ...]
    """(when, round, accuracy) of each test after mixing."""

    @cached_property
    def round_s(self) -> tuple[float, ...]:
        """How long each round took, from the second one on: the first contains the greeting."""
        return tuple(end - start for start, end in pairwise(self.ends_s))


@dataclass(frozen=True)
class Run:
    """A run's folder, read."""

    recorded: RecordedRun
    records: dict[str, list[Record]]
    """Of each worker."""
    courses: tuple[Course, ...]
    """Of each worker, in order."""
    offsets_s: tuple[float, ...]
    """From the run's beginning to the zero of each worker's clock."""

    @property
    def strategy(self) -> str:
        """Of all its workers."""
        return self.recorded.config.mpls.strategy


def read_course(folder: Path) -> Run:
    """Raises BadInput, one line that names the folder or file, where it is no run."""
    recorded = read_run(folder)
    names = [it.name for it in recorded.config.workers if (folder / _trace_of(it.name)).exists()]
    records = {name: list(read(folder / _trace_of(name))) for name in names}
    offsets_s = _offsets_s(list(records.values()))
    courses = [course(name, records[name], at_s) for name, at_s in zip(names, offsets_s)]
    return Run(recorded, records, tuple(courses), offsets_s)


def _trace_of(name: str) -> str:
    """Whoever had left before the run began has none."""
    return f"{name}.trace.jsonl"


def course(worker: str, records: Iterable[Record], offset_s: float = 0.0) -> Course:
    """From a worker's records, whose clock was at zero `offset_s` after the run began."""
    ends_s, staleness, tests = [], Counter[int](), []
    for record in records:
        if record["kind"] == "mix":
            ends_s.append(record["t"] + offset_s)
            staleness.update({int(lag): copies for lag, copies in record["staleness"].items()})
        elif record["kind"] == "eval" and record["which"] == "mixed":
            tests.append((record["t"] + offset_s, record["round"], record["accuracy"]))
    return Course(worker, tuple(ends_s), staleness, tuple(tests))


def mean_accuracies(courses: Iterable[Course]) -> dict[int, tuple[float, float]]:
    """Round -> mean over the workers of when it was tested and of the accuracy, of rounds that all
    tested."""
    by_round: dict[int, list[tuple[float, float]]] = {}
    of = list(courses)
    for one in of:
        for at_s, number, accuracy in one.tests:
            by_round.setdefault(number, []).append((at_s, accuracy))
    return {
        number: (_mean(at_s for at_s, _ in tests), _mean(accuracy for _, accuracy in tests))
        for number, tests in sorted(by_round.items())
        if len(tests) == len(of)
    }


def seconds_to(accuracy: float, courses: Iterable[Course]) -> float | None:
    """When the workers' mean accuracy was first so high, between two tests on the line through
    them; None if it never was."""
    before: tuple[float, float] | None = None
    for at_s, mean in mean_accuracies(courses).values():
        if mean >= accuracy:
            if before is None or mean == before[1]:
                return at_s
            share = (accuracy - before[1]) / (mean - before[1])
            return before[0] + share * (at_s - before[0])
        before = at_s, mean
    return None


def _offsets_s(traces: list[list[Record]]) -> tuple[float, ...]:
    """Simulated workers share one clock; live ones say what the wall clock was at their zero."""
    starts_s = [_started_unix_s(records) for records in traces]
    return tuple(start_s - min(starts_s) for start_s in starts_s)


def _started_unix_s(records: list[Record]) -> float:
    header = next(record for record in records if record["kind"] == "header")
    return float(header.get("started_unix_s", 0.0))


def _mean(values: Iterable[float]) -> float:
    of = list(values)
    return sum(of) / len(of)


def with_config(run: Run, config: ClusterConfig) -> Run:
    """The run as if its cluster file had been this one."""
    return replace(run, recorded=replace(run.recorded, config=config))
