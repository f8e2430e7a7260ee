"""A thousand pulls, each cut at a random byte, and not one byte of a layer that is mixed of two
versions, torn, or not what its version was.

Method: four pullers, each behind a proxy of its own, pull from a real server which publishes a new
version all the time, and after one cut in ten find another server behind the proxy, like one that
was restarted: it counts versions from 1 again, and has other weights. Whatever is handed on is
compared with what its version was.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from mpls.core.messages import Event, LayerReceived, LayerRefused, RequestFailed
from mpls.runtime.limits import ANY_RATE
from mpls.runtime.snapshots import SnapshotStore
from tests.runtime.proxy import Proxy
from tests.runtime.rig import Job, Model, Puller, received, serving

MODEL = Model(conv=200_000, fc=1_500_000, out=4_000)
LAYERS = tuple(MODEL.layer_bytes)
PULLERS = 4
CUTS = 1000
WINDOW_BYTES = 256 * 1024
LEAST_BYTES, MOST_BYTES = 100_000, 2_500_000
"""A cut comes after so many bytes: after a first chunk, and at times after the whole model."""
PUBLISH_S = 0.3
"""Long enough for a server of another life to be asked for a version of which it has its own."""
RESTARTS = 0.1
LIVES = 2
pytestmark = pytest.mark.timeout(600)


def weights(life: int, version: int) -> np.ndarray:
    """Each version's can be made again, and no two have a weight in common."""
    return MODEL.weights(seed=1_000_000 * life + version)


def test_row_01_and_06_of_a_thousand_cut_pulls_no_byte_is_mixed_or_torn(measured):
    spec = MODEL.spec("w0", *(f"p{number}" for number in range(PULLERS)))
    stores = [MODEL.store(weights(life, 1)) for life in range(LIVES)]
    with ExitStack() as running:
        ports = [running.enter_context(serving(spec, store, rates=ANY_RATE))[1] for store in stores]
        running.enter_context(publishing(stores))
        pulling = [
            Job(f"p{number}", lambda number=number: pull_and_cut(number, ports))
            for number in range(PULLERS)
        ]
        counts: Counter[str] = sum((job.finish(500.0) for job in pulling), Counter())
    measured("cut pulls", counts["cuts"], least=CUTS, unit="")
    measured("pulls that went on where they broke off", counts["resumed"], least=100, unit="")
    measured("pulls from a server that was restarted", counts["restarts"], least=50, unit="")
    measured("layers of two lives, noticed and thrown away", counts["refused"], least=1, unit="")
    measured("layers compared with their version", counts["layers"], least=500, unit="")
    measured("bytes of a mixed or torn layer", counts["wrong bytes"], 0, unit="")


@contextmanager
def publishing(stores: list[SnapshotStore]) -> Iterator[None]:
    """A new version in each store, again and again."""
    done = threading.Event()

    def publish() -> None:
        version = 1
        while not done.wait(PUBLISH_S):
            version += 1
            for life, store in enumerate(stores):
                store.publish(weights(life, version), version, keep_path=False)

    job = Job("publishing", publish)
    yield
    done.set()
    job.finish()


def pull_and_cut(number: int, ports: list[int]) -> Counter[str]:
    """Pull again and again until its share of the cuts was made."""
    draws = random.Random(number)
    counts: Counter[str] = Counter()
    with (
        Proxy(ports[0]) as proxy,
        Puller(MODEL.spec(f"p{number}", "w0"), {"w0": proxy.port}) as puller,
    ):
        while counts["cuts"] < CUTS / PULLERS:
            pull_one_model(puller, proxy, ports, draws, counts)
    return counts


def pull_one_model(
    puller: Puller, proxy: Proxy, ports: list[int], draws: random.Random, counts: Counter[str]
) -> None:
    """All layers, however often they are cut or thrown away."""
    missing, version, offset = list(LAYERS), 0, 0
    while missing:
        puller.greet()
        proxy.cut_after(draws.randrange(LEAST_BYTES, MOST_BYTES))
        events = puller.pull(*missing, version=version, offset=offset, credit=WINDOW_BYTES)
        arrived = received(events)
        counts["layers"] += len(arrived)
        counts["wrong bytes"] += sum(wrong_bytes(puller, event) for event in arrived)
        counts["resumed"] += bool(offset and arrived and arrived[0].version == version)
        counts["refused"] += sum(isinstance(event, LayerRefused) for event in events)
        missing = [layer for layer in missing if layer not in {a.layer for a in arrived}]
        version, offset = broken_off(events)
        if offset or isinstance(events[-1], RequestFailed):
            counts["cuts"] += 1
            if draws.random() < RESTARTS:
                counts["restarts"] += 1
                proxy.upstream = draws.choice(ports)


def broken_off(events: list[Event]) -> tuple[int, int]:
    """The version and the bytes of the layer that is here in part; zeros if none is."""
    last = events[-1]
    if not isinstance(last, RequestFailed) or any(isinstance(e, LayerRefused) for e in events):
        return 0, 0
    kept_bytes = last.received_bytes - sum(event.layer_bytes for event in received(events))
    return (last.version, kept_bytes) if kept_bytes > 0 else (0, 0)


def wrong_bytes(puller: Puller, event: LayerReceived) -> int:
    """How many bytes of a layer are not those of its version, in the life that fits best."""
    came = np.frombuffer(puller.transport.claim(event.request_id, event.layer), np.uint8)
    meant = [MODEL.layer(event.layer, weights(life, event.version)) for life in range(LIVES)]
    return min(int((came != layer.view(np.uint8)).sum()) for layer in meant)
