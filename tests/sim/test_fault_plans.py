"""`--faults`: listed, or drawn for each point."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpls.config import builtin, changed
from mpls.errors import BadInput
from sim.fault_plans import NO_FAULTS, parse_faults
from sim.faults import Fault

CONFIG = builtin()
OTHER = changed(CONFIG, {"cluster": {"seed": 2}})
CRASH = '[[fault]]\nat_s = 0.2\nkind = "crash"\nworker = 1\n'


def test_a_file_says_the_same_for_every_point(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(CRASH)
    plan = parse_faults(str(tmp_path / "f.toml"))
    assert plan.faults(CONFIG, 9.0) == plan.faults(OTHER, 5.0) == (Fault(0.2, "crash", 1),)


def test_a_files_worker_has_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(CRASH.replace("worker = 1", "worker = 3"))
    with pytest.raises(BadInput, match=r"f\.toml: \[\[fault\]\] number 1: 3: .* 0 to 2$"):
        parse_faults(str(tmp_path / "f.toml")).faults(CONFIG, 9.0)


def test_a_files_link_has_to_be_there(tmp_path: Path) -> None:
    text = '[[fault]]\nat_s = 1\nkind = "cut"\nlink = [0, 2]\nfor_s = 1\n'
    (tmp_path / "f.toml").write_text(text)
    star = changed(CONFIG, {"cluster": {"topology": "star"}})
    plan = parse_faults(str(tmp_path / "f.toml"))
    assert len(plan.faults(star, 9.0)) == 1
    listed = [{"id": i, "address": "127.0.0.1:0", "peers": [1 if i != 1 else 0]} for i in range(3)]
    chain = changed(CONFIG, {"cluster": {"topology": "listed"}, "workers": listed})
    with pytest.raises(BadInput, match=r"\[0, 2\]: is no link of the cluster"):
        plan.faults(chain, 9.0)


def test_seeded_faults_are_those_of_the_points_seed() -> None:
    plan = parse_faults("seeded")
    assert plan.faults(CONFIG, 9.0) == parse_faults("seed=1").faults(OTHER, 9.0)
    assert plan.faults(CONFIG, 9.0) != plan.faults(OTHER, 9.0)


def test_drawn_faults_begin_within_the_run_or_what_was_asked_for() -> None:
    of_the_run = parse_faults("seed=7").faults(CONFIG, 50.0)
    asked = parse_faults("seed=7,within=5").faults(CONFIG, 50.0)
    assert 5.0 < max(fault.at_s for fault in of_the_run) < 50.0
    assert 0.0 < max(fault.at_s for fault in asked) < 5.0


def test_without_a_plan_nothing_goes_wrong() -> None:
    assert NO_FAULTS.faults(CONFIG, 9.0) == ()


def test_one_worker_has_no_link_to_befall() -> None:
    alone = changed(CONFIG, {"workers": [{"id": 0, "address": "127.0.0.1:0"}]})
    with pytest.raises(BadInput, match="needs a cluster with a link"):
        parse_faults("seeded").faults(alone, 9.0)


@pytest.mark.parametrize("text", ["", "seed=", "seed=x", "seed=-1", "seeded,within=0", "no.toml"])
def test_nonsense_is_one_line_that_shows_good_ones(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_faults(text)
    assert "good ones: faults.toml, seeded, seed=7" in str(caught.value)
