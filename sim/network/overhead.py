"""What a real link takes off its rate and adds to its times (design: twin-facts, B4).

The round trip of a request is the driver's; here are header bytes, the shaper's token bucket and
TCP's slow start.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Overhead:
    """The defaults describe a Linux link shaped by `tc`, as `make twin-check` builds it."""

    payload_share: float = 0.956
    """Of a shaped rate, what is left for payload: 1,448 of a frame's 1,514 bytes."""
    burst_bytes: float = 5_000.0
    """Token bucket of each pipe: passes at once after idleness, refills at the pipe's rate."""
    round_trip_s: float = 1e-4
    """For slow start only."""
    window_bytes: float = 14_480.0
    """TCP's initial window, ten segments."""
    cold_after_s: float = 0.2
    """A connection that was idle for longer begins with the initial window again (its RTO)."""

    @staticmethod
    def none() -> Overhead:
        """Links carry payload alone, at their full rate from the first byte on."""
        return Overhead(payload_share=1.0, burst_bytes=0.0, round_trip_s=0.0)

    def slow_start_s(self, rate_Bps: float, total_bytes: float) -> float:
        """By how much a cold connection is late that could move at this rate: k round trips less
        the time that the bytes sent in them would have taken, where k round trips open the window
        to rate times round trip, or see the last byte sent. 0 where the initial window suffices."""
        late_s, window_bytes, left_bytes = 0.0, self.window_bytes, total_bytes
        while window_bytes < min(rate_Bps * self.round_trip_s, left_bytes):
            late_s += self.round_trip_s - window_bytes / rate_Bps
            left_bytes -= window_bytes
            window_bytes *= 2.0
        return late_s
