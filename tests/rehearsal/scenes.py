"""What happens in a rehearsal, scene by scene. Each returns a line that says what was seen, and
fails with an AssertionError that says what was not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mpls.deploy import layout
from mpls.deploy.wheelhouse import Wheelhouse
from tests.rehearsal.operator import ROOT, Operator, another, kept_wheelhouse
from tests.rehearsal.servers import Servers

Scene = Callable[[], str]
LEARNED = 0.8
LINKS = "10-15MB"
QUIET_ROUNDS = 60
LAST_ROUNDS = 3000
"""Rounds that a run still has when it is told to come to its end: more than it makes meanwhile, so
that the workers' last lives have plans to be replayed."""
EXPOSURE_MOST = 1.5


class Scenes:
    """In the order of `steps`; `note` keeps what every command said."""

    def __init__(self, servers: Servers, out: Path, note: Callable[[str], None]) -> None:
        self.servers = servers
        self.out = out
        self._note = note
        self._houses: dict[str, Wheelhouse] = {}

    def steps(self) -> Iterator[tuple[str, Scene]]:
        """Title and scene."""
        yield "three servers boot", self.boot
        yield "mpls deploy build", self.build
        yield "mpls deploy --dry-run", self.dry_run
        yield "mpls deploy", self.deploy
        yield "they train under the hardened unit", self.train
        yield "mpls deploy, a second time", self.deploy_again
        yield "a worker is killed", self.kill
        yield "a bad release is deployed", self.bad_release
        yield "a server is unplugged in a deployment", self.unplug
        yield "the same command again", self.go_on
        yield "mpls deploy --rollback", self.roll_back
        yield "each host has its own key only", self.keys
        yield "the run is brought to its end", self.end
        yield "mpls deploy fetch, sim compare --exact", self.compare_exactly
        yield "a quiet run, to calibrate with", lambda: self.quiet("calibration", seed=2)
        yield "a quiet run, to compare", lambda: self.quiet("quiet", seed=3)
        yield "sim compare", self.compare
        yield "mpls deploy uninstall --purge", self.uninstall

    # --- scenes ---

    def boot(self) -> str:
        """Each with a Debian, systemd and sshd of its own."""
        self.servers.start(*self.servers.names)
        self.operator = Operator(self.servers, self.out, self._tables())
        addresses = (self.servers.address(name) for name in self.servers.names)
        return f"{', '.join(addresses)}, links of 10, 12.5 and 15 MB/s"

    def build(self) -> str:
        """This checkout's wheels, and two more releases of them for what is to come."""
        good = kept_wheelhouse()
        self._houses["good"] = good
        self._houses["bad"] = another(good, self.out / "bad", "0.1.99", bad=True)
        self._houses["newer"] = another(good, self.out / "newer", "0.1.98")
        return f"{good.release}: {len(good.wheels)} wheels, {good.total_bytes / 1e6:.0f} MB"

    def dry_run(self) -> str:
        """Says all and does nothing."""
        said = self._deploy("good", 0, "--dry-run")
        for name in self.servers.names:
            assert not self.servers.run(name, f"ls -d {layout.ROOT}", check=False).startswith(
                "/opt"
            )
        return _last(said)

    def deploy(self) -> str:
        """From bare servers to a federation."""
        return _last(self._deploy("good", 0))

    def train(self) -> str:
        """Real steps: all have learned, and the unit is as tight as promised."""
        self._until("all have learned", lambda: min(self._accuracies()) > LEARNED, 300)
        scores = [self._exposure(name) for name in self.servers.names]
        assert max(scores) <= EXPOSURE_MOST, scores
        learned = ", ".join(f"{accuracy:.3f}" for accuracy in self._accuracies())
        return f"rounds {self._rounds()}, accuracies {learned}, exposure {max(scores)}"

    def deploy_again(self) -> str:
        """Nothing to do."""
        before = self._pids()
        said = self._deploy("good", 0)
        assert self._pids() == before, "a worker was started anew"
        assert "nothing to change" in said, said
        return _last(said)

    def kill(self) -> str:
        """SIGKILL; systemd starts it again, and it goes on from its checkpoint."""
        before = self._rounds()[1]
        self.servers.run("s1", f"systemctl kill -s KILL {layout.unit(1)}")
        began_s = time.monotonic()
        self._until("w1 is back", lambda: self.operator.show("s1", "NRestarts") == "1", 60)
        self._until("w1 gets on", lambda: self._rounds()[1] > before, 120)
        took_s = time.monotonic() - began_s
        journal = self.servers.run("s1", f"journalctl -q -o cat -u {layout.unit(1)}")
        went_on = re.findall(r"going on after round (\d+)", journal)
        assert went_on, "it began anew"
        return f"went on after round {went_on[-1]}, and past {before} {took_s:.1f} s after it"

    def bad_release(self) -> str:
        """It fails on the first server, which goes back; the others never see it."""
        before, running = self._releases(), self._pids()
        said = self._deploy("bad", 1)
        assert "this worker dies at its start" in said, said
        assert self._releases() == before
        assert self._pids()[1:] == running[1:], "another server was touched"
        self._until("w0 runs", lambda: self.operator.show("s0", "ActiveState") == "active", 60)
        return "exit 1 with w0's last words; s0 runs what it ran before, s1 and s2 were not touched"

    def unplug(self) -> str:
        """While the servers install, s2's cable is pulled."""
        before, line = (self._releases(), self._pids()), self.servers.address("s2")
        newer = self._houses["newer"].folder
        code, said = self.operator.interfere(
            newer, f"{line}  installing", lambda _: self.servers.unplug("s2")
        )
        self.servers.plug_in()
        self._note(said)
        assert code == 1, said
        assert (self._releases(), self._pids()) == before, "something was touched"
        return said.strip().splitlines()[-1]

    def go_on(self) -> str:
        """Finishes what was begun."""
        said = self._deploy("newer", 0)
        assert set(self._releases()) == {self._houses["newer"].release}
        return _last(said)

    def roll_back(self) -> str:
        """To the release before."""
        said = self._keep(self.operator.deploy(None, "--rollback"), 0)
        assert set(self._releases()) == {self._houses["good"].release}
        return f"{self._houses['good'].release} everywhere, {_last(said)}"

    def keys(self) -> str:
        """No file of any server has another worker's secret in it."""
        for number, name in enumerate(self.servers.names):
            assert self.operator.secrets_on(name) == {number}, name
        return "every file of every server was searched for all three"

    def end(self) -> str:
        """The cluster file gets fewer rounds, and is deployed as any change is."""
        rounds = max(self._rounds()) + LAST_ROUNDS
        self.operator.write_cluster(self._tables(rounds))
        self._deploy("good", 0)
        self._until("all rounds are done", self._all_ended, 1200)
        return f"{rounds} rounds, all three ended with 0"

    def compare_exactly(self) -> str:
        """Decisions and bytes of the last lives, replayed."""
        run = self._fetch("eventful")
        traces = sorted(path.name for path in run.glob("*.trace*.jsonl"))
        said = self._compare(run, "--exact")
        plans = json.loads((run / "compare.json").read_text())[0]["note"]
        assert not plans.startswith("0 plans"), "the last lives made no plans to replay"
        return f"{len(traces)} lives' traces, {plans} replayed; {said}"

    def quiet(self, name: str, seed: int) -> str:
        """A run of its own, to its end, with nothing happening to it."""
        self.operator.write_cluster(self._tables(QUIET_ROUNDS, seed))
        self._deploy("good", 0, "--fresh")
        self._until("all rounds are done", self._all_ended, 600)
        return f"{len(list(self._fetch(name).glob('*.jsonl')))} traces"

    def compare(self) -> str:
        """All metrics; calibrated with the other quiet run, on links as they really are."""
        other = ("--calibration", str(self.out / "calibration"), "--bw", LINKS)
        return self._compare(self.out / "quiet", *other)

    def uninstall(self) -> str:
        """Nothing of ours is left."""
        self._keep(self.operator.verb("uninstall", "--yes", "--purge"), 0)
        for name in self.servers.names:
            look = f"ls -d {layout.ROOT} {layout.CONFIG} {layout.STATE} {layout.UNITS}/mpls*"
            left = self.servers.run(name, f"{look} 2>/dev/null", check=False)
            assert left == "", f"{name}: {left}"
        return "nothing is left"

    # --- what they need ---

    def _tables(self, rounds: int = 10**6, seed: int = 1) -> dict[str, Any]:
        return {
            "cluster": {"name": "rehearsal", "seed": seed},
            "training": {"rounds": rounds, "lr": 0.1},
            "network": {"emulate": "", "prior_bw": "12.5MB"},
        }

    def _deploy(self, house: str, code: int, *flags: str) -> str:
        return self._keep(self.operator.deploy(self._houses[house].folder, *flags), code)

    def _keep(self, done: subprocess.CompletedProcess[str], code: int) -> str:
        said = done.stdout + done.stderr
        self._note(said)
        assert done.returncode == code, f"exit {done.returncode}: {done.stderr or said[-400:]}"
        return said

    def _fetch(self, name: str) -> Path:
        self._keep(self.operator.verb("fetch", "-o", str(self.out / name)), 0)
        return self.out / name

    def _compare(self, run: Path, *flags: str) -> str:
        """1 is a goal that was missed, which is for whoever reads the log; 2 a run that cannot be
        compared."""
        command = [sys.executable, "-m", "sim", "compare", str(run), *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        self._note(done.stdout + done.stderr)
        assert done.returncode in (0, 1), done.stderr
        metrics = json.loads((run / "compare.json").read_text())
        judged = [metric for metric in metrics if metric["verdict"] != "n/a"]
        missed = [metric["metric"] for metric in judged if metric["verdict"] == "missed"]
        goals = f"{len(judged) - len(missed)} of {len(judged)} goals are met"
        return f"exit {done.returncode}, {goals}" + (f", not {', '.join(missed)}" if missed else "")

    def _until(self, what: str, holds: Callable[[], bool], timeout_s: float) -> None:
        end_s = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < end_s, f"waited {timeout_s:g} s in vain: {what}"
            time.sleep(0.5)

    def _says(self, pattern: str, otherwise: float) -> list[float]:
        """What the status line of each unit has in this place."""
        said = [self.operator.show(name, "StatusText") for name in self.servers.names]
        found = [re.search(pattern, text) for text in said]
        return [float(match[1]) if match else otherwise for match in found]

    def _rounds(self) -> list[int]:
        return [int(number) for number in self._says(r"round (\d+)", 0)]

    def _accuracies(self) -> list[float]:
        return self._says(r"accuracy (0\.\d+)", 0.0)

    def _pids(self) -> list[str]:
        return [self.operator.show(name, "MainPID") for name in self.servers.names]

    def _releases(self) -> list[str]:
        names = self.servers.names
        found = [self.servers.run(name, f"readlink {layout.CURRENT}") for name in names]
        return [text.strip().rsplit("/", 1)[-1] for text in found]

    def _all_ended(self) -> bool:
        states = [self.operator.show(name, "ActiveState") for name in self.servers.names]
        assert "failed" not in states, states
        return set(states) == {"inactive"}

    def _exposure(self, name: str) -> float:
        unit = layout.unit(self.servers.names.index(name))
        said = self.servers.run(name, f"systemd-analyze --no-pager security {unit}", check=False)
        match = re.search(r"exposure level for \S+: ([\d.]+)", said)
        assert match, said[-300:]
        return float(match[1])


def _last(said: str) -> str:
    """The last line of a deployment, without its time."""
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1].split(" s  ", 1)[-1].strip()
