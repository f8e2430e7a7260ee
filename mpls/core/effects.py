"""What a story may ask of the Conductor while it runs: exactly five things.

A story is a generator that yields effects and is resumed with their results. It reads like the
paper; the Conductor turns it into events in and commands out. Effects are named tuples, because a
twin makes millions.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, Union

from mpls.core import protocol
from mpls.core.messages import LayerReceived, LayerRefused, RecordNote, Source

Ask = Union[protocol.Hello, protocol.Status, protocol.Pull, protocol.Probe]


class Request(NamedTuple):
    """Ask a peer (the Conductor chooses the id) and wait for an Outcome, at most `timeout_s`; and
    for pulls and probes at most `stall_s` without a byte."""

    peer: str
    ask: Ask
    timeout_s: float


class Sleep(NamedTuple):
    """Wait; resumed with "", or at once with the reason why the story was told to end."""

    seconds: float


class Gather(NamedTuple):
    """Run stories side by side; resumed with the list of their results, in the same order. Those
    still running after `timeout_s` see every request of theirs end as "timed-out"."""

    stories: Sequence[Story]
    timeout_s: float


class Publish(NamedTuple):
    """Hand the trainer what arrived and wait until it is mixed in; resumed with the UpdateTaken,
    or with None when the worker was told to stop before."""

    round: int
    sources: tuple[Source, ...]


Note = RecordNote
"""Record this; resumed with None. It is a command as it stands."""


Effect = Union[Request, Sleep, Gather, Publish, Note]
Story = Generator[Effect, Any, Any]


class Outcome(NamedTuple):
    """How one attempt ended. `reason` is empty when all that was asked for came.

    `received_bytes` is the position reached in the asked layers laid end to end (what was resumed
    included) of snapshot `version`; `last_byte_s` is when the last of them came; `now` is when
    the attempt ended; `sharers` counts the pulls that were under way at the same time.
    """

    reason: str
    start_s: float
    now: float
    request_id: int = 0
    """0 when nothing was sent, because the story had been told to end."""
    reply: protocol.Welcome | protocol.StatusOk | protocol.Error | None = None
    layers: tuple[LayerReceived, ...] = ()
    arrivals_s: tuple[float, ...] = ()
    """When each of `layers` was whole."""
    refused: tuple[LayerRefused, ...] = ()
    received_bytes: int = 0
    version: int = 0
    last_byte_s: float = 0.0
    sharers: int = 1
    marks: tuple[tuple[float, int], ...] = ()
    """Each report of bytes: when, and the position reached."""

    @property
    def seconds(self) -> float:
        """How long the attempt took."""
        return self.now - self.start_s
