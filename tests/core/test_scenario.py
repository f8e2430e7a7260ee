"""The contract of `mpls plan`: what a scenario may say, what comes out, and how it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from mpls.cli.plan import command
from mpls.core.plan import Layer, PeerView, View
from mpls.core.scenario import parse_scenario
from mpls.core.settings import PlanSettings, PullSettings
from mpls.core.strategies import make_strategy
from mpls.core.streams import Stream
from mpls.errors import BadInput

Edit = Callable[[dict[str, Any]], object]


def scenario(**changes: Any) -> dict[str, Any]:
    """The example of design 2, with a second peer."""
    return {
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
            {"name": "w1", "bandwidth_Bps": 12500000, "histogram": [1, 0], "progress": [0.2, 0.1]},
            {"name": "w2", "bandwidth_Bps": 10000000, "histogram": [0, 1], "progress": [0.1, 0.4]},
        ],
    } | changes


def refusal(text: str) -> str:
    with pytest.raises(BadInput) as caught:
        parse_scenario(text)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(command, arguments, input=stdin)


# --- what a scenario says ---------------------------------------------------------------------


def test_a_whole_scenario_is_read_field_by_field() -> None:
    how = {"strategy": "appg", "tau1": 0.25, "tau2": 0.75, "scheduler": "eft", "tie": "index"}
    case = parse_scenario(json.dumps(scenario(**how, fill="downlink", downlink_Bps=2e7, seed=9)))
    assert case.settings == PlanSettings("appg", "eft", 0.25, 0.75, "index", "downlink")
    assert case.seed == 9
    assert case.view == View(
        layers=(Layer("fc1", 200960), Layer("fc2", 2600)),
        own_histogram=(0.5, 0.5),
        peers=(
            PeerView("w1", 12.5e6, (1.0, 0.0), (0.2, 0.1)),
            PeerView("w2", 10e6, (0.0, 1.0), (0.1, 0.4)),
        ),
        downlink_Bps=2e7,
    )


def test_what_is_left_out_takes_the_configurations_defaults() -> None:
    case = parse_scenario('{"layers": [{"name": "a", "bytes": 1}], "peers": [{"name": "w1"}]}')
    assert case.settings == PlanSettings()
    assert case.seed == 0
    prior_Bps = PullSettings().prior_bandwidth_Bps
    assert case.view == View((Layer("a", 1),), None, (PeerView("w1", prior_Bps),))


def test_histograms_left_out_count_as_uniform_and_progress_as_even() -> None:
    bare = scenario(own_histogram=[0.9, 0.1])
    del bare["peers"][0]["histogram"], bare["peers"][0]["progress"]
    full = scenario(own_histogram=[0.9, 0.1])
    full["peers"][0] |= {"histogram": [0.5, 0.5], "progress": [0.1, 0.4]}
    assert planned(bare) == planned(full)


def planned(case: dict[str, Any]) -> dict[str, Any]:
    read = parse_scenario(json.dumps(case))
    return make_strategy(read.settings).plan(read.view, Stream(read.seed, "strategy")).as_record()


def test_no_peers_is_a_scenario() -> None:
    assert planned(scenario(peers=[]))["unserved"] == ["fc1", "fc2"]


# --- how it is refused ------------------------------------------------------------------------


def edit(path: str, value: Any) -> dict[str, Any]:
    """The scenario with one field set; `path` is like "peers.0.name"."""
    case = scenario()
    *route, last = (int(step) if step.isdigit() else step for step in path.split("."))
    place: Any = case
    for step in route:
        place = place[step]
    place[last] = value
    return case


BAD_FIELDS = [
    ("peers.0.bandwidth_Bps", -1, "peers[0].bandwidth_Bps = -1: must be a number not below 0"),
    ("peers.0.bandwidth_Bps", float("nan"), "peers[0].bandwidth_Bps = NaN"),
    ("peers.1.bandwidth_Bps", float("inf"), "peers[1].bandwidth_Bps = Infinity"),
    ("peers.0.bandwidth_Bps", 10**400, "peers[0].bandwidth_Bps = 1000"),
    ("peers.0.bandwidth_Bps", True, "peers[0].bandwidth_Bps = true"),
    ("peers.0.bandwidth_Bps", "12MB", 'peers[0].bandwidth_Bps = "12MB"'),
    ("peers.0.bandwidth_Bps", None, "peers[0].bandwidth_Bps = null"),
    ("peers.0.name", "w2", 'peers: name = "w2" is used 2 times'),
    ("peers.0.name", "", "peers[0].name"),
    ("peers.0.name", 7, "peers[0].name = 7"),
    ("peers.0.name", "a\nb", r'peers[0].name = "a\nb"'),
    ("peers.0.name", "\ud800", "peers[0].name"),
    ("peers.0.name", "x" * 129, "peers[0].name"),
    ("peers.0.histogram", [1], "peers[0].histogram: has 1 classes, but own_histogram 2"),
    ("peers.0.histogram", [0.5, 0.6], "peers[0].histogram = [0.5, 0.6]: must sum to 1, not 1.1"),
    ("peers.0.histogram", [1.5, -0.5], "peers[0].histogram = [1.5, -0.5]: must be a list"),
    ("peers.0.histogram", [float("nan"), 1], "peers[0].histogram"),
    ("peers.0.histogram", [], "peers[0].histogram"),
    ("peers.0.histogram", None, "peers[0].histogram = null"),
    ("peers.0.histogram", [True, False], "peers[0].histogram"),
    ("own_histogram", [0.5, 0.25], "own_histogram = [0.5, 0.25]: must sum to 1"),
    ("own_histogram", [1.0], "peers[0].histogram: has 2 classes, but own_histogram 1"),
    ("peers.1.progress", [1], "peers[1].progress = [1]: must have one number for each of the 2"),
    ("peers.1.progress", [1, -1], "peers[1].progress"),
    ("peers.1.progress", [1, float("inf")], "peers[1].progress"),
    ("peers.1.progress", [1, "2"], "peers[1].progress"),
    ("peers.0.speed", 1, 'peers[0]."speed": unknown key; known are name, bandwidth_Bps'),
    ("peers.0", [], "peers[0] = []: must be a JSON object"),
    ("peers", {}, "peers = {}: must be a list"),
    ("layers", [], "layers: a model has at least one layer"),
    ("layers", 3, "layers = 3: must be a list"),
    ("layers.0.bytes", -1, "layers[0].bytes = -1: must be a whole number from 0"),
    ("layers.0.bytes", 1.5, "layers[0].bytes = 1.5"),
    ("layers.0.bytes", False, "layers[0].bytes = false"),
    ("layers.0.bytes", 10**13, "layers[0].bytes"),
    ("layers.1.name", "fc1", 'layers: name = "fc1" is used 2 times'),
    ("layers.1.size", 4, 'layers[1]."size": unknown key; known are name, bytes'),
    ("tau1", 1.5, "tau1 = 1.5: must be a number from 0 to 1"),
    ("tau2", -0.1, "tau2 = -0.1: must be a number from 0 to 1"),
    ("tau1", 0.7, "tau1 = 0.7, tau2 = 0.5: must sum to 1"),
    ("tau1", True, "tau1 = true"),
    ("scheduler", "best", 'scheduler = "best": must be one of list, eft'),
    ("scheduler", [], "scheduler = []: must be one of list, eft"),
    ("tie", "name", 'tie = "name": must be one of size, index'),
    ("fill", "full", 'fill = "full": must be one of paper, off, downlink'),
    ("fill", "downlink", 'downlink_Bps: must be given with fill = "downlink"'),
    ("downlink_Bps", 0, "downlink_Bps = 0: must be a number not below 1"),
    ("strategy", 3, "strategy = 3: must be a text"),
    ("seed", -1, "seed = -1: must be a whole number from 0"),
    ("seed", 1.0, "seed = 1.0"),
    ("speed", 1, '"speed": unknown key; known are strategy, tau1'),
]


@pytest.mark.parametrize(("path", "value", "complaint"), BAD_FIELDS)
def test_a_bad_field_is_named_in_one_line(path: str, value: Any, complaint: str) -> None:
    assert refusal(json.dumps(edit(path, value))).startswith(complaint)


@pytest.mark.parametrize("path", ["layers", "peers", "layers.1.bytes", "peers.0.name"])
def test_a_missing_field_is_named(path: str) -> None:
    case = scenario()
    *route, last = path.split(".")
    place: Any = case[route[0]][int(route[1])] if route else case
    del place[last]
    shown = f"{route[0]}[{route[1]}].{last}" if route else last
    assert refusal(json.dumps(case)) == f"{shown}: missing"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not JSON: Expecting value"),
        ("{", "not JSON: "),
        ("[" * 100_000, "not JSON: "),
        ('{"seed": ' + "9" * 5000 + "}", "not JSON: "),
        ("[]", "scenario = []: must be a JSON object"),
        ("null", "scenario = null: must be a JSON object"),
        ('{"seed": 1, "seed": 2}', '"seed": given 2 times in one object'),
        ('{"seed": 1e999, "layers": [{"name": "a", "bytes": 1}], "peers": []}', "seed = Infinity"),
    ],
)
def test_a_text_that_is_no_scenario_is_refused(text: str, complaint: str) -> None:
    assert refusal(text).startswith(complaint)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from(sorted({path for path, _, _ in BAD_FIELDS})), JSON)
def test_any_value_in_any_field_is_planned_or_refused(path: str, value: Any) -> None:
    """Never a traceback, and never two lines."""
    result = run("-", "--json", stdin=json.dumps(edit(path, value)))
    assert result.exit_code == 0 or isinstance(result.exception, BadInput)
    assert "\n" not in str(result.exception)


# --- the command ------------------------------------------------------------------------------


def test_json_output_is_one_object_of_the_contract(tmp_path: Path) -> None:
    path = tmp_path / "scenario.json"
    path.write_text(json.dumps(scenario(peers=scenario()["peers"][:1])))
    result = run(str(path), "--json")
    assert result.exit_code == 0
    assert json.loads(result.output) == {
        "peer_score": {"w1": 1.0},
        "layer_score": {"w1": [1.0, 1.0]},
        "floor": [1.0, 1.0],
        "efficiency": {"w1": [1.0, 1.0]},
        "assignment": {"w1": ["fc1", "fc2"]},
        "load_s": {"w1": 203560 / 12.5e6},
        "makespan_s": 203560 / 12.5e6,
        "unserved": [],
    }


def test_a_dash_reads_standard_input() -> None:
    result = run("-", "--json", stdin=json.dumps(scenario()))
    assert json.loads(result.output)["assignment"]["w2"] == ["fc2"]


def test_the_table_tells_for_every_pair_what_became_of_it() -> None:
    case = scenario(layers=[*scenario()["layers"], {"name": "relu", "bytes": 0}])
    case["peers"] = [
        {"name": "w1", "bandwidth_Bps": 12e6, "progress": [3, 1, 1]},
        {"name": "w2", "bandwidth_Bps": 12e6, "progress": [3, 1, 1]},
        {"name": "w3", "bandwidth_Bps": 12e6, "progress": [1, 3, 1]},
        {"name": "[bold]w4", "bandwidth_Bps": 0},
    ]
    output = run("-", stdin=json.dumps(case | {"fill": "off"})).output
    words = {"pulled", "masked", "not needed", "no bandwidth", "empty layer"}
    for word in words | {"[bold]w4", "12.0 MB/s"}:
        assert word in output
    assert "makespan 0.01675 s; 203.6 kB pulled of a model of 203.6 kB" in output
    filled = run("-", stdin=json.dumps(case)).output
    assert "pulled too (it fits)" in filled
    assert "404.5 kB pulled of a model of 203.6 kB" in filled


def test_the_table_names_what_nobody_serves() -> None:
    output = run("-", stdin=json.dumps(scenario(peers=[]))).output
    assert "unserved, so kept as they are: fc1, fc2" in output


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{}", "layers: missing"),
        (b"\xff\xfe\x00", "not JSON: not UTF-8 text"),
        (json.dumps(scenario(strategy="best")).encode(), "strategy = 'best': neither one of mpls"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(
    tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    path = tmp_path / "scenario.json"
    if content is not None:
        path.write_bytes(content)
    error = run(str(path)).exception
    assert isinstance(error, BadInput)
    assert error.exit_code == 2
    assert str(error).startswith(f"{path}: {complaint}")


def test_a_byte_order_mark_is_no_fault() -> None:
    result = run("-", "--json", stdin=json.dumps(scenario()).encode("utf-8-sig"))
    assert result.exit_code == 0
