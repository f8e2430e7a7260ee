"""Workers that join, leave and move while others run, and what those take up of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mpls.config import ClusterConfig, builtin, changed, dumps, load
from mpls.core.trace import Record, read, replay
from mpls.errors import BadInput, Refused
from mpls.report.progress import TraceFollower
from mpls.runtime.membership import news, read_anew
from mpls.runtime.outfit import Adapter
from mpls.runtime.sockets import listener_at
from mpls.runtime.worker import Place, Worker
from tests.runtime.rig import Job, listening_socket, until

pytestmark = pytest.mark.timeout(90)
TAKEN_UP_S = 10.0


def cluster(addresses: list[str], left: tuple[int, ...] = (), **training: object) -> ClusterConfig:
    """A complete graph of workers who would train for hours."""
    workers = [
        {"id": number, "address": address, "left": number in left}
        for number, address in enumerate(addresses)
    ]
    tables = {
        "cluster": {"topology": "full", "name": "town"},
        "training": {"rounds": 100_000, "pace": "free", "eval_every": 1000, **training},
        "data": {"partition": "iid", "shards": 4},
        "mpls": {"interval_s": 0.2},
        "network": {"status_s": 0.1},
        "workers": workers,
    }
    return changed(builtin(), tables, "test")


class Town:
    """Workers on loopback, each in a thread of this process, all with one cluster file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "town.toml"
        self.folder = folder
        self.workers: dict[int, Worker] = {}
        self.jobs: dict[int, Job] = {}
        self.adapter: Adapter | None = None
        self._traces: dict[int, Path] = {}
        self._followers: dict[int, TraceFollower] = {}
        self._records: dict[int, list[Record]] = {}

    def write(self, config: ClusterConfig) -> None:
        self.file.write_text(dumps(config), encoding="utf-8")

    def start(self, number: int) -> None:
        """As the file says now; after an earlier life it goes on from its checkpoint."""
        folder = self.folder / f"life-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        config = load(self.file)
        me = config.worker(number)
        listener = listener_at(me.name, me.host, me.port)
        state = self.folder / f"{number}.state"
        place = Place(
            folder, listener.detach(), adapter=self.adapter, state=state, cluster=self.file
        )
        self.workers[number] = Worker(config, number, place)
        self.jobs[number] = Job(f"worker {number}", self.workers[number].run)
        self._traces[number] = folder / f"{me.name}.trace.jsonl"
        self._followers[number] = TraceFollower(self._traces[number])
        self._records[number] = []

    def reload(self, *numbers: int) -> None:
        for number in numbers:
            self.workers[number].reload()

    def records(self, number: int, kind: str) -> list[Record]:
        self._records[number] += self._followers[number].new_records()
        return [record for record in self._records[number] if record["kind"] == kind]

    def uses(self, number: int, peer: str) -> int:
        """How many layers of `peer` were mixed in."""
        pulls = self.records(number, "pull")
        return sum(pull["peer"] == peer and pull["outcome"] == "applied" for pull in pulls)

    def replays(self, number: int) -> bool:
        return replay(read(self._traces[number])) is None

    def end(self, *numbers: int) -> None:
        for number in numbers:
            self.workers[number].stop()
        for number in numbers:
            assert self.jobs[number].finish(20) == 0


def free_addresses(count: int) -> list[str]:
    """Ports that nobody has now."""
    with ExitStack() as held:
        sockets = [held.enter_context(listening_socket()) for _ in range(count)]
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    town = Town(tmp_path)
    yield town
    for worker in town.workers.values():
        worker.stop()


def test_row_18_who_joins_leaves_or_moves_is_taken_up_by_those_who_run(town: Town) -> None:
    addresses = free_addresses(4)
    town.write(cluster(addresses[:2]))
    town.start(0)
    town.start(1)
    until(lambda: town.uses(0, "w1") and town.uses(1, "w0"), "both to pull", 30.0)

    town.write(cluster(addresses[:3]))
    town.start(2)
    town.reload(0, 1)
    until(lambda: town.uses(0, "w2") and town.uses(1, "w2"), "w2 to be used", TAKEN_UP_S)
    until(lambda: town.uses(2, "w0") and town.uses(2, "w1"), "w2 to use both", TAKEN_UP_S)

    town.write(cluster(addresses[:3], left=(1,)))
    town.reload(0, 1, 2)
    assert town.jobs[1].finish(20) == 0
    until(lambda: "w1 removed" in standings(town, 0), "w0 to let w1 go", TAKEN_UP_S)
    until(lambda: "w1 removed" in standings(town, 2), "w2 to let w1 go", TAKEN_UP_S)

    town.end(2)
    moved = [*addresses[:2], addresses[3]]
    town.write(cluster(moved, left=(1,)))
    before = town.uses(0, "w2")
    town.start(2)
    town.reload(0)
    until(lambda: town.uses(0, "w2") > before, "w2 to be used where it is now", TAKEN_UP_S)
    town.end(0, 2)
    assert town.replays(0)
    assert town.replays(2)


def standings(town: Town, number: int) -> list[str]:
    return [f"{it['peer']} {it['standing']}" for it in town.records(number, "peer")]


def test_a_newcomer_that_bootstraps_shows_nobody_its_untrained_weights(town: Town) -> None:
    addresses = free_addresses(3)
    town.write(cluster(addresses[:2]))
    town.start(0)
    town.start(1)
    until(lambda: town.uses(0, "w1") and town.uses(1, "w0"), "both to pull", 30.0)
    town.write(cluster(addresses, bootstrap="peers", rounds=1))
    town.reload(0, 1)
    town.start(2)
    until(lambda: town.records(2, "snapshot"), "its first version", 30.0)
    (first, *_) = town.records(2, "mix")
    (published, *_) = town.records(2, "snapshot")
    assert first["round"] == published["round"] == 0
    assert first["copies"] == 4  # two layers of two peers each
    assert published["t"] >= first["t"]
    town.end(0, 1, 2)
    assert town.replays(2)


def test_a_file_that_is_wrong_changes_nothing_and_is_told_of(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    town.write(cluster(free_addresses(2)))
    town.start(0)
    town.start(1)
    until(lambda: town.uses(0, "w1"), "w0 to pull", 30.0)
    town.file.write_text("[cluster\n", encoding="utf-8")
    town.reload(0)
    until(lambda: "not reloaded, all stays as it was" in caplog.text, "a line in the log")
    before = town.uses(0, "w1")
    until(lambda: town.uses(0, "w1") > before, "w0 to go on")
    town.end(0, 1)
    assert town.records(0, "served")[0]["failed_reloads"] == 1


def test_a_worker_whose_peers_speak_grpc_goes_on_as_it_was(
    town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    """It speaks ZeroMQ itself: only its transport, in another thread, could refuse."""
    town.adapter = pytest.importorskip("mpls.adapters.mixed").adapt
    addresses = free_addresses(3)

    def of(count: int) -> ClusterConfig:
        tables = [{"id": i, "address": addresses[i]} for i in range(count)]
        tables[1]["transport"] = "grpc"
        return changed(cluster(addresses[:count]), {"workers": tables})

    town.write(of(2))
    town.start(0)
    until(lambda: town.records(0, "mix"), "w0 to train", 30.0)
    town.write(of(3))
    town.reload(0)
    until(lambda: "with gRPC workers are taken up at the start only" in caplog.text, "a line")
    town.end(0)


@pytest.mark.live
def test_sighup_has_a_process_read_the_file_anew(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.write(cluster(free_addresses(2)))
    command = [sys.executable, "-m", "mpls", "worker", str(town.file), "--id", "0"]
    command += ["--out", str(tmp_path / "runs"), "--state", str(tmp_path / "state")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "running" in line:
                    process.send_signal(signal.SIGHUP)
                if "cluster file reloaded: nothing new" in line:
                    process.send_signal(signal.SIGTERM)
                    break
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_a_worker_that_is_renamed_or_moved_has_to_be_started_anew(tmp_path: Path) -> None:
    file = tmp_path / "town.toml"
    running = cluster(["127.0.0.1:7000", "127.0.0.1:7001"])
    moved = cluster(["127.0.0.1:7000", "127.0.0.1:7002"])
    file.write_text(dumps(moved), encoding="utf-8")
    config, ignored = read_anew(file, running, 0)
    assert list(news(running, config, 0)) == ["w1 is at 127.0.0.1:7002 now"]
    assert ignored == []
    with pytest.raises(BadInput, match=r"address = .*7002.* was .*7001.*; restart it"):
        read_anew(file, running, 1)


@pytest.mark.parametrize(
    ("newcomer", "why"),
    [
        ({"address": "127.0.0.1:7002", "transport": "grpc"}, "with gRPC"),
        ({"address": "10.0.0.1:7002"}, '"auto" was plaintext and is curve with these addresses'),
    ],
)
def test_a_newcomer_that_would_talk_in_another_way_is_not_taken_up(
    tmp_path: Path, newcomer: dict[str, str], why: str
) -> None:
    file = tmp_path / "town.toml"
    running = cluster(["127.0.0.1:7000", "127.0.0.1:7001"])
    tables = [worker.model_dump(exclude_none=True) for worker in running.workers]
    grown = changed(running, {"workers": [*tables, {"id": 2, **newcomer}]})
    file.write_text(dumps(grown), encoding="utf-8")
    with pytest.raises(Refused, match=why):
        read_anew(file, running, 0)


def test_what_is_read_at_the_start_only_is_named(tmp_path: Path) -> None:
    file = tmp_path / "town.toml"
    running = cluster(["127.0.0.1:7000", "127.0.0.1:7001"])
    file.write_text(dumps(changed(running, {"training": {"lr": 0.5}})), encoding="utf-8")
    config, ignored = read_anew(file, running, 0)
    assert ignored == ["[training] lr"]
    assert config.training.lr == running.training.lr


def test_a_restarted_worker_keeps_its_data_whoever_joined_meanwhile(town: Town) -> None:
    headers = []
    for workers, rounds in ((1, 2), (3, 4)):
        tables = {
            "training": {"rounds": rounds},
            "mpls": {"strategy": "local"},
            "workers": [
                {"id": number, "address": address}
                for number, address in enumerate(free_addresses(workers))
            ],
        }
        town.write(changed(builtin(), tables))
        town.start(0)
        assert town.jobs[0].finish(30) == 0
        headers += town.records(0, "header")
    assert headers[0]["labels"] == headers[1]["labels"]
    assert headers[1]["resumed"] is not None


def test_a_checkpoint_of_one_among_fewer_than_its_id_is_not_gone_on_with(tmp_path: Path) -> None:
    """Its name went to another table: there is no shard for that id."""

    def run(config: ClusterConfig, number: int) -> None:
        me = config.worker(number)
        listener = listener_at(me.name, me.host, me.port)
        Worker(config, number, Place(tmp_path, listener.detach(), state=tmp_path / "state")).run()

    tables = {"training": {"rounds": 1}, "mpls": {"strategy": "local"}}
    addresses = free_addresses(3)
    alone = [{"id": 0, "name": "anna", "address": addresses[0]}]
    run(changed(builtin(), {**tables, "workers": alone}), 0)
    names = ("bert", "carl", "anna")
    three = [{"id": i, "name": names[i], "address": addresses[i]} for i in range(3)]
    with pytest.raises(BadInput, match=r"id 2: its checkpoint is of one among 1; give it its id"):
        run(changed(builtin(), {**tables, "workers": three}), 2)
