"""What a peer may send is counted out in tokens, and what the log has of its mistakes in lines."""

from __future__ import annotations

import logging
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.runtime.limits import BURST_S, LINES_LIMIT, MINUTE_S, Bucket, Refusals

PAUSES = st.lists(st.floats(0.0, 2.0), min_size=1, max_size=200)


@given(PAUSES, st.floats(0.5, 50.0))
def test_never_is_more_taken_than_a_burst_and_what_came_since(pauses_s, per_s):
    bucket, now, taken = Bucket(per_s), 0.0, 0
    for pause_s in pauses_s:
        now += pause_s
        taken += bucket.take(now)
        assert taken <= per_s * (BURST_S + now) + 1e-6


@given(PAUSES)
def test_whoever_sends_no_faster_than_its_tokens_come_is_never_refused(pauses_s):
    bucket, now = Bucket(10.0), 5.0
    for pause_s in pauses_s:
        now += max(pause_s, 0.1001)
        assert bucket.take(now)


def test_a_quiet_peer_gathers_a_burst_and_no_more():
    bucket = Bucket(5.0)
    assert [bucket.take(1000.0) for _ in range(12)] == [True] * 10 + [False] * 2


def test_what_was_given_back_can_be_taken_again_and_what_was_charged_has_to_come_in_first():
    bucket = Bucket(1.0)
    assert bucket.take(0.0, 2)
    bucket.give_back()
    assert bucket.take(0.0)
    bucket.charge(3)
    assert not bucket.take(3.9)
    assert bucket.take(4.0)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="mpls")
    return caplog


def test_row_61_ten_lines_a_minute_are_logged_then_how_many_more_and_the_counters_are_exact(lines):
    refusals = Refusals()
    for number in range(1000):
        refusals.note("w1", "value", f"number {number}", now=number * 0.01)
    assert lines.messages == [f"refused (value) w1: number {n}" for n in range(LINES_LIMIT)]
    lines.clear()
    refusals.note("w1", "value", "later", now=MINUTE_S)
    assert lines.messages == ["refused (value) w1: and 990 more", "refused (value) w1: later"]
    assert refusals.counts == {"value": 1001}


def test_row_61_each_peer_and_each_kind_has_lines_of_its_own(lines):
    refusals = Refusals()
    for _ in range(LINES_LIMIT + 5):
        for peer, kind in (("w1", "value"), ("w1", "keys"), ("w2", "value"), ("", "value")):
            refusals.note(peer, kind, "no", now=0.0)
    assert len(lines.messages) == 4 * LINES_LIMIT
    assert "refused (value) a stranger: no" in lines.messages
    assert refusals.counts == {"value": 3 * (LINES_LIMIT + 5), "keys": LINES_LIMIT + 5}


def test_row_61_what_was_left_out_is_told_when_its_minute_or_the_run_is_over(lines):
    refusals = Refusals()
    for _ in range(LINES_LIMIT + 3):
        refusals.note("w1", "value", "no", now=0.0)
    lines.clear()
    refusals.flush(MINUTE_S - 1)
    assert lines.messages == []
    refusals.flush(inf)
    refusals.flush(inf)
    assert lines.messages == ["refused (value) w1: and 3 more"]


def test_row_61_a_minute_that_left_nothing_out_ends_without_a_line_and_strangers_are_named(lines):
    refusals = Refusals()
    refusals.note("w1", "value", "no", now=0.0)
    for _ in range(LINES_LIMIT + 1):
        refusals.note("", "keys", "no", now=0.0)
    lines.clear()
    refusals.flush(inf)
    assert lines.messages == ["refused (keys) a stranger: and 1 more"]
