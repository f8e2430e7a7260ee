"""Virtual time: SimPy's event queue, used with absolute times.

Everything in the twin happens in a callback of this clock. Times are given as "at", not "after":
`now + (when - now)` need not be `when` in floating point, and a simulated pull has to end at the
very moment that its equation says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf, nextafter

import simpy
from simpy.events import NORMAL, Event


class Timer(Event):
    """A call that is due; `cancel` makes it do nothing."""

    # Millions are made, and `Clock.run` calls them: what SimPy itself would keep in each is not.
    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Never call."""
        self._call = None


class Clock:
    """Seconds since the simulation began, and what is due when."""

    def __init__(self) -> None:
        self._env = simpy.Environment(initial_time=0.0)

    @property
    def now(self) -> float:
        """In seconds."""
        return self._env._now

    def at(self, when_s: float, call: Callable[[], None]) -> Timer:
        """Call at that time; calls for the same time are made in the order of their asking."""
        env = self._env
        assert when_s >= env._now, f"{when_s} is past, it is {env._now}"
        timer = Timer(call)
        # SimPy itself schedules by delay only; its queue has (time, priority, count, event).
        heappush(env._queue, (when_s, NORMAL, next(env._eid), timer))
        return timer

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Until nothing is due any more, or until that is true."""
        env, queue = self._env, self._env._queue
        while queue and not (until is not None and until()):
            # What SimPy's own step does with an event that cannot fail and that nobody waits for.
            env._now, _, _, timer = heappop(queue)
            call, timer._call = timer._call, None  # type: ignore[attr-defined]
            if call is not None:
                call()


@dataclass
class HostClocks:
    """What the clocks of a worker's host show. Decisions see the monotonic one only."""

    zero_s: float = 0.0
    """When the monotonic clock showed 0, in virtual time; another one after a reboot."""
    wall_off_s: float = 0.0
    """How far the wall clock is off; it may jump."""

    def virtual_s(self, own_s: float) -> float:
        """When the monotonic clock shows that, at the earliest."""
        due_s = own_s + self.zero_s
        while due_s - self.zero_s < own_s:  # the sum was rounded
            due_s = nextafter(due_s, inf)
        return due_s
