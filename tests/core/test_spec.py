"""What a worker's decisions depend on survives the trip through the trace's header."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.core.plan import Layer
from mpls.core.settings import PaceSettings, PlanSettings, PullSettings
from mpls.core.spec import WorkerSpec

NAMES = st.text(max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VECTORS = st.lists(NUMBERS, max_size=4).map(tuple)
SPECS = st.builds(
    WorkerSpec,
    name=NAMES,
    peers=st.lists(NAMES, max_size=3).map(tuple),
    layers=st.lists(st.builds(Layer), max_size=3).map(tuple),
    histogram=VECTORS,
    plan=st.builds(PlanSettings, tau1=NUMBERS, tau2=NUMBERS, interval_s=NUMBERS),
    pull=st.builds(PullSettings, prior_bandwidth_Bps=NUMBERS, round_s=NUMBERS),
    pace=st.builds(PaceSettings, rounds=st.integers(), pace=NAMES),
)
SPEC = WorkerSpec("w0", 1, ("w1",), (Layer("fc", 80),), "m", (0.5, 0.5), 100)


@given(SPECS)
def test_a_spec_survives_being_written_as_json(spec: WorkerSpec) -> None:
    assert WorkerSpec.from_plain(json.loads(json.dumps(spec.as_plain()))) == spec


def test_the_plain_form_has_every_field() -> None:
    assert set(SPEC.as_plain()) == {field.name for field in dataclasses.fields(WorkerSpec)}


@pytest.mark.parametrize("key", sorted(SPEC.as_plain()))
def test_a_spec_without_one_of_its_fields_is_refused(key: str) -> None:
    plain = SPEC.as_plain()
    del plain[key]
    with pytest.raises(KeyError, match=key):
        WorkerSpec.from_plain(plain)


@pytest.mark.parametrize("table", ["plan", "pull", "pace"])
def test_a_setting_that_nobody_knows_is_refused(table: str) -> None:
    plain = SPEC.as_plain()
    plain[table]["patience"] = 1
    with pytest.raises(TypeError, match="patience"):
        WorkerSpec.from_plain(plain)
