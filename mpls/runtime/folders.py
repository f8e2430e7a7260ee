"""The folder of a run, and what is kept in it of the machine that ran."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from mpls.core import calibration
from mpls.errors import BadInput, shown

CALIBRATION_FILE = Path("calibration.json")


def new_folder(out: str, name: str) -> Path:
    """A fresh folder below `out`, named after the run and the time, with `latest` beside it
    pointing there. Raises BadInput if it cannot be made."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        folder = Path(out) / f"{name}-{stamp}{f'-{attempt}' if attempt else ''}"
        try:
            folder.mkdir(parents=True)
            _point_latest(folder)
            return folder
        except FileExistsError:
            if not folder.is_dir():
                break
        except OSError as error:
            raise BadInput(f"[cluster] out = {out!r}: {error.strerror}: {folder}") from None
    raise BadInput(f"[cluster] out = {out!r}: cannot make a new folder {folder}")


def calibration_here(given: Path | None) -> tuple[str | None, str | None]:
    """The text of the calibration that a run on this machine keeps, and a warning, either where
    there is one: of the file `given`, or else of calibration.json in the working directory, if that
    was measured on this host. Raises BadInput if it is no calibration."""
    path = given or CALIBRATION_FILE
    if given is None and not path.is_file():
        return None, None
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: not a text file; a calibration is JSON in UTF-8") from None
    host = calibration.loads(text, str(path)).stamp.host
    if given is None and host != platform.node():
        why = f"measured on {shown(host)}, not here, and so not kept with the run"
        return None, f"{path}: {why}; --calibration {path} keeps it all the same"
    return text, None


def keep_calibration(text: str | None, folder: Path) -> None:
    """Beside the traces, where `python -m sim compare` looks for it."""
    if text is not None:
        (folder / CALIBRATION_FILE).write_text(text, encoding="utf-8")


def _point_latest(folder: Path) -> None:
    """Swapped in by a rename, so that `latest` always exists once it did."""
    link = folder.parent / f".latest-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    link.replace(folder.parent / "latest")
