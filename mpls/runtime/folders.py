"""The folder of a run."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mpls.errors import BadInput


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


def _point_latest(folder: Path) -> None:
    """Swapped in by a rename, so that `latest` always exists once it did."""
    link = folder.parent / f".latest-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    link.replace(folder.parent / "latest")
