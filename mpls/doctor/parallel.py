"""Many waits at once, each bounded: a name server or a host that never answers delays nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")
AT_ONCE = 32


def all_within(
    jobs: Mapping[Key, Callable[[], Result]], bound_s: float
) -> dict[Key, Result | BaseException]:
    """What each job returned or raised; TimeoutError for one that took longer than `bound_s` from
    its own start. At most AT_ONCE run at a time. A thread that hangs is left behind."""
    found: dict[Key, Result | BaseException] = {}
    waiting = list(jobs.items())
    while waiting:
        now, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
        threads = {key: threading.Thread(target=_do, args=(job, key, found)) for key, job in now}
        for thread in threads.values():
            thread.daemon = True
            thread.start()
        end_s = time.monotonic() + bound_s
        for thread in threads.values():
            thread.join(max(0.0, end_s - time.monotonic()))
    late = TimeoutError(f"no answer within {bound_s:g} s")
    return {key: found.get(key, late) for key in jobs}


def _do(job: Callable[[], Result], key: Key, found: dict[Key, Result | BaseException]) -> None:
    try:
        found[key] = job()
    except BaseException as error:
        found[key] = error
