"""Small simulated federations without torch, for the tests of the twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mpls.config import ClusterConfig, builtin, changed
from mpls.core.plan import Layer
from mpls.core.trace import Record
from mpls.units import BandwidthRange
from sim.clock import Clock
from sim.fitted import Fit, Fitted
from sim.learning import Shard
from sim.network import Links, Network, Overhead, drawn_links, make_network
from sim.record import Recorder
from sim.timing import IDEAL, Timing
from sim.twin import Ended, Twin

LAYERS = (Layer("conv", 40_000), Layer("fc", 900_000), Layer("out", 3_000))
FIT = Fit(step_s=0.01)


@dataclass
class Simulated:
    """A finished simulation."""

    ended: Ended
    recorder: Recorder
    config: ClusterConfig

    def notes(self, kind: str) -> list[Record]:
        """All workers' records of a kind, worker by worker."""
        records = self.recorder.records.values()
        return [record for own in records for record in own if record["kind"] == kind]


def cluster(
    workers: int = 3,
    strategy: str = "mpls",
    rounds: int = 6,
    topology: str = "ring",
    seed: int = 1,
    pace: str = "overlap",
    status_s: float = 1.0,
) -> ClusterConfig:
    """A cluster file, as it were."""
    tables = {
        "cluster": {"topology": topology, "seed": seed},
        "workers": [{"id": i, "address": "127.0.0.1:0"} for i in range(workers)],
        "training": {"rounds": rounds, "pace": pace},
        "mpls": {"strategy": strategy},
        "network": {"status_s": status_s},
    }
    base = builtin().model_copy(update={"workers": ()})
    return changed(base, tables, "test")  # type: ignore[arg-type]


def simulate(
    config: ClusterConfig,
    *,
    net: str = "fluid",
    links: Links | None = None,
    layers: Sequence[Layer] = LAYERS,
    timing: Timing = IDEAL,
    fit: Fit = FIT,
    nic_Bps: float | None = None,
    prepare: Callable[[Twin], None] | None = None,
) -> Simulated:
    """Run it in virtual time; overheads are off, so that times can be calculated by hand."""
    seed = config.cluster.seed
    count = len(config.workers)
    shards = [Shard(_histogram(i), 100, 20) for i in range(count)]
    learning = Fitted(layers, "m", shards, [1.0] * count, fit, seed)
    own_links = links or drawn_links(BandwidthRange(10e6, 15e6), seed)

    def network(clock: Clock) -> Network:
        return make_network(net, clock, own_links, nic_Bps, Overhead.none())

    recorder = Recorder()
    twin = Twin(config, learning, network, timing, recorder)
    if prepare is not None:
        prepare(twin)
    return Simulated(twin.run(), recorder, config)


def _histogram(worker: int) -> tuple[float, ...]:
    """Mostly one label."""
    return tuple(0.7 if label == worker % 4 else 0.1 for label in range(4))
