"""`mpls plan`: the example of its contract, for people and for programs, from a file and stdin."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpls.cli import main

EXAMPLE: dict[str, Any] = {
    "strategy": "mpls",
    "tau1": 0.5,
    "tau2": 0.5,
    "scheduler": "list",
    "tie": "size",
    "fill": "paper",
    "seed": 0,
    "layers": [{"name": "fc1", "bytes": 200960}, {"name": "fc2", "bytes": 2600}],
    "own_histogram": [0.5, 0.5],
    "peers": [
        {
            "name": "w1",
            "bandwidth_Bps": 12500000,
            "histogram": [1, 0],
            "progress": [0.2, 0.1],
        }
    ],
}
PLAN = {
    "peer_score": {"w1": 1.0},
    "layer_score": {"w1": [1.0, 1.0]},
    "floor": [1.0, 1.0],
    "efficiency": {"w1": [1.0, 1.0]},
    "assignment": {"w1": ["fc1", "fc2"]},
    "load_s": {"w1": 203560 / 12500000},
    "makespan_s": 203560 / 12500000,
    "unserved": [],
}


def write(path: Path, **changes: Any) -> str:
    path.write_text(json.dumps({**copy.deepcopy(EXAMPLE), **changes}))
    return str(path)


def test_a_program_gets_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", write(tmp_path / "s.json"), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == PLAN
    assert said.err == ""


def test_a_scenario_may_come_through_stdin() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "mpls", "plan", "-", "--json"],
        input=json.dumps(EXAMPLE),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ran.stdout) == PLAN


def test_people_get_the_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = [EXAMPLE["peers"][0], {"name": "w2", "bandwidth_Bps": 0}]
    assert main(["plan", write(tmp_path / "s.json", peers=two)]) == 0
    said = capsys.readouterr().out
    assert "makespan 0.01628 s; 203.6 kB pulled of a model of 203.6 kB" in said
    [w1, w2] = [line for line in said.splitlines() if line.strip().startswith(("w1 ", "w2 "))][:2]
    assert w1.split() == ["w1", "12.5", "MB/s", "1.0000", "0.01628", "fc1,", "fc2"]
    assert w2.split() == ["w2", "0", "B/s", "0.0000", "0", "nothing"]
    assert "no bandwidth" in said


def test_every_key_but_layers_and_peers_may_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    least = {"layers": EXAMPLE["layers"], "peers": [{"name": "w1"}]}
    (tmp_path / "s.json").write_text(json.dumps(least))
    assert main(["plan", str(tmp_path / "s.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == PLAN


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tau1": 0.7}, "tau1"),
        ({"tau1": 1.5}, "tau1"),
        ({"tau1": float("nan")}, "tau1"),
        ({"strategy": "best"}, "strategy"),
        ({"layers": []}, "layers"),
        ({"own_histogram": [0.5, 0.6]}, "own_histogram"),
        ({"own_histogram": [0.2, 0.3, 0.5]}, "histogram"),
        ({"peers": [{"name": "w1", "bandwidth_Bps": -1}]}, "peers[0].bandwidth_Bps"),
        ({"peers": [{"name": "w1", "progress": [1.0]}]}, "peers[0].progress"),
        ({"peers": [{"name": "w1"}, {"name": "w1"}]}, '"w1"'),
        ({"fill": "downlink"}, "downlink_Bps"),
        ({"tua1": 0.5}, '"tua1"'),
    ],
)
def test_a_bad_scenario_exits_with_2_and_a_line_that_names_the_field(
    changes: dict[str, Any], field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "s.json", **changes)
    assert main(["plan", file, "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {file}: ")
    assert field in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", bytes(range(256))])
def test_what_is_no_scenario_is_refused(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.json").write_bytes(content)
    assert main(["plan", str(tmp_path / "s.json")]) == 2
    assert main(["plan", str(tmp_path / "none.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
