"""How a worker stands, as its trace tells."""

from __future__ import annotations

from mpls.report.progress import WorkerProgress
from mpls.report.standing import Standing


def told(*records: dict[str, object]) -> Standing:
    standing = Standing(WorkerProgress("w0"))
    for number, record in enumerate(({"kind": "state", "state": "running"}, *records)):
        standing.take({"t": float(number), **record})
    return standing


def peer(name: str, how: str) -> dict[str, object]:
    return {"kind": "peer", "peer": name, "standing": how, "why": ""}


def test_a_peer_that_cannot_be_used_is_a_trouble_and_one_that_left_is_none() -> None:
    assert told(peer("w1", "away")).troubles() == ["peer w1 away"]
    assert told(peer("w1", "away"), peer("w1", "ready")).troubles() == []
    left = told(peer("w1", "away"), peer("w2", "ready"), peer("w1", "removed"))
    assert left.troubles() == []
    assert left.as_plain()["peers"] == {"w2": "ready"}


def test_a_checkpoint_that_could_not_be_written_is_a_trouble_until_one_is() -> None:
    failed = {"kind": "checkpoint", "round": 4, "failed": "no space"}
    assert told(failed).troubles() == ["checkpoint: no space"]
    assert not told(failed).is_well
    assert told(failed, {"kind": "checkpoint", "round": 6}).is_well
