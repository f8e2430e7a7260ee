"""The checkpoint thread writes what was handed in, and gives the arrays back for the next one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mpls.checkpoint import CheckpointFolder, Identity, decode
from mpls.checkpoint.disk import OsDisk
from mpls.runtime.journal import Clock, Journal
from mpls.runtime.keeper import CorePart, Keeper, ModelPart


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    folder = CheckpointFolder(tmp_path, keep=9)
    with Journal(tmp_path / "trace.jsonl") as journal:
        yield Keeper(folder, Identity("w0", "m", {}), 1, dict, journal, Clock())


def put(keeper: Keeper, number: int, weights: np.ndarray) -> None:
    """The training thread's part of this round."""
    keeper.put(ModelPart(number, 0, {"weights": weights}, {"steps": number}, {}))


def run(keeper: Keeper, number: int) -> None:
    """The aggregation thread's part, and all that there is to write."""
    keeper.put(CorePart(number, {}))
    keeper.close()
    keeper.run()


def test_arrays_come_back_once_and_only_when_they_are_written(keeper: Keeper) -> None:
    weights = np.zeros(3)
    put(keeper, 1, weights)
    assert keeper.spare() == {}
    run(keeper, 0)
    assert keeper.spare() == {}, "the other part is not here yet"
    put(keeper, 2, weights)
    run(keeper, 2)
    assert keeper.spare()["weights"] is weights
    assert keeper.spare() == {}


def test_each_of_many_checkpoints_in_the_same_arrays_has_what_they_held_then(
    keeper: Keeper, tmp_path: Path
) -> None:
    for number in range(1, 6):
        weights = keeper.spare().get("weights", np.zeros(100))
        weights[:] = number
        put(keeper, number, weights)
        run(keeper, number)
        weights[:] = -1
    for number in range(1, 6):
        path = tmp_path / f"step-{number:012}.safetensors"
        assert (decode(path.read_bytes(), "x").tensors["weights"] == number).all()


def test_a_disk_that_fails_gives_the_arrays_back_too(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(OsDisk, "write", full)
    weights = np.zeros(3)
    put(keeper, 1, weights)
    run(keeper, 1)
    assert keeper.trouble.endswith("No space left on device")
    assert keeper.spare()["weights"] is weights
