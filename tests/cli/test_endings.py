"""Ctrl-C and a reader that goes away end a command quietly, without a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mpls.cli import main


class Interrupted:
    """A standard input at which the user presses Ctrl-C."""

    buffer = property(lambda self: self)

    def read(self) -> bytes:
        raise KeyboardInterrupt


def test_ctrl_c_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Interrupted())
    assert main(["plan", "-"]) == 130
    assert capsys.readouterr().err.strip() == ""


def test_a_reader_that_goes_away_is_no_error_worth_a_word() -> None:
    command = [sys.executable, "-m", "mpls", "generate", "--workers", "2000"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 1
