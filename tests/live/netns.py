"""Hosts on a network of their own, on this machine: each is a network namespace, and every link
between two of them has the speed, the silences and the cuts that a program gives it while it runs.

One namespace more, the hub, routes between the hosts. What one host sends to another leaves the hub
through an HTB class of that pair alone, so no host's own kernel knows of the shaping, and packets
are never larger than Ethernet's, so that a rate holds from packet to packet. Of a rate, 0.956 is
payload: 1,448 bytes in a frame of 1,514. A silenced pair is a blackhole in the hub's routing: the
packets vanish on the way, as behind a broken router. An unplugged host loses its carrier.

Needs root, iproute2, and a kernel with veth, HTB and u32: `missing()` says what is not there. The
namespaces are named after the process that made them, and are removed when it leaves the block; if
it was killed, by whoever builds the next network. This file knows nothing of MPLS.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

PREFIX = "mplsnet"
BURST_LEAST_BYTES = 5_000
BURST_S = 0.0004
"""A burst lasts this long at the rate of its link; shorter ones the kernel's timers would miss."""
QUEUE_S = 0.1
QUEUE_LEAST_BYTES = 15_000
UNSHAPED_Bps = 1.25e9
REMOVAL_S = 5.0
"""Processes that lived in a namespace are given this long to be gone."""
_HUB = "hub"
_CARD = "card"
_NAME = re.compile(rf"{PREFIX}-(\d+)-(\d+)-\d+-\w+")
_counter = itertools.count()


class NetworkError(Exception):
    """A command about the network failed; says which, and why."""


def missing() -> str:
    """What this machine lacks to build a network; empty if nothing."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    for tool, package in (("ip", "iproute2"), ("tc", "iproute2"), ("setpriv", "util-linux")):
        if shutil.which(tool) is None:
            return f"needs the program {tool}: apt-get install {package}"
    try:
        with Network(["a", "b"], rate_Bps=1e6):
            return ""
    except NetworkError as error:
        return f"needs a kernel with namespaces, veth, HTB and u32: {error}"


class Network:
    """Hosts of these names, and a link for each ordered pair of them.

    Every pair has `rate_Bps` (bytes per second on the link, headers included; None is as fast as it
    goes) until it gets another. `card_Bps` is what a host's card carries in each direction, all
    pairs together. The hosts have addresses that follow each other, in a /24. To be used as a
    context manager.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        rate_Bps: float | None = None,
        card_Bps: float | None = None,
        first_address: str = "10.77.0.1",
    ) -> None:
        assert len(set(hosts)) == len(hosts) <= 250, hosts
        assert all(re.fullmatch(r"\w{1,10}", host) and host != _HUB for host in hosts), hosts
        self.hosts = tuple(hosts)
        self._rate_Bps = rate_Bps
        self._card_Bps = card_Bps
        self._first = ipaddress.IPv4Address(first_address)
        self._net = ipaddress.IPv4Network(f"{first_address}/24", strict=False)
        self._hub = self._net[254]
        self._stem = f"{PREFIX}-{os.getpid()}-{started_ticks(os.getpid())}-{next(_counter)}"
        self._silent: set[tuple[str, str]] = set()
        self._unplugged: set[str] = set()

    def __enter__(self) -> Network:
        sweep()
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    # --- for whoever lives there ---

    def address(self, host: str) -> str:
        """Its IPv4 address. Networks do not see each other, so all have the same ones."""
        return str(self._first + self.hosts.index(host))

    def namespace(self, host: str) -> str:
        """The name of its namespace, for what has to enter it."""
        return self._namespace(host)

    def inside(self, host: str, *command: str) -> list[str]:
        """The command that runs this one on the host, in the same process, and is killed when the
        thread that started it ends."""
        here = ("setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self._namespace(host))
        return [*here, *command]

    def look(self, host: str, path: str) -> str:
        """A file as the host sees it, such as /proc/net/tcp."""
        return _run([*self._in(host), "cat", path])

    # --- what happens to links ---

    def set_rate(self, source: str, target: str, rate_Bps: float | None) -> None:
        """From now on; what is under way goes on at the new rate."""
        self._tc(_HUB, [self._class("change", source, target, rate_Bps)])
        self._tc(_HUB, [self._queue("change", source, target, rate_Bps)])

    def set_all_rates(self, rate_Bps: float | None) -> None:
        """Of every pair."""
        for source, target in itertools.permutations(self.hosts, 2):
            self.set_rate(source, target, rate_Bps)

    def silence(self, source: str, target: str) -> None:
        """Whatever `source` sends to `target` is lost, without a word to either."""
        if (source, target) not in self._silent:
            self._silent.add((source, target))
            self._ip(_HUB, [f"rule add {self._pair(source, target)} blackhole"])

    def silence_both(self, a: str, b: str) -> None:
        """Between the two nothing arrives."""
        self.silence(a, b)
        self.silence(b, a)

    def unplug(self, host: str) -> None:
        """Pull the host's cable: both ends lose the carrier."""
        if host not in self._unplugged:
            self._unplugged.add(host)
            self._ip(_HUB, [f"link set dev {host} down"])

    def heal(self) -> None:
        """Plug in what was unplugged and hear what was silenced; rates stay."""
        for source, target in sorted(self._silent):
            self._ip(_HUB, [f"rule del {self._pair(source, target)} blackhole"])
        for host in sorted(self._unplugged):
            self._ip(_HUB, [f"link set dev {host} up", self._route(host)])
        self._silent.clear()
        self._unplugged.clear()

    def carried_bytes(self, source: str, target: str) -> int:
        """What has left the hub for `target` from `source`, frames with their headers."""
        number = self._class_number(source)
        shown = _run(
            [*self._in(_HUB), "tc", "-s", "class", "show", "dev", target, "classid", number]
        )
        match = re.search(r"Sent (\d+) bytes", shown)
        assert match, shown
        return int(match[1])

    # --- building ---

    def _build(self) -> None:
        for host in (_HUB, *self.hosts):
            _run(["ip", "netns", "add", self._namespace(host)])
        self._ip(_HUB, ["link set dev lo up", f"route add blackhole {self._net}"])
        _run([*self._in(_HUB), "sysctl", "-qw", "net.ipv4.ip_forward=1"])
        for host in self.hosts:
            self._connect(host)
        for host in self.hosts:
            self._shape(host)

    def _connect(self, host: str) -> None:
        hub = self._namespace(_HUB)
        self._ip(
            host,
            [
                "link set dev lo up",
                f"link add {_CARD} type veth peer name {host} netns {hub}",
                f"addr add {self.address(host)}/32 dev {_CARD}",
                f"link set dev {_CARD} gso_max_segs 1",
                f"link set dev {_CARD} up",
            ],
        )
        self._ip(
            _HUB,
            [
                f"addr add {self._hub}/32 dev {host}",
                f"link set dev {host} up",
                self._route(host),
            ],
        )
        gateway = f"route add {self._hub} dev {_CARD}"
        self._ip(host, [gateway, f"route add default via {self._hub}"])

    def _route(self, host: str) -> str:
        return f"route replace {self.address(host)} dev {host}"

    def _shape(self, host: str) -> None:
        """What leaves the hub for this host: a class for each sender, below one of the card."""
        card_Bps = self._card_Bps or UNSHAPED_Bps
        lines = [
            f"qdisc add dev {host} root handle 1: htb",
            f"class add dev {host} parent 1: classid 1:1 htb {_htb(card_Bps, card_Bps)}",
        ]
        for source in self.hosts:
            if source != host:
                lines += [
                    self._class("add", source, host, self._rate_Bps),
                    self._queue("add", source, host, self._rate_Bps),
                    f"filter add dev {host} parent 1: protocol ip prio 1 u32 match ip src "
                    f"{self.address(source)}/32 flowid {self._class_number(source)}",
                ]
        self._tc(_HUB, lines)
        if self._card_Bps is not None:
            burst = f"burst {_burst_bytes(self._card_Bps)} latency {QUEUE_S * 1000:.0f}ms"
            rate = f"rate {8 * self._card_Bps:.0f}bit"
            self._tc(host, [f"qdisc add dev {_CARD} root tbf {rate} {burst}"])

    def _class(self, verb: str, source: str, target: str, rate_Bps: float | None) -> str:
        """The pairs share the card equally, and one may have all that the others leave."""
        card_Bps = self._card_Bps or UNSHAPED_Bps
        most_Bps = min(rate_Bps or UNSHAPED_Bps, card_Bps)
        sure_Bps = min(most_Bps, card_Bps / max(1, len(self.hosts) - 1))
        place = f"dev {target} parent 1:1 classid {self._class_number(source)}"
        return f"class {verb} {place} htb {_htb(sure_Bps, most_Bps)}"

    def _queue(self, verb: str, source: str, target: str, rate_Bps: float | None) -> str:
        most_Bps = min(rate_Bps or UNSHAPED_Bps, self._card_Bps or UNSHAPED_Bps)
        limit_bytes = max(QUEUE_LEAST_BYTES, int(most_Bps * QUEUE_S))
        number = self._class_number(source)
        handle = f"{number.removeprefix('1:')}0:"
        return (
            f"qdisc {verb} dev {target} parent {number} handle {handle} bfifo limit {limit_bytes}"
        )

    def _class_number(self, source: str) -> str:
        return f"1:{16 + self.hosts.index(source):x}"

    def _pair(self, source: str, target: str) -> str:
        return f"from {self.address(source)} to {self.address(target)}"

    def _namespace(self, host: str) -> str:
        assert host in (_HUB, *self.hosts), host
        return f"{self._stem}-{host}"

    def _in(self, host: str) -> list[str]:
        return ["ip", "netns", "exec", self._namespace(host)]

    def _ip(self, host: str, lines: Iterable[str]) -> None:
        _run(["ip", "-n", self._namespace(host), "-batch", "-"], lines)

    def _tc(self, host: str, lines: Iterable[str]) -> None:
        _run([*self._in(host), "tc", "-batch", "-"], lines)

    def _remove(self) -> None:
        for name in list(_namespaces()):
            if name.startswith(self._stem + "-"):
                _remove_namespace(name)


def sweep() -> list[str]:
    """Remove what processes that no longer live have left behind; the names of it."""
    stale = [name for name in _namespaces() if not _lives(*_maker(name))]
    for name in stale:
        _remove_namespace(name)
    return stale


def _namespaces() -> Iterator[str]:
    """Ours, whoever made them."""
    for line in _run(["ip", "netns", "list"]).splitlines():
        name = line.split()[0]
        if _NAME.fullmatch(name):
            yield name


def _maker(name: str) -> tuple[int, str]:
    match = _NAME.fullmatch(name)
    assert match, name
    return int(match[1]), match[2]


def _lives(pid: int, ticks: str) -> bool:
    return started_ticks(pid) == ticks


def started_ticks(pid: int) -> str:
    """When this process began, in ticks since boot; empty if there is none. Numbers of processes
    are used again."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _remove_namespace(name: str) -> None:
    """With whoever is still inside: the devices go with the last of them."""
    for pid in _run(["ip", "netns", "pids", name]).split():
        _kill(int(pid))
    _run(["ip", "netns", "del", name])


def _kill(pid: int) -> None:
    end_s = time.monotonic() + REMOVAL_S
    while started_ticks(pid) and not _is_zombie(pid):
        if time.monotonic() > end_s:
            raise NetworkError(f"process {pid} in a namespace that is to go does not end")
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        time.sleep(0.01)


def _is_zombie(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def _htb(rate_Bps: float, ceiling_Bps: float) -> str:
    burst_bytes = _burst_bytes(ceiling_Bps)
    rates = f"rate {8 * rate_Bps:.0f}bit ceil {8 * ceiling_Bps:.0f}bit"
    return f"{rates} burst {burst_bytes} cburst {burst_bytes} quantum 1514"


def _burst_bytes(rate_Bps: float) -> int:
    return max(BURST_LEAST_BYTES, int(rate_Bps * BURST_S))


def _run(command: list[str], lines: Iterable[str] = ()) -> str:
    """Its output; NetworkError if it fails."""
    done = subprocess.run(
        command, input="".join(f"{line}\n" for line in lines), capture_output=True, text=True
    )
    if done.returncode != 0:
        why = " ".join(done.stderr.split()) or f"exit {done.returncode}"
        raise NetworkError(f"{' '.join(command)}: {why}")
    return done.stdout
