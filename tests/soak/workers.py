"""Workers as a service manager keeps them: each a process of `mpls worker`, started again two
seconds after it ended badly (systemd's Restart=on-failure, RestartSec=2)."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mpls.config import builtin, changed, dumps
from mpls.core.streams import Stream
from mpls.report.progress import TraceFollower
from tests.soak.kills import Kill, Life

ROOT = Path(__file__).parents[2]
MPLS = (sys.executable, "-m", "mpls")
PAUSE_S = 2.0
TABLES: dict[str, dict[str, object]] = {
    "cluster": {"name": "soak", "topology": "full"},
    "training": {"rounds": 10**7, "lr": 0.1, "pace": "sequential", "eval_every": 10},
    "network": {"emulate": "400-600KB"},
    "checkpoint": {"every_rounds": 5, "keep": 2},
}
"""Links so slow that a round takes half a second, nearly all of it waiting: three workers need a
tenth of a core, and one more second of it for each start. A checkpoint every 2.5 s."""
_FIRST_PORT, _LAST_PORT = 15_000, 32_000
"""Below what Linux gives to outgoing connections: one of those could take a dead worker's port."""
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Sample:
    """One living process, as /proc shows it."""

    at_s: float
    """After the soak began."""
    worker: str
    life: int
    age_s: float
    """Since its process was started."""
    rss_MB: float
    files: int
    threads: int

    def as_plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return asdict(self)


class Process:
    """One life of a worker, from its start."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        self.folder = folder
        folder.mkdir(parents=True)
        self.life = Life()
        self.started_s = time.monotonic()
        self._follower: TraceFollower | None = None
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with self.output.open("wb") as output:
            self.popen = subprocess.Popen(
                [*command, "--out", str(folder)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is the soak's to hear
                preexec_fn=_end_with_the_soak,
            )

    @property
    def output(self) -> Path:
        """What it printed."""
        return self.folder / "output.txt"

    @property
    def trace(self) -> Path | None:
        """None as long as there is none."""
        found = self.folder.glob(f"*/{self.name}.trace.jsonl")
        return next((path for path in found if not path.parent.is_symlink()), None)

    def look(self) -> None:
        """Take in what was added to the trace."""
        if self._follower is None and (trace := self.trace):
            self._follower = TraceFollower(trace)
        if self._follower:
            for record in self._follower.new_records():
                self.life.take(record)

    def sampled(self) -> tuple[float, int, int] | None:
        """MB of memory, open files, threads; None if it has just ended."""
        place = Path(f"/proc/{self.popen.pid}")
        try:
            status = dict(
                line.split(":", 1) for line in (place / "status").read_text().splitlines()
            )
            files = len(os.listdir(place / "fd"))
            return int(status["VmRSS"].split()[0]) * 1024 / 1e6, files, int(status["Threads"])
        except (OSError, KeyError):  # a process that ended and was not waited for has no VmRSS
            return None

    def census(self) -> dict[str, list[str]]:
        """The names of its threads, and what its open files are: who it is that there are more."""
        place = Path(f"/proc/{self.popen.pid}")
        try:
            threads = [path.read_text().strip() for path in place.glob("task/*/comm")]
            return {"threads": threads, "files": [os.readlink(it) for it in place.glob("fd/*")]}
        except OSError as error:  # some came or went since they were listed
            return {"failed": [str(error)]}


class Worker:
    """One worker of the cluster, and all of its lives."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        """`command` is told a new `--out` for each life."""
        self.name = name
        self.state = folder / f"{name}.state"
        self.lives: list[Process] = []
        self.unasked: list[str] = []
        """How each life ended that nobody had told to."""
        self.exit: int | None = None
        """Of the last life, once it was told to drain."""
        self.ran = False
        """Whether it was running when it was told to."""
        self._folder = folder / "lives"
        self._command = [*command, "--state", str(self.state)]
        self._killed = False
        self._draining = False
        self._start_s = 0.0

    @property
    def now(self) -> Process:
        """Its present life, or its last."""
        return self.lives[-1]

    @property
    def lives_now(self) -> bool:
        """Whether it has a process."""
        return bool(self.lives) and self.now.popen.returncode is None

    def tend(self) -> None:
        """See whether it ended, and start it again when it is time."""
        if self.lives_now and self.now.popen.poll() is not None:
            self._note_end()
        if not self.lives_now and not self._draining and time.monotonic() >= self._start_s:
            folder = self._folder / f"{self.name}-{len(self.lives):03}"
            self._killed = False
            self.lives.append(Process(self.name, self._command, folder))

    def _note_end(self) -> None:
        self.now.look()
        code = self.now.popen.returncode
        self._start_s = time.monotonic() + PAUSE_S if code else float("inf")
        if self._draining:
            self.exit = code
        elif not (self._killed and code == -signal.SIGKILL):
            self.unasked.append(f"{self.now.folder.name} ended by itself with exit code {code}")

    def kill(self) -> Kill:
        """Its present life, at once."""
        self._killed = True
        self._send(signal.SIGKILL)
        return Kill(time.time(), self.name, len(self.lives) - 1)

    def drain(self) -> None:
        """Tell it to end."""
        self._draining = True
        self.ran = self.lives_now and self.now.life.running_unix_s is not None
        if self.lives_now:
            self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        """Not by Popen's means, which would take the exit code of one that has just ended, before
        `tend` can see it. As long as nobody took it, the pid is nobody else's."""
        os.kill(self.now.popen.pid, number)

    def sample(self, began_s: float) -> Sample | None:
        """None where there is nothing to look at."""
        found = self.now.sampled() if self.lives_now else None
        if found is None:
            return None
        now_s = time.monotonic()
        life, age_s = len(self.lives) - 1, now_s - self.now.started_s
        return Sample(round(now_s - began_s, 2), self.name, life, round(age_s, 2), *found)

    def bad_exit(self, excused: bool) -> str:
        """Why it did not end as it should at the end; empty if it did. With `excused` it need not
        have been running then."""
        if self.exit == 0 or (excused and not self.ran):
            return ""
        return f"{self.name}: exit code {self.exit}{'' if self.ran else ', was not running'}"

    @property
    def accuracy(self) -> float | None:
        """On the test set, when last evaluated after mixing."""
        known = (it.life.accuracy for it in reversed(self.lives))
        return next((it for it in known if it is not None), None)

    def state_size(self) -> tuple[int, int]:
        """Files in its state folder, and their bytes."""
        sizes = []
        for path in self.state.glob("*"):
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:
                continue  # removed since it was listed
        return len(sizes), sum(sizes)


def workers_of(folder: Path) -> list[Worker]:
    """Three, not started yet, of a cluster whose file is written to the folder."""
    ports = _free_ports(3, Stream(os.getpid(), "ports"))
    tables = [{"id": it, "address": f"127.0.0.1:{port}"} for it, port in enumerate(ports)]
    config = changed(builtin(), {"workers": tables, **TABLES})
    file = folder / "cluster.toml"
    file.write_text(dumps(config), encoding="utf-8")
    command = [*MPLS, "worker", str(file), "--id"]
    return [Worker(it.name, [*command, str(it.id)], folder) for it in config.workers]


def _free_ports(count: int, draws: Stream) -> list[int]:
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            port = _FIRST_PORT + draws.below(_LAST_PORT - _FIRST_PORT)
            taken = held.enter_context(socket.socket())
            try:
                taken.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
    return ports


def _end_with_the_soak() -> None:
    """In the child: if the soak itself is killed, its workers drain."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
