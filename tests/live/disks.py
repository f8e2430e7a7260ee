"""A small disk of its own: an ext4 file system in a file, mounted through a loop device.

Needs root, mkfs.ext4 and a kernel with loop devices; `missing()` says what is not there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class DiskError(Exception):
    """A command failed; says which, and why."""


def missing() -> str:
    """What this machine lacks; empty if nothing."""
    if os.geteuid() != 0:
        return "needs root, to mount a file system"
    for tool, package in (("mkfs.ext4", "e2fsprogs"), ("mount", "mount")):
        if shutil.which(tool) is None:
            return f"needs the program {tool}: apt-get install {package}"
    try:
        with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder), 4):
            return ""
    except DiskError as error:
        return f"needs to mount through a loop device: {error}"


@contextmanager
def small_disk(folder: Path, size_MB: int = 32) -> Iterator[Path]:
    """Where a new one is mounted. Its image lies in the folder as `disk.img`."""
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(size_MB * 1_000_000)
    _run("mkfs.ext4", "-q", "-m", "0", str(image))
    with mounted(image, folder / "disk") as place:
        yield place


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    """The image's file system, whatever state it is in."""
    place.mkdir(exist_ok=True)
    _run("mount", "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        _run("umount", str(place))


def fill(place: Path) -> Path:
    """Take all room that is left; the file that has it."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(65_536)):
            pass
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(b"x"):
            pass
    return filler


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise DiskError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
