"""When whom to kill, what a worker's trace tells of a life, and whether a kill was survived."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mpls.core.streams import Stream
from mpls.core.trace import Record


@dataclass(frozen=True)
class Due:
    """A kill to come: seconds after the soak began, and whom, in the order of preference."""

    at_s: float
    whom: tuple[str, ...]


def schedule(names: Sequence[str], total_s: float, every_s: float, seed: int) -> Iterator[Due]:
    """One kill at a random moment of each period. The first worker is spared in the first half, the
    second in the second half, so that some live long enough to show what lives of a minute hide."""
    draws = Stream(seed, "soak")
    for number in range(int(total_s / every_s)):
        at_s = every_s * (number + draws.uniform())
        spared = names[0] if at_s < total_s / 2 else names[1]
        mortal = [name for name in names if name != spared]
        yield Due(at_s, tuple(mortal[index] for index in draws.permutation(len(mortal))))


@dataclass
class Life:
    """What its trace says of one life of a worker. Times are seconds since the epoch."""

    origin_unix_s: float | None = None
    resumed_round: int | None = None
    """Of its first snapshot: the round after which it goes on."""
    running_unix_s: float | None = None
    round: int = 0
    saved_round: int = -1
    """Of its last checkpoint that was told of; -1 is none."""
    accuracy: float | None = None
    pulls_unix_s: dict[str, list[float]] = field(default_factory=dict)
    """When each pull that was applied began, by peer, in order."""
    ended_well: bool = False

    def take(self, record: Record) -> None:
        """Fold in one record."""
        kind = record["kind"]
        if kind == "header":
            self.origin_unix_s = record["started_unix_s"]
        elif kind == "snapshot" and self.resumed_round is None:
            self.resumed_round = self.round = record["round"]
        elif kind == "state":
            self._enter(record)
        elif kind == "mix":
            self.round = record["round"]
        elif kind == "checkpoint" and "failed" not in record:
            self.saved_round = record["round"]
        elif kind == "eval" and record["which"] == "mixed":
            self.accuracy = record["accuracy"]
        elif kind == "pull" and record["outcome"] == "applied":
            self.pulls_unix_s.setdefault(record["peer"], []).append(self._when(record["start_s"]))

    def _enter(self, record: Record) -> None:
        if record["state"] == "running":
            self.running_unix_s = self._when(record["t"])
        self.ended_well = record["state"] == "stopped"

    def _when(self, trace_s: float) -> float:
        assert self.origin_unix_s is not None, "the header comes first"
        return self.origin_unix_s + trace_s


@dataclass(frozen=True)
class Kill:
    """Of the life of this number, counted from 0."""

    unix_s: float
    worker: str
    life: int


@dataclass(frozen=True)
class Outcome:
    """What became of one killed. Seconds count from the kill; None is never."""

    at_s: float
    """After the soak began."""
    worker: str
    round: int
    """When it was killed."""
    saved_round: int
    """Of the newest checkpoint that it had told of."""
    resumed_round: int | None
    back_s: float | None
    """Until it was running."""
    pulled_s: float | None
    """Until it began a pull from a peer, which was applied."""
    served_s: float | None
    """Until a peer began a pull from it, which was applied."""

    def why_not(self) -> str:
        """Why it was not survived; empty if it was."""
        if self.back_s is None or self.resumed_round is None:
            return "never ran again"
        if self.resumed_round < self.saved_round:
            return f"went on after round {self.resumed_round}, had saved {self.saved_round}"
        if self.pulled_s is None:
            return "never pulled from a peer again"
        return "" if self.served_s is not None else "no peer pulled from it again"

    def as_plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {**asdict(self), "survived": not self.why_not(), "why_not": self.why_not()}


def outcome(kill: Kill, lives: Mapping[str, Sequence[Life]], began_unix_s: float) -> Outcome:
    """`lives` are all that there were, in order, by worker."""
    before = lives[kill.worker][: kill.life + 1]
    after = lives[kill.worker][kill.life + 1 :]
    # One that was killed again before it ran says nothing of what it would have gone on with.
    back = next((life for life in after if life.running_unix_s and not _is_blank(life)), None)
    pulls = _since(back, (life.pulls_unix_s.values() for life in after))
    others = (all_ for name, all_ in lives.items() if name != kill.worker)
    serves = _since(
        back, ([it.pulls_unix_s.get(kill.worker, [])] for all_ in others for it in all_)
    )
    return Outcome(
        kill.unix_s - began_unix_s,
        kill.worker,
        round=next((it.round for it in reversed(before) if not _is_blank(it)), 0),
        saved_round=max(max(life.saved_round for life in before), 0),
        resumed_round=back.resumed_round if back else None,
        back_s=back.running_unix_s - kill.unix_s if back and back.running_unix_s else None,
        pulled_s=None if pulls is None else pulls - kill.unix_s,
        served_s=None if serves is None else serves - kill.unix_s,
    )


def _is_blank(life: Life) -> bool:
    return life.resumed_round is None


def _since(back: Life | None, pulls: Any) -> float | None:
    """The first of all these times from the life's beginning to run on."""
    if back is None or back.running_unix_s is None:
        return None
    found = []
    for times in (times for some in pulls for times in some):
        first = bisect_left(times, back.running_unix_s)
        found += times[first : first + 1]
    return min(found, default=None)
