"""Remove each guard in turn: some test must notice.

    make mutants                            all of them, some minutes
    python -m tools.mutants mpls/wire       those of one folder or file

A guard is found in the syntax, not in a list that could be forgotten: an `if` that refuses (raises,
or returns an error or False) gets the condition False, a bare `raise` becomes `pass`, each operand
of `and` and `or` and each half of `low <= x <= high` is left out once, and so is each entry of a
table of limits. Every mutant is tried in a copy of the tree. Exit 1 if one survives.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[1]
WIRE_TESTS = (
    "tests/wire/test_nasty_frames.py",
    "tests/wire/test_incoming.py",
    "tests/wire/test_transfer.py",
    "tests/wire/test_codec.py",
    "tests/wire/test_fuzz.py",
    "tests/wire/test_pulls.py",
)
"""The quickest first: most mutants are noticed by them."""
SUITES: dict[str, tuple[str, ...]] = {
    "mpls/wire/frames.py": WIRE_TESTS,
    "mpls/wire/codec.py": WIRE_TESTS,
    "mpls/wire/incoming.py": WIRE_TESTS,
    "mpls/wire/outgoing.py": WIRE_TESTS,
    "mpls/core/serving.py": ("tests/core/test_serving.py",),
    "mpls/runtime/limits.py": ("tests/runtime/test_limits.py", "tests/runtime/test_bounds.py"),
    "mpls/runtime/clients.py": (
        "tests/runtime/test_clients.py",
        "tests/runtime/test_bounds.py",
        "tests/runtime/test_server.py",
    ),
}
"""The files whose guards are removed, and the tests that must notice."""
COPIED = ("mpls", "sim", "tests", "tools", "docs", "configs", "pyproject.toml")
WORKERS = os.cpu_count() or 1
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Mutant:
    """A file with one guard less."""

    path: str
    line: int
    what: str
    text: str


def mutants(path: str, text: str) -> Iterator[Mutant]:
    """Every one of this file."""
    source = text.encode()
    tree = ast.parse(text)
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    translated = {id(inner) for handler in handlers for inner in ast.walk(handler)}
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and _refuses(node)]
    refusing = {id(guard.body[-1]) for guard in guards}
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and id(node) not in translated | refusing:
            yield _without(path, source, node, "pass", "raise")
        if isinstance(node, ast.If) and _refuses(node):
            yield _without(path, source, node.test, "False", f"if {ast.unparse(node.test)}")
        for shorter, left_out in _shorter(node):
            yield _without(path, source, node, f"({shorter})", left_out)


def _refuses(node: ast.If) -> bool:
    last = node.body[-1]
    if isinstance(last, ast.Return) and last.value is not None:
        value = ast.unparse(last.value)
        return value == "False" or value.startswith(("Error(", "protocol.Error("))
    return isinstance(last, ast.Raise)


def _shorter(node: ast.AST) -> Iterator[tuple[str, str]]:
    """The expression without one of its parts, and that part."""
    if isinstance(node, ast.BoolOp):
        word = " and " if isinstance(node.op, ast.And) else " or "
        parts = [f"({ast.unparse(value)})" for value in node.values]
        for index, part in enumerate(parts):
            yield word.join(parts[:index] + parts[index + 1 :]), part
    elif isinstance(node, ast.Compare) and len(node.ops) == 2:
        first = ast.Compare(node.left, node.ops[:1], node.comparators[:1])
        second = ast.Compare(node.comparators[0], node.ops[1:], node.comparators[1:])
        yield ast.unparse(second), ast.unparse(first)
        yield ast.unparse(first), ast.unparse(second)
    elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith("_LIMITS"):
        yield from _tables(node)


def _tables(node: ast.Assign) -> Iterator[tuple[str, str]]:
    """As an assignment in parentheses, which may be a statement too."""
    assert isinstance(node.value, ast.Dict)
    entries = [
        f"{ast.unparse(key)}: {ast.unparse(value)}"
        for key, value in zip(node.value.keys, node.value.values)
        if key is not None
    ]
    for index, entry in enumerate(entries):
        table = ", ".join(entries[:index] + entries[index + 1 :])
        yield f"{ast.unparse(node.targets[0])} := {{{table}}}", entry


def _without(path: str, source: bytes, node: ast.AST, text: str, what: str) -> Mutant:
    """The source with the node's text replaced."""
    assert isinstance(node, (ast.expr, ast.stmt))
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    begin = starts[node.lineno - 1] + node.col_offset
    end = starts[node.end_lineno - 1] + node.end_col_offset
    mutated = (source[:begin] + text.encode() + source[end:]).decode()
    compile(mutated, path, "exec")
    return Mutant(path, node.lineno, what, mutated)


def main(wanted: Sequence[str]) -> int:
    """Try all, print each, and return the exit code."""
    paths = [path for path in SUITES if not wanted or path.startswith(tuple(wanted))]
    found = [mutant for path in paths for mutant in mutants(path, (ROOT / path).read_text())]
    with tempfile.TemporaryDirectory() as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(WORKERS):
            copies.put(_copy(Path(folder) / str(number)))
        intact = copies.get()
        for path in paths:
            if not _passes(intact, path):
                print(f"{path}: its tests fail without any mutant: {' '.join(SUITES[path])}")
                return 1
        copies.put(intact)
        with ThreadPoolExecutor(WORKERS) as pool:
            survivors = sum(pool.map(lambda mutant: _survives(mutant, copies), found))
    print(f"{len(found) - survivors} of {len(found)} killed, {survivors} survived")
    return 1 if survivors else 0


def _copy(to: Path) -> Path:
    to.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, to / name)
    return to


def _survives(mutant: Mutant, copies: SimpleQueue[Path]) -> bool:
    tree = copies.get()
    (tree / mutant.path).write_text(mutant.text)
    survives = _passes(tree, mutant.path)
    (tree / mutant.path).write_text((ROOT / mutant.path).read_text())
    copies.put(tree)
    end = "SURVIVED" if survives else "killed"
    print(f"{end:9}{mutant.path}:{mutant.line}  without {mutant.what}", flush=True)
    return survives


def _passes(tree: Path, path: str) -> bool:
    """Whether the tests of this file do, all of them. Tests that hang have noticed."""
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-m", "not slow and not live"]
    command = [sys.executable, "-B", "-m", "pytest", *options, *SUITES[path]]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
