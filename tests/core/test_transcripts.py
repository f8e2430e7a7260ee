"""Golden transcripts: the whole behaviour of a worker's core in stories that a person can read.

Each file in transcripts/ is played into a fresh core; its answers must be those in the file.
`make golden` rewrites them; review the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.core.playbook import play, scripts


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.stem)
def test_the_core_answers_as_in_the_transcript(script: Path) -> None:
    recorded = script.read_text()
    played = play(recorded)
    if os.environ.get("MPLS_GOLDEN") == "write":
        script.write_text(played)
    assert played == recorded


def test_a_changed_answer_is_noticed() -> None:
    script = scripts()[0].read_text()
    assert play(script.replace("credit", "debit")) != script.replace("credit", "debit")
