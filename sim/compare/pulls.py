"""The transfers of a live run, on one clock."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sim.compare.course import Run


@dataclass(frozen=True)
class Pull:
    """A transfer as it was and, perhaps, as the twin has it."""

    src: int
    dst: int
    start_s: float
    """Since the run began."""
    bytes: int
    whole: bool
    """Whether all that was asked for came."""
    wait_s: float
    """The server's own."""
    live_s: float
    simulated_s: float = 0.0

    @property
    def error(self) -> float:
        """Of the simulated time, as a share of the live one."""
        return self.simulated_s / self.live_s - 1


def live_pulls(run: Run) -> list[Pull]:
    """All of them."""
    ids = {worker.spec.name: index for index, worker in enumerate(run.recorded.workers)}
    return [
        Pull(
            ids[one.peer],
            dst,
            one.start_s + offset_s,
            one.bytes,
            one.whole,
            one.wait_s,
            one.seconds,
        )
        for dst, (worker, offset_s) in enumerate(zip(run.recorded.workers, run.offsets_s))
        for one in worker.transfers
    ]


def are_met(pulls: Sequence[Pull]) -> list[bool]:
    """Of each, whether another one was going the other way when it began, which its request had to
    pass."""
    begun: dict[tuple[int, int], list[float]] = defaultdict(list)
    busy_until: dict[tuple[int, int], list[float]] = defaultdict(list)
    for pull in sorted(pulls, key=lambda pull: pull.start_s):
        pair = pull.src, pull.dst
        begun[pair].append(pull.start_s)
        ends = busy_until[pair]
        ends.append(max(pull.start_s + pull.live_s, ends[-1] if ends else 0.0))

    def met(pull: Pull) -> bool:
        back = pull.dst, pull.src
        before = bisect_right(begun[back], pull.start_s)
        return before > 0 and busy_until[back][before - 1] > pull.start_s

    return [met(pull) for pull in pulls]
