"""A snapshot never changes, however long somebody looks at it, and few buffers do for thousands."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise

import numpy as np
import pytest
import xxhash
import zmq
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mpls.runtime.snapshots import SnapshotPool, SnapshotStore
from tests.runtime.rig import DEADLINE_S, Job, Model, until

SMALL = Model(conv=4_000, fc=800)


def walk(model: Model, versions: int) -> list[np.ndarray]:
    """Weights as training moves them."""
    random = np.random.default_rng(3)
    steps = random.standard_normal((versions, model.values)) * 0.1
    return list(np.cumsum(steps, axis=0).astype(np.float32))


def reference_distance(model: Model, new: np.ndarray, old: np.ndarray) -> list[float]:
    """Eq. 5 for each layer, in float64."""
    change = new.astype(np.float64) - old.astype(np.float64)
    slices = [slice(start // 4, stop // 4) for start, stop in model.spans.values()]
    return [float((change[part] ** 2).sum()) for part in slices]


def test_versions_count_from_one_and_the_latest_is_served():
    first, second = walk(SMALL, 2)
    store = SMALL.store(first)
    assert (store.latest().version, store.latest().round) == (1, 0)
    store.publish(second, 7, keep_path=False)
    assert (store.latest().version, store.latest().round) == (2, 7)
    assert np.array_equal(store.latest().flat, second)


def test_whoever_asks_before_the_first_snapshot_waits_for_it():
    store = SMALL.store()
    reader = Job("reader", store.latest)
    until(lambda: store._published._cond._waiters, "the reader to wait")  # type: ignore[attr-defined]
    snapshot = store.publish(SMALL.weights(), 0, keep_path=False)
    assert reader.finish() is snapshot


def test_a_layer_is_its_stretch_of_the_weights_with_its_checksum():
    weights = SMALL.weights()
    snapshot = SMALL.store(weights).latest()
    for name in SMALL.layer_bytes:
        expected = SMALL.layer(name, weights).tobytes()
        assert bytes(snapshot.layer(name)) == expected
        assert snapshot.checksum(name) == xxhash.xxh3_64_intdigest(expected)


def test_a_snapshot_is_a_copy_that_training_does_not_reach():
    weights = SMALL.weights()
    snapshot = SMALL.store(weights).latest()
    published = weights.copy()
    weights += 1
    assert np.array_equal(snapshot.flat, published)


def test_a_published_snapshot_refuses_to_be_written_to():
    snapshot = SMALL.store(SMALL.weights()).latest()
    with pytest.raises(ValueError, match="read-only"):
        snapshot.flat[0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        np.add(snapshot.flat, 1, out=snapshot.flat)
    with pytest.raises(TypeError, match="read-only"):
        snapshot.layer("fc")[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        SMALL.layer("fc", snapshot.flat)[0] = 0


def test_a_thousand_publications_that_nobody_holds_share_two_buffers():
    store, weights = SMALL.store(), SMALL.weights()
    for number in range(1000):
        store.publish(weights, number, keep_path=False)
    assert store.pool.made <= 2


HOLDERS = {
    "the snapshot": lambda snapshot: snapshot,
    "its weights": lambda snapshot: snapshot.flat,
    "a memoryview of a layer": lambda snapshot: snapshot.layer("fc"),
    "a chunk of a layer": lambda snapshot: snapshot.layer("fc")[16:32],
    "an array cut from it": lambda snapshot: snapshot.flat[5:9],
    "an array cut from an array": lambda snapshot: snapshot.flat.reshape(2, -1)[1][3:7],
    "a layer as numbers": lambda snapshot: SMALL.layer("fc", snapshot.flat),
    "a frame": lambda snapshot: zmq.Frame(snapshot.layer("fc"), copy=False),
}


@pytest.mark.parametrize("what", HOLDERS)
def test_a_buffer_is_not_written_to_while_something_refers_to_it(what):
    weights = SMALL.weights()
    store = SMALL.store(weights)
    held = HOLDERS[what](store.latest())
    memory = memoryview(held.flat if what == "the snapshot" else held).cast("B")
    before = bytes(memory)
    assert before in weights.tobytes()
    for number in range(10):
        store.publish(SMALL.weights(number + 2), number, keep_path=False)
    assert bytes(memory) == before
    assert store.pool.made == 3


@pytest.mark.parametrize("what", HOLDERS)
def test_a_buffer_comes_back_when_nothing_refers_to_it_any_more(what):
    store = SMALL.store(SMALL.weights())
    held = [HOLDERS[what](store.latest())]
    store.publish(SMALL.weights(2), 1, keep_path=False)
    assert store.pool.made == 2
    gone = weakref.ref(held[0]) if what == "the snapshot" else None
    held.clear()
    gc.collect()
    assert gone is None or gone() is None
    until(lambda: store.pool._free, "the buffer to come back")
    store.publish(SMALL.weights(3), 2, keep_path=False)
    assert store.pool.made == 2


def test_a_frame_that_zeromq_has_not_sent_yet_keeps_its_buffer():
    """A send that returned is not a send that happened: the message waits here for a reader."""
    big = Model(fc=4_000_000)
    weights = big.weights()
    store = big.store(weights)
    with (
        zmq.Context() as context,
        context.socket(zmq.PAIR) as out,
        context.socket(zmq.PAIR) as into,
    ):
        out.bind("inproc://frames")
        into.connect("inproc://frames")
        into.setsockopt(zmq.RCVTIMEO, int(DEADLINE_S * 1000))
        out.send(store.latest().layer("fc"), copy=False)
        for number in range(10):
            store.publish(big.weights(number + 2), number, keep_path=False)
        assert store.pool.made == 3
        assert into.recv() == weights.tobytes()
    until(lambda: len(store.pool._free) == 2, "the frame's buffer to come back")


def test_buffers_taken_at_once_are_different_memory():
    pool = SnapshotPool(100, np.dtype(np.float32))
    taken = [pool.take() for _ in range(5)]
    for number, array in enumerate(taken):
        array[:] = number
    assert [set(array.tolist()) for array in taken] == [{0.0}, {1.0}, {2.0}, {3.0}, {4.0}]
    assert pool.made == 5


def test_squared_distance_is_that_of_float64_arithmetic():
    model = Model(conv=400_000, bias=40, fc=2_000_000)
    first, *_, last = walk(model, 4)
    store = model.store(first, last)
    older = model.store(first).latest()
    found = store.latest().squared_distance(older)
    assert found == pytest.approx(reference_distance(model, last, first), rel=1e-5)
    assert store.latest().squared_distance(store.latest()) == (0.0, 0.0, 0.0)


@given(
    arrays(np.float32, (3, 12), elements=st.floats(-1e3, 1e3, width=32)),
)
def test_any_distance_and_any_path_are_those_of_float64_arithmetic(versions):
    model = Model(a=16, b=32)
    store = SnapshotStore(model.spans, model.values, np.dtype(np.float32))
    snapshots = [store.publish(weights, 0, keep_path=True) for weights in versions]
    steps = [reference_distance(model, new, old) for old, new in pairwise(versions)]
    assert snapshots[0].path == (0.0, 0.0)
    assert snapshots[2].path == pytest.approx(np.sum(steps, axis=0), rel=1e-4, abs=1e-30)
    direct = snapshots[2].squared_distance(snapshots[0])
    reference = reference_distance(model, versions[2], versions[0])
    assert direct == pytest.approx(reference, rel=1e-4, abs=1e-30)


def test_the_path_adds_up_every_step_between_two_pulls():
    versions = walk(SMALL, 20)
    store = SnapshotStore(SMALL.spans, SMALL.values, np.dtype(np.float32))
    paths = [store.publish(weights, 0, keep_path=True).path for weights in versions]
    since_fifth = np.subtract(paths[-1], paths[4])
    steps = [reference_distance(SMALL, new, old) for old, new in pairwise(versions[4:])]
    assert since_fifth == pytest.approx(np.sum(steps, axis=0), rel=1e-4)
