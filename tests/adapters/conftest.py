"""Without grpcio none of these tests can run, which is said aloud."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest


class Without(pytest.Module):
    """A file of tests that is skipped before anything in it is imported."""

    def collect(self) -> Any:
        pytest.skip('the gRPC tests need grpcio: pip install "mpls-dfl[grpc]"')


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> Any:
    if find_spec("grpc") is None:
        return Without.from_parent(parent, path=module_path)
    return None
