"""Tests on servers need root and, the first time, some minutes for a Debian; left out they say so
loudly."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rehearsal import servers

HERE = Path(__file__).parent
LIMIT_S = 1200
"""The first one may have to make the base tree and the wheelhouse."""
LACKING = "tests on servers: "


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.live)
            item.add_marker(pytest.mark.timeout(LIMIT_S))


@pytest.fixture(scope="session")
def rig() -> type[servers.Servers]:
    """The servers to have, where this machine can."""
    why = servers.missing()
    if why:
        pytest.skip(f"{LACKING}{why}")
    return servers.Servers


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.stats.get("skipped", []):
        if LACKING in str(report.longrepr):
            terminalreporter.line(f"SKIPPED {report.nodeid}: {report.longrepr[2]}", red=True)
