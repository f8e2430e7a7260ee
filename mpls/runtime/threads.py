"""A worker's thread: what ends it badly is never unnoticed."""

from __future__ import annotations

import threading
from collections.abc import Callable


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
