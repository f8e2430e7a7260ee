"""The plan of chunks that both sides derive, and the server's side of a pull."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.core.protocol import Pull
from mpls.errors import ProtocolError
from mpls.wire import Outgoing
from mpls.wire.transfer import chunk_bytes, plan_chunks, quantum_bytes
from tests.wire.link import named

LEAST, MOST = 256 * 1024, 4096 * 1024
CHUNK = 64 * 1024
"""The length of a chunk when the window is the least."""


@given(
    st.lists(st.integers(1, 700_000), min_size=1, max_size=5),
    st.integers(LEAST, MOST),
    st.integers(0, 700_000),
)
def test_a_plan_covers_every_byte_once_and_in_order(
    sizes: list[int], credit: int, start: int
) -> None:
    offset = start % sizes[0]
    position = {**dict.fromkeys(named(sizes), 0), "layer0": offset}
    plans = list(plan_chunks(list(named(sizes)), sizes, offset, credit))
    for plan in plans:
        assert plan.offset == position[plan.layer]
        assert 1 <= plan.length <= chunk_bytes(credit)
        position[plan.layer] += plan.length
        assert plan.ends_layer == (position[plan.layer] == plan.total)
    assert position == named(sizes)
    assert [plan.layer for plan in plans] == sorted(plan.layer for plan in plans)
    assert [plan.ends_pull for plan in plans] == [False] * (len(plans) - 1) + [True]


@given(st.integers(LEAST, MOST))
def test_a_window_always_has_room_for_a_chunk_beside_what_is_not_given_back(credit: int) -> None:
    assert 64 * 1024 <= chunk_bytes(credit) <= 960 * 1024
    assert quantum_bytes(credit) + chunk_bytes(credit) <= credit
    assert chunk_bytes(credit) < quantum_bytes(credit)


def outgoing(sizes: list[int], **changes: Any) -> Outgoing:
    """Layers of these sizes, served from version 3 within the least window."""
    pull = Pull(1, tuple(named(sizes)), 0, 0, LEAST)
    return Outgoing(replace(pull, **changes), sizes, version=3)


def test_the_server_stops_where_the_window_ends() -> None:
    serving = outgoing([10 * CHUNK])
    assert [serving.next_chunk() is not None for _ in range(6)] == [True] * 4 + [False] * 2
    serving.grant(CHUNK - 1)
    assert serving.next_chunk() is None
    serving.grant(1)
    assert serving.next_chunk() is not None
    assert not serving.sent_all


@pytest.mark.parametrize("credit_bytes", [0, CHUNK + 1, 2**63])
def test_credit_for_more_than_is_in_flight_is_refused(credit_bytes: int) -> None:
    serving = outgoing([10 * CHUNK])
    serving.next_chunk()
    with pytest.raises(ProtocolError, match="in flight") as caught:
        serving.grant(credit_bytes)
    assert (caught.value.kind, caught.value.request_id) == ("credit", 1)
    assert serving.in_flight_bytes == CHUNK


def test_a_pull_has_succeeded_once_credit_came_back_for_its_last_byte() -> None:
    serving = outgoing([CHUNK, 10])
    assert [serving.next_chunk() is None for _ in range(3)] == [False, False, True]
    serving.grant(CHUNK + 9)
    assert serving.sent_all
    assert not serving.confirmed
    serving.grant(1)
    assert serving.confirmed


@pytest.mark.parametrize(
    ("sizes", "changes"),
    [
        ([0], {}),
        ([5, 0], {}),
        ([5], {"version": 3, "offset": 5}),
        ([5], {"version": 3, "offset": 2**63}),
    ],
)
def test_a_pull_of_nothing_is_refused(sizes: list[int], changes: dict[str, int]) -> None:
    with pytest.raises(ProtocolError, match="pull 1: ") as caught:
        outgoing(sizes, **changes)
    assert caught.value.request_id == 1


@pytest.mark.parametrize(("version", "begins_at"), [(3, 40), (2, 0), (0, 0)])
def test_only_the_version_asked_for_is_resumed(version: int, begins_at: int) -> None:
    plan = outgoing([100], version=version, offset=40).next_chunk()
    assert plan is not None
    assert (plan.offset, plan.length) == (begins_at, 100 - begins_at)
