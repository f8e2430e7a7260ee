"""How a worker is: what a supervisor, a monitoring system and `mpls status` are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import Any

from mpls.core.peers import Peer
from mpls.core.serving import Condition
from mpls.runtime.journal import Clock
from mpls.runtime.keeper import Keeper

STUCK_S = 60.0
"""A thread without a sign of life for this long is stuck; training, also twenty of its steps."""
STUCK_STEPS = 20


class Pulse:
    """When each thread last got somewhere. Each beats for itself; anybody reads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._latest_s: dict[str, float] = {}
        self._beats: dict[str, int] = {}

    def beat(self, thread: str) -> None:
        """It just did."""
        self._beats[thread] = self._beats.get(thread, 0) + 1
        self._latest_s[thread] = self._clock.now()

    def end(self, thread: str) -> None:
        """It has nothing to do, for good or until it beats again."""
        self._latest_s.pop(thread, None)

    def forgive(self) -> None:
        """The whole process stood still, frozen or starved: nobody in it is to blame."""
        for thread in list(self._latest_s):
            self._latest_s[thread] = self._clock.now()

    def turns(self) -> dict[str, int]:
        """Of each thread that has something to do: how often it ever got somewhere."""
        return {thread: self._beats[thread] for thread in list(self._latest_s)}

    def ages_s(self) -> dict[str, float]:
        """Of each thread that lives, since its last beat."""
        now = self._clock.now()
        return {thread: now - latest_s for thread, latest_s in dict(self._latest_s).items()}


class Health:
    """Reads what the threads leave for others, from any thread."""

    def __init__(
        self,
        name: str,
        rounds: int,
        pulse: Pulse,
        condition: Callable[[], Condition],
        peers: Callable[[], Iterable[Peer]],
        keeper: Keeper,
        clock: Clock,
    ) -> None:
        self._name = name
        self._rounds = rounds
        self._pulse = pulse
        self._condition = condition
        self._peers = peers
        self._keeper = keeper
        self._clock = clock
        self.failure = ""
        """Why the worker is about to end, if it is."""
        self.shortages: list[str] = []
        """What the worker has hardly any of."""

    def stuck(self) -> str:
        """Which thread got nowhere for how long; empty while all do."""
        step_s = self._condition().step_s
        # Before its first pass is over nobody knows how long a step takes.
        steps_s = max(STUCK_S, STUCK_STEPS * step_s) if step_s else inf
        for thread, age_s in self._pulse.ages_s().items():
            if age_s > (steps_s if thread == "training" else STUCK_S):
                return f"{thread}: stuck for {age_s:.0f} s"
        return ""

    def line(self, accuracy: float) -> str:
        """How it is, for people. `accuracy` is that of the last evaluation; below 0 there was
        none."""
        found = self.report()
        ready = sum(standing == "ready" for standing in found["peers"].values())
        learned = [f"accuracy {accuracy:.3f}"] if accuracy >= 0 else []
        parts = [
            f"{found['state']}: round {found['round']} of {found['rounds']}",
            *learned,
            f"{ready} of {len(found['peers'])} peers ready",
            *(trouble for trouble in found["troubles"] if not trouble.startswith("peer ")),
        ]
        return ", ".join(parts)

    def report(self) -> dict[str, Any]:
        """As JSON knows it. `healthy` is false when somebody should start the worker again;
        `troubles` names all that is not as it should be."""
        condition, wrong = self._condition(), self.failure or self.stuck()
        peers = {peer.name: peer.standing for peer in self._peers()}
        out = [
            f"peer {name}: {standing}" for name, standing in peers.items() if standing != "ready"
        ]
        unsaved = [f"checkpoint: {self._keeper.trouble}"] if self._keeper.trouble else []
        return {
            "worker": self._name,
            "healthy": not wrong,
            "state": "failed" if self.failure else condition.state,
            "round": condition.round,
            "rounds": self._rounds,
            "step_s": condition.step_s,
            "checkpoint_round": self._keeper.saved_round,
            "peers": peers,
            "ages_s": {thread: round(age, 3) for thread, age in self._pulse.ages_s().items()},
            "up_s": round(self._clock.now(), 3),
            "troubles": [*([wrong] if wrong else []), *unsaved, *self.shortages, *out],
        }
