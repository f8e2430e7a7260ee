"""How fast is the link from a peer? Learned from real pulls, never from packet gaps.

Bytes of all pulls of a peer are divided by the union of the time in which they were under way, in
windows of at least WINDOW_BYTES or WINDOW_S; a smaller window keeps the old value, because one
short pull after idle reads what the buffers swallowed, not the link. What is no transfer is taken
out before (`measuring.py`, docs/decisions/004).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum, inf, sqrt
from typing import Any, NamedTuple

WINDOW_BYTES = 1_000_000
WINDOW_S = 0.5
GAIN = 0.3
"""Weight of a new window while it agrees with the old value."""
JUMP = 0.25
"""A window further off than this share, and than three deviations, replaces the value at once; the
second of two that are off to the same side does so however large the deviation was."""
CAUTION = 4
"""A link may be so many times slower than it is believed to be."""
DOUBTED_Bps = 20_000.0
"""Doubt ends here: the smallest chunk there is would take three seconds."""
SPANS = 8
"""So many busy times are remembered: pulls are told when they end, so none meets older ones."""


class Stretch(NamedTuple):
    """So many bytes came in this time."""

    start_s: float
    end_s: float
    bytes: int


class BandwidthEstimator:
    """One peer's bandwidth, its variance and its age."""

    def __init__(self, prior_Bps: float) -> None:
        self.value_Bps = prior_Bps
        self.variance = (prior_Bps / 2) ** 2
        self.measured_s: float | None = None
        """When the last window closed; None while only the prior is known."""
        self.sharers = 1.0
        """How many pulls, on average, shared the card during the last window."""
        self._off_Bps: float | None = None
        """The last window, if it was off by more than JUMP and did not replace the value."""
        self._bytes = 0
        self._busy_s = 0.0
        self._sharer_seconds = 0.0
        self._spans: list[tuple[float, float]] = []
        """The latest times in which anything was under way; no two of them touch."""
        self._latest_s = -inf
        """The end of the latest of them."""

    def observe(self, start_s: float, end_s: float, received_bytes: int, sharers: int = 1) -> None:
        """`received_bytes` came between the two times, beside `sharers - 1` other pulls."""
        self.observe_all([Stretch(start_s, end_s, received_bytes)], sharers)

    def observe_all(self, stretches: Sequence[Stretch], sharers: int = 1) -> None:
        """All this came side by side: no window ends before the last of it."""
        for stretch in stretches:
            fresh_s = self._fresh_s(stretch.start_s, stretch.end_s)
            self._bytes += stretch.bytes
            self._busy_s += fresh_s
            self._sharer_seconds += fresh_s * sharers
        if self._busy_s > 0 and (self._bytes >= WINDOW_BYTES or self._busy_s >= WINDOW_S):
            self._close_window(max(stretch.end_s for stretch in stretches))

    def doubt(self) -> None:
        """Nothing came for so long that the link may be slower than believed: a quarter of the
        value, on which deadlines counted at least, until a window says better. (A silent link
        brings no bytes to measure it by.)"""
        if self.value_Bps > DOUBTED_Bps:
            self._begin_anew(max(DOUBTED_Bps, self.value_Bps / CAUTION))

    def cautious_Bps(self) -> float:
        """Two deviations below the value, but never less than a quarter of it: what deadlines
        count on."""
        return max(self.value_Bps - 2 * sqrt(self.variance), self.value_Bps / CAUTION)

    def age_s(self, now: float) -> float:
        """Since the last window; infinite while nothing was measured."""
        return float("inf") if self.measured_s is None else now - self.measured_s

    def memory(self) -> dict[str, Any]:
        """What `restore` takes, as JSON knows it; the window that is open is not part of it."""
        return {
            "value_Bps": self.value_Bps,
            "variance": self.variance,
            "measured": self.measured_s is not None,
            "sharers": self.sharers,
            "off_Bps": self._off_Bps,
        }

    def restore(self, memory: Mapping[str, Any], now: float = 0.0) -> None:
        """Believe what was believed before a restart, as if measured when this life began."""
        self.value_Bps, self.variance = memory["value_Bps"], memory["variance"]
        self.measured_s = now if memory["measured"] else None
        self.sharers, self._off_Bps = memory["sharers"], memory["off_Bps"]

    def _fresh_s(self, start_s: float, end_s: float) -> float:
        """How much of this time is not in the union yet; now it is."""
        if self._spans and self._spans[-1][0] <= start_s and self._spans[-1][1] == self._latest_s:
            return self._appended_s(start_s, end_s)
        self._latest_s = max(self._latest_s, end_s)
        met = [span for span in self._spans if span[0] <= end_s and start_s <= span[1]]
        apart = [span for span in self._spans if span not in met]
        known_s = fsum(min(end, end_s) - max(start, start_s) for start, end in met)
        starts_s, ends_s = zip((start_s, end_s), *met)
        self._spans = [*apart[1 - SPANS :], (min(starts_s), max(ends_s))]
        return max(0.0, end_s - start_s - known_s)

    def _appended_s(self, start_s: float, end_s: float) -> float:
        """The same for a time that begins within the last span or after all: most do."""
        first_s, last_s = self._spans[-1]
        self._latest_s = max(last_s, end_s)
        if start_s > last_s:
            self._spans = [*self._spans[1 - SPANS :], (start_s, end_s)]
            return end_s - start_s
        self._spans[-1] = (first_s, self._latest_s)
        return max(0.0, end_s - start_s - (min(last_s, end_s) - start_s))

    def _close_window(self, now: float) -> None:
        window_Bps = self._bytes / self._busy_s
        self._learn(window_Bps)
        self.sharers = self._sharer_seconds / self._busy_s
        self.measured_s = now
        self._bytes, self._busy_s, self._sharer_seconds = 0, 0.0, 0.0

    def _learn(self, window_Bps: float) -> None:
        error = window_Bps - self.value_Bps
        off = abs(error) > JUMP * self.value_Bps
        if self.measured_s is None or (off and abs(error) > 3 * sqrt(self.variance)):
            self._begin_anew(window_Bps)
        elif off and self._off_Bps is not None and (self._off_Bps > self.value_Bps) == (error > 0):
            self._begin_anew((self._off_Bps + window_Bps) / 2)
        else:
            self.value_Bps += GAIN * error
            self.variance = (1 - GAIN) * (self.variance + GAIN * error * error)
            self._off_Bps = window_Bps if off else None

    def _begin_anew(self, value_Bps: float) -> None:
        self.value_Bps = value_Bps
        self.variance = (0.1 * value_Bps) ** 2
        self._off_Bps = None
