"""`report.html` of a comparison, from what was found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpls.core.trace import Record
from sim.compare.course import Run, mean_accuracies
from sim.compare.decisions import Decisions
from sim.compare.metrics import Metric
from sim.compare.pulls import Pull
from sim.compare.statistics import kolmogorov_smirnov

if TYPE_CHECKING:
    from mpls.report.page import Section

SHOWN_CHARACTERS = 2_000
"""Of a record that differs."""


def write_page(
    path: Path,
    metrics: Sequence[Metric],
    decisions: Sequence[tuple[Run, Decisions]],
    pulls: Sequence[Pull],
    pairs: Sequence[tuple[Run, Run]],
) -> None:
    """`pairs` are live runs with their twins; the first of them is drawn in detail."""
    from mpls.report.page import write_page as write
    from mpls.report.twin import verdicts

    live = pairs[0][0]
    lead = f"{len(pairs)} live {'run' if len(pairs) == 1 else 'runs'} of {live.strategy}."
    table = verdicts([{**one.plain(), "shown": one.shown} for one in metrics])
    sections = [table, *_different(decisions), *_drawn(pulls, pairs)]
    write(path, f"{Path(live.recorded.place).name} and its twin", lead, sections)


def _drawn(pulls: Sequence[Pull], pairs: Sequence[tuple[Run, Run]]) -> Iterator[Section]:
    from mpls.report import twin

    live, simulated = pairs[0]
    yield twin.gantt(_bars(live), _bars(simulated))
    ours, theirs = _round_times(live), _round_times(simulated)
    if ours and theirs:
        yield twin.round_times(ours, theirs, kolmogorov_smirnov(ours, theirs))
    names = [worker.name for worker in live.recorded.config.workers]
    yield twin.transfers([_dot(pull, names) for pull in pulls])
    yield twin.pair_bytes(names, _pair_bytes(live), _pair_bytes(simulated))
    yield twin.accuracies(
        [
            (run.recorded.place, is_live, list(mean_accuracies(run.courses).values()))
            for pair in pairs
            for is_live, run in zip((True, False), pair)
        ]
    )


def _different(decisions: Sequence[tuple[Run, Decisions]]) -> Iterator[Section]:
    from mpls.report.twin import first_difference

    for run, one in decisions:
        if one.first is not None:
            place = f"{run.recorded.place}, {one.worker}, {one.first.t:.6f} s"
            yield first_difference(place, _text(one.first.recorded), _text(one.first.replayed))
            return


def _text(record: Record | None) -> str:
    return "nothing" if record is None else json.dumps(record)[:SHOWN_CHARACTERS]


def _bars(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "source": one.peer,
            "target": worker.spec.name,
            "start_s": one.start_s + offset_s,
            "seconds": one.seconds,
            "bytes": one.bytes,
        }
        for worker, offset_s in zip(run.recorded.workers, run.offsets_s)
        for one in worker.transfers
    ]


def _dot(pull: Pull, names: Sequence[str]) -> dict[str, Any]:
    ends = {"source": names[pull.src], "target": names[pull.dst], "bytes": pull.bytes}
    return {**ends, "live_s": pull.live_s, "simulated_s": pull.simulated_s}


def _round_times(run: Run) -> list[float]:
    return [seconds for one in run.courses for seconds in one.round_s]


def _pair_bytes(run: Run) -> Counter[tuple[str, str]]:
    weights: Counter[tuple[str, str]] = Counter()
    for worker in run.recorded.workers:
        for one in worker.transfers:
            weights[one.peer, worker.spec.name] += one.bytes
    return weights
