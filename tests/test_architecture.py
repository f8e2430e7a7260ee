"""The house stays as it was drawn: the code keeps every rule of `house.py`, each rule is shown to
bite, and what does not train imports without torch."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.house import (
    FILE_LINES,
    FUNCTION_LINES,
    OURS,
    ROOT,
    RULES,
    Rule,
    Source,
    core_is_pure,
    files_are_short,
    functions_are_short,
    imports_follow_the_arrows,
    no_exception_is_swallowed,
    nothing_imports_a_program,
    nothing_is_left_unfinished,
    torch_stays_where_it_lives,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule: Rule) -> None:
    broken = [f"{source.path}: {why}" for source in RULES[rule] for why in rule(source)]
    assert not broken, "\n".join(broken)


# --- each rule bites ----------------------------------------------------------------------

SNIPPETS: list[tuple[Rule, str, str]] = [
    (imports_follow_the_arrows, "mpls/core/x.py", "import mpls.wire.frames"),
    (imports_follow_the_arrows, "mpls/core/x.py", "from mpls import topology"),
    (imports_follow_the_arrows, "mpls/core/x.py", "from ..wire import frames"),
    (imports_follow_the_arrows, "mpls/core/__init__.py", "from ..config import load"),
    (imports_follow_the_arrows, "mpls/core/x.py", "def f():\n    from .. import topology"),
    (imports_follow_the_arrows, "mpls/core/x.py", "import_module('mpls.model.data')"),
    (imports_follow_the_arrows, "mpls/units.py", "from mpls.core.links import Link"),
    (imports_follow_the_arrows, "mpls/wire/x.py", "from mpls.model import manifest"),
    (imports_follow_the_arrows, "mpls/model/x.py", "from mpls.config import builtin"),
    (imports_follow_the_arrows, "mpls/report/x.py", "from mpls.runtime import worker"),
    (imports_follow_the_arrows, "mpls/config/x.py", "from mpls.model.data import DATASETS"),
    (imports_follow_the_arrows, "mpls/topology.py", "from mpls.model.data import DATASETS"),
    (imports_follow_the_arrows, "mpls/runtime/x.py", "from sim import driver"),
    (imports_follow_the_arrows, "mpls/runtime/x.py", "import mpls.preflight"),
    (imports_follow_the_arrows, "mpls/runtime/x.py", "from mpls.endings import ended"),
    (imports_follow_the_arrows, "mpls/adapters/x.py", "from mpls.model import nets"),
    (imports_follow_the_arrows, "mpls/preflight.py", "from mpls.cli import run"),
    (imports_follow_the_arrows, "mpls/deploy/x.py", "from mpls.runtime import worker"),
    (imports_follow_the_arrows, "mpls/deploy/x.py", "from mpls.preflight import prepare"),
    (imports_follow_the_arrows, "mpls/runtime/x.py", "from mpls.deploy import layout"),
    (imports_follow_the_arrows, "mpls/runtime/keys.py", "from mpls.runtime import worker"),
    (imports_follow_the_arrows, "sim/x.py", "from mpls.runtime.emulation import Pacing"),
    (imports_follow_the_arrows, "mpls/new_room/x.py", ""),
    (nothing_imports_a_program, "mpls/cli/x.py", "from sim.compare import compare"),
    (nothing_imports_a_program, "mpls/cli/x.py", "from mpls.__main__ import main"),
    (nothing_imports_a_program, "sim/x.py", "import sim.__main__"),
    (core_is_pure, "mpls/core/x.py", "from time import monotonic"),
    (core_is_pure, "mpls/core/x.py", "def f():\n    import random"),
    (core_is_pure, "mpls/core/x.py", "import threading as t"),
    (core_is_pure, "mpls/core/x.py", "import concurrent.futures"),
    (core_is_pure, "mpls/core/x.py", "import asyncio, socket"),
    (core_is_pure, "mpls/core/x.py", "import torch"),
    (core_is_pure, "mpls/core/x.py", "import simpy"),
    (core_is_pure, "mpls/core/x.py", "from zmq import Context"),
    (core_is_pure, "mpls/core/x.py", "np.random.default_rng()"),
    (core_is_pure, "mpls/core/x.py", "from numpy import random"),
    (core_is_pure, "mpls/core/x.py", "import numpy.random"),
    (torch_stays_where_it_lives, "mpls/model/data.py", "import torch"),
    (torch_stays_where_it_lives, "mpls/cli/check.py", "from torch import nn"),
    (torch_stays_where_it_lives, "mpls/model/data.py", "from torchvision import datasets"),
    (torch_stays_where_it_lives, "sim/compute.py", "class A:\n    import torch.nn"),
    (functions_are_short, "mpls/x.py", "def f():\n" + "    a = 1\n" * FUNCTION_LINES),
    (files_are_short, "mpls/x.py", "a = 1\n" * (FILE_LINES + 1)),
    (nothing_is_left_unfinished, "mpls/x.py", "a = 1  # TO" + "DO: two"),
    (nothing_is_left_unfinished, "mpls/x.py", '"""FIX' + 'ME."""'),
    (no_exception_is_swallowed, "mpls/x.py", "try:\n    f()\nexcept OSError:\n    pass"),
    (no_exception_is_swallowed, "mpls/x.py", "try:\n    f()\nexcept OSError:\n    ..."),
    (no_exception_is_swallowed, "mpls/x.py", "try:\n    f()\nexcept:\n    g()"),
    (no_exception_is_swallowed, "mpls/x.py", "with suppress(OSError, Exception):\n    f()"),
]


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    SNIPPETS,
    ids=[f"{rule.__name__}-{number}" for number, (rule, _, _) in enumerate(SNIPPETS)],
)
def test_the_rule_bites(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("mpls/core/x.py", "from mpls.errors import shown\nfrom .plan import View\nimport json"),
        ("mpls/core/streams.py", "bits = np.random.PCG64(1)"),
        ("mpls/runtime/x.py", "import time, torch\nfrom mpls.wire import frames"),
        ("mpls/model/nets.py", "import torch"),
        ("mpls/deploy/x.py", "from mpls.runtime.keys import KeyFiles\nimport mpls.config"),
        ("mpls/preflight.py", "def f():\n    import torch\n    from mpls.model import nets"),
        ("mpls/cli/x.py", "if TYPE_CHECKING:\n    import torch"),
        ("sim/__main__.py", "import sim.driver\nfrom mpls.core import round"),
        ("mpls/__main__.py", "from mpls.cli import main"),
        ("mpls/__init__.py", '__version__ = "1"'),
        (
            "mpls/wire/x.py",
            "try:\n    f()\nexcept OSError as error:\n    raise A(error) from error",
        ),
    ],
)
def test_no_rule_bites_on_what_is_allowed(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(Source(path, text)))


# --- without torch ----------------------------------------------------------------------------

WITHOUT_TORCH = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
for module in sys.argv[1:]:
    importlib.import_module(module)
"""
DRY = re.compile(
    r"mpls(\.(core|wire|config|report|deploy)(\.\w+)*|\.cli(\.\w+)?|\.\w+|"
    r"\.model\.(data|formats|partition|manifest)|\.runtime\.(process|federation|folders))?"
    r"|sim(\.\w+)*"
)


def import_without_torch(*modules: str) -> str:
    """What Python complains about; nothing if all is well."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *modules]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stderr


def test_what_does_not_train_imports_without_torch() -> None:
    modules = sorted(module for module in OURS if DRY.fullmatch(module))
    assert {"mpls.core.round", "mpls.wire.frames", "mpls.topology", "sim"} <= set(modules)
    complaint = import_without_torch(*modules)
    assert not complaint, complaint


def test_the_blocker_blocks() -> None:
    assert "torch is blocked" in import_without_torch("mpls.model.nets")
