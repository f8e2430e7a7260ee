"""Real `mpls worker` processes, what is done to them, and what their traces say about it.

Times are seconds since the epoch, so that those of several workers and of the test compare.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mpls.config import builtin, changed, dumps
from mpls.core.conductor import Conductor
from mpls.core.messages import from_plain
from mpls.core.round import Rounds
from mpls.core.spec import WorkerSpec
from mpls.core.trace import Record, parse
from tests.live.autopsy import autopsy

ROOT = Path(__file__).parents[2]
MPLS = (sys.executable, "-m", "mpls")
START_S = 60.0
"""A worker on a busy machine trains after at most that long."""
STOP_S = 30.0
Tables = Mapping[str, Mapping[str, object]]


def until(condition: Callable[[], Any], what: str, timeout_s: float) -> Any:
    """What the condition returns as soon as that is true; fails with `what` after the deadline."""
    end_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end_s, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(0.02)
    return value


class Life:
    """One process of a worker, from its start to its end."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        self.folder = folder
        folder.mkdir(parents=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with (folder / "output.txt").open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=output, env=environment
            )
        self.records: list[Record] = []
        self._origin_unix_s = 0.0
        self._position = 0
        self._rest = ""

    @property
    def trace(self) -> Path:
        """Where it writes; the folder below ours has a name of its own choice."""
        found = list(self.folder.glob(f"*/{self.name}.trace.jsonl"))
        return next((path for path in found if not path.parent.is_symlink()), Path(os.devnull))

    def output(self) -> str:
        """What it said so far."""
        return (self.folder / "output.txt").read_text(errors="replace")

    def look(self) -> None:
        """Take in what was added to the trace."""
        with self.trace.open(encoding="utf-8") as file:
            file.seek(self._position)
            text = self._rest + file.read()
            self._position = file.tell()
        *lines, self._rest = text.split("\n")
        for number, line in enumerate(lines, len(self.records) + 1):
            record = parse(line, f"{self.trace}:{number}")
            if record["kind"] == "header":
                self._origin_unix_s = record["started_unix_s"]
            self.records.append(record)

    def since(self, unix_s: float, kind: str, **fields: object) -> Iterator[Record]:
        """The records of a kind from then on, with these values."""
        self.look()
        # Several threads write the trace, so that neighbours may have changed places.
        trace_s = unix_s - self._origin_unix_s - 1.0
        first = bisect_left(self.records, trace_s, key=lambda record: record["t"])
        for record in self.records[first:]:
            fits = record["kind"] == kind and self.when(record) >= unix_s
            if fits and all(record.get(key) == value for key, value in fields.items()):
                yield record

    def when(self, record: Record) -> float:
        """Of a record."""
        return self.unix_s(record["t"])

    def unix_s(self, trace_s: float) -> float:
        """Of a time on the worker's clock."""
        return self._origin_unix_s + trace_s

    def stolen_s(self) -> float:
        """How long its busiest thread, the one that trains, could have run so far while no core was
        free: what other programs on this machine cost it."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        ran_and_waited_ns = max(tuple(map(int, task.read_text().split()))[:2] for task in tasks)
        return ran_and_waited_ns[1] / 1e9

    def layer_bytes(self) -> dict[str, int]:
        """Of the model that it trains."""
        return dict(next(self.since(0, "header"))["spec"]["layers"])

    def signal(self, number: signal.Signals) -> None:
        """Send it one."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Tell it to drain, and wait; its exit code."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            found = autopsy(self.process)
            why = f"{self.name} was not gone {STOP_S:g} s after SIGTERM"
            raise AssertionError(f"{why}\n{found}\n{self.output()}") from None
        finally:
            self.process.kill()
            self.look()


class Fleet:
    """The workers of one cluster file.

    `addresses` maps names to host:port; `inside` turns a worker's command into the one that runs
    it where it belongs. To be used as a context manager; whoever still lives at its end is killed.
    """

    def __init__(
        self,
        folder: Path,
        addresses: Mapping[str, str],
        inside: Callable[..., list[str]] = lambda name, *command: list(command),
        tables: Tables | None = None,
    ) -> None:
        self.folder = folder
        self.names = list(addresses)
        self._inside = inside
        self.lives: dict[str, list[Life]] = {name: [] for name in self.names}
        self.addresses = dict(addresses)
        self.file = folder / "cluster.toml"
        config = _config(addresses, tables or {})
        self.file.write_text(dumps(config), encoding="utf-8")
        if config.security() == "curve":
            make_keys = [*MPLS, "keys", str(self.file)]
            subprocess.run(make_keys, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for lives in self.lives.values():
            for life in lives:
                life.process.kill()
                life.process.wait()

    def __getitem__(self, name: str) -> Life:
        return self.lives[name][-1]

    def start(self, *names: str) -> None:
        """Begin a (further) life of each."""
        for name in names:
            number = len(self.lives[name])
            folder = self.folder / f"{name}-life{number}"
            worker = str(self.names.index(name))
            command = [*MPLS, "worker", str(self.file), "--id", worker, "--out", str(folder)]
            self.lives[name].append(Life(name, self._inside(name, *command), folder))

    def wait_until_training(self, *names: str) -> None:
        """Each of these has done a pass."""
        for name in names:
            life = self[name]
            until(
                lambda life=life: self._lives(life) and next(life.since(0, "pass"), None),
                f"{name} trains",
                START_S,
            )

    def wait_until_pulling(self, by: str, peer: str, since: float, timeout_s: float) -> float:
        """A layer from the peer was applied; when the first that began since then arrived."""
        return float(
            until(lambda: self.delivered_s(by, peer, since), f"{by} has {peer}", timeout_s)
        )

    def wait_until_all_pull(self) -> None:
        """From each other, from now on."""
        now = time.time()
        for by in self.names:
            for peer in self.names:
                if peer != by:
                    self.wait_until_pulling(by, peer, now, START_S)

    def _lives(self, life: Life) -> bool:
        assert life.process.poll() is None, f"{life.name} ended:\n{life.output()}"
        return True

    # --- what the traces say ---

    def left_out_s(self, by: str, peer: str, since: float) -> float | None:
        """When a worker first knew, from then on, that it cannot use the peer."""
        for record in self[by].since(since, "peer", peer=peer):
            if record["standing"] != "ready":
                return self[by].when(record)
        return None

    def ready_s(self, by: str, peer: str, since: float) -> float | None:
        """When, from then on, the worker first held the peer usable (again)."""
        standing = "unknown"
        for record in self[by].since(0, "peer", peer=peer):
            if self[by].when(record) >= since and standing == "ready":
                return since
            standing = record["standing"]
            if self[by].when(record) >= since and standing == "ready":
                return self[by].when(record)
        return since if standing == "ready" else None

    def delivered_s(self, by: str, peer: str, since: float) -> float | None:
        """When the first layer of a pull begun from then on arrived and was applied."""
        life = self[by]
        for record in life.since(since, "pull", peer=peer, outcome="applied"):
            if life.unix_s(record["start_s"]) >= since:
                return life.unix_s(record["end_s"])
        return None

    def pull_under_way(self, by: str, peer: str) -> Record | None:
        """The last request for layers that the worker sent to the peer, if it has not ended."""
        life = self[by]
        life.look()
        ended = set()
        for record in reversed(life.records):
            if record["kind"] == "attempt" and record["peer"] == peer:
                ended.add(record["request"])
            command = record["command"] if record["kind"] == "send" else {"peer": ""}
            if command["peer"] == peer and command["message"]["is"] == "Pull":
                return None if command["message"]["id"] in ended else record
        return None

    def steps_per_s(self, name: str, begin_s: float, end_s: float) -> float:
        """Local steps a second in this time; a pass counts by its share that lies within."""
        life, steps = self[name], 0.0
        for record in life.since(begin_s, "pass"):
            pass_end_s = life.when(record)
            pass_begin_s = pass_end_s - record["seconds"]
            inside_s = min(end_s, pass_end_s) - max(begin_s, pass_begin_s)
            steps += record["steps"] * max(0.0, inside_s) / record["seconds"]
        return steps / (end_s - begin_s)

    def undisturbed_steps_per_s(self, name: str, happens: Callable[[], object]) -> float:
        """Local steps while that happens, for each second in which the training thread had a core
        or waited for anything but a core: this machine may have other things to do as well."""
        life, began = self[name], time.time()
        stolen_s = -life.stolen_s()
        happens()
        ended = time.time()
        stolen_s += life.stolen_s()
        steps = self.steps_per_s(name, began, ended) * (ended - began)
        return steps / (ended - began - stolen_s)

    def waits_s(self, name: str, begin_s: float, end_s: float) -> list[float]:
        """How long the trainer stood between two passes, for each pass begun in this time."""
        life, waits, before_s = self[name], [], None
        for record in life.since(0, "pass"):
            pass_begin_s = life.when(record) - record["seconds"]
            if before_s is not None and begin_s <= pass_begin_s <= end_s:
                waits.append(pass_begin_s - before_s)
            before_s = life.when(record)
        return waits


def pull_deadlines_s(records: list[Record], peer: str) -> list[tuple[float, float]]:
    """Each pull from the peer that a trace tells of: when, on the worker's clock, it was given its
    deadline, and how long that is. The trace is told to a fresh core, which is asked."""
    found: list[tuple[float, float]] = []
    now_s = 0.0

    class Listening(Rounds):
        def pull_budget_s(self, whom: Any, layers: Any) -> float:
            budget_s = super().pull_budget_s(whom, layers)
            if whom.name == peer:
                found.append((now_s, budget_s))
            return budget_s

    header = next(record for record in records if record["kind"] == "header")
    conductor = Conductor(Listening(WorkerSpec.from_plain(header["spec"])))
    for record in records:
        now_s = record["t"]
        if record["kind"] == "start":
            conductor.start(now_s)
        elif record["kind"] == "event":
            conductor.handle(from_plain(record["event"]), now_s)
    return found


def _config(addresses: Mapping[str, str], tables: Tables) -> Any:
    workers = [
        {"id": number, "name": name, "address": address}
        for number, (name, address) in enumerate(addresses.items())
    ]
    defaults: dict[str, dict[str, object]] = {
        "cluster": {"topology": "full"},
        "model": {"name": "tests.live.models:five_megabytes"},
        "training": {
            "rounds": 1_000_000,
            "batch_size": 8,
            "local_steps": 20,
            "eval_every": 1_000_000,
            "lr": 0.01,
        },
        "mpls": {"strategy": "appg"},
        "network": {"emulate": ""},
    }
    merged = {
        name: {**defaults.get(name, {}), **tables.get(name, {})} for name in {*defaults, *tables}
    }
    return changed(builtin(), {"workers": workers, **json.loads(json.dumps(merged))})
