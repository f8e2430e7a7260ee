"""What systemd is told, by which of a worker's deeds, and when it is told nothing any more."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpls.config import builtin, changed, dumps
from mpls.core.trace import read
from mpls.runtime import notify
from mpls.runtime.health import Pulse
from mpls.runtime.notify import Notifier
from mpls.runtime.watchdog import FIRST_PASS_S, Watchdog
from mpls.runtime.worker import Place, Worker
from tests.runtime.manager import Manager
from tests.runtime.rig import listening_socket, until
from tests.runtime.test_health import Hand
from tests.runtime.test_resume import cluster

ROOT = Path(__file__).parents[2]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(tmp_path / "notify", watchdog_s=30.0) as manager:
        yield manager


# --- messages ---


@pytest.mark.parametrize("place", ["{}/notify", "@mpls-{}"])
def test_each_message_is_one_datagram_to_the_socket_that_the_environment_names(
    place: str, tmp_path: Path
) -> None:
    with Manager(place.format(tmp_path if place.startswith("{") else os.getpid())) as manager:
        notifier = Notifier(manager.environment)
        notifier.status("running: round 1 of 2")
        notifier.status("running: round 1 of 2")
        notifier.ready()
        notifier.alive()
        notifier.be_patient(2.5)
        notifier.stopping()
        assert manager.hear() == [
            "STATUS=running: round 1 of 2",
            "READY=1",
            "WATCHDOG=1",
            "WATCHDOG_USEC=2500000",
            "STOPPING=1",
        ]


@pytest.mark.parametrize("socket_name", ["", "vsock:2:1234", "relative"])
def test_nobody_is_told_where_no_socket_of_this_machine_is_named(
    socket_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": socket_name, "WATCHDOG_USEC": "1000"})
    notifier.ready()
    assert notifier.watchdog_s == 0.0
    assert caplog.text == ""


def test_a_manager_that_is_gone_is_logged_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")})
    notifier.ready()
    notifier.stopping()
    assert [record.getMessage() for record in caplog.records] == [
        "systemd cannot be told READY=1: No such file or directory"
    ]


def test_a_manager_that_does_not_listen_holds_nobody_up_and_is_told_again(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "SEND_S", 0.0)
    notifier = Notifier(manager.environment)
    for number in range(1000):  # more than its queue of datagrams holds
        notifier.status(f"round {number}")
    assert 0 < len(manager.hear()) < 1000
    notifier.status("round 999")
    assert manager.hear()[-1] == "STATUS=round 999"


@pytest.mark.parametrize("broken", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}])
def test_a_watchdog_that_is_not_for_this_process_is_not_fed(
    broken: dict[str, str], manager: Manager
) -> None:
    assert Notifier(manager.environment | broken).watchdog_s == 0.0
    assert Notifier(manager.environment).watchdog_s == 30.0


# --- the watchdog ---


class Fed:
    """A watchdog over two threads, and how often it was fed."""

    def __init__(self, manager: Manager) -> None:
        self.pulse = Pulse(Hand())
        self._manager = manager
        self._watchdog = Watchdog(Notifier(manager.environment), self.pulse)
        for thread in ("training", "aggregation"):
            self.pulse.beat(thread)
        assert self.look(step_s=0.01) == 1

    def look(self, *beats: str, step_s: float = 0.01) -> int:
        """After these threads got on."""
        for thread in beats:
            self.pulse.beat(thread)
        self._watchdog.look(step_s)
        return self._manager.hear().count("WATCHDOG=1")


def test_it_is_fed_when_training_and_network_both_got_on_since_the_last_time(
    manager: Manager,
) -> None:
    fed = Fed(manager)
    assert fed.look() == 1
    assert fed.look("training", "training") == 1
    assert fed.look("training") == 1
    assert fed.look("aggregation") == 2
    assert fed.look("aggregation", "aggregation") == 2
    assert fed.look("training") == 3


def test_who_waits_for_an_update_needs_the_network_to_get_on_only(manager: Manager) -> None:
    fed = Fed(manager)
    fed.pulse.end("training")
    assert fed.look("aggregation") == 2
    assert fed.look() == 2
    fed.pulse.beat("training")
    assert fed.look("aggregation") == 3
    assert fed.look("aggregation") == 3


def test_to_be_forgiven_is_not_to_get_on(manager: Manager) -> None:
    fed = Fed(manager)
    fed.pulse.forgive()
    assert fed.look() == 1


def test_it_waits_for_twenty_steps_and_longer_while_nobody_knows_how_long_one_takes(
    manager: Manager,
) -> None:
    watchdog = Watchdog(Notifier(manager.environment), Pulse(Hand()))
    for step_s in (0.0, 0.0, 0.001, 0.5, 10.0, 11.0, 20.0, 1.0):
        watchdog.look(step_s)
        manager.hear()
    patience_s = [FIRST_PASS_S, 30, 200, 400, 30]
    told = [message for message in manager.hear() if message.startswith("WATCHDOG_USEC=")]
    assert told == [f"WATCHDOG_USEC={int(seconds * 1e6)}" for seconds in patience_s]


# --- a worker ---


class Witness(Notifier):
    """Looks into the trace when the worker says that it is ready."""

    def __init__(self, trace: Path) -> None:
        super().__init__({})
        self._trace = trace

    def ready(self) -> None:
        records = list(read(self._trace))
        (self.header,) = (record for record in records if record["kind"] == "header")
        self.states = [record["state"] for record in records if record["kind"] == "state"]


def test_it_is_ready_when_its_checkpoint_is_loaded_and_before_it_trains(tmp_path: Path) -> None:
    for rounds in (2, 4):
        folder = tmp_path / str(rounds)
        folder.mkdir()
        witness = Witness(folder / "w0.trace.jsonl")
        place = Place(folder, listening_socket().detach(), state=tmp_path / "s", notifier=witness)
        config = cluster(training={"rounds": rounds}, network={"status_s": 0.1})
        assert Worker(config, 0, place).run() == 0
    assert witness.header["resumed"]
    assert witness.states == ["initializing", "ready"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def worker(folder: Path, manager: Manager, model: str) -> Iterator[subprocess.Popen[bytes]]:
    """`mpls worker` as systemd would start it; its one peer never comes."""
    ports = (free_port(), 9)
    tables = {
        "workers": [{"id": i, "address": f"127.0.0.1:{port}"} for i, port in enumerate(ports)],
        "training": {"rounds": 10**6, "local_steps": 5, "eval_every": 5},
        "cluster": {"name": "c", "out": "runs"},
        "logging": {"dir": "logs"},
        "network": {"status_s": 0.1},
        "model": {"name": model},
    }
    (folder / "c.toml").write_text(dumps(changed(builtin(), tables)))
    process = subprocess.Popen(
        [sys.executable, "-m", "mpls", "worker", "c.toml", "--id", "0"],
        cwd=folder,
        env={**os.environ, **manager.environment, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    try:
        manager.wait_for("READY=1")
        with socket.create_connection(("127.0.0.1", ports[0]), timeout=5):
            yield process
    finally:
        process.kill()
        process.wait()


def test_a_worker_tells_how_it_is_from_ready_to_stopping(tmp_path: Path, manager: Manager) -> None:
    with worker(tmp_path, manager, "simple-mlp") as process:
        manager.wait_for("STATUS=running: round ")
        until(lambda: any("accuracy 0." in it for it in manager.hear()), "an accuracy", 30)
        manager.wait_for("WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    said = manager.hear()
    assert said[0] == "READY=1"
    assert said[-1] == "STOPPING=1"
    assert any(
        message.startswith("STATUS=running") and message.endswith("0 of 1 peers ready")
        for message in said
    )
    assert "INFO w0 draining" in (tmp_path / "logs" / "c-w0.log").read_text()
    assert not list(tmp_path.glob("runs/*/*.log"))


@pytest.mark.live
def test_a_worker_whose_training_hangs_feeds_the_watchdog_no_more(
    tmp_path: Path, manager: Manager
) -> None:
    with worker(tmp_path, manager, "tests.runtime.hanging:mlp"):
        (trace,) = tmp_path.glob("runs/c-w0-*/w0.trace.jsonl")

        def turns() -> int:
            return sum(record["kind"] == "traffic" for record in read(trace))

        until((tmp_path / "hangs").exists, "training to hang", 30)
        reached = turns() + 2
        until(lambda: turns() >= reached, "two looks at its threads", 30)
        fed = manager.hear().count("WATCHDOG=1")
        until(lambda: turns() >= reached + 4, "four more", 30)
        assert manager.hear().count("WATCHDOG=1") == fed
