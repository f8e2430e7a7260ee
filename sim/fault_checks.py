"""What has to hold of any simulation, whatever went wrong in it: checked on its records.

Each check returns a line for each thing that it found wrong. A worker that crashed and came back
has two lives, which are checked one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from mpls.core.round import Rounds
from mpls.core.trace import Record, replay
from sim.fault_effects import Faults
from sim.record import Recorder
from sim.twin import Twin

LEAST_KINDS = frozenset(
    {"plan", "again", "pull", "round", "peer", "publish", "pass", "mix", "state", "checkpoint"}
)
"""What the checks look at; replaying takes everything."""
SLACK_S = 1e-6
NOTICE_S = 0.1
"""A peer that is gone is asked every `status_s`, and this much later no plan uses it."""


@dataclass
class Life:
    """One worker from its start to its crash or the end."""

    name: str
    records: list[Record] = field(default_factory=list)
    budgets_s: dict[tuple[int, str], float] = field(default_factory=dict)
    """(round, peer) -> the deadline of that pull, after the plan."""

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
        return Life(self.name, self.records, self.budgets_s, by_kind)

    def planned_s(self, number: int) -> float:
        """When the plan of a round was made."""
        return float(next(it["t"] for it in reversed(self.of("plan")) if it["round"] == number))

    def drained(self) -> bool:
        """Whether it lived to the end of the simulation."""
        return any(record["state"] == "stopped" for record in self.of("state"))


class Lives(Recorder):
    """Keeps what the checks need; with `everything` also a full trace and its hash."""

    def __init__(self, rounds_of: Callable[[str], Rounds], everything: bool = False) -> None:
        super().__init__(None if everything else LEAST_KINDS | {"header"})
        self.lives: dict[str, list[Life]] = {}
        self.everything = everything
        self._rounds_of = rounds_of

    def keep(self, name: str, record: Record) -> None:
        """See Recorder."""
        if self.everything:
            super().keep(name, record)
        if record["kind"] == "header":
            self.lives.setdefault(name, []).append(Life(name))
        life = self.lives[name][-1]
        if self.everything or record["kind"] in LEAST_KINDS:
            life.records.append(record)
        if record["kind"] == "plan":
            # The pulls begin at this very moment, with what is believed now.
            rounds = self._rounds_of(name)
            for peer, layers in _wanted(record):
                budget_s = rounds.pull_budget_s(rounds.peers[peer], layers)
                life.budgets_s[record["round"], peer] = budget_s
        elif record["kind"] == "again":
            # What is left of the pull that it stands in for ends when that would have ended.
            key = record["round"], record["peer"]
            ends_s = record["t"] - life.planned_s(record["round"]) + record["budget_s"]
            life.budgets_s[key] = max(ends_s, life.budgets_s.get(key, 0.0))


def findings(twin: Twin, lives: Lives, faults: Faults) -> list[str]:
    """All that is wrong with a simulation that has ended."""
    found = list(all_finished(twin))
    for index, worker in enumerate(twin.workers):
        own = [life.sort() for life in lives.lives[worker.name]]
        found += mixed_once(own)
        for life in own:
            found += conserved(life)
            found += applied_once(life)
            found += only_ready_peers(life)
            found += only_reachable_peers(life, twin, index, faults)
            found += within_deadlines(life, faults)
            found += not_held_back(life, twin, index, faults)
            found += replays(life) if lives.everything else []
    return found


def conserved(life: Life) -> Iterator[str]:
    """Pulls planned = applied + refused by reason + timed out + cancelled, in every round."""
    reports = {record["round"]: record for record in life.of("round")}
    plans = life.of("plan")
    for plan in plans:
        number, planned = plan["round"], sum(len(layers) for _, layers in _wanted(plan))
        if number not in reports:
            if life.drained() or plan is not plans[-1]:
                yield f"{life.name} round {number}: was planned and never reported"
            continue
        report = reports[number]
        pulls = Counter(p["outcome"] for p in life.of("pull") if p["round"] == number)
        again = sum(len(one["layers"]) for one in life.of("again") if one["round"] == number)
        ended = sum(report["ends"].values()) - again
        if not (planned == report["planned"] == ended and again == report["again"]):
            yield f"{life.name} round {number}: {planned} pulls planned, report {report}"
        if dict(pulls) != report["ends"]:
            yield f"{life.name} round {number}: pulls ended {dict(pulls)}, report {report['ends']}"


def applied_once(life: Life) -> Iterator[str]:
    """No copy of a layer is handed to the trainer twice, and what is reported as applied is what
    was handed over."""
    seen: set[tuple[object, ...]] = set()
    handed: dict[int, set[tuple[str, str, int]]] = {}
    for record in life.of("publish"):
        update = record["command"]
        for source in update["sources"]:
            copy = source["peer"], source["layer"], source["version"]
            key = (*copy, source["request_id"])
            if key in seen or copy in handed.get(update["round"], ()):
                yield f"{life.name} round {update['round']}: {key} is applied twice"
            seen.add(key)
            handed.setdefault(update["round"], set()).add(copy)
    for pull in life.of("pull"):
        copy = pull["peer"], pull["layer"], pull["version"]
        if pull["outcome"] == "applied" and copy not in handed.get(pull["round"], ()):
            yield f"{life.name} round {pull['round']}: {copy} is said to be applied, and was not"


def mixed_once(lives: Sequence[Life]) -> Iterator[str]:
    """A worker does each round once in a life, and begins a life after the round of its newest
    checkpoint: what was saved is never lost, and never done again."""
    saved = 0
    for life in lives:
        rounds = [record["round"] for record in life.of("mix")]
        if rounds != list(range(saved + 1, saved + 1 + len(rounds))):
            yield f"{life.name}: mixed in rounds {rounds} after a checkpoint of round {saved}"
        saved = max([saved, *(record["round"] for record in life.of("checkpoint"))])


def only_ready_peers(life: Life) -> Iterator[str]:
    """Plans use peers only that were last said to be ready."""
    standing: dict[str, str] = {}
    for record in life.records:
        if record["kind"] == "peer":
            standing[record["peer"]] = record["standing"]
        elif record["kind"] in ("plan", "again"):
            for peer in _asked(record):
                if standing.get(peer) != "ready":
                    known = standing.get(peer, "unknown")
                    where = f"{life.name} round {record['round']}"
                    yield f"{where}: plans with {peer}, which is {known}"


def only_reachable_peers(life: Life, twin: Twin, index: int, faults: Faults) -> Iterator[str]:
    """Plans use no peer whose connection has been gone for longer than it takes to ask it."""
    notice_s = twin.workers[index].spec.pull.status_s + NOTICE_S
    indices = {worker.name: number for number, worker in enumerate(twin.workers)}
    for plan in life.of("plan"):
        for peer, _ in _wanted(plan):
            lost_s = _lost_since(faults, (index, indices[peer]), plan["t"])
            awake_s = plan["t"] - lost_s - _rested_s(faults, life.name, lost_s, plan["t"])
            if awake_s > notice_s:
                yield f"{life.name} round {plan['round']}: {peer} has been gone for {awake_s:.3f} s"


def within_deadlines(life: Life, faults: Faults) -> Iterator[str]:
    """Every pull ends by its deadline, but for the time that its worker was frozen."""
    planned_s = {record["round"]: record["t"] for record in life.of("plan")}
    for pull in life.of("pull"):
        begun_s, budget_s = planned_s[pull["round"]], life.budgets_s[pull["round"], pull["peer"]]
        took_s = pull["end_s"] - begun_s - _rested_s(faults, life.name, begun_s, pull["end_s"])
        if took_s > budget_s + SLACK_S:
            where = f"{life.name} round {pull['round']}: {pull['layer']} of {pull['peer']}"
            yield f"{where} took {took_s:.3f} s, its deadline was {budget_s:.3f} s"


def not_held_back(life: Life, twin: Twin, index: int, faults: Faults) -> Iterator[str]:
    """After its pass a trainer waits no longer than the longest deadline of the round's pulls."""
    timing = twin.timings[index]
    own_s = timing.mix_s + timing.evaluate_s + SLACK_S
    longest_s: dict[int, float] = {}
    for (number, _), budget_s in life.budgets_s.items():
        longest_s[number] = max(budget_s, longest_s.get(number, 0.0))
    ended_s = 0.0
    for record in life.records:
        if record["kind"] == "pass":
            ended_s = record["t"]
        elif record["kind"] == "mix":
            waited_s = record["t"] - ended_s - _rested_s(faults, life.name, ended_s, record["t"])
            if waited_s > longest_s.get(record["round"], 0.0) + own_s:
                yield f"{life.name} round {record['round']}: held back for {waited_s:.3f} s"


def all_finished(twin: Twin) -> Iterator[str]:
    """Whoever is alive has done all rounds, and has ended every story and request."""
    for worker in twin.workers:
        if worker.alive and worker.round != worker.spec.pace.rounds:
            yield f"{worker.name}: alive, but did {worker.round} rounds only"
        if worker.alive and not worker.conductor.finished:
            yield f"{worker.name}: drained, but some story goes on"
    if twin.fabric.in_flight():
        yield f"{twin.fabric.in_flight()} requests are in flight after all were drained"


def replays(life: Life) -> Iterator[str]:
    """The recorded events give the recorded commands again."""
    difference = replay(life.records)
    if difference is not None:
        yield f"{life.name}: does not replay from record {difference.index} on: {difference}"


def _asked(record: Record) -> list[str]:
    """The peers that a plan, or a second try, uses."""
    return [record["peer"]] if record["kind"] == "again" else [peer for peer, _ in _wanted(record)]


def _wanted(plan: Record) -> list[tuple[str, Sequence[str]]]:
    return [(peer, layers) for peer, layers in plan["assignment"].items() if layers]


def _lost_since(faults: Faults, connection: tuple[int, int], now: float) -> float:
    """When it was lost last, if it is not there now; else now."""
    down_s = max((at_s for at_s in faults.downs[connection] if at_s <= now), default=-1.0)
    up_s = max((at_s for at_s in faults.ups[connection] if at_s <= now), default=-0.5)
    return now if up_s >= down_s else down_s


def _rested_s(faults: Faults, name: str, begin_s: float, end_s: float) -> float:
    """How long the worker was frozen in that time."""
    overlaps = (min(end, end_s) - max(begin, begin_s) for begin, end in faults.rests[name])
    return sum(overlap for overlap in overlaps if overlap > 0)
