"""How commands end: quietly on Ctrl-C, whole when their reader goes away, and with their workers.

Method: the commands that run are real processes, all at the same time; each is watched through its
traces, and done to what is to be done to it as soon as its workers train. Then each test looks at
what one of them left.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mpls.cli import main
from mpls.config import builtin, changed, dumps
from mpls.report.progress import TraceFollower, WorkerProgress
from tests.runtime.rig import until

ENDLESS = 10**6
START_S = 40.0
END_S = 15.0
MPLS = [sys.executable, "-m", "mpls"]


class Interrupted:
    """A standard input at which the user presses Ctrl-C."""

    buffer = property(lambda self: self)

    def read(self) -> bytes:
        raise KeyboardInterrupt


def test_ctrl_c_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Interrupted())
    assert main(["plan", "-"]) == 130
    assert capsys.readouterr().err.strip() == ""


def test_a_reader_that_goes_away_is_no_error_worth_a_word() -> None:
    with subprocess.Popen(
        [*MPLS, "generate", "--workers", "2000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 1


# --- commands that run workers ---


@dataclass
class Command:
    """A real `mpls` at work, and what it leaves in `out`."""

    process: subprocess.Popen[str]
    out: Path

    @property
    def folder(self) -> Path:
        return self.out / "latest"

    def workers(self) -> list[WorkerProgress]:
        """What the traces of its workers say now."""
        found = []
        for trace in sorted(self.folder.glob("*.trace.jsonl")):
            found.append(WorkerProgress(trace.name.split(".")[0]))
            for record in TraceFollower(trace).new_records():
                found[-1].take(record)
        return found

    def trains(self) -> bool:
        workers = self.workers()
        return bool(workers) and all(worker.round >= 2 for worker in workers)

    def ended(self) -> tuple[int, str]:
        """Its exit code, and all that it said on standard error."""
        _, said = self.process.communicate(timeout=END_S)
        return self.process.returncode, said

    def summary(self) -> Any:
        return json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))


def start(folder: Path, name: str, *arguments: str) -> Command:
    command = [*MPLS, *arguments, "--out", str(folder / name)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    return Command(process, folder / name)


def cluster_file(stack: ExitStack, folder: Path, name: str) -> str:
    """Three workers, of which only the first is ever started: at the addresses of the others nobody
    listens, nor ever will."""
    sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    sockets[0].close()
    workers = [{"id": number, "address": f"127.0.0.1:{port}"} for number, port in enumerate(ports)]
    tables = {"workers": workers, "training": {"rounds": ENDLESS}}
    file = folder / f"{name}.toml"
    file.write_text(dumps(changed(builtin(), tables)), encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Command]]:
    folder = tmp_path_factory.mktemp("endings")
    endless = ["--rounds", str(ENDLESS)]
    with ExitStack() as stack:
        started = {
            "killed": start(folder, "killed", "run", *endless),
            "interrupted": start(folder, "interrupted", "run", *endless),
            "unread": start(folder, "unread", "run", "--rounds", "12"),
        }
        for name in ("interrupted-worker", "terminated-worker"):
            file = cluster_file(stack, folder, name)
            started[name] = start(folder, name, "worker", file, "--id", "0")
        yield started
    for command in started.values():
        with suppress(ProcessLookupError):
            os.killpg(command.process.pid, signal.SIGKILL)
        command.process.communicate()


def lives(pid: int) -> bool:
    """Not as a zombie, which its parent has yet to hear of."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_workers_end_drained_when_the_run_that_started_them_is_killed(commands):
    command = commands["killed"]
    until(command.trains, "its workers to train", START_S)
    pids = [worker.pid for worker in command.workers()]
    assert len(pids) == 3
    assert all(map(lives, pids))
    command.process.send_signal(signal.SIGKILL)
    until(lambda: not any(map(lives, pids)), "its workers to end", 8.0)
    assert [worker.state for worker in command.workers()] == ["stopped"] * 3
    assert len(list(command.folder.glob("*.safetensors"))) == 3


def test_ctrl_c_says_that_a_run_drains_and_what_another_would_do(commands):
    command = commands["interrupted"]
    until(command.trains, "its workers to train", START_S)
    command.process.send_signal(signal.SIGINT)
    code, said = command.ended()
    assert code == 130
    assert said == "draining; Ctrl-C again kills\n"
    assert command.summary()["status"] == "interrupted"
    assert [worker.state for worker in command.workers()] == ["stopped"] * 3


@pytest.mark.parametrize(
    ("name", "number", "exit_code"),
    [("interrupted-worker", signal.SIGINT, 130), ("terminated-worker", signal.SIGTERM, 0)],
)
def test_a_worker_started_by_hand_leaves_what_one_of_a_run_leaves(
    commands, name, number, exit_code
):
    command = commands[name]
    until(command.trains, "it to train", START_S)
    command.process.send_signal(number)
    code, said = command.ended()
    assert code == exit_code
    assert ("draining; Ctrl-C again kills" in said) == (number == signal.SIGINT)
    assert sorted(path.name for path in command.folder.iterdir()) == [
        "cluster.toml",
        "summary.json",
        "w0.log",
        "w0.safetensors",
        "w0.trace.jsonl",
    ]
    summary = command.summary()
    assert (summary["status"], summary["consensus_distance"]) == ("interrupted", None)
    (worker,) = summary["workers"]
    assert (worker["id"], worker["name"], worker["exit"]) == (0, "w0", exit_code)
    assert worker["rounds"] >= 2
    log = (command.folder / "w0.log").read_text(encoding="utf-8")
    assert "INFO w0 draining" in log
    assert log.splitlines() == [line for line in said.splitlines() if " w0 " in line]


def test_a_run_that_nobody_reads_any_more_goes_on_to_its_end(commands):
    command = commands["unread"]
    assert command.process.stdout is not None
    assert command.process.stdout.readline() != ""
    command.process.stdout.close()
    assert command.process.stderr is not None
    assert command.process.stderr.read() == ""
    assert command.process.wait(END_S) == 0
    summary = command.summary()
    assert summary["status"] == "completed"
    assert [worker["rounds"] for worker in summary["workers"]] == [12] * 3
