"""Between two threads nothing is lost, doubled or reordered, and nobody sleeps through a wake-up.

Method: real threads; a poll() that must return because something was posted.
"""

from __future__ import annotations

import select
import threading

import pytest

from mpls.runtime.mailbox import Bell, Handover, Slot
from tests.runtime.rig import DEADLINE_S, Job, until


def rings(bell: Bell[int], timeout_s: float = DEADLINE_S) -> bool:
    """Whether the bell's owner would be woken within that time."""
    return bool(select.select([bell], [], [], timeout_s)[0])


@pytest.fixture
def bell():
    bell: Bell[int] = Bell()
    yield bell
    bell.close()


def test_a_slot_is_empty_until_something_is_put_and_then_holds_the_latest():
    slot: Slot[str] = Slot()
    assert slot.get() is None
    slot.put("first")
    slot.put("second")
    assert slot.get() == "second"
    assert slot.get() == "second"


def test_taking_waits_until_something_is_put():
    handover: Handover[str] = Handover()
    taker = Job("taker", handover.take)
    until(lambda: handover._changed._waiters, "the taker to wait")  # type: ignore[attr-defined]
    handover.put("update")
    assert taker.finish() == "update"
    assert not handover.waiting()


def test_taking_without_waiting_returns_at_once():
    handover: Handover[str] = Handover()
    assert handover.take(wait=False) is None
    handover.put("update")
    assert handover.waiting()
    assert handover.take(wait=False) == "update"
    assert handover.take(wait=False) is None


def test_putting_a_second_update_before_the_first_was_taken_is_impossible():
    handover: Handover[str] = Handover()
    handover.put("first")
    with pytest.raises(AssertionError, match="not taken"):
        handover.put("second")
    assert handover.take() == "first"


def test_closing_wakes_whoever_waits():
    handover: Handover[str] = Handover()
    takers = [Job(f"taker {number}", handover.take) for number in range(3)]
    until(lambda: len(handover._changed._waiters) == 3, "all to wait")  # type: ignore[attr-defined]
    handover.close()
    assert [taker.finish() for taker in takers] == [None, None, None]
    assert handover.take() is None


def test_posting_wakes_a_poll_and_the_items_come_in_order(bell):
    assert not rings(bell, 0)
    poster = Job("poster", lambda: [bell.post(number) for number in range(1000)])
    got: list[int] = []
    while len(got) < 1000:
        assert rings(bell)
        got += bell.collect()
    poster.finish()
    assert got == list(range(1000))


def test_once_collected_the_bell_is_quiet_again(bell):
    bell.post(1)
    bell.post(2)
    assert bell.collect() == [1, 2]
    assert not rings(bell, 0)
    assert bell.collect() == []


def test_items_of_several_posters_all_arrive_each_posters_in_order(bell):
    posters = [
        Job(f"poster {base}", lambda base=base: [bell.post(base + n) for n in range(2000)])
        for base in range(0, 40_000, 10_000)
    ]
    got: list[int] = []
    while len(got) < 8000:
        assert rings(bell)
        got += bell.collect()
    for poster in posters:
        poster.finish()
    for base in range(0, 40_000, 10_000):
        assert [n for n in got if base <= n < base + 10_000] == list(range(base, base + 2000))


def test_a_pipe_full_of_wake_ups_loses_no_item(bell):
    items = list(range(100_000))
    for item in items:
        bell.post(item)
    got: list[int] = []
    while len(got) < len(items):
        assert rings(bell)
        got += bell.collect()
    assert got == items
    bell.collect()
    assert not rings(bell, 0)
    bell.post(-1)
    assert rings(bell)
    assert bell.collect() == [-1]


def test_posting_to_a_closed_bell_touches_no_file_that_was_opened_since(tmp_path):
    """The number of a closed pipe is given to the next file: a late post must not write there."""
    bell: Bell[int] = Bell()
    bell.close()
    with (tmp_path / "a").open("w+b", 0) as first, (tmp_path / "b").open("w+b", 0) as second:
        bell.post(1)
        assert (first.read(), second.read()) == (b"", b"")
    assert (tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes() == b""


def test_a_thousand_updates_cross_both_mailboxes_each_taken_once():
    """The ping-pong of trainer and aggregation: asked by bell, answered by handover."""
    bell: Bell[int] = Bell()
    handover: Handover[int] = Handover()
    done = threading.Event()

    def aggregate() -> None:
        while not done.is_set():
            assert rings(bell)
            for number in bell.collect():
                handover.put(number)

    aggregation = Job("aggregation", aggregate)
    taken = []
    for number in range(1000):
        bell.post(number)
        taken.append(handover.take())
    done.set()
    bell.post(-1)
    aggregation.finish()
    bell.close()
    assert taken == list(range(1000))
