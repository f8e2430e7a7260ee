"""Local steps under way in virtual time: they may rest while a worker is frozen, and end early."""

from __future__ import annotations

from math import ceil

from sim.clock import Timer


class Stretch:
    """Local steps under way."""

    def __init__(self, steps: int, begun_s: float, seconds: float) -> None:
        self.steps = steps
        self.begun_s = begun_s
        self.seconds = seconds
        self.rested_s = 0.0
        """While frozen."""
        self.timer: Timer

    def rest(self, seconds: float) -> float:
        """Nothing was done for so long; returns when it ends now."""
        self.rested_s += seconds
        return self.begun_s + self.rested_s + self.seconds

    def shorten(self, now: float) -> float:
        """End at the next step boundary; returns when that is."""
        step_s = self.seconds / self.steps
        begun_s = self.begun_s + self.rested_s
        done = ceil((now - begun_s) / step_s) if step_s > 0 else self.steps
        self.steps = min(self.steps, max(1, done))
        self.seconds = self.steps * step_s
        return max(now, begun_s + self.seconds)
