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

from mpls.config import ClusterConfig
from mpls.core.streams import Stream
from mpls.core.trace import Record
from mpls.units import BandwidthRange
from sim.calibration import Calibration
from sim.clock import Clock
from sim.fitted import Fitted
from sim.learning import Learning
from sim.network import Network, Overhead, drawn_links, make_network
from sim.outline import layers_of, shards_of
from sim.record import Recorder
from sim.timing import Timing
from sim.twin import Ended, Twin

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
    jobs: int = 1
    """Processes that train, where training is real; changes no result."""
    labels: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """The same for points whose results are the same, in hexadecimal."""
        config = self.config.model_dump(mode="json", exclude={"cluster": {"out"}})
        how = [self.train, self.net, self.overhead, self.full_trace]
        how += [self.until_accuracy, self.until_s, repr(self.calibration.measured)]
        return hashlib.sha256(json.dumps([config, how], sort_keys=True).encode()).hexdigest()[:16]


def simulate(point: Point, folder: Path | None = None, tell: Tell | None = None) -> Row:
    """Run it. Of a full trace the workers' files are left in the folder; `tell` hears now and then
    what share of the rounds is done."""
    began_s = time.perf_counter()
    learning = _learning(point)
    try:
        watch = Watch(point, tell)
        twin = Twin(
            point.config,
            learning,
            lambda clock: _network(point, clock),
            _timing(point),
            watch,
        )
        watch.stop = twin.stop
        if point.until_s is not None:
            twin.clock.at(point.until_s, twin.stop)
        ended = twin.run()
    finally:
        learning.close()
    if folder is not None and point.full_trace:
        folder.mkdir(parents=True, exist_ok=True)
        watch.write(folder)
    wall_s = round(time.perf_counter() - began_s, 3)
    return {"key": point.key, **point.labels, **_results(ended, watch), "wall_s": wall_s}


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
    if point.train == "real":
        # Only this way of learning imports torch.
        from sim.real import Real

        return Real(point.config, point.calibration, point.jobs)
    config = point.config
    layers, digest = layers_of(config)
    speeds = [worker.speed for worker in config.workers]
    fit = point.calibration.fit(config.model.name, config.training.batch_size)
    return Fitted(layers, digest, shards_of(config), speeds, fit, config.cluster.seed)


def _has_overhead(point: Point) -> bool:
    """Eq. 7 knows of none."""
    return point.overhead and point.net != "links"


def _timing(point: Point) -> Timing:
    timing = point.calibration.timing(point.config.model.name)
    return timing if _has_overhead(point) else replace(timing, one_way_s=0.0)


def _network(point: Point, clock: Clock) -> Network:
    config, seed = point.config.network, point.config.cluster.seed
    rates = config.emulate or config.prior_bw
    return make_network(
        point.net,
        clock,
        drawn_links(rates, seed),
        config.nic.low_Bps if config.nic else None,
        point.calibration.overhead() if _has_overhead(point) else Overhead.none(),
        stations_Bps=_stations(rates, seed),
    )


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
