"""The real `mpls deploy` on booted servers: it brings a federation up, changes nothing the second
time, survives a pulled cable and a bad release, goes back, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpls.deploy import layout
from mpls.deploy.wheelhouse import Wheelhouse
from tests.rehearsal.operator import ROOT, Operator, another, kept_wheelhouse, libraries_layer
from tests.rehearsal.servers import Servers

TABLES = {
    "cluster": {"name": "rehearsed"},
    "training": {"rounds": 10**6, "lr": 0.1},
    "checkpoint": {"every_rounds": 5},
}
OURS = f"{layout.ROOT} {layout.CONFIG} {layout.UNITS}/mpls* /etc/systemd/system/*/mpls*"
LOOK = f"find {OURS} -printf '%p %y %m %u %s %T@ %l\\n' 2>/dev/null | sort"


@pytest.fixture(scope="module")
def wheels(rig: type[Servers]) -> Wheelhouse:
    return kept_wheelhouse()


@pytest.fixture(scope="module")
def operator(
    rig: type[Servers], wheels: Wheelhouse, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """After the first deployment, which the tests share and lead on in the order of this file."""
    with rig(layers=[libraries_layer(wheels)]) as servers:
        operator = Operator(servers, tmp_path_factory.mktemp("operator"), TABLES)
        done = operator.deploy(wheels.folder)
        assert done.returncode == 0, done.stdout + done.stderr
        yield operator


def pids(operator: Operator) -> list[str]:
    return [operator.show(name, "MainPID") for name in operator.servers.names]


def everything(operator: Operator) -> list[str]:
    """What of ours lies on each server, with times."""
    return [operator.servers.run(name, LOOK, check=False) for name in operator.servers.names]


def releases(operator: Operator) -> list[str]:
    """That each server runs."""
    found = [operator.servers.run(n, f"readlink {layout.CURRENT}") for n in operator.servers.names]
    return [text.strip().rsplit("/", 1)[-1] for text in found]


def test_all_workers_run_and_say_so(operator: Operator, wheels: Wheelhouse) -> None:
    done = operator.verb("status", "--json")
    rows = json.loads(done.stdout)
    assert done.returncode == 0
    assert [row["worker"] for row in rows] == ["w0", "w1", "w2"]
    assert all(row["state"] == "active" and "2 of 2 peers" in row["says"] for row in rows)
    assert {row["release"] for row in rows} == {wheels.release}


def test_deploying_again_changes_nothing(operator: Operator, wheels: Wheelhouse) -> None:
    before = pids(operator), everything(operator)
    done = operator.deploy(wheels.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing to change" in done.stdout
    assert (pids(operator), everything(operator)) == before


def test_a_key_of_another_host_is_nowhere_on_a_host(operator: Operator) -> None:
    for number, name in enumerate(operator.servers.names):
        assert operator.secrets_on(name) == {number}
        assert operator.servers.run(name, f"stat -c %a:%U {layout.secret(number)}") == "600:root\n"


def test_no_secret_is_in_what_is_printed(operator: Operator, wheels: Wheelhouse) -> None:
    done = operator.deploy(wheels.folder, "--dry-run")
    for path in (operator.folder / "cluster.keys").iterdir():
        assert path.read_text().strip() not in done.stdout + done.stderr


def test_a_dry_run_says_what_would_change_and_changes_nothing(
    operator: Operator, wheels: Wheelhouse
) -> None:
    before = pids(operator), everything(operator)
    operator.write_cluster({**TABLES, "checkpoint": {"every_rounds": 7}})
    done = operator.deploy(wheels.folder, "--dry-run")
    operator.write_cluster(TABLES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"would write {layout.CLUSTER}" in done.stdout
    assert f"would start {layout.unit(2)}" in done.stdout
    assert (pids(operator), everything(operator)) == before


def test_a_server_unplugged_in_the_middle_stops_the_rest_and_the_same_command_goes_on(
    operator: Operator, wheels: Wheelhouse, tmp_path: Path
) -> None:
    newer, before = another(wheels, tmp_path, "0.1.1"), pids(operator)
    command = operator.deploying(newer.folder)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT
    ) as it:
        assert it.stdout is not None
        said = b""
        for line in it.stdout:
            said += line
            if f"{operator.servers.address('s2')}  installing".encode() in line:
                operator.servers.unplug("s2")
    operator.servers.plug_in()
    text = said.decode()
    assert it.returncode == 1, text
    assert f"error: {operator.servers.address('s2')}" in text
    assert "the same command goes on" in text
    assert releases(operator) == [wheels.release] * 3
    assert pids(operator) == before
    again = operator.deploy(newer.folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert releases(operator) == [newer.release] * 3


def test_after_ctrl_c_everything_runs_as_before(
    operator: Operator, wheels: Wheelhouse, tmp_path: Path
) -> None:
    newest, before = another(wheels, tmp_path, "0.1.3"), (releases(operator), pids(operator))
    code, text = operator.interfere(newest.folder, "installing", lambda it: it.send_signal(2))
    assert code == 130, text
    assert "Ctrl-C again kills" in text
    assert (releases(operator), pids(operator)) == before


def test_a_bad_release_is_gone_back_from_and_reaches_no_other_server(
    operator: Operator, wheels: Wheelhouse, tmp_path: Path
) -> None:
    before, running = releases(operator), pids(operator)
    bad = another(wheels, tmp_path, "0.1.2", bad=True)
    done = operator.deploy(bad.folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "this worker dies at its start" in done.stderr
    assert "what ran there before runs again" in done.stderr
    assert releases(operator) == before
    assert pids(operator)[1:] == running[1:]
    assert operator.show("s0", "ActiveState") == "active"


def test_rolling_back_goes_to_the_release_before(operator: Operator, wheels: Wheelhouse) -> None:
    done = operator.deploy(None, "--rollback")
    assert done.returncode == 0, done.stdout + done.stderr
    assert releases(operator) == [wheels.release] * 3
    assert [operator.show(name, "ActiveState") for name in operator.servers.names] == ["active"] * 3


def test_stopping_and_starting_are_done_everywhere(operator: Operator) -> None:
    assert operator.verb("stop").returncode == 0
    assert {operator.show(name, "ActiveState") for name in operator.servers.names} == {"inactive"}
    assert operator.verb("start").returncode == 0
    assert {operator.show(name, "ActiveState") for name in operator.servers.names} == {"active"}


def test_a_run_that_is_fetched_can_be_compared(operator: Operator) -> None:
    operator.verb("stop")
    run = operator.folder / "run"
    done = operator.verb("fetch", "-o", str(run))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (run / "w0.trace.1.jsonl").exists(), "its first life is kept"
    command = [sys.executable, "-m", "sim", "compare", "--exact", str(run)]
    compared = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert compared.returncode == 0, compared.stdout + compared.stderr


def test_uninstalling_leaves_nothing(operator: Operator) -> None:
    refused = operator.verb("uninstall")
    assert refused.returncode != 0, "it asks, and nobody is there to answer"
    assert operator.verb("uninstall", "--yes", "--purge").returncode == 0
    for name in operator.servers.names:
        left = "find /etc /opt /run /root /home /tmp /var/lib /var/tmp -name '*mpls*'"
        assert operator.servers.run(name, left).split() == []
