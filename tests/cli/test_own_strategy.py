"""The strategy in docs/own-strategy.md runs as it is printed there."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from mpls.cli import main
from mpls.core.plan import Layer, PeerView, View
from mpls.core.strategies import Imported, make_strategy
from mpls.core.streams import Stream
from mpls.preflight import prepare
from tests.bad_clusters import GOOD

PAGE = Path(__file__).parents[2] / "docs/own-strategy.md"
[BLOCK] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
[NAME] = re.findall(r"--strategy (\w+:\w+)", PAGE.read_text())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user keeps the module and a cluster file."""
    (tmp_path / f"{NAME.partition(':')[0]}.py").write_text(BLOCK)
    (tmp_path / "c.toml").write_text(GOOD + f'[mpls]\nstrategy = "{NAME}"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    return tmp_path


def test_it_has_less_than_thirty_lines() -> None:
    assert BLOCK.count("\n") < 30


@pytest.mark.usefixtures("folder")
def test_it_plans_what_its_docstring_says() -> None:
    config = prepare(Path("c.toml")).config
    strategy = make_strategy(config.plan_settings())
    assert isinstance(strategy, Imported)
    layers = (Layer("fc1", 200_960), Layer("fc2", 2_600))
    view = View(layers, None, (PeerView("w1", 10e6), PeerView("w2", 15e6)))
    assert strategy.plan(view, Stream(1)).assignment == {"w1": (), "w2": ("fc1",)}
    alone = View(layers, None, ())
    assert strategy.plan(alone, Stream(1)).assignment == {}


@pytest.mark.usefixtures("folder")
def test_check_and_plan_take_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "c.toml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {worker["round_bytes"] for worker in found["workers"]} == {200_960}
    Path("s.json").write_text(
        json.dumps(
            {
                "strategy": NAME,
                "layers": [{"name": "a", "bytes": 1}, {"name": "b", "bytes": 2}],
                "peers": [{"name": "p"}],
            }
        )
    )
    assert main(["plan", "s.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["assignment"] == {"p": ["b"]}
