"""`mpls check`: what would run, in words and as one object."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from mpls.cli import main
from mpls.config import builtin, load
from mpls.core.links import link_rate_Bps
from tests.bad_clusters import GOOD, LISTED

ROOT = Path(__file__).parents[2]


def outlook(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main(["check", "--json", *args]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_without_a_file_it_describes_the_built_in_cluster(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found, config = outlook(capsys), builtin()
    assert found == outlook(capsys, str(ROOT / "configs/local.toml"))
    assert found["config_hash"] == config.config_hash()
    assert (found["topology"], found["connected"]) == ("ring", True)
    assert found["spectral_gap"] == pytest.approx(1.0)
    assert found["data"] == {
        "name": "digits",
        "root": None,
        "train": 8000,
        "test": 2000,
        "partition": "dirichlet",
    }
    assert (found["model"]["parameters"], found["model"]["bytes"]) == (50_890, 203_560)
    assert {layer["name"]: layer["bytes"] for layer in found["model"]["layers"]} == {
        "fc1": 200_960,
        "fc2": 2_600,
    }


def test_each_worker_has_its_links_its_labels_and_its_first_round(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, workers = builtin(), outlook(capsys)["workers"]
    assert sum(worker["samples"] for worker in workers) == 8000
    emulate = config.network.emulate
    assert emulate
    for worker in workers:
        assert sum(worker["labels"]) == worker["samples"]
        rates = {peer["id"]: peer["rate_Bps"] for peer in worker["peers"]}
        assert rates == {
            peer: link_rate_Bps(emulate, (worker["id"], peer), config.cluster.seed)
            for peer in config.peers_of(worker["id"])
        }
        assert worker["round_bytes"] >= 203_560
        assert 203_560 / 30e6 < worker["round_s"] < 203_560 / 10e6


def test_piped_it_prints_plain_lines_that_fit_80_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["check"]) == 0
    said = capsys.readouterr()
    lines = [line.rstrip() for line in said.out.splitlines()]
    assert said.err == ""
    assert lines[:5] == [
        "local: mpls, 200 rounds",
        "topology: ring of 3 workers, connected, spectral gap 1.000",
        "links: plaintext, each paced at a rate drawn from 10-15MB",
        "data: digits (embedded), 8000 to train on, 2000 to test",
        "model: simple-mlp, 50,890 parameters, 203,560 bytes",
    ]
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    rows = [line.split() for line in lines if line.startswith("w0 ")]
    assert rows[0][:4] == ["w0", "127.0.0.1:0", "2667", "203.6"]
    assert sum(map(int, rows[1][1:])) == 2667


def test_piped_a_row_with_many_peers_stays_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "c.toml")
    assert main(["generate", "--workers", "30", "--topology", "full", "-o", file]) == 0
    capsys.readouterr()
    assert main(["check", file]) == 0
    row, labels = re.findall(r"^w7 .*$", capsys.readouterr().out, re.MULTILINE)
    assert row.split()[1] == "127.0.0.1:5707"
    assert row.count(", ") == 28
    assert len(labels.split()) == 11


def test_the_three_servers_are_encrypted_and_what_they_miss_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, keys = tmp_path / "three.toml", tmp_path / "three.keys.toml"
    file.write_text((ROOT / "configs/three-servers.toml").read_text())
    found = outlook(capsys, str(file))
    assert found["security"] == "curve"
    assert found["warnings"] == [f"{keys}: not there; `mpls keys {file}` makes it"]
    assert [peer["rate_Bps"] for peer in found["workers"][0]["peers"]] == [12.5e6, 12.5e6]
    assert main(["keys", str(file)]) == 0
    capsys.readouterr()
    assert outlook(capsys, str(file))["warnings"] == []
    assert main(["check", str(file)]) == 0
    assert f"links: curve with the keys of {keys}, believed" in capsys.readouterr().out


def test_cifar10_says_where_its_data_were_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "configs/cifar10.toml").read_text()
    file = tmp_path / "c.toml"
    file.write_text(text.replace('root = "data"', f'root = "{tmp_path}"'))
    assert load(file).data.root == str(tmp_path)
    assert main(["check", str(file)]) == 2
    said = capsys.readouterr().err
    assert f"cifar10 was not found in data.root '{tmp_path}'" in said
    assert "cifar-10-batches-bin" in said


def test_warnings_go_to_stderr_and_into_the_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(LISTED.replace("id = 0", "id = 0\npeers = [1]"))
    assert main(["check", str(file)]) == 0
    said = capsys.readouterr()
    assert "listed of 3 workers, disconnected, spectral gap 0.000" in said.out
    warnings = [line.removeprefix("warning: ") for line in said.err.splitlines()]
    found = outlook(capsys, str(file))
    assert found["warnings"] == warnings
    assert not found["connected"]
    assert found["workers"][2]["peers"] == []
    assert found["workers"][2]["round_bytes"] == 0


def test_links_too_slow_for_a_round_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        GOOD + '[mpls]\nstrategy = "netmax"\n[network]\nemulate = "1kB"\nround_s = 10.0\n'
    )
    [first, *_] = outlook(capsys, str(file))["warnings"]
    assert first == "worker 0: a round would pull for 204 s, but [network] round_s = 10 ends it"


def test_an_own_model_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_model.py").write_text(
        "from torch import nn\n"
        "def tiny(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))\n"
    )
    (tmp_path / "c.toml").write_text(GOOD + '[model]\nname = "own_model:tiny"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    assert outlook(capsys, "c.toml")["model"]["parameters"] == 7850
