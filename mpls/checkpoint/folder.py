"""A worker's folder of checkpoints: the last few, each written so that no crash can cost both.

Written under another name, synced, renamed, and the folder synced: only then is it told of. At each
point of that the folder has the generations of before, whole, whatever else is in it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mpls.checkpoint.disk import Disk, OsDisk
from mpls.checkpoint.format import Checkpoint, Damaged, decode, encode

UNFINISHED = ".unfinished"
REFUSED = ".refused"
SET_ASIDE = ".set-aside"
_NAME = re.compile(r"step-([0-9]{12})\.safetensors")


@dataclass(frozen=True)
class Found:
    """The newest usable generation, if any, and a line about each newer one that was not."""

    checkpoint: Checkpoint | None
    path: Path | None
    complaints: tuple[str, ...]


class CheckpointFolder:
    """Used by one process at a time: who opens it holds the worker's lock."""

    def __init__(self, folder: Path, keep: int = 2, disk: Disk | None = None) -> None:
        self.folder = folder
        self._keep = keep
        self._disk = disk or OsDisk()

    def save(self, checkpoint: Checkpoint) -> Path:
        """When this returns, no crash loses it. Raises OSError, and then what was there before is
        there still."""
        path = self.folder / f"step-{checkpoint.steps:012}.safetensors"
        unfinished = path.with_name(path.name + UNFINISHED)
        self._disk.write(unfinished, encode(checkpoint))
        self._disk.sync(unfinished)
        self._disk.rename(unfinished, path)
        self._disk.sync_folder(self.folder)
        with suppress(OSError):
            self._clear()
        return path

    def load(self) -> Found:
        """The newest whole one. What is not whole is set aside, so that it never counts as a
        generation again. Raises OSError if the folder cannot be read."""
        complaints: list[str] = []
        for name in reversed(self._generations()):
            path = self.folder / name
            try:
                checkpoint = decode(self._disk.read(path), str(path))
            except Damaged as error:
                self._disk.rename(path, path.with_name(name + REFUSED))
                complaints.append(f"{error}; kept as {name}{REFUSED}")
                continue
            return Found(checkpoint, path, tuple(complaints))
        return Found(None, None, tuple(complaints))

    def set_aside(self) -> None:
        """Begin anew: no generation of before counts any more; none is lost."""
        for name in self._generations():
            self._disk.rename(self.folder / name, self.folder / (name + SET_ASIDE))

    def _generations(self) -> list[str]:
        """Their names, oldest first."""
        return sorted(name for name in self._disk.names(self.folder) if _NAME.fullmatch(name))

    def _clear(self) -> None:
        """Remove what is no longer needed; what cannot be removed now can be the next time."""
        old = self._generations()[: -self._keep]
        torn = [name for name in self._disk.names(self.folder) if name.endswith(UNFINISHED)]
        for name in (*old, *torn):
            self._disk.remove(self.folder / name)
