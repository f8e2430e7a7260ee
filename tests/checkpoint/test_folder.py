"""Two generations in a folder, through power cuts at every call and every byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mpls.checkpoint import CheckpointFolder, decode
from tests.checkpoint.examples import checkpoint, content, same
from tests.checkpoint.fake_disk import FakeDisk, PowerCut

FOLDER = Path("state")
SAVED = 3
"""Checkpoints of a life before the cut; the next is cut."""


def a_life(disk: FakeDisk, checkpoints: int = SAVED + 1) -> int:
    """Save one after the other; how many were told of as saved when the power failed."""
    folder = CheckpointFolder(FOLDER, disk=disk)
    for number in range(checkpoints):
        try:
            folder.save(checkpoint(number))
        except PowerCut:
            return number
    return checkpoints


def cuts(ignored: frozenset[str]) -> Iterator[FakeDisk]:
    """A disk for each moment at which the power may fail: each call, and in a call that writes
    each byte."""
    whole = FakeDisk(ignored=ignored)
    a_life(whole)
    size = len(content(checkpoint(SAVED)))
    for call, name in enumerate(whole.calls):
        for byte in range(size + 1) if name == "write" else (0,):
            yield FakeDisk(cut_at_call=call, cut_at_byte=byte, ignored=ignored)


def lost(ignored: frozenset[str] = frozenset(), limit: int | None = None) -> tuple[int, int]:
    """Folders that may be found after a cut, and those of them that are older than what was told of
    as saved, or not what was saved."""
    tried = gone = 0
    for disk in cuts(ignored):
        saved = a_life(disk)
        for files in disk.after_the_cut():
            tried += 1
            found = CheckpointFolder(FOLDER, disk=FakeDisk.with_files(files)).load().checkpoint
            gone += saved > 0 and (found is None or found.steps < saved - 1)
            assert found is None or same(found, checkpoint(found.steps))
            if limit is not None and gone >= limit:
                return tried, gone
    return tried, gone


def test_row_20_no_power_cut_loses_a_checkpoint_that_was_told_of() -> None:
    tried, gone = lost()
    assert gone == 0
    assert tried >= 10_000


@pytest.mark.parametrize("call", ["sync", "sync_folder"])
def test_without_a_sync_some_cut_loses_one(call: str) -> None:
    assert lost(frozenset({call}), limit=1)[1] == 1


def test_two_generations_are_kept_and_what_a_cut_left_is_cleared() -> None:
    disk = FakeDisk.with_files({"step-000000000001.safetensors.unfinished": b"torn", "lock": b"1"})
    folder = CheckpointFolder(FOLDER, disk=disk)
    for steps in (1, 2, 3):
        folder.save(checkpoint(steps))
    kept = {"step-000000000002.safetensors", "step-000000000003.safetensors", "lock"}
    assert set(disk.names(FOLDER)) == kept


def test_row_22_a_damaged_one_is_set_aside_by_name_and_the_one_before_is_used() -> None:
    disk = FakeDisk()
    folder = CheckpointFolder(FOLDER, disk=disk)
    older, newer = folder.save(checkpoint(1)), folder.save(checkpoint(2))
    disk.names_cached[newer.name].cached = content(checkpoint(2))[:-1]
    found = folder.load()
    assert found.path == older
    assert found.checkpoint is not None
    assert same(found.checkpoint, checkpoint(1))
    (complaint,) = found.complaints
    assert str(newer) in complaint
    assert "damaged" in complaint
    folder.save(checkpoint(3))
    assert older.name in disk.names(FOLDER), "a damaged one must not push out a whole one"


def test_an_empty_folder_has_nothing_to_go_on_with() -> None:
    found = CheckpointFolder(FOLDER, disk=FakeDisk()).load()
    assert (found.checkpoint, found.path, found.complaints) == (None, None, ())


def test_who_begins_anew_loses_nothing() -> None:
    disk = FakeDisk()
    folder = CheckpointFolder(FOLDER, disk=disk)
    folder.save(checkpoint(5))
    folder.set_aside()
    assert folder.load().checkpoint is None
    assert disk.names(FOLDER) == ["step-000000000005.safetensors.set-aside"]


@pytest.mark.parametrize("call", ["write", "sync", "rename", "sync_folder"])
def test_row_21_an_error_of_the_disk_leaves_the_one_before(call: str) -> None:
    class Full(FakeDisk):
        def _call(self, name: str) -> int | None:
            if name == call and self.calls.count("sync_folder") >= 1:
                raise OSError(28, "No space left on device")
            return super()._call(name)

    disk = Full()
    folder = CheckpointFolder(FOLDER, disk=disk)
    folder.save(checkpoint(1))
    with pytest.raises(OSError, match="No space left"):
        folder.save(checkpoint(2))
    found = folder.load().checkpoint
    assert found is not None
    assert found.steps in (1, 2)
    for files in disk.after_the_cut():
        again = CheckpointFolder(FOLDER, disk=FakeDisk.with_files(files)).load().checkpoint
        assert again is not None


def test_the_real_disk_writes_what_was_encoded_for_its_owner_only(tmp_path: Path) -> None:
    one = checkpoint(5, size=300_000)
    path = CheckpointFolder(tmp_path).save(one)
    assert path.read_bytes() == content(one)
    assert same(decode(path.read_bytes(), "x"), one)
    assert path.stat().st_mode & 0o077 == 0
