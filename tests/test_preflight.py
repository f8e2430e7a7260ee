"""What is tried before a run: what comes of a good cluster, and what the machine cannot do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mpls.config import builtin, changed
from mpls.errors import BadInput, Refused
from mpls.preflight import prepare
from mpls.runtime.keys import KeyFiles
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
from mpls.runtime.keys import KeyFiles
prepare(None)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_off_loopback_plaintext_is_for_those_who_ask_for_it_and_are_warned(file: Path) -> None:
    file.write_text(GOOD.replace("127.0.0.1", "192.0.2.1"))
    with pytest.raises(Refused, match=r"c\.keys\.toml: not there; `mpls keys .*c\.toml` makes it"):
        prepare(file)
    file.write_text(f'{file.read_text()}[network]\nemulate = ""\nsecurity = "plaintext"\n')
    (warning,) = prepare(file).warnings
    assert warning.startswith('[network] security = "plaintext": whoever sees the network can')


def test_on_its_server_a_worker_needs_its_own_secret_only(file: Path) -> None:
    file.write_text(GOOD + '[network]\nsecurity = "curve"\n')
    keys = KeyFiles(file)
    keys.make(["w0", "w1", "w2"])
    for name in ("w0", "w2"):
        keys.secret(name).unlink()
    assert prepare(file, worker_id=1).warnings == ()
    assert prepare(file, to_run=False).warnings == ()
    for worker_id in (0, None):
        with pytest.raises(Refused, match=r"w0\.secret: not there"):
            prepare(file, worker_id=worker_id)


def test_the_built_in_cluster_has_no_place_for_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = changed(builtin(), {"network": {"security": "curve"}})
    monkeypatch.setattr("mpls.preflight.builtin", lambda: curve)
    with pytest.raises(Refused, match="keys lie beside a cluster file"):
        prepare(None)
