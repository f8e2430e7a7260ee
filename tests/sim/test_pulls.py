"""Which recorded transfers had one of the other direction in their way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sim.compare import calibrate
from sim.compare.pulls import Pull, are_met

times = st.integers(0, 12).map(float)
pulls = st.builds(
    Pull,
    src=st.integers(0, 2),
    dst=st.integers(0, 2),
    start_s=times,
    bytes=st.just(1),
    whole=st.booleans(),
    wait_s=st.just(0.0),
    live_s=times,
)


@given(st.lists(pulls, max_size=12))
def test_a_pull_is_met_when_another_one_is_going_the_other_way_as_it_begins(
    some: list[Pull],
) -> None:
    def is_met(pull: Pull) -> bool:
        return any(
            (other.src, other.dst) == (pull.dst, pull.src)
            and other.start_s <= pull.start_s < other.start_s + other.live_s
            for other in some
        )

    assert are_met(some) == [is_met(pull) for pull in some]


def test_what_a_small_pull_waited_is_not_taken_for_a_slowdown_of_large_ones() -> None:
    """A rest of .2 MB that waited for .3 s says nothing of how long 40 MB take."""

    def pull(start_s: float, size: int, live_s: float) -> Pull:
        return Pull(0, 1, start_s, size, True, 0.0, live_s)

    large = [pull(10.0 * number, 40_000_000, 4.0) for number in range(8)]
    small = pull(90.0, 200_000, 0.3)
    slowdown = calibrate._slowdown([*large, small], lambda one: one.live_s, met=False)
    assert set(slowdown) == {1.0}
