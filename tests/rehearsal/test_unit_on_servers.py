"""Three workers train under the hardened unit, each on a server of its own, and systemd does with
them what the unit says."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mpls.config import builtin, changed
from mpls.deploy import layout
from tests.rehearsal import release
from tests.rehearsal.servers import Servers

HANGING = Path(__file__).parents[1] / "runtime" / "hanging.py"
MODEL = "hanging_model"
CONNECT = "import socket; socket.create_connection(('{}', 50051), timeout=5)"
HEALTH = (
    "python3 -c 'import urllib.request as u;"
    'print(u.urlopen("http://127.0.0.1:{}/health").read().decode())\''
)
PORT = 9100


@pytest.fixture(scope="module")
def servers(rig: type[Servers], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """With a cluster installed, of which w2 hangs once in the midst of its training."""
    with rig(layers=[release.layer()], boot=False) as servers:
        workers = [
            {"id": number, "address": f"{servers.address(name)}:50051"}
            for number, name in enumerate(servers.names)
        ]
        tables = {
            "cluster": {"name": "three"},
            "workers": workers,
            "training": {"rounds": 10**6, "lr": 0.1},
            "network": {"emulate": ""},
            "checkpoint": {"every_rounds": 5},
            "metrics": {"port": PORT},
            "model": {"name": f"{MODEL}:mlp"},
        }
        release.install(servers, changed(builtin(), tables), tmp_path_factory.mktemp("cluster"))
        packages = f"{layout.CURRENT}/venv/lib/python{release.PYTHON}/site-packages"
        for name in servers.names:
            servers.copy_to(name, HANGING, f"{packages}/{MODEL}.py")
        # Only one is to hang: the others find its mark in their folders.
        for number, name in enumerate(servers.names[:2]):
            servers.run(name, f"mkdir -p /var/lib/private/mpls/{number}")
            servers.run(name, f"touch /var/lib/private/mpls/{number}/hangs")
            servers.run(name, "chmod 700 /var/lib/private")
        for number, name in enumerate(servers.names):
            servers.run(name, f"systemctl start {layout.unit(number)}")
        yield servers


def show(servers: Servers, name: str, key: str) -> str:
    """A property of the unit on this server."""
    unit = layout.unit(servers.names.index(name))
    return servers.run(name, f"systemctl show {unit} --value -p {key}").strip()


def health(servers: Servers, name: str) -> dict[str, Any]:
    return json.loads(servers.run(name, HEALTH.format(PORT + servers.names.index(name))))


def has_learned(servers: Servers, name: str) -> bool:
    found = re.search(r"accuracy (0\.\d+)", show(servers, name, "StatusText"))
    return found is not None and float(found[1]) > 0.8


def has_a_peer(servers: Servers, name: str) -> bool:
    return "ready" in health(servers, name)["peers"].values()


def until(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(0.5)


def journal(servers: Servers, name: str, *flags: str) -> str:
    unit = layout.unit(servers.names.index(name))
    return servers.run(name, f"journalctl --no-pager -o cat -u {unit} {' '.join(flags)}")


def test_three_workers_train_with_each_other_under_the_hardened_unit(servers: Servers) -> None:
    for name in servers.names[:2]:
        until(partial(has_learned, servers, name), f"{name} to learn", 90)
        until(partial(has_a_peer, servers, name), f"{name} to have a peer", 30)
        assert show(servers, name, "NRestarts") == "0"
        assert show(servers, name, "WatchdogUSec") == "30s"
        assert int(show(servers, name, "IPIngressBytes")) > 100_000


def test_its_log_has_priorities_and_no_times(servers: Servers) -> None:
    lines = journal(servers, "s0").splitlines()
    assert "w0 ready" in lines
    assert "w0 running" in lines
    assert all("is away" in line for line in journal(servers, "s0", "-p4").splitlines())


def test_whoever_is_no_peer_is_not_heard(servers: Servers) -> None:
    connect = CONNECT.format(servers.address("s0"))
    servers.run("s1", f'python3 -c "{connect}"')
    stranger = subprocess.run(
        servers.inside("python3", "-c", connect), capture_output=True, text=True
    )
    assert "TimeoutError" in stranger.stderr


def test_only_systemd_can_read_the_secret_and_a_host_has_its_own_only(servers: Servers) -> None:
    for number, name in enumerate(servers.names):
        found = servers.run(name, "find / -xdev -name '*.secret' -printf '%p %m %u\\n'")
        assert found.split() == [str(layout.secret(number)), "600", "root"]
        assert "Permission denied" in servers.run(
            name, f"cat {layout.secret(number)}", user="admin", check=False
        )


def test_a_hung_worker_is_killed_by_the_watchdog_and_goes_on(servers: Servers) -> None:
    until(lambda: show(servers, "s2", "NRestarts") == "1", "systemd to kill the hung one", 400)
    until(lambda: show(servers, "s2", "ActiveState") == "active", "it to be ready again", 60)
    lines = journal(servers, "s2")
    assert "Watchdog timeout (limit " in lines
    assert f"{MODEL}.py" in lines  # Python says where each thread was
    until(partial(has_learned, servers, "s2"), "it to learn", 60)
    until(lambda: health(servers, "s0")["peers"]["w2"] == "ready", "its peers to use it", 60)


def test_a_killed_worker_comes_back_where_it_was(servers: Servers) -> None:
    servers.run("s1", f"systemctl kill -s KILL {layout.unit(1)}")
    until(lambda: show(servers, "s1", "NRestarts") == "1", "systemd to start it again", 30)
    until(lambda: show(servers, "s1", "ActiveState") == "active", "it to be ready", 60)
    assert "w1 going on after round " in journal(servers, "s1")
    until(lambda: health(servers, "s0")["peers"]["w1"] == "ready", "its peers to use it", 60)


def test_one_that_is_stopped_with_its_target_saves_itself_and_ends_well(servers: Servers) -> None:
    servers.run("s1", "systemctl enable -q mpls.target mpls-worker@1")
    servers.run("s1", "systemctl start mpls.target && systemctl stop mpls.target")
    until(lambda: show(servers, "s1", "ActiveState") == "inactive", "it to end", 60)
    assert show(servers, "s1", "Result") == "success"
    lines = journal(servers, "s1").splitlines()
    (saved,) = (line for line in lines[lines.index("w1 draining") :] if "saved" in line)
    assert saved.startswith("w1 checkpoint of round ")


def test_a_server_whose_power_was_cut_comes_back_with_its_worker(servers: Servers) -> None:
    servers.run("s1", "systemctl start mpls.target")
    until(lambda: show(servers, "s1", "ActiveState") == "active", "it to be ready", 60)
    servers.cut_power("s1")
    until(lambda: health(servers, "s0")["peers"]["w1"] != "ready", "its peers to do without", 60)
    servers.start("s1")
    until(lambda: show(servers, "s1", "ActiveState") == "active", "it to be ready again", 60)
    assert "w1 going on after round " in journal(servers, "s1", "-b")
    until(lambda: health(servers, "s0")["peers"]["w1"] == "ready", "its peers to use it", 60)


@pytest.mark.parametrize(
    ("spoil", "mend", "why"),
    [
        (
            f"echo nonsense >> {layout.CLUSTER}",
            f"sed -i '$d' {layout.CLUSTER}",
            "error: /etc/mpls/cluster.toml: line",
        ),
        (
            f"mv {layout.secret(1)} /root/away",
            f"mv /root/away {layout.secret(1)}",
            "status=243/CREDENTIALS",
        ),
        (f"mv {layout.MPLS} /root/away", f"mv /root/away {layout.MPLS}", "status=203/EXEC"),
    ],
    ids=["cluster file", "secret", "program"],
)
def test_what_cannot_start_is_not_tried_again_and_says_why(
    servers: Servers, spoil: str, mend: str, why: str
) -> None:
    servers.run("s1", f"systemctl stop mpls-worker@1; systemctl reset-failed; {spoil}")
    servers.run("s1", "systemctl start mpls-worker@1", check=False)
    until(lambda: show(servers, "s1", "ActiveState") == "failed", "it to fail", 60)
    assert show(servers, "s1", "NRestarts") == "0"
    assert why in journal(servers, "s1", "-p5")
    servers.run("s1", f"{mend}; systemctl start mpls-worker@1")
    assert show(servers, "s1", "ActiveState") == "active"
