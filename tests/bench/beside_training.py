"""What serving, publishing and mixing cost the training beside which they run.

One process trains as a worker does, publishes its weights after every pass, and serves them; one
process beside it pulls them not at all, at a given rate, or as fast as they come.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np

from mpls.core.gate import Bar, Gate
from mpls.core.mixing import LayerSum, Values, norm, squares_and_product
from mpls.core.streams import Stream
from mpls.runtime.snapshots import SnapshotStore
from tests.bench.ends import STARTED_S, End, Offer, Span, obey
from tests.bench.rivals_mpls import Puller, model, serve_store

RATES_Bps = {"not served": 0.0, "at 10 MB/s": 10e6, "at 15 MB/s": 15e6, "flat out": float("inf")}
PUBLICATIONS = {11_000_000: 10, 51_000: 2_000}
"""Parameters of a model, and how often each is published for one figure."""
NORM_CLIP = 2.0


def steps_per_s(repeats: int, seconds: float) -> dict[str, list[tuple[float, float]]]:
    """For each way of being served, in each repeat: local steps per second, and MB/s served."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in RATES_Bps}
    with _ends() as (trainer, puller):
        trainer.ask("train", seconds)
        for _ in range(repeats):
            for name, rate_Bps in RATES_Bps.items():
                puller.tell("paced", seconds, rate_Bps)
                trained: Span = trainer.ask("train", seconds)
                pulled: Span = puller.hear()
                found[name].append((trained.result, pulled.result / seconds / 1e6))
    return found


@contextmanager
def _ends() -> Iterator[tuple[End, End]]:
    with End(_train) as trainer:
        port, sizes = trainer.hear(STARTED_S)
        with End(_pull, port, sizes) as puller:
            puller.hear(STARTED_S)
            yield trainer, puller


def _train(pipe: Connection) -> None:
    """The built-in network on the built-in digits, in batches of 32, on one torch thread."""
    import torch

    from mpls.model.data import load
    from mpls.model.layers import FlatModel
    from mpls.model.nets import build
    from mpls.model.training import Learner

    torch.set_num_threads(1)
    digits = load("digits", "")
    flat = FlatModel(build("simple-mlp", digits.input_shape, digits.classes, seed=1))
    shard = np.arange(len(digits.train_labels) // 3)
    order = Stream(1, "bench")
    learner = Learner(flat, digits, shard, batch_size=32, lr=0.01, momentum=0.0, order=order)
    sizes = [layer.layer_bytes for layer in flat.manifest.layers]
    served = model(sizes)
    store = served.store(flat.host)
    pipe.send((serve_store(served, store, 1), sizes))

    def train(seconds: float) -> float:
        start_s, first = time.monotonic(), learner.steps
        while time.monotonic() < start_s + seconds:
            for _ in range(learner.pass_steps):
                learner.step()
            store.publish(flat.host, 1, keep_path=False)
        return (learner.steps - first) / (time.monotonic() - start_s)

    obey(pipe, {"train": train})


def _pull(pipe: Connection, port: int, sizes: list[int]) -> None:
    puller = Puller(Offer(sizes, 1, Path()), port, 0)
    pipe.send("connected")

    def paced(seconds: float, rate_Bps: float) -> int:
        """Pulls, each begun when its rate allows; the bytes that came."""
        start_s, pulled_bytes = time.monotonic(), 0
        while rate_Bps and time.monotonic() < start_s + seconds:
            puller.pull()
            pulled_bytes += sum(sizes)
            time.sleep(max(0.0, start_s + pulled_bytes / rate_Bps - time.monotonic()))
        return pulled_bytes

    obey(pipe, {"paced": paced})


def publishing_over_memcpy(parameters: int, repeats: int) -> list[float]:
    """Seconds of a publication over those of copying the same weights between two arrays."""
    weights = np.ones(parameters, np.float32)
    copied = np.zeros_like(weights)
    spans = {"model": (0, weights.nbytes)}
    store = SnapshotStore(spans, parameters, np.dtype(np.float32))
    calls = (
        lambda: store.publish(weights, 1, keep_path=False),
        lambda: np.copyto(copied, weights),
    )
    ratios = []
    for _ in range(repeats + 1):
        published_s, copied_s = (_median_s(call, PUBLICATIONS[parameters]) for call in calls)
        ratios.append(published_s / copied_s)
    return ratios[1:]


def mixing_over_memcpy(parameters: int, copies: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of copying the weights once, of each part of mixing them with that many copies,
    and of all parts together for each copy over the memcpy: a figure of each repeat."""
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats + 1):
        for name, value in _mixed_once(parameters, copies).items():
            found[name].append(value)
    return {name: values[1:] for name, values in found.items()}


def _mixed_once(parameters: int, copies: int) -> dict[str, float]:
    draws = np.random.default_rng(1)
    own = draws.standard_normal(parameters, np.float32)
    near = own + np.float32(0.01) * draws.standard_normal(parameters, np.float32)
    heard, copied = [near.copy() for _ in range(copies)], near
    copied_s = _median_s(lambda: np.copyto(copied, own), 5)
    norm_s = _median_s(lambda: norm(own), 5)
    distance_s = _median_s(lambda: squares_and_product(heard[0], own), 5)
    all_s = _median_s(lambda: _mix(own, heard), 1)
    return {
        "memcpy, ms": copied_s * 1e3,
        "own norm, ms": norm_s * 1e3,
        "each copy's distance, ms": distance_s * 1e3,
        "all, ms": all_s * 1e3,
        "ratio": all_s / copies / copied_s,
    }


def _mix(own: Values, heard: list[Values]) -> None:
    """As a worker does: each copy checked and added up, then the mean with its own."""
    layer_sum, bar, gate = LayerSum(own.dtype, heard[0]), Bar(own, NORM_CLIP), Gate()
    for number, copy in enumerate(heard):
        bar.add(layer_sum, copy, partial(gate.allowed, f"w{number}", "layer"))
    layer_sum.mix_into(own)


def _median_s(call: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        start_s = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start_s)
    return median(taken)
