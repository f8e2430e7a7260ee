"""Live tests need root and time, say loudly when they are left out, and end with a table of what
they measured, each figure beside its promise."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live import netns

HERE = Path(__file__).parent
LIMIT_S = 240
LOUD = ("tests in network namespaces", "tests on a disk of their own", "tests in a memory cgroup")
Measurement = tuple[str, str, str, str]
MEASUREMENTS = pytest.StashKey[list[Measurement]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEASUREMENTS] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.live)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(LIMIT_S))


@pytest.fixture(scope="session")
def network_of() -> type[netns.Network]:
    """The network to build, where this machine can."""
    why = netns.missing()
    if why:
        pytest.skip(f"tests in network namespaces: {why}")
    return netns.Network


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Notes a figure for the table at the end, and holds it to its promise: at most, or at
    least."""
    row = re.match(r"test_row_(\d+)", request.node.name)
    name = f"row {row[1]}" if row else ""

    def note(
        what: str,
        value: float,
        most: float | None = None,
        least: float | None = None,
        unit: str = "s",
    ) -> None:
        promise = f"<= {most:g}" if most is not None else f">= {least:g}"
        request.config.stash[MEASUREMENTS].append((name, what, f"{value:.2f} {unit}", promise))
        assert most is None or value <= most, f"{what}: {value:.2f} {unit}, promised {promise}"
        assert least is None or value >= least, f"{what}: {value:.2f} {unit}, promised {promise}"

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = terminalreporter.config.stash[MEASUREMENTS]
    if rows:
        terminalreporter.section("measured on real processes")
        for row, what, value, promise in rows:
            terminalreporter.line(f"{row:7} {what:62} {value:>12}   {promise}")
    for report in terminalreporter.stats.get("skipped", []):
        if any(what in str(report.longrepr) for what in LOUD):
            terminalreporter.line(f"SKIPPED {report.nodeid}: {report.longrepr[2]}", red=True)
