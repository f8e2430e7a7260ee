"""The servers of a rehearsal are what they are taken for: machines of their own, of which nothing
is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.live import netns
from tests.rehearsal import tree
from tests.rehearsal.machine import hierarchies
from tests.rehearsal.servers import Servers

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal
from tests.rehearsal.servers import Servers
with Servers(number=1) as servers:
    servers.run("s0", "true")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def left(pid: int) -> list[str]:
    """What there is of this process's servers on this machine; others may have theirs."""
    run = f"run-{pid}-"
    groups = [path.name for top in hierarchies() for path in top.glob(f"{run}*")]
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if f"/{run}" in line]
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    names = [name for name in spaces.stdout.split() if name.startswith(f"{netns.PREFIX}-{pid}-")]
    return [*groups, *mounts, *names, *(path.name for path in tree.CACHE.glob(f"{run}*"))]


def test_servers_boot_and_are_machines_of_their_own(rig: type[Servers]) -> None:
    with rig() as servers:
        for number, name in enumerate(servers.names):
            assert servers.run(name, "systemctl is-system-running").strip() == "running"
            assert servers.run(name, "hostname", user="admin").strip() == name
            assert servers.run(name, "sudo id -u", user="admin").strip() == "0"
            assert servers.address(name) == f"192.0.2.{11 + number}"
        hosts = {servers.run(name, "cat /etc/machine-id") for name in servers.names}
        assert len(hosts) == 3
        servers.run("s0", "ping -c1 -W5 s1 && ping -c1 -W5 192.0.2.13")
        assert "unreachable" in servers.run("s0", "ping -c1 -W1 198.51.100.1", check=False).lower()
        assert left(os.getpid())
    assert left(os.getpid()) == []


def test_a_disk_outlives_its_server_s_power_and_a_cable_cuts_one_server_off(
    rig: type[Servers],
) -> None:
    with rig(number=2) as servers:
        servers.run("s0", "echo kept > /root/file && sync")
        servers.cut_power("s0")
        assert not servers.machines["s0"].is_on()
        servers.start("s0")
        assert servers.run("s0", "cat /root/file").strip() == "kept"
        servers.stop("s0")
        servers.start("s0")
        assert servers.run("s0", "cat /root/file").strip() == "kept"
        servers.unplug("s1")
        assert "timed out" in servers.run("s1", "true", check=False)
        assert "1 received" not in servers.run("s0", "ping -c1 -W1 s1", check=False)
        servers.plug_in()
        servers.wait_until_up("s1")
        servers.run("s0", "ping -c1 -W5 s1")


def test_what_a_killed_rehearsal_left_goes_when_the_next_begins(rig: type[Servers]) -> None:
    killed = subprocess.Popen([sys.executable, "-c", KILLED], cwd=ROOT)
    assert killed.wait() == -signal.SIGKILL
    assert left(killed.pid)
    with rig(number=1):
        pass
    assert left(killed.pid) == []


def test_a_key_of_somebody_else_opens_nothing(rig: type[Servers], tmp_path: Path) -> None:
    with rig(number=1) as servers:
        key = tmp_path / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        config = servers.ssh_config.read_text()
        servers.ssh_config.write_text(config.replace(str(servers.folder / "id_ed25519"), str(key)))
        assert "Permission denied" in servers.run("s0", "true", check=False)
