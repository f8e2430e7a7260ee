"""The systemd unit and its drop-ins: systemd accepts them, they are as tight as promised, and they
say what the code and the cluster file say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mpls.cli import main
from mpls.config import ClusterConfig, builtin, changed, dumps
from mpls.deploy import layout
from mpls.deploy.unit import drop_in, partners, unit_files
from mpls.errors import INTERRUPTED, BadInput, Refused
from mpls.runtime import process
from mpls.runtime.keys import CREDENTIAL, KeyFiles
from mpls.runtime.worker import DRAIN_S
from tests.deploy.conftest import LACKING

ROOT = Path(__file__).parents[2]
EXPOSURE_MOST = 1.5
NO_PROGRAM, NO_CREDENTIAL = 203, 243
"""How systemd.exec(5) says that it could not begin."""
HOSTS = ("192.0.2.11:50051", "192.0.2.12:50051", "[2001:db8::13]:50051")


def cluster(*addresses: str, **tables: dict[str, Any]) -> ClusterConfig:
    workers = [{"id": number, "address": place} for number, place in enumerate(addresses)]
    return changed(builtin(), {"workers": workers, "network": {"emulate": ""}, **tables})


def settings(text: str) -> dict[str, list[str]]:
    """Key -> values of a unit file, in order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


TEMPLATE = settings(unit_files()[layout.TEMPLATE])

# --- as systemd sees it ---

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "encrypted": {},
    "plaintext": {"network": {"emulate": "", "security": "plaintext"}},
    "cuda": {"training": {"device": "cuda:0", "threads": 4}},
}


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip(f"{LACKING}no systemd-analyze: apt-get install systemd")
    return found


def installed(folder: Path, variant: str) -> Path:
    """The units with one drop-in, as on a server whose `mpls` is /bin/true."""
    for name, text in unit_files().items():
        (folder / name).write_text(text.replace(str(layout.MPLS), "/bin/true"))
    place = folder / f"{layout.TEMPLATE}.d"
    place.mkdir()
    (place / layout.DROP_IN).write_text(drop_in(cluster(*HOSTS, **VARIANTS[variant]), 0))
    return folder / layout.TEMPLATE


def said(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_systemd_has_nothing_to_say_about_the_units(
    analyze: str, variant: str, tmp_path: Path
) -> None:
    unit = installed(tmp_path, variant)
    verify = (analyze, "verify", "--man=no", "--recursive-errors=no")
    assert said(*verify, unit, tmp_path / layout.TARGET) == ""


def test_systemd_would_have_something_to_say(analyze: str, tmp_path: Path) -> None:
    unit = installed(tmp_path, "encrypted")
    place = tmp_path / f"{layout.TEMPLATE}.d" / layout.DROP_IN
    place.write_text("[Service]\nMemoryMux=1G\n")
    verify = [analyze, "verify", "--man=no", "--recursive-errors=no", unit]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert "MemoryMux" in done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_unit_and_drop_in_expose_little(analyze: str, variant: str, tmp_path: Path) -> None:
    unit = installed(tmp_path, variant)
    table = said(analyze, "security", "--offline=true", "--no-pager", unit)
    assert "IP address allow list with non-localhost entries" in table  # it has read the drop-in
    overall = re.search(r"exposure level for .*: ([0-9.]+)", table)
    assert overall
    assert float(overall[1]) <= EXPOSURE_MOST, table


# --- as the code has it ---


def test_the_files_of_the_package_are_those_of_the_repository() -> None:
    for name, text in unit_files().items():
        assert (ROOT / "deploy" / name).read_text() == text
        assert (ROOT / "mpls" / "deploy" / name).is_symlink()


def test_the_unit_names_the_places_of_the_layout() -> None:
    (command,) = TEMPLATE["ExecStart"]
    assert command.startswith(f"{layout.MPLS} worker {layout.CLUSTER} --id %i ")
    secret = str(layout.secret(0)).replace("0", "%i")
    assert TEMPLATE["LoadCredential"] == [f"{CREDENTIAL}:{secret}"]
    assert layout.STATE.name == "mpls"
    assert TEMPLATE["StateDirectory"] == ["mpls/%i"]
    assert Path(layout.PUBLIC_KEYS) == KeyFiles(Path(layout.CLUSTER)).public
    assert TEMPLATE["WantedBy"] == [layout.TARGET]


def test_the_names_of_a_worker_s_files_carry_its_id() -> None:
    assert layout.unit(2) == "mpls-worker@2.service"
    assert str(layout.drop_in(2)) == "/etc/systemd/system/mpls-worker@2.service.d/cluster.conf"
    assert str(layout.secret(2)) == "/etc/mpls/keys/2.secret"
    assert str(layout.state(2)) == "/var/lib/mpls/2"
    assert str(layout.release("1.0")) == "/opt/mpls/releases/1.0"


def test_draining_and_saving_fit_into_the_time_to_stop() -> None:
    (stop_s,) = TEMPLATE["TimeoutStopSec"]
    assert int(stop_s) > 2 * sum(DRAIN_S.values())


def test_what_would_end_in_the_same_way_again_is_not_started_again() -> None:
    ends = [BadInput.exit_code, Refused.exit_code, INTERRUPTED, NO_PROGRAM, NO_CREDENTIAL]
    assert TEMPLATE["RestartPreventExitStatus"] == [" ".join(map(str, ends))]


def test_a_worker_may_open_what_it_wants_to() -> None:
    assert TEMPLATE["LimitNOFILE"] == [str(process.OPEN_FILES)]


def test_the_unit_alone_talks_to_its_own_machine_only() -> None:
    assert (TEMPLATE["IPAddressDeny"], TEMPLATE["IPAddressAllow"]) == (["any"], ["localhost"])


# --- drop-ins ---


def allowed(config: ClusterConfig, worker_id: int) -> list[str]:
    return settings(drop_in(config, worker_id))["IPAddressAllow"]


def test_exactly_the_addresses_of_its_peers_are_allowed() -> None:
    three = cluster(*HOSTS)
    assert allowed(three, 0) == ["192.0.2.12/32", "2001:db8::13/128"]
    assert allowed(three, 2) == ["192.0.2.11/32", "192.0.2.12/32"]


def test_who_pulls_from_it_is_allowed_though_it_does_not_pull_from_them() -> None:
    workers = [
        {"id": 0, "address": HOSTS[0], "peers": [1]},
        {"id": 1, "address": HOSTS[1], "peers": [2]},
        {"id": 2, "address": HOSTS[2], "peers": [1]},
    ]
    config = changed(builtin(), {"cluster": {"topology": "listed"}, "workers": workers})
    assert [worker.id for worker in partners(config, 1)] == [0, 2]
    assert [worker.id for worker in partners(config, 0)] == [1]


def test_a_name_is_allowed_as_all_that_it_means_here() -> None:
    text = drop_in(cluster("192.0.2.11:1", "localhost:2"), 0)
    assert "# w1 is localhost; write this anew when that moves.\n" in text
    assert "127.0.0.1/32" in settings(text)["IPAddressAllow"]


def test_threads_secret_and_device_are_those_of_the_cluster_file() -> None:
    plain = settings(drop_in(cluster(*HOSTS, **VARIANTS["plaintext"]), 0))
    assert plain["LoadCredential"] == [""]
    assert plain["Environment"][0].startswith("OMP_NUM_THREADS=1 ")
    cuda = settings(drop_in(cluster(*HOSTS, **VARIANTS["cuda"]), 0))
    assert cuda["Environment"][0].startswith("OMP_NUM_THREADS=4 ")
    assert cuda["PrivateDevices"] == ["no"]
    assert "LoadCredential" not in cuda


# --- the command ---


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(dumps(cluster(*HOSTS)))
    return path


def test_a_drop_in_is_printed_or_written(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["unit", str(file), "--id", "1"]) == 0
    printed = capsys.readouterr().out
    assert main(["unit", str(file), "--id", "1", "-o", str(tmp_path / "x.conf")]) == 0
    assert (tmp_path / "x.conf").read_text() == printed == drop_in(cluster(*HOSTS), 1)


def test_the_units_are_written_into_a_folder(tmp_path: Path) -> None:
    assert main(["unit", "--template", str(tmp_path)]) == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == unit_files()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["{c}", "--id", "3"], "{c}: there is no worker 3; ids are 0 to 2"),
        (["{c}", "--id", "-1"], "{c}: there is no worker -1; ids are 0 to 2"),
        (["{c}", "--id", "one"], "Invalid value for '--id': 'one' is not a valid integer."),
        (["{c}"], "CLUSTER and --id are needed, or --template DIR."),
        (["--id", "0"], "CLUSTER and --id are needed, or --template DIR."),
        (["{c}", "--template", "x"], "--template goes without CLUSTER, --id and --output."),
        (["{c}.not", "--id", "0"], "{c}.not: no such file or directory"),
        (["{c}", "--id", "0", "-o", "{c}/x"], "{c}/x: cannot be written: Not a directory"),
        (["--template", "{c}/x"], "{c}/x/mpls-worker@.service: cannot be written: Not a dir"),
    ],
)
def test_bad_input_is_answered_with_one_line(
    arguments: list[str], line: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["unit", *(each.format(c=file) for each in arguments)]) == 2
    answer = capsys.readouterr()
    assert answer.err.startswith(f"error: {line.format(c=file)}")
    assert answer.err.count("\n") == 1
    assert answer.out == ""


@pytest.mark.parametrize("name", ["w1.invalid", "w" * 64])
def test_a_name_that_means_nothing_is_bad_input_with_a_remedy(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(dumps(cluster(HOSTS[0], f"{name}:50051")))
    assert main(["unit", str(path), "--id", "0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: [[workers]] id 1: address = ")
    assert f"{name} cannot be resolved here (" in error
    assert "write its IP address" in error


def test_a_worker_at_any_free_port_has_no_unit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(dumps(builtin()))
    assert main(["unit", str(path), "--id", "0"]) == 2
    assert "peers in other processes cannot find port 0" in capsys.readouterr().err
