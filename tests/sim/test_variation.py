"""`--vary`: what each way of saying it makes of the links, and what it answers to nonsense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.config import builtin, changed
from mpls.core.links import link_rate_Bps
from mpls.errors import BadInput
from sim.variation import NONE, Drawn, Listed, Sine, Step, Wandering, parse_variation

CONFIG = changed(builtin(), {"network": {"emulate": "10-15MB"}})
RANGE = CONFIG.network.emulate
RATES = "t_s,src,dst,rate_Bps\n" + "".join(
    f"0,{a},{b},{1e6 * (1 + a)}\n" for a in range(3) for b in range(3) if a != b
)


def rate_Bps(text: str, at_s: float, found_at: Any = Path) -> float:
    """Of the link from worker 0 to worker 1."""
    return parse_variation(text, found_at).links(CONFIG)(0, 1).at(at_s)[0]


def drawn_Bps() -> float:
    assert RANGE is not None
    return link_rate_Bps(RANGE, (0, 1), CONFIG.cluster.seed)


def test_none_is_the_drawn_rate_for_ever() -> None:
    assert rate_Bps("none", 0.0) == rate_Bps("none", 1e6) == drawn_Bps()
    assert parse_variation("none") == NONE


def test_steps_are_factors_on_the_drawn_rate() -> None:
    found = [rate_Bps("step:10=0.5,30=1", at_s) for at_s in (0.0, 9.9, 10.0, 29.9, 30.0)]
    assert found == [drawn_Bps() * factor for factor in (1, 1, 0.5, 0.5, 1)]


def test_what_is_left_out_has_its_default() -> None:
    assert parse_variation("sine:swing=.3,period=60") == Drawn(
        "sine:swing=.3,period=60", Sine(0.3, 60.0, 1.0)
    )
    assert parse_variation("ar1:sd=.2") == Drawn("ar1:sd=.2", Wandering(0.2, 0.9, 1.0))


def test_a_file_has_the_rates_whatever_was_drawn(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(RATES)
    assert rate_Bps(f"file:{tmp_path / 'r.csv'}", 5.0) == 1e6
    assert rate_Bps("file:r.csv", 5.0, lambda name: tmp_path / name) == 1e6


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    variations = []
    for name, text in (("a.csv", RATES), ("b.csv", RATES), ("c.csv", RATES + "9,0,1,5\n")):
        (tmp_path / name).write_text(text)
        variations.append(parse_variation(f"file:{tmp_path / name}"))
    first, same, other = (variation.identity for variation in variations)
    assert first == same != other


def test_a_file_has_to_name_every_link_of_the_cluster(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("t_s,src,dst,rate_Bps\n0,0,1,5\n")
    with pytest.raises(BadInput, match=r"r\.csv: no rate from worker 1 to worker 0"):
        parse_variation(f"file:{tmp_path / 'r.csv'}").links(CONFIG)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no such variation"),
        ("cosine:swing=1", "no such variation"),
        ("none:1", "no such variation"),
        ("file:", "no such variation"),
        ("step", "name=number"),
        ("step:", "name=number"),
        ("step:10", "name=number"),
        ("step:10=", "name=number"),
        ("step:10=1,10=2", "name=number"),
        ("step:30=1,10=2", "must be seconds that rise"),
        ("step:-1=1", "must be seconds that rise"),
        ("step:1=0", "must be a factor above 0"),
        ("step:1=nan", "name=number"),
        ("sine:swing=.3", "period is missing"),
        ("sine:swing=2,period=1", "swing = 2 must be from 0 to 1"),
        ("sine:swing=.3,period=0", "period = 0 must be from"),
        ("sine:swing=.3,period=60,phase=1", "must be one of swing, period, step"),
        ("ar1:correlation=.9", "sd is missing"),
        ("ar1:sd=.2,correlation=1", "correlation = 1 must be from 0 to 0.999999"),
        ("ar1:sd=.2,step=inf", "name=number"),
    ],
)
def test_nonsense_is_one_line_that_shows_good_ones(text: str, named: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_variation(text)
    line = str(caught.value)
    assert named in line
    assert "good ones: step:10=0.5,30=1, sine:swing=.3,period=60" in line
    assert len(line.splitlines()) == 1


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(1e-6, 1e6)), min_size=1, max_size=8))
def test_every_rising_list_of_factors_reads_back(listed: list[tuple[int, float]]) -> None:
    factors = tuple(sorted({float(at_s): factor for at_s, factor in listed}.items()))
    text = "step:" + ",".join(f"{at_s!r}={factor!r}" for at_s, factor in factors)
    found = parse_variation(text)
    assert isinstance(found, Drawn)
    assert found.make == Step(factors)


@given(st.text(max_size=30))
def test_any_text_is_a_variation_or_bad_input(text: str) -> None:
    try:
        found = parse_variation(text, lambda _: Path("no such file"))
    except BadInput:
        return
    assert isinstance(found, (Drawn, Listed))
