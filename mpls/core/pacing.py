"""How training and aggregation take turns: the trainer's story, the same live and simulated.

The story yields what the trainer is to do next; the training thread does it with torch, the twin
lets virtual time pass instead. `overlap` is the paper's timing: while pass k trains, the pulls of
round k run, and when both are done the update is mixed into the weights.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Union

from mpls.core.settings import PaceSettings


@dataclass(frozen=True)
class Train:
    """Do so many local steps; with `until_update` stop after the first at whose end an update
    waits. At least one is done. Resumed with None."""

    steps: int
    until_update: bool = False


@dataclass(frozen=True)
class AskRound:
    """Tell the aggregation that this round may begin. Resumed with None."""

    round: int


@dataclass(frozen=True)
class AwaitUpdate:
    """Wait for the update of this round (`wait` False: only look). Resumed with the update, or
    None where there is none."""

    round: int
    wait: bool = True


@dataclass(frozen=True)
class Mix:
    """Apply Eq. 1 to the current weights and report the update as taken. In round 0, before any
    training, they count for nothing: the mean of the copies takes their place. Resumed with None.
    """

    round: int
    update: Any


@dataclass(frozen=True)
class PublishSnapshot:
    """Publish the current weights as a new version. Resumed with None."""

    round: int


@dataclass(frozen=True)
class Evaluate:
    """Measure accuracy on the test set: `local` before mixing, `mixed` after."""

    round: int
    which: str


Turn = Union[Train, AskRound, AwaitUpdate, Mix, PublishSnapshot, Evaluate]
TrainerStory = Generator[Turn, Any, None]


def training(pace: PaceSettings, pass_steps: int, done: int = 0, begun: int = 0) -> TrainerStory:
    """The run of one trainer, after the `done` rounds that it did before a restart, and so many
    local steps of the next. `pass_steps` is the length of one pass over its shard."""
    if pace.bootstrap == "peers" and not (done or begun):
        yield AskRound(0)
        yield Mix(0, (yield AwaitUpdate(0)))
    yield PublishSnapshot(done)
    steps = pace.local_steps or pass_steps
    if pace.pace == "free":
        yield from _free(pace, steps, done)
    else:
        yield from _in_step(pace, steps, done, begun)


def _in_step(pace: PaceSettings, steps: int, done: int, begun: int) -> TrainerStory:
    for number in range(done + 1, pace.rounds + 1):
        if pace.pace == "overlap":
            yield AskRound(number)
        yield from _local_pass(pace, steps, number, begun if number == done + 1 else 0)
        if pace.pace == "sequential":
            yield AskRound(number)
        update = yield AwaitUpdate(number)
        yield from _commit(pace, number, update)


def _free(pace: PaceSettings, steps: int, done: int) -> TrainerStory:
    number = done + 1
    if number <= pace.rounds:
        yield AskRound(number)
    piece = pace.publish_steps or steps
    while number <= pace.rounds:
        yield Train(piece, until_update=True)
        update = yield AwaitUpdate(number, wait=False)
        if update is not None:
            yield from _commit(pace, number, update)
            number += 1
            if number <= pace.rounds:
                yield AskRound(number)
        elif pace.publish_steps:
            yield PublishSnapshot(number - 1)


def _local_pass(pace: PaceSettings, steps: int, number: int, begun: int) -> TrainerStory:
    """One pass, or what is left of it, with a snapshot after every `publish_steps` of it."""
    piece, at = pace.publish_steps or steps, begun
    while at < steps:
        end = min(steps, at - at % piece + piece)
        yield Train(end - at)
        if end < steps:
            yield PublishSnapshot(number - 1)
        at = end


def _commit(pace: PaceSettings, number: int, update: Any) -> TrainerStory:
    due = number % pace.eval_every == 0 or number == pace.rounds
    if due:
        yield Evaluate(number, "local")
    yield Mix(number, update)
    yield PublishSnapshot(number)
    if due:
        yield Evaluate(number, "mixed")
