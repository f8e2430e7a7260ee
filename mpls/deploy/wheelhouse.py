"""A wheelhouse: a folder with the wheel of everything that a server needs, ours among them, and a
manifest that says which Python they are for, and each one's digest. `mpls deploy build` makes it
once, and servers need no package index."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mpls.errors import BadInput, shown

MANIFEST = "wheelhouse.json"
FORMAT = 1
PROJECT = "mpls-dfl"
DIGEST_CHARACTERS = 12
_PYTHON = re.compile(r"3\.1[0-3]")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"[\w.+!-]+\.whl")


@dataclass(frozen=True)
class Wheel:
    """One file of a wheelhouse."""

    file: str
    name: str
    version: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Wheelhouse:
    """A folder and what its manifest says. `python` is like 3.11, `machine` like x86_64."""

    folder: Path
    python: str
    machine: str
    wheels: tuple[Wheel, ...]

    @property
    def version(self) -> str:
        """Ours."""
        return self.ours.version

    @property
    def release(self) -> str:
        """VERSION-HASH: the same wheels always make the same release."""
        return f"{self.version}-{self._digest(self.wheels)}"

    @property
    def ours(self) -> Wheel:
        """The project's own."""
        return next(wheel for wheel in self.wheels if wheel.name == PROJECT)

    @property
    def others(self) -> tuple[Wheel, ...]:
        """What ours needs."""
        return tuple(wheel for wheel in self.wheels if wheel.name != PROJECT)

    @property
    def libraries(self) -> str:
        """HASH of the others: releases that differ in our own wheel alone share them."""
        return self._digest(self.others)

    @property
    def total_bytes(self) -> int:
        """Of all wheels."""
        return sum(wheel.bytes for wheel in self.wheels)

    def _digest(self, wheels: Iterable[Wheel]) -> str:
        content = [self.python, self.machine, *sorted(wheel.sha256 for wheel in wheels)]
        return hashlib.sha256("\n".join(content).encode()).hexdigest()[:DIGEST_CHARACTERS]

    def path(self, wheel: Wheel) -> Path:
        """Where it lies."""
        return self.folder / wheel.file

    def save(self) -> None:
        """Write the manifest."""
        plain = {
            "format": FORMAT,
            "release": self.release,
            "python": self.python,
            "machine": self.machine,
            "wheels": [asdict(wheel) for wheel in self.wheels],
        }
        (self.folder / MANIFEST).write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Wheelhouse:
    """With every wheel held against its digest. Raises BadInput, one line that names the file and
    what to do, for whatever is not as it was built."""
    found = _read_manifest(folder / MANIFEST)
    for wheel in found.wheels:
        path = found.path(wheel)
        if not path.is_file():
            raise BadInput(f"{path}: not there, but in {MANIFEST}; {_remedy(folder)}")
        if digest(path) != wheel.sha256:
            raise BadInput(f"{path}: is not the file that {MANIFEST} names; {_remedy(folder)}")
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            hashed.update(piece)
    return hashed.hexdigest()


def look_at(folder: Path, python: str, machine: str) -> Wheelhouse:
    """What lies in a folder, as its manifest is to say it."""
    return Wheelhouse(folder, python, machine, tuple(_wheels(sorted(folder.glob("*.whl")))))


def check_python(text: str) -> str:
    """A version that we run on, or BadInput."""
    if not _PYTHON.fullmatch(text):
        raise BadInput(f"--python {shown(text)}: must be 3.10, 3.11, 3.12 or 3.13")
    return text


def canonical(name: str) -> str:
    """A project's name as all spellings of it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _wheels(paths: Iterable[Path]) -> Iterable[Wheel]:
    for path in paths:
        name, version, *_ = path.name.split("-")
        yield Wheel(path.name, canonical(name), version, digest(path), path.stat().st_size)


def _read_manifest(path: Path) -> Wheelhouse:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: not there; {_remedy(path.parent)}") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise BadInput(f"{path}: not JSON; {_remedy(path.parent)}") from None
    try:
        return _from_plain(path.parent, plain)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration):
        raise BadInput(
            f"{path}: not the manifest of a wheelhouse; {_remedy(path.parent)}"
        ) from None


def _from_plain(folder: Path, plain: dict[str, Any]) -> Wheelhouse:
    wheels = tuple(Wheel(**wheel) for wheel in plain["wheels"])
    found = Wheelhouse(folder, plain["python"], plain["machine"], wheels)
    names = all(_FILE.fullmatch(wheel.file) and _SHA256.fullmatch(wheel.sha256) for wheel in wheels)
    python = _PYTHON.fullmatch(found.python) and re.fullmatch(r"\w+", found.machine)
    if plain["format"] != FORMAT or plain["release"] != found.release or not (names and python):
        raise ValueError
    return found


def _remedy(folder: Path) -> str:
    return f"`mpls deploy build --wheelhouse {folder}` makes it"
