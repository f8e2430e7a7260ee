"""Says loudly, at the end, which tests of the deployment were left out and what they need."""

from __future__ import annotations

import pytest

LACKING = "tests of the systemd unit: "


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.stats.get("skipped", []):
        if LACKING in str(report.longrepr):
            terminalreporter.line(f"SKIPPED {report.nodeid}: {report.longrepr[2]}", red=True)
