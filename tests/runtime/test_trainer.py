"""No local step is lost: what training and mixing did in several threads, one thread does again.

Method: a Trainer learns the digits in its own thread while another hands in layer updates at odd
moments. Its trace says how many local steps it did and when it mixed. A second learner repeats just
that, alone and with Eq. 1 written out in numpy: every published snapshot must be the same bits.
"""

from __future__ import annotations

import select
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from mpls.core.gate import Gate
from mpls.core.messages import Event, LayerRefused, RoundDue, Source, UpdateTaken
from mpls.core.serving import Condition
from mpls.core.settings import PaceSettings
from mpls.core.streams import Stream
from mpls.core.trace import Record, read
from mpls.model.data import load
from mpls.model.layers import FlatModel
from mpls.model.manifest import Manifest
from mpls.model.nets import build
from mpls.model.training import Diverged, Learner
from mpls.runtime.journal import Clock, Journal
from mpls.runtime.mailbox import Bell, Handover, Slot
from mpls.runtime.snapshots import Snapshot, SnapshotStore
from mpls.runtime.trainer import Stopped, Trainer
from mpls.runtime.updates import LayerUpdate, add_up
from tests.runtime.rig import DEADLINE_S, Job, until

DIGITS = load("digits", "")
Copies = dict[str, list[np.ndarray]]


def learner(lr: float = 0.1) -> Learner:
    return Learner(
        FlatModel(build("simple-mlp", DIGITS.input_shape, DIGITS.classes, seed=1)),
        DIGITS,
        np.arange(640),
        batch_size=32,
        lr=lr,
        momentum=0.9,
        order=Stream(1, "batches", "w0"),
    )


class RecordingStore(SnapshotStore):
    """Keeps the hash of every version."""

    def __init__(self, manifest: Manifest) -> None:
        spans = {
            layer.name: (layer.offset_bytes, layer.offset_bytes + layer.layer_bytes)
            for layer in manifest.layers
        }
        super().__init__(spans, manifest.total_bytes // 4, manifest.dtype)
        self.hashes: dict[int, int] = {}

    def publish(self, weights: np.ndarray, round_number: int, keep_path: bool) -> Snapshot:
        snapshot = super().publish(weights, round_number, keep_path)
        self.hashes[snapshot.version] = xxhash.xxh3_64_intdigest(snapshot.flat)
        return snapshot


class Aggregation:
    """Stands for the aggregation thread: answers each round with copies of some layers, after the
    trainer has done some more steps."""

    def __init__(self, worker: Learner, update: Handover[LayerUpdate]) -> None:
        self.bell: Bell[Event | None] = Bell()
        self.copies: dict[int, Copies] = {}
        self.recycled: list[np.ndarray] = []
        self.taken: list[UpdateTaken] = []
        self._worker = worker
        self._update = update
        self._start = worker.model.host.copy()
        self._random = Stream(5, "aggregation")

    def run(self) -> None:
        while True:
            assert select.select([self.bell], [], [], DEADLINE_S)[0]
            for event in self.bell.collect():
                if event is None:
                    return
                if isinstance(event, RoundDue):
                    self._hand_in(event.round)
                else:
                    assert isinstance(event, UpdateTaken)
                    self.taken.append(event)

    def _hand_in(self, number: int) -> None:
        wanted_steps = self._worker.steps + self._random.below(12)
        copies = {
            layer.name: [self._copy(layer.values_in(self._start)) for _ in range(number % 4)]
            for layer in self._worker.model.manifest.layers[number % 2 :]
        }
        self.copies[number] = {name: [c.copy() for c in many] for name, many in copies.items()}
        flat = [(name, copy) for name, many in copies.items() for copy in many]
        sources = [Source("w1", name, index, 1, number - 1) for index, (name, _) in enumerate(flat)]
        update = add_up(
            number, sources, lambda index, _: flat[index][1].view(np.uint8), self._own, 0, Gate()
        )
        until(lambda: self._worker.steps >= wanted_steps or self.is_pass_done(), "more local steps")
        self._update.put(update)

    def is_pass_done(self) -> bool:
        """Whether the trainer does nothing but wait for the update."""
        return bool(self._update._changed._waiters)  # type: ignore[attr-defined]

    def _own(self, name: str) -> np.ndarray:
        (layer,) = (la for la in self._worker.model.manifest.layers if la.name == name)
        return layer.values_in(self._start)

    def _copy(self, values: np.ndarray) -> np.ndarray:
        noise = self._random.uniforms(values.size) - 0.5
        return (values + 0.1 * noise).astype(np.float32)


class Bench:
    """A trainer with everything around it but the network."""

    def __init__(self, folder: Path, pace: PaceSettings, lr: float = 0.1) -> None:
        self.learner = learner(lr)
        self.store = RecordingStore(self.learner.model.manifest)
        self.update: Handover[LayerUpdate] = Handover()
        self.aggregation = Aggregation(self.learner, self.update)
        self.condition: Slot[Condition] = Slot()
        self._trace = folder / "trace.jsonl"
        self._pace = pace

    def __enter__(self) -> Bench:
        self._journal = Journal(self._trace)
        self.trainer = Trainer(
            self.learner,
            DIGITS,
            self._pace,
            self.store,
            self.update,
            self.condition,
            self.aggregation.bell.post,
            self.aggregation.recycled.append,
            self._journal,
            Clock(),
            keep_path=False,
        )
        self._thread = Job("aggregation", self.aggregation.run)
        return self

    def __exit__(self, *_: object) -> None:
        self.aggregation.bell.post(None)
        try:
            self._thread.finish()
        finally:
            self.aggregation.bell.close()
            self._journal.__exit__(None, None, None)

    def records(self, *kinds: str) -> Iterator[Record]:
        return (record for record in read(self._trace) if not kinds or record["kind"] in kinds)


def repeat_alone(bench: Bench, skip_step: int = 0) -> tuple[Learner, list[int]]:
    """What the trace says, done again by one thread; also the versions that were other bits."""
    alone, differing = learner(), []
    host, layers = alone.model.host, {la.name: la for la in alone.model.manifest.layers}
    for record in bench.records("pass", "mix", "snapshot"):
        if record["kind"] == "pass":
            for _ in range(record["steps"]):
                if alone.steps + 1 != skip_step:
                    alone.step()
                else:
                    alone.steps += 1
        elif record["kind"] == "snapshot":
            if xxhash.xxh3_64_intdigest(host) != bench.store.hashes[record["version"]]:
                differing.append(record["version"])
        else:
            for name, copies in bench.aggregation.copies[record["round"]].items():
                if copies:
                    own = layers[name].values_in(host)
                    own[:] = (own + sum(copies[1:], copies[0])) / np.float32(len(copies) + 1)
    return alone, differing


PACES = {
    "overlap": PaceSettings(rounds=25, pace="overlap", local_steps=15, eval_every=1000),
    "overlap, publishing in mid-pass": PaceSettings(
        rounds=25, pace="overlap", local_steps=15, publish_steps=4, eval_every=1000
    ),
    "free": PaceSettings(rounds=40, pace="free", local_steps=15, eval_every=1000),
    "free, publishing in mid-pass": PaceSettings(
        rounds=40, pace="free", local_steps=15, publish_steps=4, eval_every=1000
    ),
    "sequential": PaceSettings(rounds=25, pace="sequential", local_steps=15, eval_every=1000),
}


@pytest.mark.parametrize("pace", PACES)
def test_repeating_its_steps_and_mixings_alone_gives_every_snapshot_bit_for_bit(tmp_path, pace):
    with Bench(tmp_path, PACES[pace]) as bench:
        Job("training", bench.trainer.run).finish()
    alone, differing = repeat_alone(bench)
    assert differing == []
    assert alone.steps == bench.learner.steps
    assert np.array_equal(alone.model.host, bench.learner.model.host)
    assert np.array_equal(bench.store.latest().flat, bench.learner.model.host)
    assert len(list(bench.records("mix"))) == PACES[pace].rounds
    assert len(list(bench.records("snapshot"))) == bench.store.latest().version


def test_one_step_less_would_be_noticed(tmp_path):
    with Bench(tmp_path, PACES["free"]) as bench:
        Job("training", bench.trainer.run).finish()
    _, differing = repeat_alone(bench, skip_step=bench.learner.steps // 2)
    assert differing


@pytest.mark.parametrize("pace", ["overlap", "sequential"])
def test_in_step_every_round_has_exactly_its_local_steps(tmp_path, pace):
    with Bench(tmp_path, PACES[pace]) as bench:
        Job("training", bench.trainer.run).finish()
    assert [record["steps"] for record in bench.records("pass")] == [15] * 25
    assert bench.learner.steps == 25 * 15


def test_free_training_mixes_at_the_step_at_which_the_update_waits(tmp_path):
    with Bench(tmp_path, PACES["free"]) as bench:
        Job("training", bench.trainer.run).finish()
    steps = Counter(record["steps"] for record in bench.records("pass"))
    assert len(steps) > 3, "updates came at odd moments, and were mixed at the end of the step"


def test_the_trace_tells_layers_copies_and_staleness_of_each_mixing(tmp_path):
    with Bench(tmp_path, PACES["overlap"]) as bench:
        Job("training", bench.trainer.run).finish()
    for record in bench.records("mix"):
        copies = bench.aggregation.copies[record["round"]]
        number = sum(map(len, copies.values()))
        assert record["layers"] == sum(bool(many) for many in copies.values())
        assert record["copies"] == number
        assert record["staleness"] == ({"1": number} if number else {})
    assert [taken.round for taken in bench.aggregation.taken] == list(range(1, 26))


def test_every_buffer_of_an_update_is_handed_back_once(tmp_path):
    with Bench(tmp_path, PACES["overlap"]) as bench:
        Job("training", bench.trainer.run).finish()
    copies = sum(
        len(many)
        for round_copies in bench.aggregation.copies.values()
        for many in round_copies.values()
    )
    assert len({id(buffer) for buffer in bench.aggregation.recycled}) == copies
    assert len(bench.aggregation.recycled) == copies


def test_stopped_in_mid_pass_it_ends_at_a_step_and_what_it_did_is_in_the_trace(tmp_path):
    with Bench(tmp_path, PaceSettings(rounds=1, local_steps=10**6)) as bench:
        bench.aggregation._hand_in = lambda number: None  # type: ignore[method-assign]
        training = Job("training", bench.trainer.run)
        until(lambda: bench.learner.steps > 20, "some steps")
        bench.trainer.stop()
        with pytest.raises(Stopped):
            training.finish()
    assert sum(record["steps"] for record in bench.records("pass")) == bench.learner.steps


def test_stopped_in_mid_evaluation_it_ends_before_the_next_batch(tmp_path):
    """All test images would take minutes."""
    pace = PaceSettings(rounds=1, local_steps=2, eval_every=1)
    with Bench(tmp_path, pace) as bench:
        images = np.broadcast_to(DIGITS.test_images[0], (10**8, *DIGITS.test_images.shape[1:]))
        labels = np.broadcast_to(DIGITS.test_labels[0], 10**8)
        bench.trainer._dataset = replace(DIGITS, test_images=images, test_labels=labels)
        training = Job("training", bench.trainer.run)
        until(lambda: not bench.learner.model.module.training, "the evaluation to begin")
        bench.trainer.stop()
        with pytest.raises(Stopped):
            training.finish()
    assert not list(bench.records("eval"))


def test_stopped_while_it_waits_for_an_update_it_does_not_wait_any_longer(tmp_path):
    with Bench(tmp_path, PaceSettings(rounds=1, local_steps=2)) as bench:
        bench.aggregation._hand_in = lambda number: None  # type: ignore[method-assign]
        training = Job("training", bench.trainer.run)
        until(bench.aggregation.is_pass_done, "the trainer to wait")
        bench.trainer.stop()
        with pytest.raises(Stopped):
            training.finish()
    assert not list(bench.records("mix"))


def test_an_update_that_comes_after_it_was_stopped_is_not_mixed_and_not_reported(tmp_path):
    with Bench(tmp_path, PaceSettings(rounds=1, local_steps=2)) as bench:
        bench.aggregation._hand_in = lambda number: None  # type: ignore[method-assign]
        training = Job("training", bench.trainer.run)
        until(bench.aggregation.is_pass_done, "the trainer to wait")
        bench.trainer._stopping = True
        bench.update.put(LayerUpdate(1))
        with pytest.raises(Stopped):
            training.finish()
    assert not list(bench.records("mix"))
    assert bench.aggregation.taken == []


def test_training_that_diverges_says_at_which_step(tmp_path):
    with Bench(tmp_path, PaceSettings(rounds=5, local_steps=20), lr=1e9) as bench:
        bench.aggregation._hand_in = lambda number: None  # type: ignore[method-assign]
        with pytest.raises(Diverged, match=r"local step \d+; try a smaller lr"):
            Job("training", bench.trainer.run).finish()
    assert list(bench.records("mix")) == []
    assert sum(record["steps"] for record in bench.records("pass")) == bench.learner.steps > 0


def test_a_model_whose_last_step_ruined_it_has_diverged_too(tmp_path):
    """The loss of a step is that of the weights before it: only the test sees the last step's."""
    with (
        Bench(tmp_path, PaceSettings(rounds=1, local_steps=1), lr=1e38) as bench,
        pytest.raises(Diverged, match="lr"),
    ):
        Job("training", bench.trainer.run).finish()


def refusals_of(taken: list[UpdateTaken]) -> list[tuple[LayerRefused, ...]]:
    return [update.refused for update in taken]


def test_refused_copies_are_reported_and_counted_neither_as_copies_nor_as_stale(tmp_path):
    with Bench(tmp_path, PaceSettings(rounds=1, local_steps=2, eval_every=1)) as bench:
        bench.aggregation._hand_in = lambda number: bench.update.put(  # type: ignore[method-assign]
            spoilt_update(bench, number)
        )
        Job("training", bench.trainer.run).finish()
    (record,) = bench.records("mix")
    assert (record["layers"], record["copies"]) == (1, 1)
    assert record["staleness"] == {"1": 1}
    (refused,) = refusals_of(bench.aggregation.taken)
    assert refused == (LayerRefused(8, "fc2", "not-finite"),)


def spoilt_update(bench: Bench, number: int) -> Any:
    """Two copies of fc2: one of last round, and one with a NaN of two rounds before."""
    values = bench.aggregation._own("fc2")
    spoilt = values.copy()
    spoilt[3] = np.nan
    copies = {7: values.copy(), 8: spoilt}
    sources = [Source("w1", "fc2", 7, 1, number - 1), Source("w2", "fc2", 8, 1, number - 2)]
    return add_up(
        number,
        sources,
        lambda index, _: copies[index].view(np.uint8),
        bench.aggregation._own,
        0,
        Gate(),
    )
