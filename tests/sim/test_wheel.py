"""The installed package: built as a wheel, and run where there is no checkout."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUIET = ["-q", "--disable-pip-version-check", "--no-deps", "--no-index"]
HALF_AN_HOUR_S = 1800


def run(*command: str | Path, cwd: Path) -> str:
    """Its output. The environment names no checkout."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with our wheel, and with the packages of this one but not its checkout."""
    folder, pip = tmp_path_factory.mktemp("wheel"), [sys.executable, "-m", "pip"]
    for name in ("mpls", "sim", "deploy"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    run(*pip, "wheel", *QUIET, "--no-build-isolation", "-w", folder, folder, cwd=folder)
    (wheel,) = folder.glob("mpls_dfl-*.whl")
    venv.create(folder / "venv", symlinks=True)
    own = next((folder / "venv").glob("lib/python*/site-packages"))
    run(*pip, "install", *QUIET, "--target", own, wheel, cwd=folder)
    # A line of a .pth file puts a folder on the path, and does not read that folder's .pth files:
    # an editable install, which would lead to the checkout, stays behind.
    (own / "others.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "venv" / "bin" / "python"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """An empty folder outside the checkout."""
    assert ROOT not in tmp_path.parents
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(HALF_AN_HOUR_S)
def test_both_packages_come_from_the_wheel(python: Path, elsewhere: Path) -> None:
    places = run(
        python, "-c", "import mpls, sim; print(mpls.__file__, sim.__file__)", cwd=elsewhere
    )
    for place in places.split():
        assert Path(place).is_relative_to(python.parents[1])


@pytest.mark.slow
@pytest.mark.timeout(HALF_AN_HOUR_S)
@pytest.mark.parametrize("train", [["model"], ["real", "--rounds", "4"]], ids=lambda how: how[0])
def test_a_sweep_runs_from_the_wheel(train: list[str], python: Path, elsewhere: Path) -> None:
    flags = ["--bw", "10-15MB", "--seeds", "1", "--train", *train]
    out = run(python, "-m", "sim", *flags, cwd=elsewhere)
    assert out.count("trace SHA256") == 4
    folder = elsewhere / "runs" / "latest-sim"
    for name in ("points.jsonl", "points.csv", "ranking.png", "report.html"):
        assert (folder / name).stat().st_size > 100
    assert sorted(path.name for path in elsewhere.iterdir()) == ["runs"]


@pytest.mark.slow
@pytest.mark.timeout(HALF_AN_HOUR_S)
def test_the_command_is_installed(python: Path, elsewhere: Path) -> None:
    assert "mpls generate --workers 5" in run(python, "-m", "mpls", "--help", cwd=elsewhere)


@pytest.mark.slow
@pytest.mark.timeout(HALF_AN_HOUR_S)
def test_the_systemd_units_come_from_the_wheel(python: Path, elsewhere: Path) -> None:
    run(python, "-m", "mpls", "unit", "--template", elsewhere, cwd=elsewhere)
    for name in ("mpls-worker@.service", "mpls.target"):
        assert (elsewhere / name).read_text() == (ROOT / "deploy" / name).read_text()
