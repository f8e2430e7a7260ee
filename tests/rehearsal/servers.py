"""Three servers on this machine, to rehearse a deployment on: each boots a Debian with systemd and
sshd of its own, at an address of its own, behind links of 10 to 15 MB/s.

    with Servers() as servers:
        servers.run("s0", "hostname")                 # by ssh, as root
        subprocess.run(servers.inside("ssh", "-F", servers.ssh_config, "s1", "uptime"))
        servers.unplug("s2")

Whoever deploys sits on a fourth host, `operator`, which has a network namespace but no Debian. What
runs there (`inside`) sees this machine's files and the servers' network, and no other network.
Nothing can leave: no namespace has a way out. All is gone afterwards; what a process that was
killed left behind goes when the next one begins.

    python -m tests.rehearsal.servers                 # three up, looked at, and down again
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, count, cycle
from pathlib import Path

from tests.live import netns
from tests.rehearsal import tree
from tests.rehearsal.machine import Machine, remove_groups, remove_place

OPERATOR = "operator"
OPERATOR_ADDRESS = "192.0.2.10"
"""The servers' follow: 192.0.2.11 and on, as in configs/three-servers.toml."""
RATES_Bps = (10e6, 12.5e6, 15e6)
"""Of the pairs of servers, both ways, one after the other."""
UP_S = 90.0
SSHD = """\
AuthorizedKeysFile /etc/ssh/operators
HostKey /etc/ssh/ssh_host_ed25519_key
UseDNS no
"""
_RUN = re.compile(r"run-(\d+)-(\d+)-\d+")
_counter = count()


class ServerError(Exception):
    """A server did not do what it should; says which, and why."""


class Servers:
    """Up when entered, gone when left. `names` are s0, s1 and so on."""

    def __init__(self, number: int = 3, layers: Sequence[Path] = (), boot: bool = True) -> None:
        """`layers` are trees that lie over the base tree, the uppermost first. Without `boot` no
        server is started yet, so that files can be written to it before."""
        self.names = tuple(f"s{each}" for each in range(number))
        self._layers = [*layers, tree.base()]
        self._boot = boot
        self._network = netns.Network((OPERATOR, *self.names), first_address=OPERATOR_ADDRESS)
        pid = os.getpid()
        self.folder = tree.CACHE / f"run-{pid}-{netns.started_ticks(pid)}-{next(_counter)}"
        self.machines: dict[str, Machine] = {}

    def __enter__(self) -> Servers:
        sweep()
        self._network.__enter__()
        try:
            self._shape()
            self._prepare()
            if self._boot:
                self.start(*self.names)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    # --- for whoever deploys ---

    @property
    def ssh_config(self) -> Path:
        """Knows every server by its name and its address, their host keys, and the key that opens
        them; the user is `admin`, who may sudo, unless another (root) is named."""
        return self.folder / "ssh_config"

    @property
    def console_logs(self) -> dict[str, str]:
        """What each server printed while it booted."""
        return {name: machine.console() for name, machine in self.machines.items()}

    def address(self, name: str) -> str:
        """Its IPv4 address."""
        return self._network.address(name)

    def inside(self, *command: str | Path) -> list[str]:
        """The command that runs this one on the operator's host."""
        return self._network.inside(OPERATOR, *map(str, command))

    def ssh(self, name: str, *command: str, user: str = "root") -> list[str]:
        """The command that runs this one on a server."""
        return self.inside("ssh", "-F", self.ssh_config, "-l", user, name, "--", *command)

    def run(self, name: str, command: str, user: str = "root", check: bool = True) -> str:
        """What this line of a shell prints on the server, both streams. ServerError if it
        fails."""
        done = subprocess.run(
            self.ssh(name, command, user=user),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode != 0:
            why = " ".join((done.stdout + done.stderr).split()[-60:])
            raise ServerError(f"{name}: {command}: exit {done.returncode}: {why}")
        return done.stdout + done.stderr

    def copy_to(self, name: str, source: Path, target: str) -> None:
        """A file or a folder, over the server's link."""
        scp = self.inside("scp", "-q", "-r", "-F", self.ssh_config, source, f"root@{name}:{target}")
        _checked(scp, f"{name}: copy of {source}")

    # --- what happens to servers ---

    def start(self, *names: str) -> None:
        """Switch these on, all at the same time, and wait until they are up."""
        for name in names:
            self.machines[name].start()
        self.wait_until_up(*names)

    def stop(self, *names: str) -> None:
        """Shut these down in order."""
        self._at_once(names, lambda name: self.machines[name].stop())

    def cut_power(self, *names: str) -> None:
        """These are off in the midst of everything."""
        self._at_once(names, lambda name: self.machines[name].cut_power())

    def unplug(self, name: str) -> None:
        """Pull its cable: nobody reaches it, the operator neither."""
        self._network.unplug(name)

    def plug_in(self) -> None:
        """All cables."""
        self._network.heal()

    def wait_until_up(self, *names: str) -> None:
        """Until systemd has started all it has to and sshd answers. ServerError after UP_S."""
        self._at_once(names, self._wait)

    # --- building ---

    def _wait(self, name: str) -> None:
        end_s = time.monotonic() + UP_S
        said = ""
        while time.monotonic() < end_s:
            if not self.machines[name].is_on():
                raise ServerError(f"{name} is off: {self.machines[name].console()[-500:]}")
            said = self.run(name, "systemctl is-system-running --wait", check=False).strip()
            if said.endswith(("running", "degraded")):
                return
            time.sleep(0.2)
        raise ServerError(f"{name} is not up after {UP_S:g} s: {said}")

    def _at_once(self, names: Iterable[str], do: Callable[[str], None]) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(do, names))

    def _shape(self) -> None:
        """The operator's own links are as fast as they go."""
        for (a, b), rate_Bps in zip(combinations(self.names, 2), cycle(RATES_Bps)):
            self._network.set_rate(a, b, rate_Bps)
            self._network.set_rate(b, a, rate_Bps)

    def _prepare(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True)
        key = self.folder / "id_ed25519"
        _keygen(key, "operator of a rehearsal")
        known = [
            self._make_machine(name, key.with_suffix(".pub").read_text()) for name in self.names
        ]
        (self.folder / "known_hosts").write_text("".join(known))
        self.ssh_config.write_text(self._ssh_config(key))

    def _make_machine(self, name: str, operator: str) -> str:
        """Returns its line for known_hosts."""
        namespace = self._network.namespace(name)
        machine = Machine(name, self.folder / name, self._layers, namespace)
        host_key = machine.place / "host_key"
        _keygen(host_key, name)
        machine.write("/etc/ssh/ssh_host_ed25519_key", host_key.read_text(), 0o600)
        public = host_key.with_suffix(".pub").read_text()
        machine.write("/etc/ssh/ssh_host_ed25519_key.pub", public)
        machine.write("/etc/hostname", f"{name}\n")
        machine.write("/etc/hosts", "127.0.0.1 localhost\n" + self._hosts())
        machine.write("/etc/default/locale", "LANG=C.UTF-8\n")
        machine.write("/etc/ssh/operators", operator)
        machine.write("/etc/ssh/sshd_config.d/operators.conf", SSHD)
        self.machines[name] = machine
        return f"{name},{self.address(name)} {public}"

    def _hosts(self) -> str:
        return "".join(f"{self.address(name)} {name}\n" for name in self.names)

    def _ssh_config(self, key: Path) -> str:
        lines = [
            line
            for name in self.names
            for line in (
                f"Host {name} {self.address(name)}",
                f"    HostName {self.address(name)}",
                f"    HostKeyAlias {name}",
            )
        ]
        common = {
            "User": "admin",
            "IdentityFile": key,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.folder / "known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": 3,
            "LogLevel": "ERROR",
        }
        return (
            "\n".join([*lines, "Host *", *(f"    {key} {it}" for key, it in common.items())]) + "\n"
        )

    def _remove(self) -> None:
        try:
            self._at_once(self.machines, lambda name: self.machines[name].cut_power())
        finally:
            self._network.__exit__()
            if self.folder.exists():
                remove_place(self.folder)


def missing() -> str:
    """What this machine lacks to have servers; empty if nothing."""
    return tree.missing() or netns.missing()


def sweep() -> None:
    """Remove what processes that no longer live have left behind. Their servers died with them."""
    for place in tree.CACHE.glob("run-*"):
        match = _RUN.fullmatch(place.name)
        if match and netns.started_ticks(int(match[1])) != match[2]:
            remove_groups(f"{place.name}-*")
            remove_place(place)


def _keygen(path: Path, comment: str) -> None:
    _checked(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], "key")


def _checked(command: Sequence[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise ServerError(f"{what}: exit {done.returncode}: {' '.join(done.stderr.split())}")


def main() -> int:
    """Three servers up, looked at, and down again."""
    why = missing()
    if why:
        print(f"SKIPPED: servers to rehearse on: {why}", file=sys.stderr)
        return 3
    began_s = time.monotonic()

    def told(what: str) -> None:
        print(f"{time.monotonic() - began_s:6.1f} s  {what}", flush=True)

    tree.base()
    told(f"base tree in {tree.CACHE}")
    with Servers() as servers:
        told(f"{len(servers.names)} servers are up; ssh -F {servers.ssh_config} NAME")
        for name in servers.names:
            state = servers.run(name, "systemctl is-system-running", check=False).strip()
            host = servers.run(name, "hostname", user="admin").strip()
            told(f"{name} {servers.address(name)} is {state}; ssh says that it is {host}")
        for a in servers.names:
            heard = [
                b for b in servers.names if "1 received" in servers.run(a, f"ping -c1 -W2 {b}")
            ]
            told(f"{a} hears {' '.join(heard)}")
    told("all gone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
