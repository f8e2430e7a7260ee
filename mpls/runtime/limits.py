"""How much of a worker's time a peer may take: with its messages, and with its mistakes in the log.

Time is an argument. Both are bounded for each peer by itself, so that none can spend what is the
others'; whoever has not said hello shares one allowance with all other strangers.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import inf

log = logging.getLogger("mpls")

BURST_S = 2.0
"""A peer that was quiet may send so many seconds' worth at once."""
REQUEST_TOKENS = 5
"""What a request costs, and whatever is no message of the protocol; credit and cancel cost 1."""
LINES_LIMIT = 10
"""Lines that the log has in a minute about one kind of refusal of one peer."""
MINUTE_S = 60.0


@dataclass(frozen=True)
class Rates:
    """Tokens a second for each peer, and for all strangers together. The defaults are 200 requests
    a second, 400 at once, and half of that."""

    peer: float = 1000.0
    strangers: float = 500.0


RATES = Rates()
ANY_RATE = Rates(peer=1e9, strangers=1e9)
"""For who measures how fast a server is."""


class Bucket:
    """Tokens to be spent; `per_s` come in a second, up to BURST_S seconds' worth, which are there
    from the start."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._most = self._tokens = per_s * BURST_S
        self._since_s = -inf

    def take(self, now: float, tokens: float = 1) -> bool:
        """Whether so many are there, which are then gone."""
        come = self._per_s * (now - self._since_s)
        self._tokens, self._since_s = min(self._most, self._tokens + come), now
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True

    def give_back(self) -> None:
        """The last one was not to be paid after all."""
        self._tokens += 1

    def charge(self, tokens: float) -> None:
        """Take more than is there, if need be."""
        self._tokens -= tokens


class Allowance:
    """What one peer may still send, and be told about that."""

    def __init__(self, per_s: float) -> None:
        self.messages = Bucket(per_s)
        self.warnings = Bucket(1 / BURST_S)


class Allowances:
    """Those of all peers, however often they connect. Before its hello, a connection spends nothing
    of those that have said theirs: it shares with all strangers, or with those of its key."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._of: dict[tuple[str, str], Allowance] = {}

    def of(self, name: str, caller: str) -> Allowance:
        """Of whoever said hello by this name, or else has the key of this worker."""
        key = (name, "" if name else caller)
        if key not in self._of:
            self._of[key] = Allowance(self._rates.peer if name else self._rates.strangers)
        return self._of[key]


@dataclass
class _Minute:
    """What the log had of one kind of refusal of one peer since `since_s`."""

    since_s: float
    lines: int = 0
    more: int = 0


class Refusals:
    """Counts what peers were refused, exactly, and writes some of it to the log."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        """By kind."""
        self._minutes: dict[tuple[str, str], _Minute] = {}

    def note(self, peer: str, kind: str, why: str, now: float) -> None:
        """One more, for a reason that is printable and short whatever the peer sent; `peer` "" is a
        stranger."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        minute = self._minutes.get((peer, kind))
        if minute is None or now - minute.since_s >= MINUTE_S:
            self._end((peer, kind))
            minute = self._minutes[peer, kind] = _Minute(now)
        if minute.lines == LINES_LIMIT:
            minute.more += 1
            return
        minute.lines += 1
        log.warning("refused (%s) %s: %s", kind, peer or "a stranger", why)

    def flush(self, now: float) -> None:
        """Tell of what was left out, once its minute is over; at `now` inf, of everything."""
        over = [of for of, minute in self._minutes.items() if now - minute.since_s >= MINUTE_S]
        for peer_and_kind in over:
            self._end(peer_and_kind)

    def _end(self, peer_and_kind: tuple[str, str]) -> None:
        minute = self._minutes.pop(peer_and_kind, None)
        if minute is not None and minute.more:
            peer, kind = peer_and_kind
            log.warning("refused (%s) %s: and %d more", kind, peer or "a stranger", minute.more)
