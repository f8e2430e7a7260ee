"""Two workers without a model to train exchange layers over loopback, round after round: the
Conductor's story, carried out by real threads and sockets, and told again by the trace.

Method: each worker is a real Server and a real Aggregator; the trainer is a thread that mixes what
it is handed and changes its weights a little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpls.core.messages import RoundDue, UpdateTaken
from mpls.core.round import Rounds
from mpls.core.settings import PlanSettings, PullSettings
from mpls.core.spec import WorkerSpec
from mpls.core.trace import Record, header, read, replay
from mpls.runtime.aggregator import Aggregator
from mpls.runtime.emulation import Pacing
from mpls.runtime.journal import Clock, Journal
from mpls.runtime.mailbox import Handover
from mpls.runtime.updates import LayerUpdate, mix
from mpls.runtime.zmq_transport import ZmqTransport
from tests.runtime.proxy import Proxy
from tests.runtime.rig import DEADLINE_S, UNPACED, Job, Model, serving, until

MODEL = Model(conv=40_000, fc=400_000, out=400)
BIG = Model(conv=40_000, fc=3_000_000)
PULL = PullSettings(status_s=0.05, prior_bandwidth_Bps=20e6)


class Trainer:
    """Mixes each update into its weights and publishes them, so many rounds long."""

    def __init__(self, model: Model, spec: WorkerSpec, port: int, peers: dict[str, int]) -> None:
        self.name = spec.name
        self.model = model
        self.weights = model.weights(seed=int(spec.name[1:]) + 1)
        self.store = model.store(self.weights)
        self.update: Handover[LayerUpdate] = Handover()
        self.rounds = Rounds(spec)
        self._spec = spec
        self._ports = peers

    @contextmanager
    def aggregating(self, folder: Path) -> Iterator[Trainer]:
        """With its aggregation thread."""
        self.trace = folder / f"{self.name}.jsonl"
        addresses = {name: f"127.0.0.1:{port}" for name, port in self._ports.items()}
        self.transport = ZmqTransport(addresses, self.model.layer_bytes, self._spec.pull.stall_s)
        clock = Clock()
        with Journal(self.trace) as journal:
            journal.write(header(self._spec, clock.now()))
            self.aggregator = Aggregator(
                self.rounds,
                self.transport,
                self.update,
                lambda name: self.model.layer(name, self.store.latest().flat),
                0.0,
                journal,
                clock,
            )
            self.thread = Job(f"aggregation {self.name}", self.aggregator.run)
            try:
                yield self
            finally:
                self.aggregator.drain()
                self.thread.finish()

    def run(self, first: int, last: int) -> list[int]:
        """These rounds; how many layers were mixed in each."""
        return [self.round(number) for number in range(first, last + 1)]

    def round(self, number: int) -> int:
        self.aggregator.post(RoundDue(number))
        update = self.update.take()
        assert update is not None
        assert update.round == number
        layers = mix(update, lambda name: self.model.layer(name, self.weights))
        for buffer in update.buffers:
            self.transport.recycle(buffer)
        self.aggregator.post(UpdateTaken(number, update.refused))
        self.weights *= np.float32(0.99)
        self.store.publish(self.weights, number, keep_path=False)
        return layers

    def is_ready(self) -> bool:
        """Whether plans can be made of every peer, its progress known or not."""
        return all(peer.standing == "ready" for peer in self.rounds.peers.values())

    def records(self, *kinds: str) -> list[Record]:
        return [record for record in read(self.trace) if record["kind"] in kinds]


@contextmanager
def pair(
    folder: Path,
    model: Model = MODEL,
    pull: PullSettings = PULL,
    plan: PlanSettings | None = None,
    pacing: Callable[[str], Pacing] = lambda peer: UNPACED,
) -> Iterator[tuple[Trainer, Trainer, Proxy]]:
    """Two workers that know each other; the first reaches the second through a proxy."""
    specs = {
        name: model.spec(name, peer, pull=pull, plan=plan or PlanSettings())
        for name, peer in (("w0", "w1"), ("w1", "w0"))
    }
    specs["w1"] = replace(specs["w1"], histogram=(0.2, 0.8))
    with ExitStack() as stack:
        one = Trainer(model, specs["w0"], 0, {})
        two = Trainer(model, specs["w1"], 0, {})
        ports = [
            stack.enter_context(serving(specs[me.name], me.store, pacing(peer.name)))[1]
            for me, peer in ((one, two), (two, one))
        ]
        proxy = stack.enter_context(Proxy(ports[1]))
        one._ports, two._ports = {"w1": proxy.port}, {"w0": ports[0]}
        for worker in (one, two):
            stack.enter_context(worker.aggregating(folder))
            until(worker.is_ready, f"{worker.name} to know its peer")
        yield one, two, proxy


def at_20_MBps(peer: str) -> Pacing:
    return Pacing({peer: 20e6}, None)


def together(*jobs: Callable[[], Any]) -> list[Any]:
    threads = [Job(f"trainer {number}", job) for number, job in enumerate(jobs)]
    return [thread.finish() for thread in threads]


def conserves(worker: Trainer) -> Counter[str]:
    """How the pulls ended; each planned one ended, once."""
    ends = Counter(record["outcome"] for record in worker.records("pull"))
    planned = sum(
        len(layers) for record in worker.records("plan") for layers in record["assignment"].values()
    )
    assert sum(ends.values()) == planned
    assert sum(record["planned"] for record in worker.records("round")) == planned
    assert sum(map(Counter, (r["ends"] for r in worker.records("round"))), Counter()) == ends
    return ends


def test_two_workers_exchange_layers_for_many_rounds_and_both_traces_replay(tmp_path):
    with pair(tmp_path) as (one, two, _):
        mixed = together(lambda: one.run(1, 30), lambda: two.run(1, 30))
    assert mixed == [[3] * 30, [3] * 30]
    for worker in (one, two):
        assert conserves(worker) == {"applied": 90}
        assert replay(read(worker.trace)) is None
        assert len(worker.records("round")) == 30


def test_a_trace_with_one_command_changed_does_not_replay(tmp_path):
    with pair(tmp_path) as (one, two, _):
        together(lambda: one.run(1, 3), lambda: two.run(1, 3))
    records = list(read(one.trace))
    sent = next(record for record in records if record["kind"] == "publish")
    sent["command"]["sources"].pop()
    difference = replay(records)
    assert difference is not None
    assert difference.recorded == sent


def test_what_one_worker_mixes_is_what_the_other_published(tmp_path):
    """Eq. 1 with one peer: the mean of the own weights and the peer's snapshot."""
    with pair(tmp_path, plan=PlanSettings(strategy="appg")) as (one, two, _):
        own, theirs = one.weights.copy(), two.store.latest().flat.copy()
        one.round(1)
    expected = (own + theirs) * np.float32(0.5) * np.float32(0.99)
    assert one.weights.tobytes() == expected.tobytes()


def test_the_measured_bandwidth_is_that_of_the_emulated_link(tmp_path):
    with pair(tmp_path, BIG, pacing=at_20_MBps) as (one, _, _):
        one.run(1, 4)
        measured_Bps = one.rounds.peers["w1"].bandwidth.value_Bps
    assert 0.7 * 20e6 < measured_Bps < 1.1 * 20e6


@pytest.mark.parametrize("status_s", [0.05, 1.0])
def test_a_pull_cut_in_mid_layer_resumes_on_the_next_connection_and_only_the_rest_is_sent(
    tmp_path, status_s
):
    """Promise 4: transfers resume by chunk, also when no status is due that would find out."""
    pull = replace(PULL, status_s=status_s)
    with pair(tmp_path, BIG, pull, pacing=at_20_MBps) as (one, _, proxy):
        proxy.cut_after(1_500_000)
        assert one.round(1) == 2, "both layers arrived in the round that was cut"
        assert proxy.cuts == 1
        after_cut_bytes = proxy.down_bytes - 1_500_000
    first, second = (record for record in one.records("attempt") if record["bytes"])
    assert (first["outcome"], second["outcome"]) == ("disconnected", "ok")
    assert first["bytes"] > 0
    assert first["bytes"] + second["bytes"] == 3_040_000
    assert second["bytes"] < after_cut_bytes < second["bytes"] + 10_000
    assert conserves(one) == {"applied": 2}
    assert replay(read(one.trace)) is None


def test_a_peer_that_goes_away_in_mid_pull_costs_the_rest_of_it_and_is_left_out(tmp_path):
    pull = replace(PULL, retries=1, backoff_s=0.02)
    with pair(tmp_path, BIG, pull, pacing=at_20_MBps) as (one, _, proxy):
        proxy.upstream = 1
        one.aggregator.post(RoundDue(1))
        until(lambda: proxy.down_bytes > 1_000_000, "a part of the pull")
        proxy.cut()
        update = one.update.take()
        assert update is not None
        assert "fc" not in update.sums
        one.aggregator.post(UpdateTaken(1))
        assert one.round(2) == 0, "nobody is left to pull from"
    ends = conserves(one)
    assert ends["unreachable"] + ends["disconnected"] >= 1
    assert replay(read(one.trace)) is None


def test_a_worker_that_drains_in_mid_pull_counts_its_pulls_as_cancelled(tmp_path):
    with pair(tmp_path, BIG, pacing=lambda peer: Pacing({peer: 5e6}, None)) as (one, _, proxy):
        one.aggregator.post(RoundDue(1))
        until(lambda: proxy.down_bytes > 100_000, "a part of the pull")
        one.aggregator.drain()
        one.thread.finish()
    assert set(conserves(one)) == {"cancelled"}
    assert replay(read(one.trace)) is None


def test_an_update_still_waiting_when_the_worker_drains_counts_as_cancelled(tmp_path):
    with pair(tmp_path) as (one, _, _):
        one.aggregator.post(RoundDue(1))
        until(one.update.waiting, "the update")
    assert conserves(one) == {"cancelled": 3}
    assert replay(read(one.trace)) is None


def test_a_copy_that_is_not_finite_is_refused_and_told_to_the_trace(tmp_path):
    with pair(tmp_path) as (one, two, _):
        poisoned = two.weights.copy()
        two.model.layer("out", poisoned)[5] = np.nan
        two.store.publish(poisoned, 1, keep_path=False)
        assert one.round(1) == 2
        assert np.isfinite(one.weights).all()
    assert conserves(one) == {"applied": 2, "not-finite": 1}


def test_whoever_waits_for_its_peers_to_finish_is_called_when_they_have(tmp_path):
    with pair(tmp_path) as (one, two, _):
        called: list[str] = []
        one.aggregator.when_peers_are_done(lambda: called.append("done"))
        two.rounds.peers["w0"].state = "running"
        until(lambda: one.rounds.peers["w1"].state == "running", "a status")
        one.rounds.peers["w1"].state = "draining"
        one.rounds.peers_training = lambda now: False  # type: ignore[method-assign]
        until(lambda: called, "the call", DEADLINE_S)
    assert called == ["done"]


@pytest.mark.parametrize("strategy", ["mpls", "mpls-sampled", "rand-mpls", "netmax", "gossip"])
def test_every_strategy_exchanges_layers_and_replays(tmp_path, strategy):
    with pair(tmp_path, plan=PlanSettings(strategy=strategy)) as (one, two, _):
        together(lambda: one.run(1, 5), lambda: two.run(1, 5))
    for worker in (one, two):
        assert set(conserves(worker)) == {"applied"}
        assert replay(read(worker.trace)) is None
