"""What was found: one line each, the same for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mpls.errors import MplsError

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True)
class Finding:
    """`level` is OK, WARN (it runs, but look at it) or FAIL (it will not run, or not as meant);
    `what` was looked at, its `value`, and the `remedy`, if it needs one. `numbers` are the value
    for programs, units last in their names."""

    level: str
    what: str
    value: str
    remedy: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)

    def as_plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        plain = {"level": self.level, "what": self.what, "value": self.value}
        return {**plain, "remedy": self.remedy, **self.numbers}


def ok(what: str, value: str, **numbers: Any) -> Finding:
    """As it should be."""
    return Finding(OK, what, value, "", numbers)


def warn(what: str, value: str, remedy: str, **numbers: Any) -> Finding:
    """It runs all the same."""
    return Finding(WARN, what, value, remedy, numbers)


def fail(what: str, value: str, remedy: str, **numbers: Any) -> Finding:
    """It would not run, or not as it is meant."""
    return Finding(FAIL, what, value, remedy, numbers)


def failed(what: str, error: MplsError) -> Finding:
    """Our errors name the place first and the remedy last."""
    value, _, remedy = str(error).partition("; ")
    return Finding(FAIL, what, value, remedy)


def count(findings: Sequence[Finding], level: str) -> int:
    """How many of this level."""
    return sum(finding.level == level for finding in findings)
