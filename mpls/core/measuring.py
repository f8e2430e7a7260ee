"""What an attempt says about the bandwidth: measured times first, a server's claims last.

The driver tells when the first chunk of a pull is here, then how far it has come every now and
then, and when each layer is whole: the marks. Between two marks bytes and time are known exactly.
Before the first mark the round trip (measured) and the server's own wait (claimed) are no part of
the transfer; where most bytes came later, that stretch is left out altogether. A claim counts for
half of it at most, so that a server can seem twice as fast as it is, and only with short pulls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

from mpls.core.bandwidth import WINDOW_S, Stretch
from mpls.core.beliefs import Beliefs
from mpls.core.effects import Outcome
from mpls.core.peers import Peer
from mpls.core.protocol import Pull

LEAST_SHARE = 0.1
"""At least this much of the time to the first mark is transfer, whatever the round trip is: else
bytes that came within one took no time."""
CLAIM_SHARE = 0.5
"""At most this much of the time to the first mark, less the round trip, is the server's wait."""
FADED = frozenset({"stalled", "disconnected"})
"""An attempt that ended so has a last mark that is later than its bytes."""


def measure_pull(worker: Beliefs, peer: Peer, ask: Pull, outcome: Outcome) -> None:
    """Learn from one attempt of a pull."""
    for stretch in stretches(ask, outcome, worker.layer_bytes, peer.round_trip_s()):
        _observe(worker, peer, stretch, outcome.sharers)
    if outcome.reason == "stalled":
        peer.bandwidth.doubt()


def measure_probe(worker: Beliefs, peer: Peer, outcome: Outcome) -> float:
    """Learn from a probe; returns its own bytes per second, 0 if it brought nothing."""
    if outcome.received_bytes <= 0:
        return 0.0
    start_s = _transfer_start_s(outcome, outcome.last_byte_s, peer.round_trip_s(), 0.0)
    stretch = Stretch(start_s, outcome.last_byte_s, outcome.received_bytes)
    _observe(worker, peer, stretch, outcome.sharers)
    seconds = _seconds(stretch)
    return stretch.bytes / seconds if seconds > 0 else float(stretch.bytes)


def stretches(
    ask: Pull, outcome: Outcome, layer_bytes: Mapping[str, int], round_trip_s: float
) -> list[Stretch]:
    """What is known of an attempt's bytes, in order of time."""
    resumed_bytes = ask.offset if outcome.version in (0, ask.version) else 0
    marks = _rising(_marks(ask, outcome, layer_bytes), resumed_bytes)
    if not marks:
        return []
    first_s, first_bytes = marks[0]
    wait_s = outcome.layers[0].wait_s if outcome.layers else 0.0
    start_s = _transfer_start_s(outcome, first_s, round_trip_s, wait_s)
    first = Stretch(start_s, first_s, first_bytes - resumed_bytes)
    later = [Stretch(a_s, b_s, b - a) for (a_s, a), (b_s, b) in pairwise(marks)]
    if outcome.reason in FADED:
        later = later[:-1]
    later_bytes = sum(stretch.bytes for stretch in later)
    return _joined(later if later_bytes >= first.bytes else [first, *later])


def _transfer_start_s(
    outcome: Outcome, first_s: float, round_trip_s: float, wait_s: float
) -> float:
    """When the first byte left, as far as it is known."""
    until_first_s = first_s - outcome.start_s
    delay_s = min(round_trip_s, (1 - LEAST_SHARE) * until_first_s)
    return outcome.start_s + delay_s + min(wait_s, CLAIM_SHARE * (until_first_s - delay_s))


def _marks(
    ask: Pull, outcome: Outcome, layer_bytes: Mapping[str, int]
) -> Iterator[tuple[float, int]]:
    """When which position in the asked layers, laid end to end, was reached."""
    yield from outcome.marks
    ends, position = {}, 0
    for layer in ask.layers:
        position += layer_bytes[layer]
        ends[layer] = position
    for came, arrived_s in zip(outcome.layers, outcome.arrivals_s):
        yield arrived_s, ends[came.layer]


def _rising(marks: Iterator[tuple[float, int]], position: int) -> list[tuple[float, int]]:
    """In order of time, without those that bring nothing new."""
    rising: list[tuple[float, int]] = []
    for mark in sorted(marks):
        if mark[1] > position:
            rising.append(mark)
            position = mark[1]
    return rising


def _joined(stretches: list[Stretch]) -> list[Stretch]:
    """So that each lasts WINDOW_S, if they do together: of a shorter one the ends are too blurred,
    since a report may come a chunk after its bytes."""
    joined: list[Stretch] = []
    over_s = stretches[-1].end_s if stretches else 0.0
    begun_s, ended_s, moved_bytes = 0.0, 0.0, 0
    for start_s, end_s, size in stretches:
        if joined and min(ended_s - begun_s, over_s - start_s) < WINDOW_S:
            joined.pop()
        else:
            begun_s, moved_bytes = start_s, 0
        ended_s, moved_bytes = end_s, moved_bytes + size
        joined.append(Stretch(begun_s, ended_s, moved_bytes))
    return joined


def _seconds(stretch: Stretch) -> float:
    return stretch.end_s - stretch.start_s


def _observe(worker: Beliefs, peer: Peer, stretch: Stretch, sharers: int) -> None:
    peer.bandwidth.observe(stretch.start_s, stretch.end_s, stretch.bytes, sharers)
    worker.came.append(stretch)
