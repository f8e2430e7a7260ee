"""A worker finds itself again: from its newest checkpoint, or it says why not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from mpls.checkpoint import Checkpoint, decode
from mpls.checkpoint.disk import OsDisk
from mpls.config import ClusterConfig, builtin, changed, dumps
from mpls.core.trace import Record, read, replay
from mpls.errors import BadInput, Refused
from mpls.runtime.state_folder import StateFolder
from mpls.runtime.worker import Place, Worker
from tests.runtime.rig import listening_socket, until

STATE = "state"


def cluster(**tables: dict[str, Any]) -> ClusterConfig:
    """One worker that trains, and one that never comes."""
    training = {"rounds": 6, "local_steps": 5, "eval_every": 3, **tables.pop("training", {})}
    workers = [{"id": number, "address": f"127.0.0.1:{9 + number}"} for number in range(2)]
    own = {"workers": workers, "training": training, "checkpoint": {"every_rounds": 2}}
    return changed(builtin(), {**own, **tables})


def live(folder: Path, config: ClusterConfig, state: Path, fresh: bool = False) -> int:
    folder.mkdir()
    place = Place(folder, listening_socket().detach(), state=state, fresh=fresh)
    return Worker(config, 0, place).run()


def records(folder: Path, *kinds: str) -> list[Record]:
    return [record for record in read(folder / "w0.trace.jsonl") if record["kind"] in kinds]


def rounds(folder: Path) -> list[int]:
    return [record["round"] for record in records(folder, "mix")]


def newest(state: Path) -> Checkpoint:
    path = max(state.glob("step-*.safetensors"))
    return decode(path.read_bytes(), str(path))


def test_it_goes_on_after_the_round_of_its_checkpoint_and_its_trace_replays(tmp_path: Path) -> None:
    state = tmp_path / STATE
    assert live(tmp_path / "one", cluster(training={"rounds": 4}), state) == 0
    assert [it["round"] for it in records(tmp_path / "one", "checkpoint")] == [2, 4, 4]
    assert live(tmp_path / "two", cluster(), state) == 0
    assert rounds(tmp_path / "one") == [1, 2, 3, 4]
    assert rounds(tmp_path / "two") == [5, 6]
    assert newest(state).round == 6
    assert newest(state).steps == 30
    (header,) = records(tmp_path / "two", "header")
    assert set(header["resumed"]["peers"]) == {"w1"}
    assert replay(read(tmp_path / "two" / "w0.trace.jsonl")) is None


def test_a_worker_whose_rounds_are_done_says_so_and_ends_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="mpls")
    state = tmp_path / STATE
    live(tmp_path / "one", cluster(), state)
    assert live(tmp_path / "two", cluster(), state) == 0
    assert rounds(tmp_path / "two") == []
    assert "all 6 rounds are done already" in caplog.text
    one, two = (load_file(tmp_path / life / "w0.safetensors") for life in ("one", "two"))
    assert all((values == two[name]).all() for name, values in one.items())


def test_fresh_begins_anew_and_loses_nothing(tmp_path: Path) -> None:
    state = tmp_path / STATE
    live(tmp_path / "one", cluster(), state)
    live(tmp_path / "two", cluster(), state, fresh=True)
    assert rounds(tmp_path / "two") == [1, 2, 3, 4, 5, 6]
    assert len([*state.glob("*.set-aside")]) == 2


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ({"training": {"lr": 0.5}}, r"made with \[training\] lr = 0\.1, not 0\.5"),
        ({"cluster": {"seed": 9}}, r"made with \[cluster\] seed = 1, not 9"),
        ({"model": {"name": "lenet5"}}, r"made with \[model\] name = \"simple-mlp\""),
    ],
)
def test_row_23_the_checkpoint_of_another_run_is_refused_with_what_differs(
    tmp_path: Path, tables: dict[str, Any], why: str
) -> None:
    state = tmp_path / STATE
    live(tmp_path / "one", cluster(), state)
    with pytest.raises(BadInput, match=rf"step-\d+\.safetensors: {why}.*--fresh") as refusal:
        live(tmp_path / "two", cluster(**tables), state)
    assert refusal.value.exit_code == 2
    assert newest(state).round == 6


def test_row_22_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / STATE
    live(tmp_path / "one", cluster(), state)
    damaged = max(state.glob("step-*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-7])
    live(tmp_path / "two", cluster(), state)
    assert f"{damaged}: damaged" in caplog.text
    assert rounds(tmp_path / "two") == [5, 6]


def test_row_21_who_cannot_save_itself_goes_on_and_does_not_end_as_if_it_could(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(OsDisk, "write", full)
    assert live(tmp_path / "one", cluster(), tmp_path / STATE) == 1
    assert rounds(tmp_path / "one") == [1, 2, 3, 4, 5, 6]
    failed = [record.get("failed", "") for record in records(tmp_path / "one", "checkpoint")]
    assert len(failed) == 4
    assert all(why.endswith("No space left on device") for why in failed)
    *_, last = records(tmp_path / "one", "state")
    assert last["state"] == "failed"
    assert last["reason"].startswith("checkpoint: ")


def test_row_25_a_second_process_of_the_same_worker_is_refused(tmp_path: Path) -> None:
    first = StateFolder(tmp_path / STATE, keep=2)
    with pytest.raises(Refused, match=f"in use by process {os.getpid()}"):
        live(tmp_path / "two", cluster(), tmp_path / STATE)
    first.close()
    StateFolder(tmp_path / STATE, keep=2).close()


def test_row_24_a_worker_that_is_told_to_end_goes_on_in_the_midst_of_its_pass(
    tmp_path: Path,
) -> None:
    """And ends with the very weights of one that was never told: nobody is pulled from."""
    whole = finished(tmp_path, "whole", kills=())
    told = finished(tmp_path, "told", kills=(signal.SIGTERM,))
    assert told == whole


def test_row_19_a_killed_worker_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    whole = finished(tmp_path, "whole", kills=())
    killed = finished(tmp_path, "killed", kills=(signal.SIGKILL, signal.SIGKILL))
    assert killed == whole


def finished(place: Path, name: str, kills: tuple[signal.Signals, ...]) -> dict[str, bytes]:
    """The weights of `mpls worker` after its last life; each signal ends one before."""
    out = place / name
    file = place / f"{name}.toml"
    training = {"rounds": 40, "local_steps": 23, "eval_every": 40, "momentum": 0.5}
    file.write_text(dumps(cluster(training=training, cluster={"out": str(out), "name": "c"})))
    command = [sys.executable, "-m", "mpls", "worker", str(file), "--id", "0"]
    for number, kind in enumerate(kills, 1):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            until(partial(is_beyond, out, number, 5 * number), "some rounds", 60)
            process.send_signal(kind)
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    weights = load_file(max(out.glob("c-w0-*/w0.safetensors")))
    return {tensor: values.tobytes() for tensor, values in weights.items()}


def is_beyond(out: Path, life: int, round_number: int) -> bool:
    """Whether this life has mixed that round."""
    traces = sorted(out.glob("c-w0-2*/w0.trace.jsonl"))
    if len(traces) < life:
        return False
    mixes = (record["round"] for record in read(traces[-1]) if record["kind"] == "mix")
    return max(mixes, default=0) >= round_number
