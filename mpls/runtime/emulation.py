"""Paced sending: a laptop's loopback behaves like the servers' links.

A link is busy for bytes / rate with each message that it carries, and the message leaves when the
last of its bytes would have: so a pull arrives when it would have arrived over the real link. The
link's clock runs on exact times, not on when the sender woke up, so that lateness does not add up.
"""

from __future__ import annotations

from collections.abc import Mapping


class PacedLink:
    """One direction of a link, or a card that several links share."""

    def __init__(self, rate_Bps: float) -> None:
        self._rate_Bps = rate_Bps
        self._free_s = float("-inf")

    def start_s(self, now: float) -> float:
        """When the next message would begin."""
        return max(now, self._free_s)

    def carry(self, now: float, message_bytes: int) -> float:
        """Put a message on the link; returns when its last byte has left."""
        self._free_s = self.start_s(now) + message_bytes / self._rate_Bps
        return self._free_s


class Pacing:
    """All that one worker sends: a link to each destination and, where given, its card."""

    def __init__(self, link_rates_Bps: dict[str, float], card_Bps: float | None) -> None:
        self._links = {peer: PacedLink(rate_Bps) for peer, rate_Bps in link_rates_Bps.items()}
        self._card = PacedLink(card_Bps) if card_Bps else None

    def add(self, link_rates_Bps: Mapping[str, float]) -> None:
        """Links to further destinations; those that are there go on as they are."""
        for peer, rate_Bps in link_rates_Bps.items():
            self._links.setdefault(peer, PacedLink(rate_Bps))

    def carry(self, peer: str, now: float, message_bytes: int) -> tuple[float, float]:
        """When a message to the peer begins and when it has left. A peer without a paced link is
        reached as fast as it goes."""
        parts = [part for part in (self._links.get(peer), self._card) if part is not None]
        begins_s = max([now, *(part.start_s(now) for part in parts)])
        leaves_s = max([now, *(part.carry(begins_s, message_bytes) for part in parts)])
        return begins_s, leaves_s
