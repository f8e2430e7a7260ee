"""For all tests: property tests try the same examples each time, and no example is timed, since a
busy machine would make either fail now and then."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
