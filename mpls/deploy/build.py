"""Building a wheelhouse with pip: our own wheel from the checkout, everything else at the versions
that constraints.txt pins."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from email.parser import HeaderParser
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from mpls.deploy import wheelhouse
from mpls.deploy.wheelhouse import Wheelhouse, canonical
from mpls.errors import BadInput, RunFailed

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""The default index has torch for GPUs, with gigabytes of libraries."""
EPOCH = "315619200"
"""Of all files in our wheel, so that the same sources make the same wheel."""
CLOSURES = 8


def build(
    folder: Path,
    source: Path,
    python: str,
    torch_index: str,
    say: Callable[[str], None],
) -> Wheelhouse:
    """What is there already and still wanted is not fetched again; what is not wanted any more
    goes. Raises BadInput for a folder without our sources and RunFailed for whatever pip says."""
    if not (source / "pyproject.toml").is_file():
        raise BadInput(f"{source}: no pyproject.toml; --source is a checkout of this project")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        ours = _own_wheel(source, Path(place), say)
        pip = _Pip(source, folder, Path(place), python, torch_index)
        wanted = _closure(pip, ours, python, say)
    made = wheelhouse.look_at(folder, python, platform.machine())
    for wheel in made.wheels:
        if wheel.file not in wanted:
            made.path(wheel).unlink()
    made = wheelhouse.look_at(folder, python, platform.machine())
    made.save()
    return made


def _own_wheel(source: Path, place: Path, say: Callable[[str], None]) -> Path:
    """From a copy of the sources, since setuptools leaves things in the folder that it builds."""
    say(f"our own wheel, of {source}")
    copy = place / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(source / name, copy / name)
    for package in ("mpls", "sim"):
        shutil.copytree(
            source / package, copy / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    command = ["wheel", "--no-deps", "--wheel-dir", str(place / "own"), str(copy)]
    _run_pip(command, {"SOURCE_DATE_EPOCH": EPOCH})
    (wheel,) = (place / "own").glob("*.whl")
    return wheel


class _Pip:
    """`pip download` for a Python that need not be this one."""

    def __init__(
        self, source: Path, folder: Path, place: Path, python: str, torch_index: str
    ) -> None:
        self.folder = folder
        self._constraints = place / "constraints.txt"
        pins = (source / "constraints.txt").read_text(encoding="utf-8").splitlines()
        pinned = (_for_python(line, python) for line in pins if line and not line.startswith("#"))
        self._constraints.write_text("".join(f"{line}\n" for line in pinned if line))
        index = ["--extra-index-url", torch_index] if torch_index else []
        other = "" if python == _this_python() else python
        self._flags = [*index, *(["--python-version", other] if other else [])]

    def download(self, requirements: Sequence[str]) -> None:
        """These and what they need, into the wheelhouse."""
        where = ["--dest", str(self.folder), "--find-links", str(self.folder)]
        only = ["--only-binary=:all:", "-c", str(self._constraints)]
        _run_pip(["download", *where, *only, *self._flags, *requirements])


def _closure(pip: _Pip, ours: Path, python: str, say: Callable[[str], None]) -> set[str]:
    """Fetch what is needed, and return all that is, by file. pip asks this Python, and not the
    other, which requirements hold, so what is missing for the other one is asked for by name."""
    shutil.copy(ours, pip.folder / ours.name)
    missing = list(_needs(pip.folder / ours.name, python))
    for _ in range(CLOSURES):
        say(f"pip download: {len(missing)} requirements")
        pip.download(missing)
        wanted, missing = _walk(pip.folder, ours.name, python)
        if not missing:
            return wanted
    raise RunFailed(f"{pip.folder}: pip does not bring {missing[0]}, which something needs")


def _walk(folder: Path, first: str, python: str) -> tuple[set[str], list[str]]:
    """The files that our wheel needs, directly or not, and the requirements that none meets."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    there: dict[str, list[tuple[str, str]]] = {}
    for path in folder.glob("*.whl"):
        name, version, *_ = path.name.split("-")
        there.setdefault(canonical(name), []).append((version, path.name))
    wanted, missing, left = {first}, [], [first]
    while left:
        for text in _needs(folder / left.pop(), python):
            requirement = Requirement(text)
            allowed = requirement.specifier or SpecifierSet()
            fitting = [
                file
                for version, file in there.get(canonical(requirement.name), [])
                if allowed.contains(version, prereleases=True) and _fits(file, python)
            ]
            if not fitting:
                missing.append(text)
            elif not wanted & set(fitting):
                chosen = max(fitting, key=lambda file: (folder / file).stat().st_mtime)
                wanted.add(chosen)
                left.append(chosen)
    return wanted, missing


def _fits(file: str, python: str) -> bool:
    """Whether a wheel is for this Python; a version may lie there for another one, too."""
    tags = file.rsplit("-", 3)[1].split(".")
    number = python.replace(".", "")
    stable = file.rsplit("-", 2)[1] == "abi3" or tags[0].startswith("py3") or "py3" in tags
    return stable or f"cp{number}" in tags or f"py{number}" in tags


def _needs(wheel: Path, python: str) -> Iterator[str]:
    """The requirements of a wheel that hold for this Python, without extras of its own."""
    try:
        with ZipFile(wheel) as archive:
            (name,) = (
                name
                for name in archive.namelist()
                if name.endswith(".dist-info/METADATA") and name.count("/") == 1
            )
            metadata = HeaderParser().parsestr(archive.read(name).decode())
    except (OSError, BadZipFile, ValueError) as error:
        raise RunFailed(f"{wheel}: not a wheel: {error}") from None
    for line in metadata.get_all("Requires-Dist", []):
        held = _for_python(line, python)
        if held:
            yield held


def _for_python(line: str, python: str) -> str:
    """A requirement without its marker, or "" where the marker does not hold there."""
    from packaging.requirements import Requirement

    requirement = Requirement(line)
    if requirement.marker is not None:
        of_there = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
        if not requirement.marker.evaluate(of_there):
            return ""
        requirement.marker = None
    return str(requirement)


def _this_python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _run_pip(arguments: Sequence[str], extra: dict[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(
        command, env={**os.environ, **(extra or {})}, capture_output=True, text=True
    )
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = said[0] if said else done.stderr.strip().splitlines()[-1:]
        raise RunFailed(f"pip {arguments[0]}: {why}")
