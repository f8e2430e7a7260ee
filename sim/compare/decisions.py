"""Metric 1: what a live worker decided, decided again by the core under the twin's clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from mpls.core.conductor import Conductor
from mpls.core.trace import Difference, Record, fed, first_difference, replayed
from sim.clock import Clock


@dataclass(frozen=True)
class Decisions:
    """Of one worker. A plan's record has the assignment, the scores p and q and the floor theta;
    equal means every bit of them."""

    worker: str
    plans: int
    identical: int
    first: Difference | None
    """Where the records part ways first, plans or not."""


def decide_again(worker: str, records: Iterable[Record]) -> Decisions:
    """Feed a trace's events to a fresh core, at their times on the twin's clock."""
    recorded, again = replayed(records, on_the_clock)
    plans, plans_again = _plans(recorded), _plans(again)
    identical = sum(plans_again.get(number) == plan for number, plan in plans.items())
    return Decisions(worker, len(plans), identical, first_difference(recorded, again))


def on_the_clock(conductor: Conductor, inputs: Sequence[Record]) -> list[Record]:
    """See `mpls.core.trace.Feed`. A core that has parted ways with the trace may object to an event
    that no longer fits; it decides nothing from there on."""
    clock, records = Clock(), list[Record]()
    for record in inputs:
        clock.at(record["t"], partial(_feed, conductor, record, records))
    with suppress(AssertionError):
        clock.run()
    return records


def _feed(conductor: Conductor, record: Record, records: list[Record]) -> None:
    records += fed(conductor, record)


def _plans(records: Sequence[Record]) -> dict[int, Record]:
    return {record["round"]: record for record in records if record["kind"] == "plan"}
