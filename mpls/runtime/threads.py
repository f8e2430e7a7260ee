"""A worker's thread: what ends it badly is never unnoticed, and has a name that people can read."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

from mpls.model.training import Diverged

_FULL = ("out of memory", "can't allocate memory", "bad_alloc")
"""How torch says it, in a plain RuntimeError."""


class Thread(threading.Thread):
    """Runs one job; what it raises goes to `failed`, never unnoticed."""

    def __init__(
        self, name: str, job: Callable[[], None], failed: Callable[[str, BaseException], None]
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._job = job
        self._failed = failed

    def run(self) -> None:
        try:
            self._job()
        except BaseException as error:
            self._failed(self.name, error)


def named(error: BaseException) -> str:
    """Why somebody failed, in a line."""
    first_line = str(error).partition("\n")[0]
    if isinstance(error, Diverged):
        return first_line
    if is_out_of_memory(error):
        return f"out of memory: {first_line or type(error).__name__}"
    return f"{type(error).__name__}: {first_line}"


def is_out_of_memory(error: BaseException) -> bool:
    """Python, numpy, torch and the system each say so in their own way."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    says_so = isinstance(error, RuntimeError) and any(it in str(error).lower() for it in _FULL)
    return isinstance(error, MemoryError) or says_so
