"""What the Conductor keeps of a running story and of a request in flight."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mpls.core import messages, protocol
from mpls.core.effects import Publish, Request, Sleep, Story

_ANSWERS = {protocol.Hello: protocol.Welcome, protocol.Status: protocol.StatusOk}
_MOVERS = frozenset({protocol.Pull, protocol.Probe})


class Task:
    """A running story and what it waits for."""

    __slots__ = ("group", "index", "stopped", "story", "wait", "waiting_for")

    def __init__(self, story: Story, group: Group | None = None, index: int = 0) -> None:
        self.story = story
        self.group = group
        self.index = index
        self.stopped = ""
        """Why its requests end at once from now on: "", "timed-out" or "cancelled"."""
        self.wait = 0
        """Number of the current wait; a timer or event of an earlier wait finds it changed."""
        self.waiting_for: Sleep | Attempt | Group | Publish | None = None


@dataclass
class Group:
    """The children of one Gather."""

    parent: Task
    children: list[Task] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    running: int = 0


class Attempt:
    """One request in flight."""

    __slots__ = (
        "arrivals_s",
        "ended",
        "last_byte_s",
        "layers",
        "marks",
        "moves_bytes",
        "received_bytes",
        "refused",
        "request",
        "request_id",
        "sharers",
        "start_s",
        "task",
        "version",
    )

    def __init__(self, request_id: int, task: Task, request: Request, now: float) -> None:
        self.request_id = request_id
        self.task = task
        self.request = request
        self.moves_bytes = type(request.ask) in _MOVERS
        """Whether it can stall."""
        self.start_s = self.last_byte_s = now
        self.received_bytes = 0
        self.version = 0
        self.sharers = 1
        self.marks: list[tuple[float, int]] = []
        self.layers: list[messages.LayerReceived] = []
        self.arrivals_s: list[float] = []
        self.refused: list[messages.LayerRefused] = []
        self.ended: set[str] = set()
        """The names of both."""

    def objection(self, reply: protocol.Welcome | protocol.StatusOk | protocol.Error) -> str:
        """Why this reply is not what was asked for; empty if it is."""
        if isinstance(reply, protocol.Error):
            return reply.code
        return "" if type(reply) is _ANSWERS.get(type(self.request.ask)) else "protocol-answer"

    def awaits(self, layer: str) -> bool:
        """Whether this layer was asked for and has not ended yet."""
        assert isinstance(self.request.ask, protocol.Pull)
        return layer in self.request.ask.layers and layer not in self.ended

    def is_complete(self) -> bool:
        """Whether all that was asked for has come."""
        ask = self.request.ask
        if isinstance(ask, protocol.Pull):
            return len(self.layers) + len(self.refused) == len(ask.layers)
        return isinstance(ask, protocol.Probe) and self.received_bytes >= ask.bytes
