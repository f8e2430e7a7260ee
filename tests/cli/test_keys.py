"""`mpls keys`, and a cluster that runs encrypted with what it made."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from mpls.cli import main
from mpls.config import builtin, changed, dumps
from mpls.core.trace import read, replay
from tests.runtime.rig import until

ROOT = Path(__file__).parents[2]
NAMES = ("w0", "w1", "w2")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three workers on loopback, encrypted all the same."""
    tables = {
        "network": {"security": "curve", "emulate": "", "status_s": 0.1},
        "training": {"rounds": 20, "eval_every": 10},
        "cluster": {"out": str(tmp_path / "runs")},
    }
    path = tmp_path / "c.toml"
    path.write_text(dumps(changed(builtin(), tables)))
    return path


def table(said: str) -> dict[str, list[str]]:
    """Worker -> public key, secret's file, and what became of it."""
    rows = [line.split(maxsplit=3) for line in said.splitlines()[1:4]]
    return {name: rest for name, *rest in rows}


def test_it_makes_keys_once_and_says_what_there_is(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", str(file)]) == 0
    first = table(capsys.readouterr().out)
    assert {name: what for name, (_, _, what) in first.items()} == dict.fromkeys(NAMES, "new")
    assert main(["keys", str(file)]) == 0
    second = table(capsys.readouterr().out)
    assert {name: what for name, (_, _, what) in second.items()} == dict.fromkeys(NAMES, "kept")
    assert {name: key for name, (key, *_) in first.items()} == {
        name: key for name, (key, *_) in second.items()
    }
    public = (file.parent / "c.keys.toml").read_text()
    for name, (key, secret, _) in first.items():
        assert f'{name} = "{key}"' in public
        assert secret == str(file.parent / "c.keys" / f"{name}.secret")
        assert Path(secret).read_text().strip() not in public


def test_it_renews_the_one_that_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["keys", str(file)])
    first = table(capsys.readouterr().out)
    assert main(["keys", str(file), "--rotate", "w2"]) == 0
    second = table(capsys.readouterr().out)
    assert [what for _, _, what in second.values()] == ["kept", "kept", "renewed"]
    assert [first[name][0] == second[name][0] for name in NAMES] == [True, True, False]


def test_a_worker_that_is_none_is_bad_input(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", str(file), "--rotate", "w7"]) == 2
    assert "there is no worker w7; its workers: w0, w1, w2" in capsys.readouterr().err
    assert main(["keys", str(file.parent / "other.toml")]) == 2


def test_the_key_of_a_worker_that_left_is_named(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["keys", str(file)])
    public = file.parent / "c.keys.toml"
    key = zmq.curve_keypair()[0].decode()
    public.write_text(f'{public.read_text()}w9 = "{key}"\n')
    assert main(["keys", str(file)]) == 0
    assert f"warning: {public}: w9 is no worker of {file}" in capsys.readouterr().err
    assert main(["check", str(file)]) == 0
    assert f"warning: {public}: w9 is no worker of this cluster" in capsys.readouterr().err


def test_the_three_servers_get_their_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "three-servers.toml"
    file.write_text((ROOT / "configs/three-servers.toml").read_text())
    assert main(["keys", str(file)]) == 0
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "three-servers.toml",
        "three-servers.keys.toml",
        *(f"{name}.secret" for name in NAMES),
    }
    assert list(table(capsys.readouterr().out)) == list(NAMES)


@pytest.mark.parametrize("command", [["run"], ["worker", "--id", "0"]])
def test_nothing_runs_encrypted_without_keys_or_with_keys_that_others_can_read(
    file: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    text = file.read_text()
    for number in range(3):
        text = text.replace("127.0.0.1:0", f"127.0.0.1:{5700 + number}", 1)
    file.write_text(text)
    assert main([*command, str(file)]) == 3
    assert f"c.keys.toml: not there; `mpls keys {file}` makes it" in capsys.readouterr().err
    assert main(["keys", str(file)]) == 0
    secret = file.parent / "c.keys/w0.secret"
    secret.chmod(0o604)
    assert main([*command, str(file)]) == 3
    assert f"{secret}: others can read it (mode 604); chmod 600 " in capsys.readouterr().err
    assert not (file.parent / "runs").exists()


# --- whole runs ---


def start(file: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mpls", "run", str(file), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def endless(file: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that has begun, and does not end by itself; whom a worker pulls from is chance."""
    main(["keys", str(file)])
    run = start(file, "--rounds", "1000000", "--strategy", "gossip")
    yield run
    run.kill()
    run.communicate()


@pytest.mark.timeout(60)
def test_three_workers_learn_from_each_other_over_encrypted_links(file: Path) -> None:
    main(["keys", str(file)])
    run = start(file, "--json")
    said, errors = run.communicate(timeout=50)
    assert (run.returncode, errors) == (0, "")
    summary = json.loads(said)
    assert summary["status"] == "completed"
    folder = file.parent / "runs/latest"
    for worker in summary["workers"]:
        assert worker["rounds"] == 20
        assert worker["bytes_in"] > 1_000_000
        records = list(read(folder / f"{worker['name']}.trace.jsonl"))
        assert replay(iter(records)) is None
        (served,) = (record for record in records if record["kind"] == "served")
        assert (served["refusals"], served["failed_key_reloads"]) == ({}, 0)


@pytest.mark.timeout(60)
def test_row_36_a_sighup_to_the_run_revokes_a_key_in_every_worker(
    file: Path, endless: subprocess.Popen[str]
) -> None:
    """w1 goes on alone; the others go on with each other. A file that is wrong changes nothing."""
    folder, public = file.parent / "runs/latest", file.parent / "c.keys.toml"

    def pulls(name: str, peer: str) -> int:
        text = (folder / f"{name}.trace.jsonl").read_text()
        return len(re.findall(rf'"kind":"pull","round":\d+,"peer":"{peer}"', text))

    def logged(name: str, words: str) -> bool:
        return words in (folder / f"{name}.log").read_text()

    until(lambda: folder.exists() and (folder / "w0.trace.jsonl").exists(), "the run", 30.0)
    for peer in ("w1", "w2"):
        until(lambda peer=peer: pulls("w0", peer) > 2, f"pulls from {peer}", 20.0)
    complete = public.read_text()
    public.write_text("w1 =")
    os.kill(endless.pid, signal.SIGHUP)
    for name in NAMES:
        until(lambda name=name: logged(name, "keys not reloaded"), f"{name}'s complaint")
    public.write_text(re.sub('w1 = ".*"', 'w1 = ""', complete))
    os.kill(endless.pid, signal.SIGHUP)
    for name in NAMES:
        until(lambda name=name: logged(name, "keys reloaded: w1 revoked"), f"{name}'s reload")
    until(lambda: logged("w1", "does not let in this worker's key"), "w1 to be told")
    before = pulls("w0", "w2")
    until(lambda: pulls("w0", "w2") > before + 2, "w0 to go on with w2")
    endless.send_signal(signal.SIGTERM)
    assert endless.wait(30) == 130
    records = list(read(folder / "w0.trace.jsonl"))
    (served,) = (record for record in records if record["kind"] == "served")
    assert served["failed_key_reloads"] == 1
    assert served["refusals"]["key"] > 0
    assert replay(iter(records)) is None
