"""What the twin makes of a live run: with its decisions and computing times, or all by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from mpls.core.plan import Plan, View
from mpls.core.streams import Stream
from mpls.core.trace import Record
from sim.calibration import Calibration
from sim.clock import Clock
from sim.compare.course import Run, read_course
from sim.compare.pulls import Pull, are_met, live_pulls
from sim.point import Point, network_of, simulate
from sim.twin import Twin
from sim.variation import NONE, Variation


def by_itself(run: Run, calibration: Calibration, jobs: int, vary: Variation = NONE) -> Run:
    """The twin of a run from its cluster file, the calibration and the seed alone; `vary` is what
    is known to have happened to its links."""
    point = Point(run.recorded.config, calibration, full_trace=True, jobs=jobs, vary=vary)
    return _simulated(point, None)


def with_its_decisions(run: Run, calibration: Calibration, vary: Variation = NONE) -> Run:
    """The twin with the run's plans, and with the times that its computing took: what is left to
    predict are transfers and what waits for them."""
    config, of, usual = run.recorded.config, run.recorded, calibration.without_chance()
    point = Point(config, usual, train="replay", of=of, full_trace=True, vary=vary)
    return _simulated(point, run)


def pulls_again(run: Run, calibration: Calibration, vary: Variation = NONE) -> list[Pull]:
    """Every transfer of the run, begun when it began live, all together over the twin's network.
    Those that came whole, in the order of their beginning."""
    clock = Clock()
    network = network_of(Point(run.recorded.config, calibration, vary=vary), clock)
    timing, again = calibration.without_chance().delays(), list[Pull]()
    pulls = live_pulls(run)

    def begin(pull: Pull, is_met: bool) -> None:
        (slowdown,) = timing.met_slowdown if is_met else timing.slowdown
        size = pull.bytes * slowdown
        network.start(pull.src, pull.dst, [size], lambda _: end(pull))

    def end(pull: Pull) -> None:
        seconds = clock.now + timing.deliver_s - pull.start_s
        again.append(replace(pull, simulated_s=seconds))

    for pull, is_met in zip(pulls, are_met(pulls)):
        clock.at(pull.start_s + timing.one_way_s + timing.serve_s, partial(begin, pull, is_met))
    clock.run()
    return sorted((pull for pull in again if pull.whole), key=lambda pull: pull.start_s)


class RecordedPlans:
    """A strategy that plans what a worker planned in a recorded run, round by round."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._assignments = [record["assignment"] for record in records if record["kind"] == "plan"]
        self._made = 0

    def plan(self, view: View, stream: Stream) -> Plan:
        """See `mpls.core.strategies.Strategy`. What nobody offers now cannot be planned."""
        number, self._made = self._made, self._made + 1
        recorded = self._assignments[number] if number < len(self._assignments) else {}
        usable = {peer.name for peer in view.usable_peers()}
        return Plan.of(view, {peer: tuple(recorded.get(peer, ())) for peer in usable})


def _simulated(point: Point, decided: Run | None) -> Run:
    def follow(twin: Twin) -> None:
        if decided is not None:
            for worker in twin.workers:
                worker.rounds.strategy = RecordedPlans(decided.records[worker.name])

    with TemporaryDirectory() as folder:
        simulate(point, Path(folder), prepare=follow)
        return read_course(Path(folder))
