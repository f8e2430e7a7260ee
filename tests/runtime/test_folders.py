"""Every run has a folder of its own, and `latest` leads to the newest."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import pytest

from mpls.errors import BadInput
from mpls.runtime.folders import calibration_here, keep_calibration, new_folder


def test_runs_that_begin_in_the_same_second_have_different_folders(tmp_path):
    folders = [new_folder(str(tmp_path / "runs"), "local") for _ in range(5)]
    assert len(set(folders)) == 5
    assert all(folder.is_dir() for folder in folders)
    assert all(folder.name.startswith("local-") for folder in folders)


def test_latest_is_a_relative_link_to_the_newest(tmp_path):
    new_folder(str(tmp_path), "local")
    newest = new_folder(str(tmp_path), "local")
    assert (tmp_path / "latest").readlink() == Path(newest.name)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_a_killed_process_of_the_same_number_left_behind_is_no_obstacle(tmp_path):
    """In a container every run may have the same process id."""
    (tmp_path / f".latest-{os.getpid()}").symlink_to("nowhere")
    folder = new_folder(str(tmp_path), "local")
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, "latest"}


def test_an_out_that_is_a_file_is_bad_input_that_names_it(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(BadInput, match=r"\[cluster\] out = .*runs"):
        new_folder(str(tmp_path / "runs"), "local")


def test_a_latest_that_is_a_folder_is_bad_input(tmp_path):
    (tmp_path / "latest").mkdir()
    with pytest.raises(BadInput, match=r"\[cluster\] out = "):
        new_folder(str(tmp_path), "local")


# --- the machine's calibration --------------------------------------------------------------------


def measured_on(host: str) -> str:
    plain = json.loads(Path("sim/default-calibration.json").read_text(encoding="utf-8"))
    plain["stamp"]["host"] = host
    return json.dumps(plain)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory's calibration, not there yet."""
    here, other = measured_on(platform.node()), measured_on("elsewhere")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text(here)
    (tmp_path / "other.json").write_text(other)
    return tmp_path / "calibration.json"


def test_a_run_keeps_the_calibration_of_the_working_directory(here: Path) -> None:
    assert calibration_here(None) == (None, None)
    here.write_bytes(Path("mine.json").read_bytes())
    text, warning = calibration_here(None)
    assert (text, warning) == (here.read_text(), None)
    keep_calibration(text, here.parent)
    assert (here.parent / "calibration.json").read_text() == text


def test_one_of_another_host_is_kept_only_if_it_is_asked_for(here: Path) -> None:
    here.write_bytes(Path("other.json").read_bytes())
    text, warning = calibration_here(None)
    assert text is None
    assert warning is not None
    assert '"elsewhere"' in warning
    assert calibration_here(Path("other.json")) == (here.read_text(), None)


@pytest.mark.parametrize("content", [None, b"{}", b"\xff\xfe", b'{"format": 1}'])
def test_what_is_no_calibration_is_bad_input(here: Path, content: bytes | None) -> None:
    if content is not None:
        here.write_bytes(content)
    with pytest.raises(BadInput, match=r"^calibration.json: "):
        calibration_here(Path("calibration.json"))
