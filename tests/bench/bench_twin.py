"""Speed of the whole twin: rounds of all workers for each second of wall time, beside its goals.

    .venv/bin/python tests/bench/bench_twin.py [--quick] [--plot FILE.png]

Every figure is of a simulation in a process of its own, whose peak memory is shown too. Exit 1 if a
goal is missed. `--quick` leaves the two large federations out and does a tenth of the rounds.

- 30 workers: 21 layers of 44.7 MB (ResNet-18), links of 10-15 MB/s, local passes of 5 s, no tests.
  The goals are for the scheduling work; what it costs that each worker asks each of its peers for
  its status every second (29 x 5 questions for each round) is a row of its own.
- 1,000 and 10,000 workers: LeNet-5's layers, k-regular of degree 8, cards of 12.5 MB/s, passes as
  the shipped calibration has them; status questions each second.
- rounds/s against the number of workers, k-regular of degree 8, LeNet-5: also drawn into the plot.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from mpls.config import ClusterConfig, builtin, changed
from mpls.units import BandwidthRange
from sim import calibration
from sim.fitted import Fit, Fitted
from sim.learning import Shard
from sim.network import drawn_links, make_network
from sim.outline import layers_of
from sim.point import SUMMARY_KINDS, Point, simulate
from sim.record import Recorder
from sim.twin import Twin

PASS_S = 5.0
PASS_STEPS = 20
SIZES = (10, 30, 100, 300, 1_000)
CALIBRATION = calibration.load()


@dataclass(frozen=True)
class Speed:
    """What a simulation took."""

    rounds: int
    virtual_s: float
    wall_s: float
    peak_gib: float

    @property
    def rounds_per_s(self) -> float:
        """Of all workers together."""
        return self.rounds / self.wall_s


def cluster(workers: int, rounds: int, topology: str, status_s: float) -> ClusterConfig:
    tables = {
        "cluster": {"topology": topology, "degree": 8},
        "workers": [{"id": i, "address": "127.0.0.1:0"} for i in range(workers)],
        "training": {"rounds": rounds},
        "network": {"status_s": status_s, "emulate": "10-15MB"},
    }
    return changed(builtin(), tables)


def large_models(topology: str, rounds: int, status_s: float) -> Speed:
    """30 workers with ResNet-18's layers and passes of PASS_S."""
    config = cluster(30, rounds, topology, status_s)
    config = changed(config, {"model": {"name": "resnet18"}, "data": {"dataset": "cifar10"}})
    layers, manifest = layers_of(config)
    shard = Shard((0.1,) * 10, 1_000, PASS_STEPS)
    fit = Fit(PASS_S / PASS_STEPS)
    learning = Fitted(layers, manifest, [shard] * 30, [1.0] * 30, fit, config.cluster.seed)
    links = drawn_links(BandwidthRange(10e6, 15e6), config.cluster.seed)
    twin = Twin(
        config,
        learning,
        lambda clock: make_network("fluid", clock, links, None, CALIBRATION.overhead()),
        replace(CALIBRATION.timing("resnet18"), evaluate_s=0.0),
        Recorder(SUMMARY_KINDS),
    )
    began_s = time.perf_counter()
    ended = twin.run()
    return speed(sum(ended.rounds), ended.seconds, time.perf_counter() - began_s)


def many_workers(workers: int, rounds: int, net: str) -> Speed:
    """As `python -m sim --train model --trace summary` runs them, from the file to the row."""
    config = cluster(workers, rounds, "k-regular", 1.0)
    config = changed(config, {"model": {"name": "lenet5"}, "network": {"nic": "12.5MB"}})
    began_s = time.perf_counter()
    row = simulate(Point(config, CALIBRATION, train="model", net=net))
    assert row["rounds"] == rounds
    return speed(workers * rounds, row["seconds"], time.perf_counter() - began_s)


def speed(rounds: int, virtual_s: float, wall_s: float) -> Speed:
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Speed(rounds, virtual_s, wall_s, peak_kib / 2**20)


def apart(what: object, *args: object) -> Speed:
    """In a process of its own, so that its memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(what, args)  # type: ignore[arg-type]


# --- the table --------------------------------------------------------------------------------


def row(what: str, of: Speed, goal: str = "", met: bool = True) -> bool:
    """Print one line; whether the goal is met."""
    print(
        f"{what:<46}{of.rounds_per_s:8,.0f} rounds/s {of.virtual_s / of.wall_s:7.1f} x real time "
        f"{of.wall_s:6.1f} s {of.peak_gib:5.2f} GiB  {goal}{'' if met else '  MISSED'}",
        flush=True,
    )
    return met


def at_least(what: str, of: Speed, rounds_per_s: float) -> bool:
    return row(what, of, f">= {rounds_per_s:,.0f} rounds/s", of.rounds_per_s >= rounds_per_s)


def at_most(what: str, of: Speed, wall_s: float, gib: float) -> bool:
    met = of.wall_s <= wall_s and of.peak_gib <= gib
    return row(what, of, f"<= {wall_s:.0f} s, {gib:.0f} GiB", met)


def goals(quick: bool) -> bool:
    """Print them; whether all are met."""
    part = 10 if quick else 1
    met = at_least("30, complete graph", apart(large_models, "full", 100 // part, 0.0), 300)
    met &= at_least("30, ring", apart(large_models, "ring", 400 // part, 0.0), 2_000)
    row("30, complete graph, status each second", apart(large_models, "full", 20 // part, 1.0))
    row("30, ring, status each second", apart(large_models, "ring", 200 // part, 1.0))
    if not quick:
        met &= at_most(
            "1,000 x 100 rounds, fluid", apart(many_workers, 1_000, 100, "fluid"), 180, 2
        )
        large = apart(many_workers, 10_000, 20, "fluid-fast")
        met &= at_most("10,000 x 20 rounds, fluid-fast", large, 300, 4)
    return met


def by_size(quick: bool) -> dict[str, list[Speed]]:
    """Speed against the number of workers, exact and nearly."""
    speeds: dict[str, list[Speed]] = {}
    for net in ("fluid", "fluid-fast"):
        for workers in SIZES[:3] if quick else SIZES:
            rounds = max(5, 3_000 // workers)
            speeds.setdefault(net, []).append(apart(many_workers, workers, rounds, net))
            row(f"{workers:,} workers, {net}", speeds[net][-1])
    return speeds


def draw(speeds: dict[str, list[Speed]], file: Path) -> None:
    """Milliseconds of wall time for each round against the number of workers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for net, of in speeds.items():
        axes.plot(SIZES[: len(of)], [1e3 / one.rounds_per_s for one in of], "o-", label=net)
    axes.set(xscale="log", ylim=(0, None), xlabel="workers", ylabel="ms of wall time a round")
    axes.set_title("What a simulated round costs (k-regular of degree 8, LeNet-5)", fontsize=10)
    axes.legend()
    figure.savefig(file, dpi=120)
    print(f"drawn: {file}")


def main() -> int:
    """Prints the tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--plot", type=Path, help="cost of a round against workers, PNG")
    options = parser.parse_args()
    met = goals(options.quick)
    speeds = by_size(options.quick)
    if options.plot:
        draw(speeds, options.plot)
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
