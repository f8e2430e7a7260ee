"""The rules of the house: who may import whom, what core may never touch, how long things may get.

Each rule reads one source file and names its violations. `test_architecture.py` applies them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
FUNCTION_LINES = 70
FILE_LINES = 400

ROOMS = {
    "mpls.errors": "base",
    "mpls.units": "base",
    "mpls.journald": "base",
    "mpls.endings": "endings",
    "mpls.core": "core",
    "mpls.wire": "wire",
    "mpls.model": "model",
    "mpls.checkpoint": "checkpoint",
    "mpls.report": "report",
    "mpls.topology": "config",
    "mpls.config": "config",
    "mpls.runtime.keys": "keys",
    "mpls.runtime": "runtime",
    "mpls.deploy": "deploy",
    "mpls.adapters": "adapters",
    "mpls.preflight": "preflight",
    "mpls.forecast": "preflight",
    "mpls.doctor": "preflight",
    "mpls.cli": "cli",
    "mpls.__main__": "main",
    "sim.__main__": "sim main",
    "sim": "sim",
}
LIVE = {"core", "wire", "model", "config", "checkpoint", "keys", "runtime", "adapters", "report"}
MAY_IMPORT = {
    "base": set(),
    "endings": set(),
    "core": set(),
    "wire": {"core"},
    "model": {"core"},
    "report": {"core"},
    "checkpoint": set(),
    "config": {"core"},
    "keys": {"config"},
    "runtime": {"core", "wire", "model", "config", "checkpoint", "keys"},
    "adapters": {"core", "wire", "runtime", "keys"},
    "deploy": {"config", "keys"},
    "preflight": LIVE,
    "cli": LIVE | {"preflight", "deploy", "endings"},
    "main": {"cli"},
    "sim": {"core", "config", "wire", "report", "model", "endings"},
    "sim main": {"core", "config", "wire", "report", "model", "sim"},
}
"""Besides their own room and `base`, which all may import."""

NOT_IN_CORE = {
    "time": "`now`, an argument",
    "datetime": "`now`, an argument",
    "sched": "`Conductor.deadline`",
    "random": "`core.streams.Stream`",
    "secrets": "`core.streams.Stream`",
    "uuid": "`core.streams.Stream`",
    "threading": "one owner; others post events",
    "multiprocessing": "one owner; others post events",
    "concurrent": "one owner; others post events",
    "queue": "one owner; others post events",
    "asyncio": "generators and the Conductor",
    "socket": "commands, which a driver carries out",
    "selectors": "commands, which a driver carries out",
    "signal": "commands, which a driver carries out",
    "subprocess": "commands, which a driver carries out",
}
"""What to use instead."""
OWNS_TORCH = re.compile(r"mpls/(model/(nets|layers|training|torchvision_shim)|runtime/\w+)\.py")
UNFINISHED = re.compile(
    r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK"]) + r")\b"
)


@dataclass(frozen=True)
class Import:
    """One imported module, ours in full. `deferred`: not when the importing module is imported."""

    target: str
    line: int
    deferred: bool


@dataclass(frozen=True)
class Source:
    """A file of the repository, or a snippet that pretends to be one."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax."""
        return ast.parse(self.text, self.path)

    @cached_property
    def imports(self) -> list[Import]:
        """Everything that it imports, wherever in the file."""
        return list(_imports(self, self.tree, deferred=False))

    @property
    def module(self) -> str:
        """Its dotted name."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        """What a relative import starts from."""
        return self.module if self.path.endswith("/__init__.py") else self.module.rpartition(".")[0]


def _imports(source: Source, node: ast.AST, deferred: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        later = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        later |= isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        for target in _targets(source, child):
            yield Import(target, getattr(child, "lineno", 0), deferred)
        yield from _imports(source, child, deferred or later)


def _targets(source: Source, node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        up = source.package.split(".")[: len(source.package.split(".")) - node.level + 1]
        base = ".".join([*(up if node.level else []), *filter(None, [node.module])])
        inner = [f"{base}.{alias.name}" for alias in node.names]
        return [base if base in OURS and name not in OURS else name for name in inner]
    if isinstance(node, ast.Constant) and node.value in OURS and "." in str(node.value):
        return [str(node.value)]  # a name for importlib or a fork server's preload
    return []


def _room(module: str) -> str | None:
    """None for what is not ours, and for the package `mpls` itself, which holds nothing."""
    while module and module not in ROOMS:
        module = module.rpartition(".")[0]
    return ROOMS.get(module)


def _files(*folders: str) -> list[Source]:
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths]


CODE = _files("mpls", "sim")
EVERYTHING = [*CODE, *_files("tests", "tools")]
OURS = {source.module for source in CODE}

# --- the rules --------------------------------------------------------------------------------


def imports_follow_the_arrows(source: Source) -> Iterator[str]:
    room = _room(source.module)
    if room is None and source.module != "mpls":
        yield "has no room; give it one in ROOMS"
    for found in source.imports:
        other = _room(found.target)
        if other not in (None, "base", room, *MAY_IMPORT.get(room or "", ())):
            yield f"line {found.line}: {room} may not import {found.target} ({other})"


def nothing_imports_a_program(source: Source) -> Iterator[str]:
    for found in source.imports:
        into_sim = found.target.split(".")[0] == "sim" and not source.module.startswith("sim")
        if into_sim or found.target.endswith("__main__"):
            yield f"line {found.line}: {found.target} is a program, nothing imports it"


def core_is_pure(source: Source) -> Iterator[str]:
    """No clock, chance, thread or socket."""
    if _room(source.module) != "core":
        return
    for found in source.imports:
        top = found.target.split(".")[0]
        if top in NOT_IN_CORE:
            yield f"line {found.line}: {top}; instead: {NOT_IN_CORE[top]}"
        elif top not in sys.stdlib_module_names | {"mpls", "numpy"}:
            yield f"line {found.line}: {top}; core has the standard library and numpy"
        elif found.target.startswith("numpy.random"):
            yield f"line {found.line}: {found.target}; instead: `core.streams.Stream`"
    for node in ast.walk(source.tree):
        name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if re.fullmatch(r"(np|numpy)\.random\.(?!PCG64$)\w+|os\.(urandom|times)", name):
            yield f"line {node.lineno}: {name}; instead: `core.streams.Stream`"


def torch_stays_where_it_lives(source: Source) -> Iterator[str]:
    if OWNS_TORCH.fullmatch(source.path):
        return
    for found in source.imports:
        if found.target.split(".")[0] in ("torch", "torchvision") and not found.deferred:
            yield f"line {found.line}: import {found.target} inside the function that needs it"


def functions_are_short(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"line {node.lineno}: {node.name} has {lines} lines, over {FUNCTION_LINES}"


def files_are_short(source: Source) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines > FILE_LINES:
        yield f"has {lines} lines, over {FILE_LINES}"


def nothing_is_left_unfinished(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if UNFINISHED.search(line):
            yield f"line {number}: {line.strip()}"


def no_exception_is_swallowed(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and all(map(_does_nothing, node.body)):
            yield f"line {node.lineno}: an exception is swallowed"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"line {node.lineno}: a bare except catches even Ctrl-C"
        if isinstance(node, ast.Call) and re.fullmatch(
            r"(contextlib\.)?suppress\(.*\b(Base)?Exception\b.*\)", ast.unparse(node)
        ):
            yield f"line {node.lineno}: an exception is swallowed"


def _does_nothing(node: ast.stmt) -> bool:
    return isinstance(node, ast.Pass) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


Rule = Callable[[Source], Iterator[str]]
RULES: dict[Rule, list[Source]] = {
    imports_follow_the_arrows: CODE,
    nothing_imports_a_program: CODE,
    core_is_pure: CODE,
    torch_stays_where_it_lives: CODE,
    functions_are_short: EVERYTHING,
    files_are_short: CODE,  # tests may list as many cases as there are
    nothing_is_left_unfinished: EVERYTHING,
    no_exception_is_swallowed: EVERYTHING,
}
"""Each with the files that it is for."""
