"""Lines for systemd's journal, which keeps the time itself and reads each line's priority from a
<N> before it."""

from __future__ import annotations

import os
import sys

PRIORITY = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}
"""Of syslog, by the names that Python's logging has for its levels."""


def reads_stderr() -> bool:
    """Whether what is written to stderr goes to the journal and nowhere else: a unit's
    $JOURNAL_STREAM names it by device and inode, and a redirection would make it another."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # closed, none, or only looks like a file
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def marked(text: str, level: str) -> str:
    """Every line of the text with its priority; a line that is not known is like a warning."""
    mark = f"<{PRIORITY.get(level, PRIORITY['WARNING'])}>"
    return "\n".join(f"{mark}{line}" for line in text.splitlines() or [""])
