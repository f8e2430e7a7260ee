"""How fast a pull is, what it costs, and what serving takes from training, beside its rivals.

    make bench-wire            about half an hour
    make bench-wire ARGS=--quick

Server and pullers are processes of their own on loopback. Every figure is the median of interleaved
repeats: in each of them all rivals have their turn, so that the ratios survive a busy machine. The
goals are those of docs/performance.md; one that is missed is named, and ends nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

import psutil

from tests.bench import beside_training
from tests.bench.ends import RIVALS, Sample, ends, measure, together

LAYER_LIMITS_BYTES = {"gRPC adapter": 100_000_000}
"""A layer has to go into one message."""
MEMORY_FACTORS = {
    "gRPC adapter": 10.0,
    "gRPC unary": 10.0,
    "gRPC stream": 2.5,
    "pickle ZeroMQ": 5.5,
}
"""What a pull takes at both ends together, in payloads; a little over 1 for the others."""
PAYLOAD_BYTES = (200_000, 47_000_000, 553_000_000)
MEASURED_BYTES = 250_000_000
"""As many pulls as move this make one sample, but at least one and at most PULLS."""
PULLS = 400
FAIR_S = 4.0
PINGS = 2_000
MIXED_PARAMETERS, MIXED_COPIES = 11_000_000, (2, 8)


class Cell(NamedTuple):
    """One situation: so many bytes in equal layers, for so many pullers at once."""

    bytes: int
    layers: int
    pullers: int

    def __str__(self) -> str:
        return f"{self.bytes / 1e6:g} MB in {self.layers} layers, {self.pullers} pulling"

    def sizes(self) -> list[int]:
        """Of its layers, whole float32 each."""
        return [self.bytes // self.layers // 4 * 4] * self.layers

    def pulls(self) -> int:
        """By each puller, for one sample."""
        return max(1, min(PULLS, MEASURED_BYTES // (self.bytes * self.pullers)))

    def fits(self, name: str) -> bool:
        """Into half of the memory that is free, and each layer into a message."""
        if max(self.sizes()) > LAYER_LIMITS_BYTES.get(name, self.bytes):
            return False
        each = self.pullers * MEMORY_FACTORS.get(name, 1.2)
        return self.bytes * (1 + each) <= psutil.virtual_memory().available / 2


Figures = dict[Cell, dict[str, list[Sample]]]


@dataclass
class Goals:
    """The goals met and missed so far, each printed as it is judged."""

    missed: list[str] = field(default_factory=list)

    def at_least(self, what: str, values: Sequence[float], goal: float) -> None:
        """The median must be that large."""
        self._judge(what, values, ">=", goal, lambda value: value >= goal)

    def at_most(self, what: str, values: Sequence[float], goal: float) -> None:
        """The median must be that small."""
        self._judge(what, values, "<=", goal, lambda value: value <= goal)

    def _judge(
        self,
        what: str,
        values: Sequence[float],
        sign: str,
        goal: float,
        met: Callable[[float], bool],
    ) -> None:
        if not values:
            print(f"  {what:<66} not measured", flush=True)
            return
        value = median(values)
        end = "ok" if met(value) else "MISSED"
        print(f"  {what:<66} {value:8.3g}   {sign} {goal:<5g} {end}", flush=True)
        if not met(value):
            self.missed.append(f"{what}: {value:.3g}, goal {sign} {goal:g}")


def main() -> None:
    """Measure, print, and say which goals are missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two repeats of a few cells")
    parser.add_argument("--only", choices=("pulls", "beats", "training"), help="a part of it")
    options = parser.parse_args()
    repeats, rivals, goals = 2 if options.quick else 5, _rivals(), Goals()
    print(f"{_machine()}; medians of {repeats} interleaved repeats")
    if options.only in (None, "pulls"):
        cells = _quick_cells() if options.quick else _cells()
        judge_pulls(pulls(cells, rivals, repeats), goals)
        judge_fairness([name for name in rivals if name.startswith("mpls")], repeats, goals)
    if options.only in (None, "beats"):
        judge_beats(rivals, repeats, goals)
    if options.only in (None, "training"):
        judge_training(repeats, 2.0 if options.quick else 4.0, goals)
        judge_publishing(repeats, goals)
        judge_mixing(repeats, goals)
    for line in goals.missed:
        print(f"missed: {line}")
    print(f"load average at the end {os.getloadavg()[0]:.1f}")


def _rivals() -> list[str]:
    missing = [name for name in RIVALS if name.startswith("gRPC") and find_spec("grpc") is None]
    if missing:
        print("without gRPC: pip install 'mpls-dfl[grpc]' to compare with it")
    return [name for name in RIVALS if name not in missing]


def _machine() -> str:
    memory_GB = psutil.virtual_memory().available / 1e9
    return (
        f"{os.cpu_count()} cores, {memory_GB:.0f} GB free, Python {platform.python_version()},"
        f" load average {os.getloadavg()[0]:.1f}"
    )


def _cells() -> list[Cell]:
    alone = [Cell(payload, layers, 1) for payload in PAYLOAD_BYTES for layers in (1, 2, 4, 8)]
    return alone + [Cell(payload, 8, many) for payload in PAYLOAD_BYTES for many in (4, 16, 64)]


def _quick_cells() -> list[Cell]:
    small, middle, _ = PAYLOAD_BYTES
    return [Cell(small, 1, 1), Cell(middle, 1, 1), Cell(middle, 8, 1), Cell(middle, 8, 4)]


def pulls(cells: Iterable[Cell], rivals: Sequence[str], repeats: int) -> Figures:
    """Every cell with every rival that fits into memory; a table of each."""
    figures: Figures = {}
    for cell in cells:
        taking_part = [name for name in rivals if cell.fits(name)]
        samples: dict[str, list[Sample]] = {name: [] for name in taking_part}
        warm_up = max(1, cell.pulls() // 5)  # fresh memory costs more than the pull itself
        for _ in range(repeats):
            for name in taking_part:
                sizes, many = cell.sizes(), cell.pullers
                samples[name].append(measure(name, sizes, many, cell.pulls(), warm_up))
        figures[cell] = samples
        _print_cell(cell, rivals, samples)
    return figures


def _print_cell(cell: Cell, rivals: Sequence[str], samples: dict[str, list[Sample]]) -> None:
    print(
        f"\n{cell}\n  {'':14} {'MB/s':>7} {'of raw':>7} {'CPU s/GB':>9}   peak MB: puller, server"
    )
    for name in rivals:
        if name not in samples:
            print(f"  {name:14} skipped: it would take more than half of the free memory")
            continue
        MBps, cpu, puller, server = (
            median(getattr(sample, key) for sample in samples[name])
            for key in ("MBps", "cpu_s_per_GB", "puller_peak_bytes", "server_peak_bytes")
        )
        of_raw = median(_ratios(samples, name, "raw TCP", "MBps") or [float("nan")])
        print(
            f"  {name:14} {MBps:7.0f} {of_raw:7.2f} {cpu:9.2f}"
            f" {puller / 1e6:17.1f} {server / 1e6:7.1f}",
            flush=True,
        )


def _ratios(samples: dict[str, list[Sample]], one: str, other: str, key: str) -> list[float]:
    """Of what was measured in the same repeat."""
    pairs = zip(samples.get(one, ()), samples.get(other, ()))
    return [getattr(ours, key) / getattr(theirs, key) for ours, theirs in pairs]


def judge_pulls(figures: Figures, goals: Goals) -> None:
    """Goals 1 to 5, 7 and 16."""
    print("\ngoals of a pull")
    small, middle, large = PAYLOAD_BYTES
    for cell, samples in figures.items():
        if cell.pullers > 1:
            continue
        limits: dict[int, tuple[int, list[tuple[str, float]]]] = {
            small: (3, [("raw TCP", 0.2), ("gRPC unary", 3.5)]),
            middle: (1, [("raw TCP", 0.7), ("gRPC unary", 10), ("pickle ZeroMQ", 4)]),
            large: (2, [("raw TCP", 0.5), ("gRPC unary", 8), ("gRPC stream", 2.5)]),
        }
        number, rivals = limits[cell.bytes]
        for rival, limit in rivals:
            what = f"{number}: {cell}: speed over {rival}"
            goals.at_least(what, _ratios(samples, "mpls", rival, "MBps"), limit)
        if cell.bytes == small:
            cpu = _ratios(samples, "gRPC unary", "mpls", "cpu_s")
            goals.at_least(f"3: {cell}: CPU of gRPC unary over ours", cpu, 3.5)
        if cell.bytes == middle:
            cpu = _ratios(samples, "mpls", "raw TCP", "cpu_s")
            goals.at_most(f"4: {cell}: CPU over raw TCP", cpu, 2.0)
            judge_curve(cell, samples.get("mpls CURVE", ()), goals)
    for cell, samples in figures.items():
        judge_memory(cell, samples, goals)
    judge_crowd(figures, goals)


def judge_curve(cell: Cell, samples: Sequence[Sample], goals: Goals) -> None:
    """Goal 16."""
    goals.at_least(f"16: {cell}: CURVE MB/s", [sample.MBps for sample in samples], 400)
    cpu = [sample.cpu_s_per_GB for sample in samples]
    goals.at_most(f"16: {cell}: CURVE, CPU s/GB at both ends", cpu, 2.2)


def judge_memory(cell: Cell, samples: dict[str, list[Sample]], goals: Goals) -> None:
    """Goal 5; where the payload says less than what a process takes anyway, it is not asked."""
    if cell.bytes < 1e6:
        return
    server_bytes = 0.05 * cell.bytes + 4 * 2**20 * cell.pullers
    for name in (name for name in samples if name.startswith("mpls")):
        puller = [sample.puller_peak_bytes / cell.bytes for sample in samples[name]]
        goals.at_most(f"5: {cell}: {name} puller's peak / payload", puller, 1.2)
        server = [sample.server_peak_bytes / server_bytes for sample in samples[name]]
        goals.at_most(f"5: {cell}: {name} server's peak / what it may be", server, 1.0)


def judge_crowd(figures: Figures, goals: Goals) -> None:
    """Goal 7, speed."""
    middle = PAYLOAD_BYTES[1]
    one = figures.get(Cell(middle, 8, 1), {})
    for many in (cell for cell in figures if cell.bytes == middle and cell.pullers == 64):
        for name in (name for name in figures[many] if name.startswith("mpls")):
            pairs = zip(figures[many][name], one.get(name, ()))
            ratios = [all_of_them.MBps / alone.MBps for all_of_them, alone in pairs]
            goals.at_least(f"7: {many}: {name}, all over one alone", ratios, 0.5)


def judge_fairness(names: Sequence[str], repeats: int, goals: Goals) -> None:
    """Goal 7: what the pullers have after FAIR_S, the least over the most."""
    cell = Cell(PAYLOAD_BYTES[1], 8, 16 if repeats < 5 else 64)
    found: dict[str, list[float]] = {name: [] for name in names if cell.fits(name)}
    for _ in range(repeats):
        for name in found:
            with ends(name, cell.sizes(), cell.pullers) as (_, pullers):
                got = [span.result for span in together(pullers, "window", FAIR_S)]
            found[name].append(min(got) / max(got))
    for name, ratios in found.items():
        goals.at_least(f"7: {cell}: {name}, least bytes / most", ratios, 0.5)


def judge_beats(rivals: Sequence[str], repeats: int, goals: Goals) -> None:
    """Goal 6: how long the smallest exchange takes, half of the time and 99 times in 100."""
    taken: dict[str, list[tuple[float, float]]] = {}
    for _ in range(repeats):
        for name in (name for name in rivals if name != "gRPC stream"):
            with ends(name, [4000], 1) as (_, (puller,)):
                puller.ask("ping", PINGS // 10)
                cuts = quantiles(puller.ask("ping", PINGS).result, n=100)
            taken.setdefault(name, []).append((cuts[49] * 1e6, cuts[98] * 1e6))
    print("\nheartbeats, microseconds: half of them within, 99 in 100 within")
    for name, both in taken.items():
        print(
            f"  {name:14} {median(p50 for p50, _ in both):7.0f} {median(p for _, p in both):7.0f}"
        )
    for index, (quantile, limit) in enumerate((("p50", 0.30), ("p99", 0.35))):
        pairs = zip(taken["mpls"], taken.get("gRPC unary", ()))
        ratios = [ours[index] / theirs[index] for ours, theirs in pairs]
        goals.at_most(f"6: heartbeat {quantile} over gRPC's", ratios, limit)


def judge_training(repeats: int, seconds: float, goals: Goals) -> None:
    """Goal 8, and what is left when a tiny model is served flat out."""
    found = beside_training.steps_per_s(repeats, seconds)
    print("\ntraining a tiny model while it is served: local steps per second, MB/s served")
    for name, both in found.items():
        steps, MBps = (median(values) for values in zip(*both))
        print(f"  {name:14} {steps:7.0f} {MBps:7.1f}")
    for name, limit in (("at 10 MB/s", 0.95), ("at 15 MB/s", 0.95), ("flat out", 0.35)):
        ratios = [busy[0] / alone[0] for busy, alone in zip(found[name], found["not served"])]
        goals.at_least(f"8: steps per second served {name} / not served", ratios, limit)


def judge_publishing(repeats: int, goals: Goals) -> None:
    """Goal 9."""
    for parameters, limit in zip(beside_training.PUBLICATIONS, (1.3, 1.6)):
        ratios = beside_training.publishing_over_memcpy(parameters, repeats)
        goals.at_most(f"9: publishing {parameters:,} parameters / memcpy", ratios, limit)


def judge_mixing(repeats: int, goals: Goals) -> None:
    """Goal 10."""
    for copies in MIXED_COPIES:
        found = beside_training.mixing_over_memcpy(MIXED_PARAMETERS, copies, repeats)
        ratios = found.pop("ratio")
        parts = ", ".join(f"{name} {median(values):.1f}" for name, values in found.items())
        print(f"\nmixing {MIXED_PARAMETERS:,} parameters of {copies} copies: {parts}")
        name = f"10: mixing with all checks, {copies} copies, for each copy / memcpy"
        goals.at_most(name, ratios, 2.0)


if __name__ == "__main__":
    main()
