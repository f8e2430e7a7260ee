"""One point of a sweep: a cluster and how to simulate it in, one row of results out."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from mpls.config import ClusterConfig, dumps
from mpls.core.streams import Stream
from mpls.core.trace import Record
from mpls.units import BandwidthRange
from sim.calibration import Calibration
from sim.clock import Clock
from sim.fault_effects import Faults
from sim.faults import Fault
from sim.fitted import Fitted
from sim.learning import Learning
from sim.network import Links, Network, Overhead, make_network
from sim.outline import layers_of, shards_of
from sim.record import Recorder
from sim.recorded import CLUSTER_FILE, RecordedRun
from sim.replayed_times import (
    recorded_delays,
    recorded_durations,
    recorded_links,
    recorded_timings,
)
from sim.replaying import Replaying
from sim.timing import Timing
from sim.twin import Ended, Twin
from sim.variation import NONE, Variation

SUMMARY_KINDS = frozenset({"start", "eval", "mix"})
"""What `--trace summary` keeps."""
Row = dict[str, Any]
Tell = Callable[[float], None]


@dataclass(frozen=True)
class Point:
    """`config` says what runs; the rest how it is simulated. `labels` tell it from other points."""

    config: ClusterConfig
    calibration: Calibration
    train: str = "real"
    net: str = "fluid"
    overhead: bool = True
    full_trace: bool = False
    until_accuracy: float | None = None
    """Stop once the workers' mean accuracy is this high."""
    until_s: float | None = None
    """Stop at this virtual time."""
    vary: Variation = NONE
    """How links vary in time."""
    faults: tuple[Fault, ...] = ()
    """What goes wrong."""
    of: RecordedRun | None = None
    """Where `--train replay` and `--net trace` have their numbers from."""
    jobs: int = 1
    """Processes that train, where training is real; changes no result."""
    labels: dict[str, Any] = field(default_factory=dict)

    @property
    def has_recorded_links(self) -> bool:
        """Whether the recorded run says how fast links are: a replay takes their rates from it,
        too, where the run did not pace them itself and no others were asked for."""
        unpaced = self.config.network.emulate is None and self.vary == NONE
        return self.net == "trace" or (self.train == "replay" and unpaced)

    @cached_property
    def key(self) -> str:
        """The same for points whose results are the same, in hexadecimal."""
        config = self.config.model_dump(mode="json", exclude={"cluster": {"out"}})
        how = [self.train, self.net, self.overhead, self.full_trace]
        how += [self.until_accuracy, self.until_s, repr(self.calibration.measured)]
        how += [self.vary.identity, repr(self.faults), self.of.sha256 if self.of else ""]
        return hashlib.sha256(json.dumps([config, how], sort_keys=True).encode()).hexdigest()[:16]


def simulate(
    point: Point,
    folder: Path | None = None,
    tell: Tell | None = None,
    prepare: Callable[[Twin], None] | None = None,
) -> Row:
    """Run it. Of a full trace the workers' files are left in the folder, with the cluster file, as
    a live run leaves them; `tell` hears now and then what share of the rounds is done; `prepare` is
    called with the twin before it begins."""
    began_s = time.perf_counter()
    learning = _learning(point)
    try:
        watch = Watch(point, tell)
        twin = Twin(
            point.config,
            learning,
            lambda clock: network_of(point, clock),
            _timings(point),
            watch,
        )
        watch.stop = twin.stop
        faults = Faults(point.faults, point.config.cluster.seed)
        if point.faults:
            faults.apply(twin)
        if point.until_s is not None:
            twin.clock.at(point.until_s, twin.stop)
        if prepare is not None:
            prepare(twin)
        ended = twin.run()
    finally:
        learning.close()
    if folder is not None and point.full_trace:
        folder.mkdir(parents=True, exist_ok=True)
        watch.write(folder)
        (folder / CLUSTER_FILE).write_text(dumps(point.config), encoding="utf-8")
    befell = sum(faults.befell.values())
    wall_s = round(time.perf_counter() - began_s, 3)
    results = {**_results(ended, watch), "befell": befell, "wall_s": wall_s}
    return {"key": point.key, **point.labels, **results}


class Watch(Recorder):
    """Records a simulation and follows what its workers have learned so far."""

    def __init__(self, point: Point, tell: Tell | None) -> None:
        super().__init__(None if point.full_trace else SUMMARY_KINDS)
        self.curve: list[tuple[float, float]] = []
        """Virtual seconds, and the mean over the workers of the accuracy after mixing: a point each
        time that as many tests were made as there are workers."""
        self.stop: Callable[[], None] = lambda: None
        self._target = point.until_accuracy
        self._tell = tell
        self._workers = len(point.config.workers)
        self._all_rounds = point.config.training.rounds * self._workers
        self._rounds = 0
        self._latest: dict[str, float] = {}
        self._tests = 0

    def keep(self, name: str, record: Record) -> None:
        """See Recorder."""
        super().keep(name, record)
        if record["kind"] == "mix":
            self._rounds += 1
            if self._tell is not None:
                self._tell(self._rounds / self._all_rounds)
        elif record["kind"] == "eval" and record["which"] == "mixed":
            self._latest[name] = record["accuracy"]
            self._tests += 1
            if self._tests >= self._workers == len(self._latest):
                self._follow(record["t"])

    def accuracy(self) -> float | None:
        """The mean over all workers, once each was tested."""
        known = len(self._latest) == self._workers
        return sum(self._latest.values()) / self._workers if known else None

    def _follow(self, now: float) -> None:
        accuracy = self.accuracy()
        assert accuracy is not None
        self._tests = 0
        self.curve.append((now, accuracy))
        if self._target is not None and accuracy >= self._target:
            self.stop()


class ShareFile:
    """Leaves in a file what share of a point is done, for who shows it in another process."""

    EVERY_S = 0.25

    def __init__(self, path: Path) -> None:
        self._path = path
        self._due_s = 0.0

    def __call__(self, share: float) -> None:
        """Write it, unless that was done a moment ago."""
        now = time.monotonic()
        if now >= self._due_s:
            self._due_s = now + self.EVERY_S
            part = self._path.with_suffix(f".{os.getpid()}")
            part.write_text(f"{share:.4f}", encoding="utf-8")
            part.replace(self._path)


def _learning(point: Point) -> Learning:
    config = point.config
    if point.train == "real":
        # Only this way of learning imports torch.
        from sim.real import Real

        return Real(config, point.calibration, point.jobs)
    if point.train == "replay":
        return Replaying(_recorded(point), config)
    layers, digest = layers_of(config)
    speeds = [worker.speed for worker in config.workers]
    fit = point.calibration.fit(config.model.name, config.training.batch_size)
    return Fitted(layers, digest, shards_of(config), speeds, fit, config.cluster.seed)


def _recorded(point: Point) -> RecordedRun:
    assert point.of is not None, "a point that needs a recorded run has one"
    return point.of


def _has_overhead(point: Point) -> bool:
    """Eq. 7 knows of none."""
    return point.overhead and point.net != "links"


def _timings(point: Point) -> list[Timing]:
    """Of each worker."""
    if point.train == "replay":
        timings = recorded_timings(_recorded(point), _delays(point, point.calibration.delays()))
    else:
        timing = point.calibration.timing(point.config.model.name)
        timings = [_delays(point, timing)] * len(point.config.workers)
    return timings


def _delays(point: Point, timing: Timing) -> Timing:
    """`timing` with the delays of messages as the network model has them."""
    if point.of is not None:
        timing = recorded_delays(point.of, timing)
    # A network model without overhead has none of what slows a pull down either.
    plain = replace(timing, slowdown=(1.0,), met_slowdown=(1.0,))
    if point.net == "trace":
        # Until the core heard of the last byte: a recorded transfer contains all that.
        return replace(plain, deliver_s=0.0)
    return timing if _has_overhead(point) else replace(plain, one_way_s=0.0)


def network_of(point: Point, clock: Clock) -> Network:
    """The links and cards of its workers."""
    config = point.config.network
    if point.net == "trace":
        one_way_s = _timings(point)[0].one_way_s
        durations = recorded_durations(_recorded(point), one_way_s)
        return make_network(point.net, clock, duration_s=durations)
    overhead = point.calibration.overhead() if _has_overhead(point) else Overhead.none()
    return make_network(
        point.net,
        clock,
        _links(point, overhead),
        config.nic.low_Bps if config.nic else None,
        overhead,
        stations_Bps=_stations(config.emulate or config.prior_bw, point.config.cluster.seed),
    )


def _links(point: Point, overhead: Overhead) -> Links:
    if point.has_recorded_links:
        one_way_s = _timings(point)[0].one_way_s
        return recorded_links(_recorded(point), one_way_s, overhead.payload_share)
    return point.vary.links(point.config)


def _stations(rates: BandwidthRange, seed: int) -> Callable[[int], float]:
    """For `--net wifi`, which has no links: each worker's own rate to the access point."""
    return cache(
        lambda worker: Stream(seed, "stations", worker).between(rates.low_Bps, rates.high_Bps)
    )


def _results(ended: Ended, watch: Watch) -> Row:
    return {
        "seconds": round(ended.seconds, 6),
        "rounds": min(ended.rounds),
        "bytes": sum(ended.bytes_in),
        "accuracy": watch.accuracy(),
        "curve": [[round(at_s, 6), round(accuracy, 6)] for at_s, accuracy in watch.curve],
        "trace_sha256": watch.sha256(),
    }
