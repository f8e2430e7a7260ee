"""What has to hold of any simulation, whatever went wrong in it: checked on its records.

Each check returns a line for each thing that it found wrong. A worker that crashed and came back
has two lives, which are checked one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mpls.core.trace import Record, replay
from sim.fault_effects import Faults
from sim.fault_ledger import applied_once, bounded_loss, bytes_add_up, ledger, mixed_once, not_torn
from sim.fault_lives import Life, Lives, wanted
from sim.twin import Twin

SLACK_S = 1e-6
NOTICE_S = 0.1
"""A peer that is gone is asked every `status_s`, and this much later no plan uses it."""


def findings(twin: Twin, lives: Lives, faults: Faults) -> list[str]:
    """All that is wrong with a simulation that has ended."""
    found = list(all_finished(twin))
    lives_of = {name: [life.sort() for life in own] for name, own in lives.lives.items()}
    found += not_torn(lives_of)
    for index, worker in enumerate(twin.workers):
        own = lives_of[worker.name]
        found += mixed_once(own, faults.tears[worker.name])
        found += bounded_loss(own, twin.config.checkpoint.every_rounds, faults.tears[worker.name])
        found += ledger(own)
        for life in own:
            found += bytes_add_up(life)
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
    ends: dict[int, Counter[str]] = {}
    for pull in life.of("pull"):
        ends.setdefault(pull["round"], Counter())[pull["outcome"]] += 1
    asked_again = Counter[int]()
    for one in life.of("again"):
        asked_again[one["round"]] += len(one["layers"])
    drained = life.drained()
    for plan in plans:
        number, planned = plan["round"], sum(len(layers) for _, layers in wanted(plan))
        if number not in reports:
            if drained or plan is not plans[-1]:
                yield f"{life.name} round {number}: was planned and never reported"
            continue
        report = reports[number]
        pulls, again = ends.get(number, Counter()), asked_again[number]
        ended = sum(report["ends"].values()) - again
        if not (planned == report["planned"] == ended and again == report["again"]):
            yield f"{life.name} round {number}: {planned} pulls planned, report {report}"
        if dict(pulls) != report["ends"]:
            yield f"{life.name} round {number}: pulls ended {dict(pulls)}, report {report['ends']}"


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
        for peer, _ in wanted(plan):
            planned_s = plan["t"] + life.zero_s
            lost_s = _lost_since(faults, (index, indices[peer]), planned_s)
            awake_s = planned_s - lost_s - _rested_s(faults, life, lost_s, planned_s)
            if awake_s > notice_s:
                yield f"{life.name} round {plan['round']}: {peer} has been gone for {awake_s:.3f} s"


def within_deadlines(life: Life, faults: Faults) -> Iterator[str]:
    """Every pull ends by its deadline, but for the time that its worker was frozen."""
    planned_s = {record["round"]: record["t"] for record in life.of("plan")}
    for pull in life.of("pull"):
        begun_s, budget_s = planned_s[pull["round"]], life.budgets_s[pull["round"], pull["peer"]]
        took_s = pull["end_s"] - begun_s - _rested_since_s(faults, life, begun_s, pull["end_s"])
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
            waited_s = record["t"] - ended_s - _rested_since_s(faults, life, ended_s, record["t"])
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
    return [record["peer"]] if record["kind"] == "again" else [peer for peer, _ in wanted(record)]


def _lost_since(faults: Faults, connection: tuple[int, int], now: float) -> float:
    """When it was lost last, if it is not there now; else now."""
    down_s = max((at_s for at_s in faults.downs[connection] if at_s <= now), default=-1.0)
    up_s = max((at_s for at_s in faults.ups[connection] if at_s <= now), default=-0.5)
    return now if up_s >= down_s else down_s


def _rested_since_s(faults: Faults, life: Life, begin_s: float, end_s: float) -> float:
    """As `_rested_s`; times are of the worker's own clock."""
    return _rested_s(faults, life, begin_s + life.zero_s, end_s + life.zero_s)


def _rested_s(faults: Faults, life: Life, begin_s: float, end_s: float) -> float:
    """How long the worker was frozen in that time."""
    overlaps = (min(end, end_s) - max(begin, begin_s) for begin, end in faults.rests[life.name])
    return sum(overlap for overlap in overlaps if overlap > 0)
