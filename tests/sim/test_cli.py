"""`python -m sim` as its users meet it: flags, files, exit codes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sim.cli import main

SMALL = ["--train", "model", "--rounds", "3", "--jobs", "1"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def json_of(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main([*SMALL, *args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_help_answers_at_once_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from sim.cli import main; assert main(['--help']) == 0\n"
        "heavy = {'torch', 'pydantic', 'numpy', 'simpy', 'plotly', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    began_s = time.monotonic()
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, capture_output=True)
    assert time.monotonic() - began_s < 2.0


def test_the_default_sweep_is_four_strategies_and_three_seeds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = json_of(capsys, "--bw", "10-15MB")
    assert found["status"] == "completed"
    assert [(p["strategy"], p["seed"]) for p in found["points"]] == [
        (strategy, seed) for strategy in ("mpls", "appg", "netmax", "local") for seed in (1, 2, 3)
    ]
    assert {p["bw"] for p in found["points"]} == {"10-15MB"}
    (setting,) = found["ranking"]
    assert len(setting["contenders"]) == 4


def test_a_sweep_leaves_its_files(tmp_path: Path) -> None:
    assert main([*SMALL, "--strategy", "mpls", "--seeds", "2"]) == 0
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if not path.is_symlink())
    assert (tmp_path / "runs" / "latest-sim").resolve() == folder
    files = sorted(path.name for path in folder.iterdir())
    assert files == [
        "calibration.json",
        "cluster.toml",
        "points.csv",
        "points.jsonl",
        "ranking.png",
        "report.html",
        "sweep.json",
    ]
    with (folder / "points.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["1", "2"]


def test_each_point_prints_the_hash_that_it_records(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--strategy", "mpls", "--seed", "7", "--out", "here"]) == 0
    row = json.loads(Path("here/points.jsonl").read_text())
    out = capsys.readouterr().out
    assert f"seed 7: 3 rounds in {row['seconds']:.2f} s" in out
    assert f"trace SHA256 {row['trace_sha256']}" in out


def test_a_full_trace_leaves_every_workers_records() -> None:
    assert (
        main([*SMALL, "--strategy", "mpls", "--seed", "1", "--out", "here", "--trace", "full"]) == 0
    )
    files = sorted(path.name for path in Path("here/traces").rglob("*.jsonl"))
    assert files == ["w0.trace.jsonl", "w1.trace.jsonl", "w2.trace.jsonl"]


def test_lists_make_a_grid(capsys: pytest.CaptureFixture[str]) -> None:
    lists = ["--bw", "5..15MB/5MB", "--strategy", "mpls,local", "--workers", "3,4", "--seed", "1"]
    found = json_of(capsys, *lists)
    assert len(found["points"]) == 12
    assert {setting["bw"] for setting in found["ranking"]} == {"5MB", "10MB", "15MB"}


def test_a_cluster_file_keeps_its_own_strategy_and_rounds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = '[mpls]\nstrategy = "gossip"\n[training]\nrounds = 5\n'
    workers = "".join(f'[[workers]]\nid = {i}\naddress = "127.0.0.1:0"\n' for i in range(4))
    Path("mine.toml").write_text(text + workers)
    args = ["--config", "mine.toml", "--train", "model", "--seed", "1", "--jobs", "1", "--json"]
    assert main(args) == 0
    (row,) = json.loads(capsys.readouterr().out)["points"]
    assert (row["strategy"], row["rounds"], row["workers"]) == ("gossip", 5, 4)


def test_until_seconds_ends_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--train", "model", "--until", "seconds=0.25", "--seed", "1", "--jobs", "1", "--json"]
    assert main(args) == 0
    assert {row["seconds"] for row in json.loads(capsys.readouterr().out)["points"]} == {0.25}


@pytest.mark.parametrize(
    "text", ["", "-5MB", "15-10MB", "10XB", "NaNMB", "0MB", "5..25MB", "10MB,"]
)
def test_a_bad_bandwidth_is_one_line_that_shows_good_ones(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, f"--bw={text}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --bw: ")
    assert "10-15MB" in line


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--workers", "0"], "--workers"),
        (["--workers", "three"], "--workers"),
        (["--strategy", "mpls,,appg"], "--strategy"),
        (["--strategy", "fastest"], "fastest"),
        (["--topology", "moebius"], "moebius"),
        (["--until", "noon"], "--until"),
        (["--until", "accuracy=2"], "--until"),
        (["--until", "seconds=nan"], "--until"),
        (["--until", "accuracy=0.9"], "--train real"),
        (["--seed", "1", "--seeds", "2"], "--seeds"),
        (["--scheduler-address", "tcp://127.0.0.1:1"], "--backend dask"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
        (["--calibration", "nowhere.json"], "nowhere.json"),
        (["--dataset", "cats"], "cats"),
        (["--resume", "nowhere"], "--resume"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_folder(
    args: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*(["--train", "model"] if "--resume" not in args else []), *args]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line
    assert not Path("runs").exists()


def test_links_are_said_to_be_independent(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--seed", "1", "--net", "links"]) == 0
    err = capsys.readouterr().err
    assert "every link is alone" in err
    assert "4 to 5 times" in err


def test_resuming_asks_for_nothing_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--bw", "7MB", "--strategy", "mpls", "--out", "here"]) == 0
    rows = Path("here/points.jsonl").read_text().splitlines(keepends=True)
    Path("here/points.jsonl").write_text(rows[0])
    assert main(["--resume", "here", "--jobs", "1"]) == 0
    again = [json.loads(line) for line in Path("here/points.jsonl").read_text().splitlines()]
    kept = [json.loads(row) for row in rows]
    assert [r["trace_sha256"] for r in again] == [r["trace_sha256"] for r in kept]
    assert again[0] == kept[0]


def test_resuming_takes_no_other_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--resume", "here", "--bw", "10MB"]) == 2
    assert "--bw" in capsys.readouterr().err


def test_an_interrupt_keeps_what_is_finished(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sim", "--train", "model", "--rounds", "300", "--jobs", "1"]
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [*command, "--seeds", "50", "--out", "here"],
        env={**os.environ, **path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    begun = next(line for line in process.stderr if not line.startswith("0/"))
    assert "points" in begun
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    rows = tmp_path / "here" / "points.jsonl"
    assert process.returncode == 130, err
    finished = len(rows.read_text().splitlines())
    assert 0 < finished < 200
    assert out.count("trace SHA256") == finished
    assert f"{finished} of 200 points are kept; --resume here goes on" in err
    assert (tmp_path / "here" / "report.html").exists()
