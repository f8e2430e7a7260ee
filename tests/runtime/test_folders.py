"""Every run has a folder of its own, and `latest` leads to the newest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mpls.errors import BadInput
from mpls.runtime.folders import new_folder


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
