"""A disk in memory that loses what was not synced, and whose power is cut when a test says so."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path


class PowerCut(Exception):
    """The machine is off."""


@dataclass
class File:
    """What is in the page cache, and what is on the disk; None: not even the file is."""

    cached: bytes = b""
    synced: bytes | None = None

    def after_a_cut(self) -> Iterator[bytes]:
        """What may be found: all that was synced, if nothing was written since; else anything."""
        if self.cached == self.synced:
            yield self.cached
            return
        yield self.synced or b""
        yield self.cached
        yield bytes(len(self.cached))
        yield self.cached[: len(self.cached) // 2]


@dataclass
class FakeDisk:
    """One folder, by the names in it. `ignored` are calls that do nothing: a lying disk, or a
    program without them. The power fails at call `cut_at_call`, or, where that writes, after
    `cut_at_byte` bytes of it."""

    cut_at_call: int = -1
    cut_at_byte: int = -1
    ignored: frozenset[str] = frozenset()
    calls: list[str] = field(default_factory=list)
    names_cached: dict[str, File] = field(default_factory=dict)
    names_synced: dict[str, File] = field(default_factory=dict)
    names_between: list[dict[str, File]] = field(default_factory=list)
    """The folder after each change since it was synced: the disk may have got so far."""

    @staticmethod
    def with_files(files: dict[str, bytes]) -> FakeDisk:
        """Everything safe."""
        names = {name: File(data, data) for name, data in files.items()}
        return FakeDisk(names_cached=dict(names), names_synced=names)

    def write(self, path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        off, data = self._call("write"), b"".join(pieces)
        file = self.names_cached.setdefault(path.name, File())
        file.cached = data if off is None else data[:off]
        self._named()
        if off is not None:
            raise PowerCut

    def sync(self, path: Path) -> None:
        self._cut_here("sync")
        if "sync" not in self.ignored:
            file = self.names_cached[path.name]
            file.synced = file.cached

    def rename(self, old: Path, new: Path) -> None:
        self._cut_here("rename")
        self.names_cached[new.name] = self.names_cached.pop(old.name)
        self._named()

    def sync_folder(self, folder: Path) -> None:
        self._cut_here("sync_folder")
        if "sync_folder" not in self.ignored:
            self.names_synced, self.names_between = dict(self.names_cached), []

    def remove(self, path: Path) -> None:
        self._cut_here("remove")
        del self.names_cached[path.name]
        self._named()

    def read(self, path: Path) -> bytes:
        return self.names_cached[path.name].cached

    def names(self, folder: Path) -> Sequence[str]:
        return list(self.names_cached)

    def after_the_cut(self) -> Iterator[dict[str, bytes]]:
        """Every folder that may be found when the power is back."""
        for names in (self.names_synced, *self.names_between):
            choices = [[*file.after_a_cut()] for file in names.values()]
            for contents in itertools.product(*choices):
                yield dict(zip(names, contents))

    def _named(self) -> None:
        self.names_between.append(dict(self.names_cached))

    def _call(self, name: str) -> int | None:
        """After how many bytes the power fails, if it does in this call."""
        self.calls.append(name)
        return self.cut_at_byte if len(self.calls) - 1 == self.cut_at_call else None

    def _cut_here(self, name: str) -> None:
        if self._call(name) is not None:
            raise PowerCut
