"""The few things that a checkpoint asks of a disk, so that tests can take the power away between
any two of them, or in the middle of one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol


class Disk(Protocol):
    """Raises OSError as the operating system does. What was written is safe after `sync` of the
    file; that a name means this file, after `sync_folder`."""

    def write(self, path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        """Make or empty the file, and write these into it, one after the other."""

    def sync(self, path: Path) -> None:
        """Wait until the file's content is on the disk."""

    def rename(self, old: Path, new: Path) -> None:
        """Atomically; a file with the new name is gone."""

    def sync_folder(self, folder: Path) -> None:
        """Wait until the folder's names are on the disk."""

    def remove(self, path: Path) -> None:
        """Take the name away."""

    def read(self, path: Path) -> bytes:
        """The whole file."""

    def names(self, folder: Path) -> Sequence[str]:
        """Of the files in it."""


class OsDisk:
    """The real one."""

    def write(self, path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        """Readable by its owner only: weights tell of the data that they learned from."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) :]

    def sync(self, path: Path) -> None:
        """Of the content, whoever wrote it."""
        _sync(path, os.O_RDONLY)

    def rename(self, old: Path, new: Path) -> None:
        """See `Disk`."""
        os.replace(old, new)

    def sync_folder(self, folder: Path) -> None:
        """See `Disk`."""
        _sync(folder, os.O_RDONLY | os.O_DIRECTORY)

    def remove(self, path: Path) -> None:
        """See `Disk`."""
        os.unlink(path)

    def read(self, path: Path) -> bytes:
        """See `Disk`."""
        return path.read_bytes()

    def names(self, folder: Path) -> Sequence[str]:
        """See `Disk`."""
        return os.listdir(folder)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
