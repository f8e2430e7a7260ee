"""A comparison from its runs to its metrics and its page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from sim.calibration import Calibration
from sim.compare import exact, learned, predict, times
from sim.compare.course import Run
from sim.compare.metrics import Metric
from sim.compare.page import write_page
from sim.variation import Variation


class Comparison:
    """Live runs of one cluster, all judged together. `say` hears what is being done."""

    def __init__(
        self,
        runs: Sequence[Run],
        calibration: Calibration,
        vary: Variation,
        jobs: int | None,
        say: Callable[[str], None],
    ) -> None:
        self._decisions = exact.decisions_of(runs)
        self._payloads = exact.payloads_of(runs)
        self._pulls = [pull for run in runs for pull in predict.pulls_again(run, calibration, vary)]
        self._alike, self._free = [], []
        for number, run in enumerate(runs, 1):
            say(f"run {number} of {len(runs)}: {run.recorded.place}")
            self._alike.append((run, predict.with_its_decisions(run, calibration, vary)))
            twin = predict.by_itself(run, calibration, jobs or os.cpu_count() or 1, vary)
            self._free.append((run, twin))

    def metrics(self) -> list[Metric]:
        """All eight, some in several lines."""
        return [
            exact.decision_replay(self._decisions),
            *exact.payload_bytes(self._payloads),
            *times.transfer_time(self._pulls),
            *times.round_time_alike(self._alike),
            *times.round_time_free(self._free),
            *learned.accuracy(self._free),
            learned.ranking(self._free),
            times.staleness(self._free),
        ]

    def write_page(self, path: Path) -> None:
        """`report.html`."""
        write_page(path, self.metrics(), self._decisions, self._pulls, self._free)
