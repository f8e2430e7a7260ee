"""Which recorded transfers had one of the other direction in their way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

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
