"""Speed and quality of a decision, and of mixing, beside goals 10 and 11 (docs/performance.md).

`make bench` runs it, or `python tests/bench/bench_schedule.py`. Exit 1 if a goal is missed.

- decision: median milliseconds of Algorithm 1 (`list`) and `eft` with the fill, and of the whole
  plan around them (Eq. 2-9 and the explanation).
- makespan: mean ratio to a lower bound no plan can beat, the larger of two: all bytes over the sum
  of the bandwidths, and the longest of the layers' shortest times. ResNet-18's 62 tensors, links
  of 10-15 MB/s, the mask of MPLS.
- mixing: time for each copy (finite and norm check, sum, its part of Eq. 1) over that of a memcpy
  of the copy. The sum uses the first copy's memory. The small layer has no goal: it stays in the
  L2 cache, where memcpy costs less than calling numpy.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
from collections.abc import Callable, Sequence
from statistics import fmean, median
from time import perf_counter

import numpy as np

from mpls.core.mixing import LayerSum
from mpls.core.plan import Layer, PeerView, View
from mpls.core.schedule import Draft, Offers, schedule
from mpls.core.settings import PlanSettings
from mpls.core.strategies import RULES, BuiltIn
from mpls.core.streams import Stream

REPEATS = 7
CLASSES = 10
SCHEDULERS = ("list", "eft")


def resnet18_bytes() -> list[int]:
    """Of its 62 tensors, for 100 classes with the 3x3 stem."""
    widths = [(3, 64), *[(64, 64)] * 4]
    for width in (128, 256, 512):
        widths += [(width // 2, width), *[(width, width)] * 3]
    weights = [9 * before * after for before, after in widths]
    shortcuts = [width // 2 * width for width in (128, 256, 512)]
    norms = [after for _, after in widths for _ in range(2)] + [128, 128, 256, 256, 512, 512]
    return [4 * count for count in [*weights, *shortcuts, *norms, 51_200, 100]]


def random_view(seed: int, peers: int, sizes: Sequence[int]) -> View:
    """Links of 10-15 MB/s, random labels, progress over three decades."""
    draws = Stream(seed, "bench", peers)

    def histogram() -> tuple[float, ...]:
        shares = draws.uniforms(CLASSES) ** 3
        return tuple((shares / shares.sum()).tolist())

    return View(
        layers=tuple(Layer(f"layer{i}", size) for i, size in enumerate(sizes)),
        own_histogram=histogram(),
        peers=tuple(
            PeerView(
                name=f"w{i:04}",
                bandwidth_Bps=draws.between(10e6, 15e6),
                histogram=histogram(),
                progress=tuple((10 ** (3 * draws.uniforms(len(sizes)))).tolist()),
            )
            for i in range(peers)
        ),
    )


def offers_of(view: View) -> Offers:
    """What Algorithm 1 gets to see of a view under MPLS, computed afresh."""
    rule = RULES["mpls"]
    peers = view.usable_peers()
    candidates = BuiltIn(PlanSettings(), rule).candidates(view, peers)
    return Offers(
        layer_bytes=tuple(layer.bytes for layer in view.layers),
        bandwidth_Bps=tuple(peer.bandwidth_Bps for peer in peers),
        allowed=rule.allow(candidates, Stream(0)),
    )


def seconds(task: Callable[[], object], times: int) -> float:
    start_s = perf_counter()
    for _ in range(times):
        task()
    return (perf_counter() - start_s) / times


def medians(tasks: dict[str, Callable[[], object]], times: int) -> dict[str, float]:
    """Seconds of each task: the median of REPEATS rounds in which all take turns."""
    taken_s: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(REPEATS):
        for name, task in tasks.items():
            taken_s[name].append(seconds(task, times))
    return {name: median(values) for name, values in taken_s.items()}


def row(what: str, value: float, unit: str, limit: float | None = None, note: str = "") -> bool:
    """Print one line of the table; whether the goal is met."""
    met = limit is None or value <= limit
    goal = "" if limit is None else f"<= {limit:<6g} {'' if met else 'MISSED'}"
    print(f"{what:<42} {value:8.3f} {unit:<4} {goal:<16} {note}", flush=True)
    return met


def decision(peers: int, sizes: Sequence[int], limit_ms: float, times: int) -> bool:
    view = random_view(1, peers, sizes)
    offers = offers_of(view)

    def scheduled(how: PlanSettings) -> Draft:
        fresh = Offers(offers.layer_bytes, offers.bandwidth_Bps, offers.allowed)
        return schedule(fresh, how, None)

    tasks: dict[str, Callable[[], object]] = {}
    for name in SCHEDULERS:
        how = PlanSettings(scheduler=name)
        strategy = BuiltIn(how, RULES["mpls"])
        tasks[f"{name} schedule"] = lambda how=how: scheduled(how)  # type: ignore[misc]
        tasks[f"{name} whole plan"] = lambda s=strategy: s.plan(view, Stream(0))  # type: ignore[misc]
    size = f"{peers} peers x {len(sizes)} layers"
    met = [
        row(f"{size}: {name}", 1e3 * s, "ms", limit_ms if name == "list schedule" else None)
        for name, s in medians(tasks, times).items()
    ]
    return all(met)


def makespans(peers: int, limits: dict[str, float]) -> bool:
    sizes = resnet18_bytes()
    ratios: dict[str, list[float]] = {name: [] for name in SCHEDULERS}
    for seed in range(100):
        offers = offers_of(random_view(seed, peers, sizes))
        together_s = sum(sizes) / sum(offers.bandwidth_Bps)
        longest_s = max(size / best for size, best in zip(sizes, offers.best_Bps.tolist()))
        for name in SCHEDULERS:
            draft = schedule(offers, PlanSettings(scheduler=name, fill="off"), None)
            ratios[name].append(draft.makespan_s() / max(together_s, longest_s))
    met = []
    for name, values in ratios.items():
        what, note = f"{peers} peers, ResNet-18: {name} makespan", f"worst of 100 {max(values):.2f}"
        met.append(row(what, fmean(values), "x", limits.get(name), note))
    return all(met)


def mixing(values: int, copies: int, limit: float | None, times: int) -> bool:
    draws = np.random.default_rng(1)
    own, target = draws.standard_normal(values, np.float32), np.empty(values, np.float32)
    arrived = [draws.standard_normal(values, np.float32) for _ in range(copies)]

    def copied() -> None:
        for copy in arrived:
            np.copyto(target, copy)

    def mixed() -> None:
        total = LayerSum(storage=arrived[0])
        for copy in arrived:
            total.add(copy)
        total.mix_into(own)

    taken_s = medians({"memcpy": copied, "mix": mixed}, times)
    note = f"memcpy {1e6 * taken_s['memcpy'] / copies:.1f} us a copy"
    what = f"{values:,} floats, {copies} copies: mix / memcpy"
    return row(what, taken_s["mix"] / taken_s["memcpy"], "x", limit, note)


def main() -> int:
    assert (len(resnet18_bytes()), sum(resnet18_bytes())) == (62, 4 * 11_220_132)
    wide = [int(10 ** (3 + 4 * u)) for u in Stream(1, "sizes").uniforms(161)]
    met = [
        decision(29, resnet18_bytes(), limit_ms=1.0, times=20),
        decision(999, wide, limit_ms=60.0, times=1),
        makespans(29, {"list": 1.30, "eft": 1.05}),
        makespans(10, {}),
        *(mixing(11_220_132, copies, limit=2.0, times=1) for copies in (1, 2, 4)),
        *(mixing(50_890, copies, limit=None, times=200) for copies in (1, 2, 4)),
    ]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
