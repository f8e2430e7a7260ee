"""Hanging up on connections that go on sending beyond their allowance.

Not to read them for a while would be simpler. But what libzmq then holds back ends the process, if
such a connection ends while a heartbeat is due (libzmq 4.3.5, its issues 4364 and 4841). So queues
have no limit (`runtime.sockets`), everything is read at once, and who fills a queue is put out.
"""

from __future__ import annotations

import zmq

from mpls.runtime.zap import Session

EXCESS_MESSAGES = 100
"""Beyond its allowance a connection has so many."""
ROUTES_LIMIT = 1024
"""Connections that are remembered; of more, the oldest may be hung up on a second time."""


class Floods:
    """The connections that sent too much, by ZeroMQ's routing id, which no other ever has."""

    def __init__(self) -> None:
        self._excess: dict[bytes, int] = {}
        self._sessions: dict[bytes, Session] = {}

    def note(self, first_frame: zmq.Frame) -> None:
        """One message too many came, with this routing id."""
        route = first_frame.bytes
        excess = self._excess[route] = self._excess.get(route, 0) + 1
        if excess == 1:
            # Later the descriptor's number may mean another connection.
            self._sessions[route] = Session.of(first_frame)
            self._forget_the_oldest()
        elif excess == EXCESS_MESSAGES:
            self._sessions.pop(route).hang_up()

    def _forget_the_oldest(self) -> None:
        if len(self._excess) > ROUTES_LIMIT:
            oldest = next(iter(self._excess))
            del self._excess[oldest]
            self._sessions.pop(oldest, None)
