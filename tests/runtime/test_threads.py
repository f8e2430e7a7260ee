"""What a worker's thread ends with is told in words that say what to do about it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from mpls.runtime.threads import named

EXABYTE = 2**60


def nested_text() -> str:
    return "x" * EXABYTE


@pytest.mark.parametrize(
    "ask",
    [
        nested_text,
        lambda: bytearray(EXABYTE),
        lambda: np.zeros(EXABYTE // 4, np.float32),
        lambda: torch.empty(EXABYTE // 4),
    ],
    ids=["str", "bytearray", "numpy", "torch"],
)
def test_row_26_whoever_refuses_memory_it_is_called_out_of_memory(
    ask: Callable[[], object],
) -> None:
    """Really asked for, of each of those whom a training step asks."""
    with pytest.raises((MemoryError, RuntimeError)) as refusal:
        ask()
    assert named(refusal.value).startswith("out of memory: ")
    assert "\n" not in named(refusal.value)


def test_what_is_no_lack_of_memory_keeps_its_name() -> None:
    assert named(RuntimeError("shapes differ\nat ...")) == "RuntimeError: shapes differ"
    assert named(OSError(28, "No space left on device")).startswith("OSError: [Errno 28]")
    assert named(OSError(12, "Cannot allocate memory")).startswith("out of memory: ")
