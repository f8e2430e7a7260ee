"""What the C library does with memory that was freed: it keeps some, as a worker needs it again.

ZeroMQ takes fresh memory for each chunk that it receives and gives it back when the chunk is read.
glibc hands the freed pages to the kernel and fetches them anew, zeroed, a fault for each 4 KiB, or
does not, as chance has it: pulls ran at 2.6 or 4.3 GB/s, process by process (docs/performance.md).
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

KEPT_BYTES = 64 * 2**20
"""So much of freed memory is kept at most, by each of glibc's arenas."""
MAPPED_BYTES = 32 * 2**20
"""What is larger is always fetched and given back: the most that glibc allows."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """For this process. Elsewhere than on glibc nothing happens."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
