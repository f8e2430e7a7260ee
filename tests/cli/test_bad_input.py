"""Whatever is wrong with a cluster file, `check`, `run` and `worker` say the same one line about it
and exit with 2, before anything has started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mpls.cli import main
from tests.bad_clusters import BAD, GOOD

ROOT = Path(__file__).parents[2]
COMMANDS = {"check": [], "run": [], "worker": ["--id", "0"]}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", BAD)
def test_a_bad_cluster_is_answered_with_one_line(
    case: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, line = BAD[case]
    file = tmp_path / "c.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main([command, str(file), *COMMANDS[command]]) == 2
    said = capsys.readouterr()
    assert said.err == f"error: {file}: {line}\n"
    assert said.out == ""
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_process_ends_with_2_and_the_same_line(command: str, tmp_path: Path) -> None:
    content, line = BAD["port 99999"]
    file = tmp_path / "c.toml"
    file.write_text(str(content))
    ran = subprocess.run(
        [sys.executable, "-m", "mpls", command, file, *COMMANDS[command]],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", f"error: {file}: {line}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_cannot_be_read_is_named(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, why in [(tmp_path / "none", "no such file or directory"), (tmp_path, "is a dir")]:
        assert main([command, str(path), *COMMANDS[command]]) == 2
        assert capsys.readouterr().err.startswith(f"error: {path}: {why}")


def test_a_worker_that_is_not_in_the_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text(GOOD)
    assert main(["worker", str(tmp_path / "c.toml"), "--id", "3"]) == 2
    assert capsys.readouterr().err.endswith("c.toml: there is no worker 3; ids are 0 to 2\n")


def test_a_worker_alone_needs_ports_that_peers_can_find(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text(GOOD.replace("5702", "0"))
    assert main(["worker", str(tmp_path / "c.toml"), "--id", "0"]) == 2
    assert 'id 2: address = "127.0.0.1:0": peers in other processes' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--strategy", "best"], 'command line: [mpls] strategy = "best": must be one of mpls, '),
        (["--rounds", "0"], "command line: [training] rounds = 0: must be greater than or equal"),
        (["--seed", "-1"], "command line: [cluster] seed = -1: must be greater than or equal to"),
        (["--transport", "udp"], 'command line: [network] transport = "udp": must be one of zmq'),
    ],
)
def test_a_bad_flag_is_named_by_its_key(
    flags: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *flags]) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")


@pytest.mark.parametrize("command", ["run", "worker"])
@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (("127.0.0.1:5702", "192.0.2.13:5702"), "`mpls keys "),
        (('5702"', '5702"\n[network]\nsecurity = "curve"\ntransport = "grpc"'), "grpc_cert"),
    ],
)
def test_what_cannot_be_run_safely_yet_is_refused_with_3(
    command: str,
    edit: tuple[str, str],
    why: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "c.toml").write_text(GOOD.replace(*edit))
    assert main([command, str(tmp_path / "c.toml"), *COMMANDS[command]]) == 3
    assert why in capsys.readouterr().err
    assert main(["check", str(tmp_path / "c.toml")]) == 0
