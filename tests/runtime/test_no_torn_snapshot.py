"""No snapshot is torn: what a peer receives as version v is what was published as version v.

Method: a thread trains (every value of the model changes with each step) and publishes thousands of
versions, noting the hashes of their layers, while a server in its own thread serves whole models
over loopback as fast as they are pulled. A pull takes many chunks and several credits, so that
publications happen in the middle of it. The same check then looks at stores that write over what is
still being read, and has to find them out.
"""

from __future__ import annotations

import threading
from itertools import count

import numpy as np
import pytest
import xxhash

from mpls.core.messages import LayerReceived, LayerRefused
from mpls.core.settings import PlanSettings
from mpls.runtime.snapshots import SnapshotPool, SnapshotStore
from tests.runtime.rig import Job, Model, Puller, serving

MODEL = Model(conv1=1_600, conv2=120_000, fc1=400_000, fc2=4_000)
PUBLICATIONS = 5000
OVERTAKEN_PULLS = 100
"""So many pulls must have been under way when a newer version was published."""
CREDIT = 256 * 1024
"""The least there is: most of a pull is not cut yet when its first chunks are in flight."""


class Training:
    """Publishes one version after another, and remembers the hash of each layer of each."""

    def __init__(self, store: SnapshotStore, keep_path: bool) -> None:
        self.published: dict[int, dict[str, int]] = {}
        self.begun = threading.Event()
        self.enough = threading.Event()
        self._store = store
        self._keep_path = keep_path
        self._weights = MODEL.weights()

    def run(self) -> None:
        for version in count(1):
            if version > PUBLICATIONS and self.enough.is_set():
                return
            self._step(version)

    def _step(self, version: int) -> None:
        self._weights *= np.float32(0.999)
        self._weights += np.float32(0.001)
        self.published[version] = {
            name: xxhash.xxh3_64_intdigest(MODEL.layer(name, self._weights))
            for name in MODEL.layer_bytes
        }
        snapshot = self._store.publish(self._weights, version // 2, self._keep_path)
        assert snapshot.version == version
        self.begun.set()


def check_pulls_while_training(store: SnapshotStore, progress: str) -> None:
    """Pull whole models while versions are published. Fails if a layer is not what was."""
    spec = MODEL.spec("w0", "w1", plan=PlanSettings(progress=progress))
    training = Training(store, keep_path=progress == "path")
    overtaken = 0
    with serving(spec, store) as (_, port), Puller(MODEL.spec("w1", "w0"), {"w0": port}) as puller:
        trainer = Job("training", training.run)
        try:
            puller.greet()
            assert training.begun.wait(60)
            while overtaken < OVERTAKEN_PULLS or store.latest().version < PUBLICATIONS:
                version = check_one_pull(puller, training.published)
                overtaken += store.latest().version > version
                assert trainer.is_alive(), "publishing ended before pulling did"
        finally:
            training.enough.set()
            trainer.finish()


def check_one_pull(puller: Puller, published: dict[int, dict[str, int]]) -> int:
    """The version of the snapshot that a whole model came from."""
    events = puller.pull(*MODEL.layer_bytes, credit=CREDIT)
    refused = [event for event in events if isinstance(event, LayerRefused)]
    assert not refused, f"torn on its way: {refused}"
    received = [event for event in events if isinstance(event, LayerReceived)]
    layers = puller.layers(events)
    assert list(layers) == list(MODEL.layer_bytes)
    for event in received:
        found = xxhash.xxh3_64_intdigest(layers[event.layer])
        assert found == published[event.version][event.layer], f"torn: {event}"
        assert event.round == event.version // 2
        puller.transport.recycle(layers[event.layer])
    (version,) = {event.version for event in received}
    return version


@pytest.mark.parametrize("progress", ["displacement", "path"])
def test_row_15_every_served_snapshot_is_bit_for_bit_what_was_published(progress):
    store = MODEL.store()
    check_pulls_while_training(store, progress)
    assert store.latest().version >= PUBLICATIONS
    assert store.pool.made <= 8, "buffers were not used again"


class OverwritingPool(SnapshotPool):
    """Hands out the same memory again and again."""

    def take(self):
        if not self.made:
            self._only = super().take()
        return self._only.view()


def test_a_store_that_overwrites_its_buffer_is_found_out():
    store = MODEL.store()
    store.pool = OverwritingPool(MODEL.values, np.dtype(np.float32))
    with pytest.raises(AssertionError, match="torn"):
        check_pulls_while_training(store, "displacement")


class DoubleBuffer(SnapshotPool):
    """Hands out two buffers in turns, as if nobody took longer to read than one publication."""

    def take(self):
        if not self.made:
            self._both = [super(DoubleBuffer, self).take() for _ in range(2)]
        self._both.reverse()
        return self._both[0].view()


def test_a_double_buffer_is_found_out():
    store = MODEL.store()
    store.pool = DoubleBuffer(MODEL.values, np.dtype(np.float32))
    with pytest.raises(AssertionError, match="torn"):
        check_pulls_while_training(store, "displacement")
