"""`mpls doctor` beside real servers: each worker of a cluster is another case, seen from w0.

Nothing here leaves loopback: addresses elsewhere are only of workers that w0 does not ask.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpls.cli import main
from mpls.config import builtin, changed, dumps
from mpls.core.spec import WorkerSpec
from mpls.doctor import Doctor, links, machine, places
from mpls.doctor.findings import FAIL, OK, WARN, Finding
from mpls.doctor.parallel import all_within
from mpls.model import nets
from mpls.model.layers import FlatModel
from mpls.runtime.emulation import Pacing
from mpls.runtime.keys import KeyFiles
from mpls.runtime.server import Server
from tests.runtime.keyrings import Keys
from tests.runtime.rig import Model, listening_socket, serving

MODEL = Model(fc1=200_960, fc2=2_600)
MANIFEST = FlatModel(nets.build("simple-mlp", (1, 28, 28), 10, 1)).manifest.hash
SLOW_Bps = 4e6
TOO_LONG = "a" * 64
"""For a name: it is refused before anybody is asked for it."""


@pytest.fixture(scope="module", autouse=True)
def impatience() -> Iterator[None]:
    """Who says nothing is not waited for as long as in earnest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(links, "CONNECT_S", 1.0)
        yield


def spec(name: str, *peers: str, model: str = MANIFEST) -> WorkerSpec:
    return replace(MODEL.spec(name, *peers), model=model)


def serve(stack: ExitStack, it: WorkerSpec, **settings: Any) -> tuple[Server, int]:
    store = MODEL.store(MODEL.weights())
    return stack.enter_context(serving(it, store, **settings))


def free_port() -> int:
    with listening_socket() as listener:
        return int(listener.getsockname()[1])


def write(folder: Path, addresses: Mapping[str, str], **tables: Any) -> Path:
    """A cluster file. By default its links are real ones."""
    workers = [
        {"id": number, "name": name, "address": address}
        for number, (name, address) in enumerate(addresses.items())
    ]
    tables = {"cluster": {"topology": "full"}, "network": {"emulate": ""}, **tables}
    file = folder / "cluster.toml"
    file.write_text(dumps(changed(builtin(), {"workers": workers, **tables})))
    return file


def examined(file: Path, worker_id: int | None = 0) -> dict[str, Finding]:
    """By what was looked at; of several, the worst."""
    worst: dict[str, Finding] = {}
    for finding in sorted(Doctor(file, worker_id).examine(), key=lambda it: it.level == FAIL):
        worst[finding.what] = finding
    return worst


# --- a cluster in plaintext ---


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Finding]]:
    with ExitStack() as stack:
        well, slow = spec("w1", "w0"), spec("slow", "w0")
        crawling = Pacing({"w0": SLOW_Bps}, None)
        ports = {
            "w0": free_port(),
            "w1": serve(stack, well)[1],
            "dead": free_port(),
            "other": serve(stack, spec("other", "w0", model="f" * 64))[1],
            "slow": serve(stack, slow, pacing=crawling)[1],
            "stranger": serve(stack, spec("stranger", "somebody"))[1],
            "swapped": serve(stack, spec("w9", "w0"))[1],
            "mute": stack.enter_context(listening_socket()).getsockname()[1],
        }
        addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        addresses |= {"lost": f"{TOO_LONG}:7000", "all": "127.255.255.255:7000"}
        plain = {"emulate": "", "security": "plaintext"}
        yield examined(write(tmp_path_factory.mktemp("plain"), addresses, network=plain))


def test_a_peer_that_listens_is_greeted_and_its_link_measured(found: dict[str, Finding]) -> None:
    finding = found["w0 -> w1"]
    assert finding.level == OK
    assert finding.numbers["model"] == MANIFEST == found["model"].numbers["manifest"]
    assert finding.numbers["protocol"] == 1
    assert finding.numbers["rate_Bps"] > SLOW_Bps
    assert finding.numbers["round_trip_s"] > 0


def test_that_nobody_listens_yet_is_no_failure(found: dict[str, Finding]) -> None:
    finding = found["w0 -> dead"]
    assert finding.level == WARN
    assert finding.value.startswith("nobody listens at 127.0.0.1:")
    assert finding.remedy == "start it: mpls worker cluster.toml --id 2"


def test_of_two_models_both_are_named(found: dict[str, Finding]) -> None:
    finding = found["w0 -> other"]
    assert finding.level == FAIL
    assert f"your model is {MANIFEST[:16]}, mine is {'f' * 16}" in finding.value


def test_a_link_far_slower_than_believed_is_told(found: dict[str, Finding]) -> None:
    finding = found["w0 -> slow"]
    assert finding.level == WARN
    assert finding.numbers["rate_Bps"] == pytest.approx(SLOW_Bps, rel=0.5)
    assert "prior_bw" in finding.remedy


def test_a_peer_of_another_cluster_file_is_told(found: dict[str, Finding]) -> None:
    refused, swapped = found["w0 -> stranger"], found["w0 -> swapped"]
    assert (refused.level, swapped.level) == (FAIL, FAIL)
    assert "refused: w0 is not a peer of stranger" in refused.value
    assert "is answered by w9" in swapped.value


def test_what_listens_but_speaks_no_zeromq_is_told(found: dict[str, Finding]) -> None:
    finding = found["w0 -> mute"]
    assert finding.level == FAIL
    assert "no ZeroMQ handshake" in finding.value


def test_a_host_without_an_address_and_a_broadcast_address_fail_and_are_not_tried(
    found: dict[str, Finding],
) -> None:
    lost, everybody = found["address of lost"], found["address of all"]
    assert (lost.level, everybody.level) == (FAIL, FAIL)
    assert lost.value.startswith(f"{TOO_LONG}: no address")
    assert "broadcast" in everybody.value
    assert not {"w0 -> lost", "w0 -> all"} & set(found)


def test_the_machine_has_what_a_digits_worker_needs(found: dict[str, Finding]) -> None:
    for what in ("Python", "torch", "pyzmq", "libzmq", "data", "model", "memory", "port of w0"):
        assert found[what].level == OK, found[what]
    assert found["a round of w0"].numbers["round_bytes"] >= 203_560


# --- keys ---


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[Path, KeyFiles]]:
    """w0 to start, w1 running, and w2 that runs with a list in which w0 has another key."""
    (tmp_path / "elsewhere").mkdir()
    keys, others = Keys(tmp_path), Keys(tmp_path / "elsewhere")
    its = others.of("w2")
    its.secret, its.public = keys.of("w2").secret, keys.of("w2").public
    with ExitStack() as stack:
        _, w1 = serve(stack, spec("w1", "w0"), keys=keys.of("w1"))
        _, w2 = serve(stack, spec("w2", "w0"), keys=its)
        ports = (free_port(), w1, w2)
        addresses = {f"w{number}": f"127.0.0.1:{port}" for number, port in enumerate(ports)}
        network = {"emulate": "", "security": "curve"}
        yield write(tmp_path, addresses, network=network), keys.files


def test_with_keys_a_peer_is_greeted_and_one_that_knows_another_key_is_named(
    locked: tuple[Path, KeyFiles],
) -> None:
    found = examined(locked[0])
    assert found["w0 -> w1"].level == OK
    assert found["w0 -> w1"].numbers["rate_Bps"] > 0
    assert found["w0 -> w2"].level == FAIL
    assert "does not let in this worker's key" in found["w0 -> w2"].value


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """w0 and w1 on loopback, with keys; nobody listens."""
    addresses = {name: f"127.0.0.1:{free_port()}" for name in ("w0", "w1")}
    network = {"emulate": "", "security": "curve"}
    file = write(tmp_path, addresses, network=network)
    KeyFiles(file).make(addresses)
    return file


def test_a_secret_that_is_another_workers_or_for_others_to_read_fails(file: Path) -> None:
    files = KeyFiles(file)
    own = files.secret("w0").read_text()
    files.secret("w0").write_text(files.secret("w1").read_text())
    wrong = examined(file)["secret key of w0"]
    assert wrong.level == FAIL
    assert wrong.value.endswith("(it is w1's)")
    files.secret("w0").write_text(own)
    files.secret("w0").chmod(0o644)
    open_to_all = examined(file)["secret key of w0"]
    assert open_to_all.level == FAIL
    assert open_to_all.remedy == f"chmod 600 {files.secret('w0')}"


def test_secrets_of_workers_that_live_elsewhere_are_told(file: Path) -> None:
    assert examined(file)["secret keys"].level == WARN
    assert "secret keys" not in examined(file, None)  # both live here


# --- ports ---


def test_a_port_that_something_else_has_fails(file: Path) -> None:
    with listening_socket() as other:
        port = other.getsockname()[1]
        write(file.parent, {"w0": f"127.0.0.1:{port}", "w1": f"127.0.0.1:{free_port()}"})
        finding = examined(file)["port of w0"]
    assert finding.level == FAIL
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in finding.value


def test_nobody_is_greeted_in_the_name_of_a_worker_that_runs(tmp_path: Path) -> None:
    """In plaintext, its peers would take the doctor for it, and forget it."""
    with ExitStack() as stack:
        _, port = serve(stack, spec("w0", "w1"))
        peer, its_port = serve(stack, spec("w1", "w0"))
        found = examined(
            write(tmp_path, {"w0": f"127.0.0.1:{port}", "w1": f"127.0.0.1:{its_port}"})
        )
    assert found["port of w0"].level == OK
    assert "runs there already" in found["port of w0"].value
    assert "not greeted: w0 itself runs" in found["w0 -> w1"].value
    asked = str(peer.received.as_plain())
    assert "ping" in asked
    assert "hello" not in asked


def test_a_worker_whose_address_this_machine_has_not_fails(tmp_path: Path) -> None:
    addresses = {"w0": "203.0.113.7:7000", "w1": f"127.0.0.1:{free_port()}"}
    network = {"emulate": "", "security": "plaintext"}
    found = examined(write(tmp_path, addresses, network=network))
    assert found["address of w0"].level == FAIL
    assert "no card of this machine has 203.0.113.7" in found["address of w0"].value
    assert "w0 -> w1" not in found
    assert found["way to w1"].level == WARN


def test_an_address_that_looks_like_a_broadcast_one_is_told(tmp_path: Path) -> None:
    addresses = {"w0": f"127.0.0.1:{free_port()}", "w1": "10.96.0.255:7000"}
    listed = {"topology": "listed"}
    workers = [
        {"id": number, "address": address, "peers": []}
        for number, address in enumerate(addresses.values())
    ]
    network = {"emulate": "", "security": "plaintext"}
    file = tmp_path / "cluster.toml"
    tables = {"workers": workers, "cluster": listed, "network": network}
    file.write_text(dumps(changed(builtin(), tables)))
    said = [it.value for it in Doctor(file, 0).examine() if it.level == WARN]
    assert any("10.96.0.255:7000 looks like" in value for value in said)


# --- data, room, time ---


def test_a_missing_data_set_fails_and_the_rest_is_looked_at_all_the_same(tmp_path: Path) -> None:
    with ExitStack() as stack:
        _, port = serve(stack, spec("w1", "w0"))
        addresses = {"w0": f"127.0.0.1:{free_port()}", "w1": f"127.0.0.1:{port}"}
        missing = {"dataset": "mnist", "root": str(tmp_path)}
        found = examined(write(tmp_path, addresses, data=missing))
    assert found["data"].level == FAIL
    assert "mnist was not found" in found["data"].value
    assert found["w0 -> w1"].level == OK
    assert "not greeted" in found["w0 -> w1"].value


def test_a_model_that_does_not_fit_into_memory_or_on_the_disk_fails(tmp_path: Path) -> None:
    assert machine.memory(1, 10**15, 0, 2).level == FAIL
    out = changed(builtin(), {"cluster": {"out": str(tmp_path / "runs")}})
    assert machine.disk(out, 1, 1000, 2).level == OK
    assert machine.disk(out, 1, 10**15, 2).level == FAIL
    (tmp_path / "file").touch()
    nowhere = changed(builtin(), {"cluster": {"out": str(tmp_path / "file" / "runs")}})
    assert machine.disk(nowhere, 1, 1000, 2).level == FAIL


def test_a_clock_behind_the_cluster_file_is_told(file: Path) -> None:
    assert machine.clock(file).level in (OK, WARN)
    os.utime(file, (4e9, 4e9))
    assert "before the cluster file was written" in machine.clock(file).value


def test_what_never_answers_delays_nobody_for_longer_than_its_bound() -> None:
    never = threading.Event()
    found = all_within({"late": never.wait, "well": lambda: True}, 0.05)
    assert found["well"] is True
    assert isinstance(found["late"], TimeoutError)


def test_a_name_leads_to_an_address_of_this_machine(tmp_path: Path) -> None:
    config = changed(builtin(), {"workers": [{"id": 0, "address": "localhost:7000"}]})
    assert places.look_up(config)[0] == places.Place("127.0.0.1", is_here=True)


# --- the command ---


def test_it_ends_with_what_it_found(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["doctor", str(file), "--json"])
    assert end.value.code == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["workers"] == ["w0", "w1"]
    assert (plain["failures"], plain["warnings"]) == (0, 2)
    assert {"level", "what", "value", "remedy"} <= set(plain["findings"][0])
    KeyFiles(file).secret("w0").unlink()
    with pytest.raises(SystemExit) as end:
        main(["doctor", str(file)])
    said = capsys.readouterr()
    assert end.value.code == 1
    lines = [line for line in said.out.splitlines() if line.startswith("FAIL")]
    assert len(lines) == 1
    assert "w0.secret: not there  -> `mpls keys" in lines[0]
    assert said.err.splitlines()[0] == "looking up addresses ..."


def test_what_is_no_cluster_file_or_no_worker_of_it_is_bad_input(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(file), "--id", "9"]) == 2
    file.write_text("[[workers]]\n")
    assert main(["doctor", str(file)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
