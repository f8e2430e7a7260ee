"""Whole federations: three processes that train, exchange layers, and end as they should, whatever
becomes of one of them.

Method: all runs go on at the same time, each watched through its traces by a thread that does to it
what is to be done to it. Then each test looks at one of them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mpls.config import ClusterConfig, builtin, changed
from mpls.core.trace import Record, read, replay
from mpls.errors import BadInput, MplsError, Refused
from mpls.report.progress import TraceFollower, WorkerProgress, earlier_lives
from mpls.report.summary import summarise
from mpls.runtime.federation import Federation, warm_up
from tests.runtime.rig import Job

# All in one process of pytest's: else each would start all of these federations.
pytestmark = [pytest.mark.timeout(120), pytest.mark.xdist_group("federations")]
RUN_S = 100.0

QUICK = {"emulate": "", "status_s": 0.1}


@dataclass
class Run:
    """A federation under way, and what is to be done to it once `when` is true."""

    name: str
    overrides: dict[str, dict[str, object]]
    when: Callable[[Run], bool] = lambda run: False
    do: Callable[[Run], None] = lambda run: None
    restarts: int = 0
    waiting: bool = True
    workers: list[WorkerProgress] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)

    def start(self, folder: Path) -> None:
        self.folder = folder / self.name
        self.folder.mkdir()
        settings = config(self.overrides)
        self.federation = Federation(settings, self.folder, restarts=self.restarts)
        names = [worker.name for worker in self.federation.config.workers]
        self.workers = [WorkerProgress(name) for name in names]
        self._followers = [TraceFollower(self.trace(name)) for name in names]
        self._thread = Job(f"watching {self.name}", self._watch)

    def trace(self, name: str) -> Path:
        return self.folder / f"{name}.trace.jsonl"

    def records(self, name: str, *kinds: str) -> list[Record]:
        return [record for record in read(self.trace(name)) if record["kind"] in kinds]

    def ended(self) -> Run:
        self._thread.finish(RUN_S)
        return self

    def kill(self) -> None:
        self.federation.kill()

    def _watch(self) -> None:
        self.federation.start()
        while self.federation.wait(0.05):
            self._follow()
            if self.waiting and self.when(self):
                self.waiting = False
                self.do(self)
        self._follow()
        self.exits = list(self.federation.exits().values())

    def _follow(self) -> None:
        for worker, follower in zip(self.workers, self._followers):
            for record in follower.new_records():
                worker.take(record)


def config(overrides: dict[str, dict[str, object]]) -> ClusterConfig:
    tables = {"network": QUICK, "training": {"rounds": 25, "eval_every": 10}}
    for table, keys in overrides.items():
        tables[table] = tables.get(table, {}) | keys
    return changed(builtin(), tables)


def kill_w1(run: Run) -> None:
    pid = run.workers[1].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def all_under_way(run: Run) -> bool:
    return all(worker.round >= 3 for worker in run.workers)


def back(run: Run) -> list[dict[str, object]]:
    """The tables of those who were there first, as if nobody had left."""
    workers = run.federation.config.workers[:3]
    return [{**worker.model_dump(exclude_none=True), "left": False} for worker in workers]


def come_and_go(run: Run) -> None:
    """w3 joins and w0 leaves; when they have met, all are told to end."""
    before = run.federation.config
    newcomer = {"id": 3, "address": "127.0.0.1:0"}
    workers = [worker.model_dump(exclude_none=True) for worker in before.workers]
    workers[0]["left"] = True
    w0 = run.workers[0].pid
    assert w0 is not None
    os.kill(w0, signal.SIGSTOP)  # it is told to end, and cannot yet
    told = run.federation.reload(changed(before, {"workers": [*workers, newcomer]}))
    assert told == ([3], [0])
    with pytest.raises(Refused, match=r"id 0: w0 has not ended yet; wait"):
        run.federation.reload(changed(run.federation.config, {"workers": [*back(run), newcomer]}))
    os.kill(w0, signal.SIGCONT)

    def end_once_met(run: Run) -> bool:
        pulls = run.records("w3", "pull") if run.trace("w3").exists() else []
        return any(it["outcome"] == "applied" and it["peer"] != "w0" for it in pulls)

    run.when, run.do = end_once_met, lambda run: run.federation.interrupt()
    run.waiting = True


RUNS = {
    run.name: run
    for run in (
        Run("well", {}),
        Run(
            "killed",
            {"training": {"rounds": 60}},
            lambda run: run.workers[1].round >= 5,
            kill_w1,
        ),
        Run(
            "restarted",
            {"training": {"rounds": 60}, "checkpoint": {"every_rounds": 2}},
            lambda run: run.workers[1].round >= 5,
            kill_w1,
            restarts=1,
        ),
        Run(
            "changing",
            {"training": {"rounds": 100_000}, "data": {"shards": 4}},
            all_under_way,
            come_and_go,
        ),
        Run("diverged", {"model": {"name": "tests.runtime.explosive:mlp"}}),
        Run(
            "terminated",
            {"training": {"rounds": 100_000}},
            all_under_way,
            lambda run: run.federation.interrupt(),
        ),
        Run(
            "terminated early",
            {"training": {"rounds": 100_000}},
            lambda run: True,
            lambda run: run.federation.interrupt(),
        ),
    )
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    warm_up()
    folder = tmp_path_factory.mktemp("runs")
    for run in RUNS.values():
        run.start(folder)
    yield RUNS
    for run in RUNS.values():
        run.kill()
        run.ended()


def conserves(run: Run, name: str) -> Counter[str]:
    """How this worker's pulls ended; each planned one ended, once."""
    planned = sum(
        len(layers)
        for record in run.records(name, "plan")
        for layers in record["assignment"].values()
    )
    ends = Counter(record["outcome"] for record in run.records(name, "pull"))
    assert sum(ends.values()) == planned
    return ends


def states(run: Run, name: str) -> list[str]:
    return [record["state"] for record in run.records(name, "state")]


def test_a_run_of_three_processes_ends_well(runs):
    run = runs["well"].ended()
    assert run.exits == [0, 0, 0]
    pids = {worker.pid for worker in run.workers}
    assert len(pids) == 3
    assert os.getpid() not in pids
    for worker in run.workers:
        assert (worker.state, worker.reason, worker.round) == ("stopped", "", 25)
        assert states(run, worker.name) == [
            "initializing",
            "ready",
            "running",
            "draining",
            "stopped",
        ]


def test_what_its_workers_learned_they_learned_together(runs):
    run = runs["well"].ended()
    ends = [conserves(run, worker.name) for worker in run.workers]
    assert sum(end["applied"] for end in ends) > 30
    assert all(set(end) <= {"applied"} for end in ends), ends
    for worker, end in zip(run.workers, ends):
        assert worker.pulls_ok == end["applied"]
        assert worker.test_accuracy is not None
        assert worker.test_accuracy > 0.7
        assert worker.local_steps == 25 * 83


def test_its_traces_replay_without_a_difference(runs):
    run = runs["well"].ended()
    for worker in run.workers:
        assert replay(read(run.trace(worker.name))) is None


def test_its_traffic_is_counted_at_both_ends(runs):
    run = runs["well"].ended()
    served = {worker.name: run.records(worker.name, "served")[0] for worker in run.workers}
    for name, record in served.items():
        for peer, counts in record["answered"].items():
            theirs = served[peer]["sent"].get(name, {})
            assert counts.get("chunk") == theirs.get("chunk"), (name, peer)
        assert record["refusals"] == {}
        assert record["dropped"] == 0
        (worker,) = (worker for worker in run.workers if worker.name == name)
        assert record["local_steps"] == worker.local_steps


def test_a_run_that_is_reloaded_starts_who_joined_and_ends_who_left(runs):
    run = runs["changing"].ended()
    assert run.exits == [0, 0, 0, 0]
    assert states(run, "w0")[-1] == "stopped"
    assert "taken out of" in (run.folder / "w0.log").read_text()
    for name in ("w1", "w2"):
        standings = [(it["peer"], it["standing"]) for it in run.records(name, "peer")]
        assert ("w0", "removed") in standings
        assert replay(read(run.trace(name))) is None


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ({"name": "anna"}, r'id 1: name = "anna" was "w1" when this worker began; restart it'),
        ({"address": "127.0.0.1:1"}, r"id 1: address = .* was .*; restart it"),
        ({"transport": "grpc"}, "with gRPC workers are taken up at the start only"),
    ],
)
def test_a_reload_that_would_make_another_of_a_running_worker_changes_nothing(
    tmp_path: Path, tables: dict[str, object], why: str
) -> None:
    federation = Federation(config({}), tmp_path)
    before = (tmp_path / "cluster.toml").read_text()
    workers = [worker.model_dump(exclude_none=True) for worker in federation.config.workers]
    workers[1] |= tables
    with pytest.raises(MplsError, match=why):
        federation.reload(changed(federation.config, {"workers": workers}))
    assert (tmp_path / "cluster.toml").read_text() == before
    assert federation.exits() == {}


def test_who_joins_has_to_fit_what_was_read_at_the_start(tmp_path: Path) -> None:
    """The run's own cluster file, which a newcomer begins with, would be wrong."""
    federation = Federation(config({"data": {"shards": 3}}), tmp_path)
    before = (tmp_path / "cluster.toml").read_text()
    tables = [{"id": number, "address": "127.0.0.1:0"} for number in range(4)]
    grown = changed(federation.config, {"data": {"shards": 4}, "workers": tables})
    with pytest.raises(BadInput, match=r"shards = 3: must be 0, or at least 4"):
        federation.reload(grown)
    assert (tmp_path / "cluster.toml").read_text() == before
    assert federation.exits() == {}


def test_its_summary_has_everything(runs):
    run = runs["well"].ended()
    summary = summarise(
        run.workers, run.exits, run.folder, status="completed", strategy="mpls", seconds=1.0
    )
    assert summary["consensus_distance"] > 0
    for number, worker in enumerate(summary["workers"]):
        assert (worker["id"], worker["exit"], worker["rounds"]) == (number, 0, 25)
        assert worker["bytes_in"] > 0
        assert worker["bytes_out"] > 0
        assert len(worker["class_accuracy"]) == 10


def test_a_worker_that_is_killed_does_not_keep_the_others_from_finishing(runs):
    run = runs["killed"].ended()
    assert run.exits == [0, -signal.SIGKILL, 0]
    for worker in (run.workers[0], run.workers[2]):
        assert (worker.state, worker.round) == ("stopped", 60)
        conserves(run, worker.name)
        assert replay(read(run.trace(worker.name))) is None
    assert run.workers[1].round < 60
    summary = summarise(
        run.workers, run.exits, run.folder, status="failed", strategy="mpls", seconds=1.0
    )
    assert summary["consensus_distance"] is None
    assert summary["workers"][1]["exit"] == -9


def test_the_trace_of_a_killed_worker_replays_as_far_as_it_was_written(runs):
    run = runs["killed"].ended()
    difference = replay(read(run.trace("w1")))
    assert difference is None or difference.recorded is None


def test_row_19_a_killed_worker_is_started_again_and_goes_on_after_its_checkpoint(runs):
    run = runs["restarted"].ended()
    assert run.exits == [0, 0, 0]
    assert run.federation.restarted == [("w1", -signal.SIGKILL)]
    assert [worker.lives for worker in run.workers] == [1, 2, 1]
    assert [worker.round for worker in run.workers] == [60, 60, 60]
    (first,) = earlier_lives(run.trace("w1"))
    saved = [record["round"] for record in read(first) if record["kind"] == "checkpoint"]
    rounds = [record["round"] for record in run.records("w1", "mix")]
    # One that was on the disk, but not yet told of when the worker was killed, counts as well.
    assert rounds[0] - 1 in (saved[-1], saved[-1] + 2)
    assert rounds == list(range(rounds[0], 61))
    assert rounds[0] > 2
    assert replay(read(run.trace("w1"))) is None


def test_a_worker_whose_loss_diverges_fails_with_a_reason_and_the_others_finish(runs):
    run = runs["diverged"].ended()
    assert run.exits == [0, 1, 0]
    failed = run.workers[1]
    assert failed.state == "failed"
    assert "training" in failed.reason
    assert "lr" in failed.reason
    for worker in (run.workers[0], run.workers[2]):
        assert (worker.state, worker.round) == ("stopped", 25)
        conserves(run, worker.name)
    summary = summarise(
        run.workers, run.exits, run.folder, status="failed", strategy="mpls", seconds=1.0
    )
    json.dumps(summary, allow_nan=False)


def test_terminated_workers_drain_and_end_well(runs):
    run = runs["terminated"].ended()
    assert run.exits == [0, 0, 0]
    for worker in run.workers:
        assert (worker.state, worker.reason) == ("stopped", "")
        assert 3 <= worker.round < 100_000
        conserves(run, worker.name)
        assert replay(read(run.trace(worker.name))) is None
        assert (run.folder / f"{worker.name}.safetensors").exists()


def test_workers_terminated_before_they_are_ready_end_well_too(runs):
    run = runs["terminated early"].ended()
    assert run.exits == [0, 0, 0]
    for worker in run.workers:
        assert worker.state == "stopped"


# --- before anything starts ---


def test_a_port_in_use_is_bad_input_that_names_worker_and_address(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        workers = [
            {"id": 0, "address": "127.0.0.1:0"},
            {"id": 1, "address": "127.0.0.1:0"},
            {"id": 2, "address": address},
        ]
        with pytest.raises(BadInput, match=f"worker w2: cannot listen on {address}: .*in use"):
            Federation(changed(builtin(), {"workers": workers}), tmp_path)


def test_ports_that_were_left_open_are_written_down_for_all(tmp_path):
    federation = Federation(builtin(), tmp_path)
    with federation._listeners:
        addresses = [worker.address for worker in federation.config.workers]
    assert len(set(addresses)) == 3
    assert all(not address.endswith(":0") for address in addresses)
    text = (tmp_path / "cluster.toml").read_text()
    assert all(address in text for address in addresses)
