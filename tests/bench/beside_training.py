"""What serving and publishing cost the training beside which they run.

One process trains as a worker does, publishes its weights after every pass, and serves them; one
process beside it pulls them not at all, at a given rate, or as fast as they come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np

from mpls.core.streams import Stream
from mpls.runtime.snapshots import SnapshotStore
from tests.bench.ends import STARTED_S, End, Offer, Span, obey
from tests.bench.rivals_mpls import Puller, model, serve_store

RATES_Bps = {"not served": 0.0, "at 10 MB/s": 10e6, "at 15 MB/s": 15e6, "flat out": float("inf")}
PUBLICATIONS = {11_000_000: 10, 51_000: 2_000}
"""Parameters of a model, and how often each is published for one figure."""


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


def _median_s(call: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        start_s = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start_s)
    return median(taken)
