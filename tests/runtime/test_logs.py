"""Where log lines go, and what they look like there."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import pytest

from mpls import journald
from mpls.cli import main
from mpls.config import builtin, changed
from mpls.errors import BadInput
from mpls.preflight import prepare
from mpls.runtime import logs
from tests.bad_clusters import GOOD


@contextmanager
def redirected(path: Path) -> Iterator[Path]:
    """This process's stderr, to a file. No fixture can: pytest takes it back before the test."""
    with path.open("w", buffering=1) as file, redirect_stderr(file):
        yield path


def connect(monkeypatch: pytest.MonkeyPatch, path: Path, inode: int = 0) -> None:
    """As systemd says that stderr is the journal."""
    found = path.stat()
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{inode or found.st_ino}")


def write(handlers: list[logging.Handler], *records: tuple[int, str]) -> None:
    log = logging.Logger("x", logging.DEBUG)
    for handler in handlers:
        log.addHandler(handler)
    for level, text in records:
        log.log(level, text)
    try:
        raise RuntimeError("out of\nluck")
    except RuntimeError:
        log.exception("it failed")
    for handler in handlers:
        handler.close()


def test_the_journal_gets_no_time_and_the_priority_of_every_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redirected(tmp_path / "stderr") as stderr:
        connect(monkeypatch, stderr)
        lines = [(logging.INFO, "running"), (logging.WARNING, "two\nlines")]
        write(logs.handlers("w0", None), *lines)
    first, second, third, fourth, *traceback = stderr.read_text().splitlines()
    assert (first, second, third) == ("<6>w0 running", "<4>w0 two", "<4>lines")
    assert fourth == "<3>w0 it failed"
    assert traceback[0] == "<3>Traceback (most recent call last):"
    assert traceback[-2:] == ["<3>RuntimeError: out of", "<3>luck"]
    assert all(line.startswith("<3>") for line in traceback)


def test_who_redirected_stderr_away_from_the_journal_gets_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redirected(tmp_path / "stderr") as stderr:
        for inode in (1, stderr.stat().st_ino + 1):
            connect(monkeypatch, stderr, inode)
            assert not journald.reads_stderr()
        write(logs.handlers("w0", None), (logging.INFO, "running"))
    assert stderr.read_text().splitlines()[0].endswith(" INFO w0 running")
    assert stderr.read_text()[:4].isdecimal()


@pytest.mark.parametrize("stream", ["", ":", "8:", "not a stream"])
def test_nonsense_in_the_environment_is_no_journal(
    stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", stream)
    with redirected(tmp_path / "stderr"):
        assert not journald.reads_stderr()


def test_why_a_command_was_refused_is_an_error_to_the_journal_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redirected(tmp_path / "stderr") as stderr:
        connect(monkeypatch, stderr)
        assert main(["worker", str(tmp_path / "none.toml"), "--id", "0"]) == 2
    assert stderr.read_text().startswith(f"<3>error: {tmp_path}")


def test_a_full_file_is_turned_over_and_the_oldest_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 1000)
    lines = [(logging.INFO, f"line {number} {'x' * 100}") for number in range(100)]
    write(logs.handlers("w0", tmp_path / "w0.log")[1:], *lines)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["w0.log", *(f"w0.log.{number}" for number in range(1, logs.FILES_KEPT + 1))]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert "INFO w0 line 99 " in (tmp_path / "w0.log").read_text()


def test_clusters_may_share_a_folder_for_logs_but_runs_have_their_own(tmp_path: Path) -> None:
    shared = changed(builtin(), {"logging": {"dir": "logs"}, "cluster": {"name": "ours"}})
    assert logs.file_of(shared, "w0", tmp_path) == Path("logs/ours-w0.log")
    assert logs.file_of(builtin(), "w0", tmp_path) == tmp_path / "w0.log"


def test_a_folder_for_logs_is_made_before_a_run_and_not_to_look_at_one(tmp_path: Path) -> None:
    file, folder = tmp_path / "c.toml", tmp_path / "deep" / "logs"
    file.write_text(f'{GOOD}[logging]\ndir = "{folder}"\n')
    prepare(file, to_run=False)
    assert not folder.exists()
    prepare(file)
    assert list(folder.iterdir()) == []


def test_a_folder_for_logs_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    file, folder = tmp_path / "c.toml", tmp_path / "c.toml" / "logs"
    file.write_text(f'{GOOD}[logging]\ndir = "{folder}"\n')
    with pytest.raises(BadInput, match=r"\[logging\] dir = .*: cannot be written: Not a dir"):
        prepare(file)
    with pytest.raises(BadInput, match=r"w0\.log: the log cannot be written: No such file"):
        logs.handlers("w0", tmp_path / "none" / "w0.log")
