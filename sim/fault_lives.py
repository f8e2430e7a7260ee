"""What the checks of `sim.fault_checks` look at: the records of each worker's lives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from mpls.core.trace import Record
from sim.driver import VirtualWorker
from sim.record import Recorder

LEAST_KINDS = frozenset(
    {"plan", "again", "pull", "round", "peer", "publish", "pass", "mix", "state", "checkpoint"}
    | {"snapshot", "attempt"}
)
"""What the checks look at; replaying takes everything."""


@dataclass
class Life:
    """One worker from its start to its crash or the end."""

    name: str
    records: list[Record] = field(default_factory=list)
    budgets_s: dict[tuple[int, str], float] = field(default_factory=dict)
    """(round, peer) -> the deadline of that pull, after the plan."""
    zero_s: float = 0.0
    """When its clock showed 0, in virtual time."""
    start_s: float = 0.0
    """By its own clock."""
    moved_bytes: dict[int, int] = field(default_factory=dict)
    """Request -> what its pull moved over the network."""

    by_kind: dict[str, list[Record]] | None = None
    """The records, where they were sorted: from then on none comes or goes."""

    def of(self, kind: str) -> list[Record]:
        """Its records of a kind."""
        if self.by_kind is not None:
            return self.by_kind.get(kind, [])
        return [record for record in self.records if record["kind"] == kind]

    def sort(self) -> Life:
        """The same life, of which every check finds the records of a kind at once."""
        by_kind: dict[str, list[Record]] = {}
        for record in self.records:
            by_kind.setdefault(record["kind"], []).append(record)
        return replace(self, by_kind=by_kind)

    def planned_s(self, number: int) -> float:
        """When the plan of a round was made."""
        return float(next(it["t"] for it in reversed(self.of("plan")) if it["round"] == number))

    def begun_s(self) -> float:
        """In virtual time."""
        return self.start_s + self.zero_s

    def drained(self) -> bool:
        """Whether it lived to the end of the simulation."""
        return any(record["state"] == "stopped" for record in self.of("state"))


class Lives(Recorder):
    """Keeps what the checks need; with `everything` also a full trace and its hash."""

    def __init__(self, worker_of: Callable[[str], VirtualWorker], everything: bool = False) -> None:
        super().__init__(None if everything else LEAST_KINDS | {"header"})
        self.lives: dict[str, list[Life]] = {}
        self.everything = self.as_files = everything
        self._worker_of = worker_of

    def keep(self, name: str, record: Record) -> None:
        """See Recorder."""
        if self.everything:
            super().keep(name, record)
        if record["kind"] == "header":
            worker = self._worker_of(name)
            life = Life(name, zero_s=worker.clocks.zero_s, start_s=record["t"])
            worker.moved_bytes = life.moved_bytes
            self.lives.setdefault(name, []).append(life)
        life = self.lives[name][-1]
        if self.everything or record["kind"] in LEAST_KINDS:
            life.records.append(record)
        if record["kind"] == "plan":
            # The pulls begin at this very moment, with what is believed now.
            rounds = self._worker_of(name).rounds
            for peer, layers in wanted(record):
                budget_s = rounds.pull_budget_s(rounds.peers[peer], layers)
                life.budgets_s[record["round"], peer] = budget_s
        elif record["kind"] == "again":
            # What is left of the pull that it stands in for ends when that would have ended.
            key = record["round"], record["peer"]
            ends_s = record["t"] - life.planned_s(record["round"]) + record["budget_s"]
            life.budgets_s[key] = max(ends_s, life.budgets_s.get(key, 0.0))


def wanted(plan: Record) -> list[tuple[str, Sequence[str]]]:
    """The peers that a plan pulls from, and the layers of each."""
    return [(peer, layers) for peer, layers in plan["assignment"].items() if layers]
