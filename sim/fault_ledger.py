"""Nothing lost, nothing twice: checks of what a worker has saved, applied and received.

Over all of its lives, as far as what was done in them still counts: after a crash a worker goes on
from its newest whole checkpoint, and the rounds after that are done anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from mpls.core.trace import Record
from sim.fault_lives import Life

KEPT = 2
"""Generations of checkpoints."""
SLACK_BYTES = 1
"""Positions are cut to whole bytes."""
SLACK_S = 1e-6


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


def mixed_once(lives: Sequence[Life], tears_s: Sequence[float]) -> Iterator[str]:
    """A worker does each round once in a life, and begins a life after the round of its newest
    whole checkpoint: what was saved is not lost, and not done again. Of a damaged one it falls back
    to the one before."""
    folder: list[list[float]] = []  # round, and since when it is damaged
    ended_s = -1.0
    for life in lives:
        begun_s = life.begun_s()
        _tear(folder, tears_s, ended_s, begun_s)
        folder = folder[: 1 + max((i for i, one in enumerate(folder) if not one[1]), default=-1)]
        saved = int(folder[-1][0]) if folder else 0
        rounds = [record["round"] for record in life.of("mix")]
        start = life.of("snapshot")[0]["round"] if life.of("snapshot") else saved
        if start != saved or rounds != list(range(saved + 1, saved + 1 + len(rounds))):
            yield f"{life.name}: mixed in rounds {rounds} after a checkpoint of round {saved}"
        ended_s = begun_s
        for record in life.of("checkpoint"):
            if "failed" not in record:
                at_s = record["t"] + life.zero_s
                _tear(folder, tears_s, ended_s, at_s)
                folder = [*folder, [record["round"], 0.0]][-KEPT:]
                ended_s = at_s


def _tear(
    folder: list[list[float]], tears_s: Sequence[float], after_s: float, until_s: float
) -> None:
    """What was damaged in that time: the newest, each time."""
    if folder and any(after_s < at_s <= until_s for at_s in tears_s):
        folder[-1][1] = 1.0


def bounded_loss(
    lives: Sequence[Life], every_rounds: int, tears_s: Sequence[float]
) -> Iterator[str]:
    """A crash costs fewer rounds than lie between two checkpoints, and as many more for each that
    could not be written or was damaged; all of them where every generation was."""
    for before, after in pairwise(lives):
        if not (before.of("mix") and after.of("snapshot")):
            continue
        start = after.of("snapshot")[0]["round"]
        lost = before.of("mix")[-1]["round"] - start
        failed = sum("failed" in record for record in before.of("checkpoint"))
        none_whole = start == 0 and len(tears_s) >= KEPT
        if lost >= every_rounds * (1 + failed + len(tears_s)) and not none_whole:
            yield f"{before.name}: a crash cost {lost} rounds, with {failed} checkpoints unwritten"


def ledger(lives: Sequence[Life]) -> Iterator[str]:
    """What counts in the end: each round once, and in it what was published for it, whole."""
    counts: dict[int, Record] = {}
    for life in lives:
        if life.of("snapshot"):
            start = life.of("snapshot")[0]["round"]
            counts = {number: mix for number, mix in counts.items() if number <= start}
        sources = {one["command"]["round"]: one["command"]["sources"] for one in life.of("publish")}
        for mix in life.of("mix"):
            where, handed = f"{life.name} round {mix['round']}", sources.get(mix["round"], [])
            if mix["round"] in counts:
                yield f"{where}: counts twice"
            if mix["copies"] != len(handed) or mix["layers"] != len({it["layer"] for it in handed}):
                yield f"{where}: {mix['copies']} copies were mixed in, {len(handed)} handed over"
            counts[mix["round"]] = mix
    missing = set(range(1, max(counts, default=0) + 1)) - counts.keys()
    if missing:
        yield f"{lives[0].name}: rounds {sorted(missing)} were never done"


def not_torn(lives_of: Mapping[str, Sequence[Life]]) -> Iterator[str]:
    """All that comes with one request is of one snapshot, which its peer had published by then."""
    published = {
        (life.name, one["version"]): (one["round"], one["t"] + life.zero_s)
        for own in lives_of.values()
        for life in own
        for one in life.of("snapshot")
    }
    for life in (one for own in lives_of.values() for one in own):
        versions: dict[int, int] = {}
        for record in life.of("publish"):
            at_s = record["t"] + life.zero_s + SLACK_S
            for source in record["command"]["sources"]:
                where = f"{life.name} round {record['command']['round']}: {source['layer']}"
                of_round, since_s = published.get((source["peer"], source["version"]), (-1, 0.0))
                if of_round != source["round"] or since_s > at_s:
                    yield f"{where} is of no snapshot that {source['peer']} had published"
                if (
                    versions.setdefault(source["request_id"], source["version"])
                    != source["version"]
                ):
                    yield f"{where} came with layers of another version"


def bytes_add_up(life: Life) -> Iterator[str]:
    """Bytes sent = received + lost. A pull that came whole received what was sent, to the byte; of
    one that did not, what is missing was under way when it was given up, and is nowhere else."""
    for record in life.of("attempt"):
        sent_bytes = life.moved_bytes.get(record["request"], 0)
        lost_bytes = sent_bytes - record["bytes"]
        if lost_bytes < -SLACK_BYTES or (record["outcome"] == "ok" and lost_bytes > SLACK_BYTES):
            about = f"{record['bytes']} bytes came, {sent_bytes} were sent"
            yield f"{life.name} request {record['request']} ({record['outcome']}): {about}"
