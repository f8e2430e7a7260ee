"""`mpls calibrate`: measure on this machine what the twin has to know.

Training alone and with transfers going on, in the threads that a live worker has; requests and
transfers between two processes over real sockets. Every number in the file was measured.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

import numpy as np
import torch
import zmq

from mpls import __version__
from mpls.core.calibration import Measured, ModelCost, Network, Stamp, StepCost
from mpls.model.data import Dataset
from mpls.model.training import Learner
from mpls.runtime import calibrate_fits as fits
from mpls.runtime import calibrate_training as training
from mpls.runtime.allocator import keep_freed_memory
from mpls.runtime.calibrate_ends import (
    FAST,
    LAYERS,
    PACED,
    PACED_BPS,
    Puller,
    PullingThread,
    paced_Bps,
    serving,
)
from mpls.runtime.calibrate_peer import FAR, NEAR, Peer, peer

BATCH_SIZES = (32, 64)
BACKGROUND_MODEL = "simple-mlp"
"""Trained at both ends while requests are timed: its short steps ask most often for the GIL."""
BURSTS = 5
IDLE_S = 0.1
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """How long to look."""

    models: tuple[str, ...]
    """Where none is named."""
    step_s: float
    """For the local steps of one model and batch size."""
    rounds: int
    """Of training, for the decay of progress."""
    requests: int
    pulls: int
    """Over the paced link, 4 MB each."""
    repeats: int


FULL = Effort(("simple-mlp", "lenet5"), step_s=3.0, rounds=20, requests=500, pulls=6, repeats=15)
QUICK = Effort(("simple-mlp",), step_s=0.4, rounds=8, requests=100, pulls=2, repeats=3)


def calibrate(models: Sequence[str], effort: Effort, tell: Tell) -> Measured:
    """Measure these models, or those of the effort; `tell` hears what is measured next. Raises
    BadInput for a model that there is not."""
    torch.set_num_threads(1)
    keep_freed_memory()
    names = tuple(dict.fromkeys(models)) or effort.models
    images = {name: training.images_for(name) for name in names}
    with serving(FAR) as here, peer(here) as other:
        tell("requests and transfers")
        network = _network(other, effort)
        costs = [_model_cost(name, images[name], other, effort, tell) for name in names]
    tell("mixing and publishing")
    mix, publish = training.mixing(effort.repeats), training.publishing(effort.repeats)
    return Measured(_stamp(), tuple(costs), mix, publish, network)


def _model_cost(name: str, images: Dataset, other: Peer, effort: Effort, tell: Tell) -> ModelCost:
    steps = []
    for batch_size in BATCH_SIZES:
        tell(f"{name}: local steps of {batch_size} images, alone")
        learner = training.make_learner(name, images, batch_size)
        alone = training.step_seconds(learner, effort.step_s)
        tell(f"{name}: local steps of {batch_size} images, with transfers both ways")
        with _transfers(other):
            busy = training.step_seconds(learner, effort.step_s)
        steps.append(StepCost(batch_size, fits.sample(alone), fits.sample(busy)))
    tell(f"{name}: tests and progress")
    is_real = images.name == "digits"
    return ModelCost(
        name=name,
        dataset=images.name,
        model_bytes=learner.model.manifest.total_bytes,
        test_s=fits.rounded(training.test_seconds(learner, images)),
        steps=tuple(steps),
        progress=training.progress(name, images, effort.rounds) if is_real else None,
    )


def _network(other: Peer, effort: Effort) -> Network:
    puller = Puller(NEAR, other.addresses)
    idle_s = [puller.round_trip_s(FAST) for _ in range(effort.requests)]
    large_s = median(puller.pull(FAST, "4 MB").seconds for _ in range(effort.repeats))
    rate_Bps = paced_Bps(puller, effort.pulls)
    burst_bytes = _burst_bytes(puller, rate_Bps, median(idle_s))
    with _training_at_both_ends(other):
        busy_s = [puller.round_trip_s(FAST) for _ in range(effort.requests)]
        small = [puller.pull(FAST, "1 kB") for _ in range(effort.requests)]
    puller.close()
    serve_s = median(pulled.wait_s for pulled in small)
    deliver_s = median(pulled.seconds for pulled in small) - median(busy_s) - serve_s
    return Network(
        link=f"loopback, paced at {PACED_BPS / 1e6:g} MB/s by the sender",
        round_trip_s=fits.sample(idle_s),
        busy_round_trip_s=fits.sample(busy_s),
        serve_s=fits.rounded(serve_s),
        deliver_s=fits.rounded(max(0.0, deliver_s)),
        bandwidth_Bps=fits.rounded(LAYERS["4 MB"] / large_s),
        paced_Bps=PACED_BPS,
        payload_share=min(1.0, fits.rounded(rate_Bps / PACED_BPS)),
        duplex_ratio=fits.rounded(_duplex_ratio(other, effort)),
        burst_bytes=fits.rounded(burst_bytes),
    )


def _duplex_ratio(other: Peer, effort: Effort) -> float:
    """The other end's rate while this one pulls, over its rate alone."""
    alone_Bps = other.rate_Bps(effort.pulls)
    pulling = PullingThread(NEAR, other.addresses)
    both_Bps = other.rate_Bps(effort.pulls)
    pulling.stop()
    return both_Bps / alone_Bps


def _burst_bytes(puller: Puller, rate_Bps: float, round_trip_s: float) -> float:
    """By how much a pull after idleness is ahead of the rate."""
    ahead = []
    for _ in range(BURSTS):
        time.sleep(IDLE_S)
        seconds = puller.pull(PACED, "200 kB").seconds - round_trip_s
        ahead.append(LAYERS["200 kB"] - rate_Bps * seconds)
    return max(0.0, median(ahead))


@contextmanager
def _transfers(other: Peer) -> Iterator[None]:
    """Pulls over the paced links in both directions."""
    other.pull(True)
    pulling = PullingThread(NEAR, other.addresses)
    try:
        yield
    finally:
        pulling.stop()
        other.pull(False)


@contextmanager
def _training_at_both_ends(other: Peer) -> Iterator[None]:
    other.train(BACKGROUND_MODEL)
    learner = training.make_learner(
        BACKGROUND_MODEL, training.images_for(BACKGROUND_MODEL), BATCH_SIZES[0]
    )
    stopping = threading.Event()
    thread = threading.Thread(target=_train_until, args=(learner, stopping), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        other.train("")


def _train_until(learner: Learner, stopping: threading.Event) -> None:
    while not stopping.is_set():
        learner.step()


def _stamp() -> Stamp:
    control = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return Stamp(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        host=platform.node(),
        kernel=platform.release(),
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        congestion_control=control.read_text().strip() if control.exists() else "unknown",
        versions={
            "mpls": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pyzmq": zmq.__version__,
            "libzmq": zmq.zmq_version(),
        },
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
