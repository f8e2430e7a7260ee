"""The transfers of a live run, on one clock."""

from __future__ import annotations

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


def is_met(pull: Pull, pulls: Sequence[Pull]) -> bool:
    """Whether another one was going the other way when it began, which its request had to pass."""
    return any(
        (other.src, other.dst) == (pull.dst, pull.src)
        and other.start_s <= pull.start_s < other.start_s + other.live_s
        for other in pulls
    )
