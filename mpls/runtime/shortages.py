"""What a worker can run out of without ending: file descriptors, of which each connection is one,
and room for its trace. It goes on, says so, and says when there is enough again."""

from __future__ import annotations

import errno
import logging
import os
import resource
from contextlib import suppress

from mpls.runtime.journal import Journal

log = logging.getLogger("mpls")
LINE_EVERY_S = 60.0
OPEN_FILES = 4096
"""A worker may open so many files, or as many as the system lets it."""
FEW = 8
"""With no more than so many left, somebody should know: a checkpoint needs one, too."""


def raise_limit() -> None:
    """To OPEN_FILES, or as far as the system allows; never down."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


class Shortages:
    """Looked for now and then; of each there is a line at once, and then one a minute."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._told_s: dict[str, float] = {}

    def look(self, now: float) -> list[str]:
        """Those that there are."""
        found = [it for it in (few_files(), self._journal.trouble) if it]
        for shortage in found:
            if now - self._told_s.get(shortage, -LINE_EVERY_S) >= LINE_EVERY_S:
                self._told_s[shortage] = now
                log.warning("%s", shortage)
        for shortage in self._told_s.keys() - set(found):
            del self._told_s[shortage]
            log.info("over: %s", shortage)
        return found


def few_files() -> str:
    """What to say of descriptors when hardly any is left; empty while there are enough."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or _open_files() < limit - FEW:
        return ""
    return f"file descriptors: {limit} allowed, hardly any left; new connections have to wait"


def _open_files() -> float:
    """How many are open here; with none left, even looking fails."""
    with suppress(FileNotFoundError):
        try:
            return len(os.listdir("/dev/fd"))
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            return float("inf")
    return 0
