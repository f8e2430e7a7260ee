"""What a worker has hardly any of is said, once a minute, and when it is over."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpls.runtime.journal import Journal
from mpls.runtime.shortages import FEW, LINE_EVERY_S, Shortages, few_files


@contextmanager
def files_allowed(more: int) -> Iterator[None]:
    """So many may be opened yet, beside those that are open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/dev/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def take_all(taken: list[int]) -> None:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))


def test_row_27_hardly_any_descriptor_is_said_once_a_minute_and_when_it_is_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mpls")
    with Journal(tmp_path / "trace") as journal:
        shortages = Shortages(journal)
        assert shortages.look(0.0) == []
        with files_allowed(2):
            taken: list[int] = []
            with pytest.raises(OSError, match="Too many open files"):
                take_all(taken)
            said = [shortages.look(float(second)) for second in range(int(LINE_EVERY_S) + 1)]
            for descriptor in taken:
                os.close(descriptor)
        assert all("file descriptors" in shortage for (shortage,) in said)
        assert shortages.look(100.0) == []
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert caplog.messages[-1].startswith("over: file descriptors")


def test_row_27_while_there_are_enough_nothing_is_said() -> None:
    with files_allowed(FEW + 1000):
        assert few_files() == ""
