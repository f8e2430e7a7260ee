"""What is tried before a run: what comes of a good cluster, and what the machine cannot do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mpls.config import builtin
from mpls.errors import BadInput
from mpls.preflight import prepare
from tests.bad_clusters import GOOD


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(GOOD)
    return path


def test_without_a_file_the_built_in_cluster_is_prepared() -> None:
    prepared = prepare(None)
    assert prepared.config == builtin()
    assert prepared.warnings == ()
    assert np.array_equal(np.sort(np.concatenate(prepared.shards)), np.arange(8000))


def test_values_of_the_command_line_win_over_the_file(file: Path, tmp_path: Path) -> None:
    config = prepare(file, strategy="appg", rounds=7, seed=None, out=str(tmp_path)).config
    assert (config.mpls.strategy, config.training.rounds) == ("appg", 7)
    assert (config.cluster.seed, config.cluster.out) == (builtin().cluster.seed, str(tmp_path))
    assert prepare(file, seed=2).shards[0].tolist() != prepare(file).shards[0].tolist()


def test_a_mistake_in_the_built_in_cluster_is_named_as_such() -> None:
    with pytest.raises(BadInput, match=r"^the built-in cluster: there is no worker 9; ids are 0"):
        prepare(None, worker_id=9)


def test_a_device_that_is_not_there_is_refused(file: Path) -> None:
    file.write_text(GOOD + '[training]\ndevice = "cuda:999"\n')
    with pytest.raises(BadInput, match=r"cuda:999") as refusal:
        prepare(file)
    assert len(str(refusal.value).splitlines()) == 1


def test_the_digits_are_prepared_without_torch() -> None:
    code = """
import sys
from mpls.preflight import prepare
prepare(None)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
