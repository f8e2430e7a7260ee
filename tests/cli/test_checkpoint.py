"""`mpls checkpoint` and `mpls status`: what they say of what a run left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

from mpls.cli import main
from mpls.model.nets import build
from mpls.runtime.endpoint import Endpoint


def code(args: list[str]) -> int:
    """What a command ends with."""
    try:
        return main(args)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real one, of three processes."""
    out = tmp_path_factory.mktemp("runs")
    assert code(["run", "configs/local.toml", "--rounds", "12", "--out", str(out), "--json"]) == 0
    return (out / "latest").resolve()


def test_show_says_what_the_newest_checkpoint_of_a_folder_holds(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(["checkpoint", "show", str(run / "w0.state")]) == 0
    shown = capsys.readouterr().out
    about = dict(line.split("  ", 1) for line in shown.splitlines())
    assert about["round"].strip() == "12, and 0 local steps of the next"
    assert about["[training] lr"].strip() == "0.1"
    assert code(["checkpoint", "show", str(run / "w0.state"), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert (plain["worker"], plain["round"]) == ("w0", 12)


def test_verify_tells_a_whole_one_from_a_damaged_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = max((run / "w1.state").glob("step-*.safetensors"))
    assert code(["checkpoint", "verify", str(whole)]) == 0
    assert "whole; round 12 of worker w1" in capsys.readouterr().out
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(whole.read_bytes()[:-1])
    assert code(["checkpoint", "verify", str(damaged)]) == 2
    assert f"{damaged}: damaged" in capsys.readouterr().err


def test_export_writes_the_weights_for_others(run: Path, tmp_path: Path) -> None:
    flat, state = tmp_path / "w.safetensors", tmp_path / "w.pt"
    for output in (flat, state):
        assert code(["checkpoint", "export", str(run / "w2.state"), "-o", str(output)]) == 0
    left = load_file(run / "w2.safetensors")
    assert {name: values.tolist() for name, values in load_file(flat).items()} == {
        name: values.tolist() for name, values in left.items()
    }
    module = build("simple-mlp", (1, 28, 28), 10, seed=9)
    module.load_state_dict(torch.load(state, weights_only=True))
    assert code(["checkpoint", "export", str(run / "w2.state"), "-o", str(flat)]) == 2
    assert code(["checkpoint", "export", str(run / "w2.state"), "-o", "weights.onnx"]) == 2


@pytest.mark.parametrize("what", ["nowhere", "configs"])
def test_where_no_checkpoint_is_one_line_says_so(
    what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(["checkpoint", "show", what]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_status_says_how_the_workers_of_a_run_are(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(["status", str(run)]) == 0
    assert "w0 stopped: round 12 of 12, checkpoint of round 12" in capsys.readouterr().out
    assert code(["status", str(run), "--json"]) == 0
    assert [it["well"] for it in json.loads(capsys.readouterr().out)["workers"]] == [True] * 3


def test_status_of_a_worker_that_died_names_its_trouble_and_exits_with_1(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cluster.toml").write_bytes((run / "cluster.toml").read_bytes())
    lines = (run / "w1.trace.jsonl").read_text().splitlines()
    dead = [line for line in lines if '"stopped"' not in line and '"draining"' not in line]
    trouble = {"t": 9.0, "kind": "checkpoint", "round": 10, "failed": "No space left on device"}
    (tmp_path / "w1.trace.jsonl").write_text("\n".join([*dead, json.dumps(trouble)]) + "\n")
    assert code(["status", str(tmp_path)]) == 1
    assert "  checkpoint: No space left on device" in capsys.readouterr().out


def test_status_asks_the_worker_at_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    report = {
        "worker": "w0",
        "healthy": False,
        "state": "running",
        "round": 3,
        "rounds": 9,
        "checkpoint_round": -1,
        "troubles": ["training: stuck for 61 s"],
    }
    endpoint = Endpoint(0, lambda: report)
    try:
        assert code(["status", f"127.0.0.1:{endpoint.port}"]) == 1
        told = capsys.readouterr().out
        assert told == ("w0 running: round 3 of 9, checkpoint none\n  training: stuck for 61 s\n")
    finally:
        endpoint.close()
    assert code(["status", f"127.0.0.1:{endpoint.port}"]) == 3


def test_status_of_what_is_no_run_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(["status", str(tmp_path)]) == 2
    assert "not the folder of a run" in capsys.readouterr().err
