"""A group of processes that the kernel lets have so much memory and no more: version 1 or 2, below
the group that this process is in.

Needs root and a memory controller; `missing()` says what is not there.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REMOVAL_S = 10.0


class MemoryGroup:
    """A folder of the kernel's."""

    def __init__(self, folder: Path, limit: str, kills: str) -> None:
        self.folder = folder
        self._limit = limit
        self._kills = kills

    def let_have(self, limit_bytes: int) -> None:
        """All in it together, swap aside."""
        (self.folder / self._limit).write_text(str(limit_bytes))

    def take(self, pid: int) -> None:
        """The process is in it from now on; what it has already counts elsewhere."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def kills(self) -> int:
        """How many of it the kernel has killed for want of memory."""
        found = re.search(r"^oom_kill (\d+)", (self.folder / self._kills).read_text(), re.M)
        assert found, self.folder
        return int(found[1])


def missing() -> str:
    """What this machine lacks; empty if nothing."""
    try:
        with memory_group():
            return ""
    except OSError as error:
        return f"needs root and a memory controller: {error}"


@contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """A new one, gone at the end with whoever is in it by then."""
    group = _place()
    group.folder.mkdir()
    try:
        if not (group.folder / group._limit).exists():
            raise OSError(f"{group.folder} has no {group._limit}")
        yield group
    finally:
        _remove(group.folder)


def _place() -> MemoryGroup:
    name = f"mpls-test-{os.getpid()}"
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            folder = Path(f"/sys/fs/cgroup/memory{path}") / name
            return MemoryGroup(folder, "memory.limit_in_bytes", "memory.oom_control")
        if controllers == "":
            second = MemoryGroup(
                Path(f"/sys/fs/cgroup{path}") / name, "memory.max", "memory.events"
            )
    return second


def _remove(folder: Path) -> None:
    """The kernel lets go of it when its last process is gone."""
    end_s = time.monotonic() + REMOVAL_S
    while True:
        try:
            return folder.rmdir()
        except OSError:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.05)
