"""The eight metrics and their goals, each with what was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Verdict = str
"""`ok`, `missed`, or `n/a` with the reason why it could not be judged."""


@dataclass(frozen=True)
class Metric:
    """A line of the table. `value` is what the goal is about, in the goal's unit; `signed_error`
    says into which direction the twin is off, as a share, where that has a meaning."""

    number: int
    name: str
    goal: str
    value: float | None
    shown: str
    met: bool | None
    signed_error: float | None = None
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """See Verdict."""
        return "n/a" if self.met is None else "ok" if self.met else "missed"

    def plain(self) -> dict[str, Any]:
        """For compare.json."""
        return {
            "number": self.number,
            "metric": self.name,
            "goal": self.goal,
            "value": self.value,
            "signed_error": self.signed_error,
            "verdict": self.verdict,
            "note": self.note,
        }


def at_most(
    number: int,
    name: str,
    value: float,
    limit: float,
    signed: float | None = None,
    unit: str = "%",
    note: str = "",
) -> Metric:
    """A value that must not exceed its limit; both are shares where the unit is %."""
    return Metric(
        number,
        name,
        f"<= {_shown(limit, unit)}",
        value,
        _shown(value, unit),
        value <= limit,
        signed,
        note,
    )


def unknown(number: int, name: str, goal: str, why: str) -> Metric:
    """What these runs cannot tell."""
    return Metric(number, name, goal, None, "-", None, None, why)


def _shown(value: float, unit: str) -> str:
    return f"{value:.2%}".replace("%", " %") if unit == "%" else f"{value:.3g}{unit}"
