"""`python -m sim` as its users meet it: flags, files, exit codes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sim.cli import main

LIVE = Path(__file__).with_name("live-run")
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
        (["--backend", "dask"], "--scheduler-address"),
        (["--vary", "step:3"], "step:10=0.5,30=1"),
        (["--vary", "file:no.csv"], "no.csv"),
        (["--vary", "ar1:sd=.2", "--net", "wifi"], "--net fluid"),
        (["--vary", "file:no.csv", "--bw", "1MB"], "leave out --bw"),
        (["--faults", "no.toml"], "seeded"),
        (["--faults", ""], "seeded"),
        (["--config", ""], "no such file"),
        (["--faults", "seeded,within=0"], "within"),
        (["--net", "trace"], "--of"),
        (["--of", "nowhere"], "--train replay"),
        (["--of", "nowhere", "--net", "trace"], "nowhere"),
        (["--of", "nowhere", "--net", "trace", "--bw", "1MB"], "--bw"),
        (["--of", "nowhere", "--net", "trace", "--nic", "1MB"], "--nic"),
        (["--of", "nowhere", "--net", "trace", "--config", "c.toml"], "--config"),
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


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--bww", "3"], "No such option '--bww'"),
        (["--net", "ether"], "'ether' is not one of 'links', 'fluid'"),
        (["--bw"], "Option '--bw' requires an argument"),
        (["--rounds", "0"], "0 is not in the range x>=1"),
        (["--rounds", "many"], "'many' is not a valid integer"),
        (["--json=yes"], "'--json' does not take a value"),
        (["mpls"], "Got unexpected extra argument (mpls)"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_one_line_with_the_way_out(
    args: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert named in line
    assert line.endswith("See `python -m sim --help`")


@pytest.mark.parametrize(
    ("backend", "package", "remedy"),
    [("ray", "ray", "pip install ray"), ("dask", "distributed", 'pip install "mpls-dfl[cluster]"')],
)
def test_a_cluster_whose_package_is_missing_is_named_before_anything_is_made(
    backend: str,
    package: str,
    remedy: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sim.engines._is_installed", lambda name: name != package)
    args = ["--backend", backend, "--scheduler-address", "tcp://127.0.0.1:1"]
    assert main([*SMALL, *args]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert remedy in line
    assert not Path("runs").exists()


def test_a_users_text_cannot_break_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--net", "a\nb\x1b[31m"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()


# --- links in time, faults, recorded runs ---------------------------------------------------------


def test_variations_make_a_grid(capsys: pytest.CaptureFixture[str]) -> None:
    varying = ["--vary", "none", "--vary", "step:0.1=0.5,1=1", "--bw", "1MB,2MB"]
    found = json_of(capsys, *varying, "--strategy", "mpls", "--seed", "1")
    settings = [(setting["bw"], setting["vary"]) for setting in found["ranking"]]
    assert settings == [(bw, vary) for bw in ("1MB", "2MB") for vary in ("", "step:0.1=0.5,1=1")]
    assert len({p["trace_sha256"] for p in found["points"]}) == 4


def test_a_file_of_rates_replaces_the_bandwidth(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    rows = [f"0,{a},{b},1e6" for a, b in pairs] + [f"0.2,{a},{b},1e5" for a, b in pairs]
    Path("rates.csv").write_text("\n".join(["t_s,src,dst,rate_Bps", *rows]))
    (row,) = json_of(capsys, "--vary", "file:rates.csv", "--strategy", "mpls", "--seed", "1")[
        "points"
    ]
    assert (row["bw"], row["vary"]) == ("", "file:rates.csv")
    main(["--resume", "runs/latest-sim"])
    assert "links by file:rates.csv" in capsys.readouterr().out


def test_a_resumed_sweep_reads_the_files_that_it_was_begun_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fault = '[[fault]]\nat_s = 0.05\nkind = "crash"\nworker = {}\n'
    Path("f.toml").write_text(fault.format(1))
    args = [*SMALL, "--strategy", "mpls", "--seeds", "2", "--faults", "f.toml", "--out", "here"]
    assert main(args) == 0
    rows = Path("here/points.jsonl").read_text().splitlines(keepends=True)
    Path("here/points.jsonl").write_text(rows[0])
    Path("f.toml").write_text(fault.format(2))
    assert main(["--resume", "here", "--jobs", "1"]) == 0
    again = [json.loads(line) for line in Path("here/points.jsonl").read_text().splitlines()]
    kept = [json.loads(row) for row in rows]
    assert [(r["key"], r["trace_sha256"], r["befell"]) for r in again] == [
        (r["key"], r["trace_sha256"], 1) for r in kept
    ]


def test_faults_are_part_of_what_a_point_is(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--strategy", "mpls", "--seed", "1", "--faults"]
    rows = [json_of(capsys, *args, text)["points"][0] for text in ("seeded", "seed=1", "seed=2")]
    assert rows[0]["trace_sha256"] == rows[1]["trace_sha256"] != rows[2]["trace_sha256"]
    assert [row["faults"] for row in rows] == ["seeded", "seed=1", "seed=2"]


@pytest.mark.parametrize("net", ["trace", "fluid", "links"])
def test_a_recorded_run_is_replayed(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--of", str(LIVE), "--train", "replay", "--net", net, "--jobs", "1", "--json"]
    assert main(args) == 0
    (row,) = json.loads(capsys.readouterr().out)["points"]
    assert (row["rounds"], row["seed"], row["of"], row["strategy"]) == (8, 1, "live-run", "mpls")
    assert row["accuracy"] == pytest.approx(0.884, abs=0.001)
    assert row["bw"] == ("recorded" if net == "trace" else "10-15MB")


def test_real_training_can_take_the_transfers_of_a_recorded_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = ["--of", str(LIVE), "--net", "trace", "--rounds", "4", "--jobs", "1", "--json"]
    assert main(args) == 0
    (row,) = json.loads(capsys.readouterr().out)["points"]
    assert (row["train"], row["rounds"]) == ("real", 4)
    assert row["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--rounds", "9"], "--rounds 8 replays them"),
        (["--workers", "4"], "--workers: a replay has that of the recorded run"),
        (["--model", "lenet5"], "--model: a replay has that of the recorded run"),
        (["--partition", "iid"], "--partition: a replay has that of the recorded run"),
    ],
)
def test_a_replay_cannot_change_what_was_recorded(
    args: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--of", str(LIVE), "--train", "replay", *args]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line
    assert not Path("runs").exists()


def test_a_resumed_replay_wants_the_run_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(LIVE, "run")
    args = ["--of", "run", "--train", "replay", "--seeds", "2", "--out", "here", "--jobs", "1"]
    assert main(args) == 0
    assert main(["--resume", "here"]) == 0
    with Path("run/w0.trace.jsonl").open("a") as file:
        file.write('{"t":9.0,"kind":"state"}\n')
    capsys.readouterr()
    assert main(["--resume", "here"]) == 2
    assert "run has changed since" in capsys.readouterr().err


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
