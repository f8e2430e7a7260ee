"""The service manager's watchdog, fed by progress and by nothing else.

It is fed when each thread that has something to do got somewhere since the last time: training did
a local step or a batch of an evaluation, and the network loop a turn. A thread that waits for what
another one brings, or has done all it had to, has nothing to do; the other one has.
"""

from __future__ import annotations

from mpls.runtime.health import STUCK_STEPS, Pulse
from mpls.runtime.notify import Notifier

FIRST_PASS_S = 300.0
"""Before the first pass is over nobody knows how long a step takes, and the very first one may load
libraries; so long it may take."""
CHANGE = 1.25
"""The manager is told of another patience when it differs by this factor."""


class Watchdog:
    """Looked after by the thread that supervises the others."""

    def __init__(self, notifier: Notifier, pulse: Pulse) -> None:
        self._notifier = notifier
        self._pulse = pulse
        self._seen: dict[str, int] = {}
        self._patience_s = notifier.watchdog_s

    def look(self, step_s: float) -> None:
        """Feed it, if all got on. `step_s` is how long a local step takes, 0 if nobody knows: as
        for `Health`, twenty steps are no reason to be taken for stuck."""
        if not self._notifier.watchdog_s:
            return
        self._adapt(STUCK_STEPS * step_s if step_s else FIRST_PASS_S)
        turns = self._pulse.turns()
        if all(count > self._seen.get(thread, 0) for thread, count in turns.items()):
            self._seen.update(turns)
            self._notifier.alive()

    def _adapt(self, wanted_s: float) -> None:
        wanted_s = max(self._notifier.watchdog_s, wanted_s)
        far = not 1 / CHANGE <= wanted_s / self._patience_s <= CHANGE
        if far and self._notifier.be_patient(wanted_s):
            self._patience_s = wanted_s
