"""Metrics 1 and 2, which hold exactly or not at all."""

from __future__ import annotations

from collections.abc import Sequence

from sim.compare.course import Run
from sim.compare.decisions import Decisions, decide_again
from sim.compare.metrics import Metric, at_most
from sim.compare.payload import Payload, weigh_again


def exactly(runs: Sequence[Run]) -> list[Metric]:
    """Both metrics and nothing else: nothing is simulated, so it takes a moment."""
    return [decision_replay(decisions_of(runs)), *payload_bytes(payloads_of(runs))]


def decisions_of(runs: Sequence[Run]) -> list[tuple[Run, Decisions]]:
    """Of every worker of every run."""
    return [
        (run, decide_again(name, records)) for run in runs for name, records in run.records.items()
    ]


def payloads_of(runs: Sequence[Run]) -> list[tuple[Run, Payload]]:
    """Of every worker of every run."""
    return [
        (run, weigh_again(name, records)) for run in runs for name, records in run.records.items()
    ]


def decision_replay(found: Sequence[tuple[Run, Decisions]]) -> Metric:
    """Metric 1."""
    plans = sum(one.plans for _, one in found)
    identical = sum(one.identical for _, one in found)
    first = next(((run, one) for run, one in found if one.first is not None), None)
    note = f"{plans} plans of {len(found)} workers"
    if first is not None:
        run, one = first
        assert one.first is not None
        note = f"{run.recorded.place}: {one.worker} differs first at {one.first.t:.6f} s"
    return Metric(
        1,
        "decision replay, identical plans",
        "100 %",
        identical / plans if plans else 0.0,
        f"{identical} of {plans}",
        first is None and identical == plans > 0,
        note=note,
    )


def payload_bytes(found: Sequence[tuple[Run, Payload]]) -> list[Metric]:
    """Metric 2."""
    gaps = [
        f"{one.worker} and {peer}, {kind}: {gap:+d} bytes"
        for _, one in found
        for (peer, kind), gap in one.differences().items()
    ]
    broken = sum(sum(one.broken.values()) for _, one in found)
    compared = sum(one.exact_bytes() for _, one in found)
    note = gaps[0] if gaps else f"{compared:,} bytes equal"
    if broken:
        note += f"; {broken} pulls did not come whole, their peers' chunks are not compared"
    exact = Metric(
        2,
        "payload bytes by pair and type",
        "equal",
        float(len(gaps)),
        f"{len(gaps)} differ",
        not gaps and compared > 0,
        note=note,
    )
    timed = max((one.timed_error() for _, one in found), key=abs, default=0.0)
    return [exact, at_most(2, "status and probe bytes", abs(timed), 0.01, timed)]
