"""The command itself: quick to help, and every way in which it can end."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import mpls
from mpls.cli import COMMANDS, main

HEAVY = ("torch", "torchvision", "pydantic", "numpy", "networkx", "zmq", "rich")


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=False)


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = f"""
import sys
from mpls.cli import main
assert main(["--help"]) == 0
print(sorted(set({HEAVY}) & set(sys.modules)))
"""
    said = run("-c", code).stdout
    assert said.endswith("\n[]\n")
    listed = [line.split()[0] for line in said.partition("Commands:\n")[2].splitlines()[:-1]]
    assert listed == list(COMMANDS)


def test_help_answers_in_half_a_second() -> None:
    took_s = []
    for _ in range(3):
        began_s = time.perf_counter()
        assert run("-m", "mpls", "--help").returncode == 0
        took_s.append(time.perf_counter() - began_s)
    assert min(took_s) < 0.5


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_without_torch(command: str) -> None:
    code = f"""
import sys
from mpls.cli import main
assert main(["{command}", "--help"]) == 0
print("torch" in sys.modules)
"""
    said = run("-c", code).stdout
    assert said.startswith(f"Usage: mpls {command} ")
    assert said.endswith("\nFalse\n")


def test_nobody_looks_for_garbage_when_the_process_ends_anyhow() -> None:
    code = """
import atexit, gc, sys
atexit.register(lambda: print(len(gc.get_objects()) < gc.get_freeze_count() / 100))
from mpls.__main__ import main
sys.argv[1:] = ["--version"]
main()
"""
    ended = run("-c", code)
    assert ended.stdout == f"mpls, version {mpls.__version__}\nTrue\n", ended.stderr
    assert ended.returncode == 0


def test_the_version_is_the_package_s() -> None:
    assert run("-m", "mpls", "--version").stdout == f"mpls, version {mpls.__version__}\n"


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["chekc"], "No such command 'chekc'"),
        (["check", "--jsn"], "No such option '--jsn'"),
        (["check", "a", "b"], "Got unexpected extra argument"),
        (["worker", "a"], "Missing option '--id'"),
        (["worker", "a", "--id", "one"], "'one' is not a valid integer"),
        (["plan"], "Missing argument 'SCENARIO'"),
    ],
)
def test_a_command_line_that_makes_no_sense_ends_with_2(
    args: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    assert line in capsys.readouterr().err


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr()
    assert "mpls generate --workers 5 -o mine.toml" in said.err + said.out
