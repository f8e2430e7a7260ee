"""The lives of a worker's present run, on its server: run by a release's own Python, as root.

A worker that was killed, or started anew by a deployment, goes on in a folder of its own; all of
them since it last began from nothing are one run.

    python -m mpls.deploy.lives /var/lib/mpls/0 w0
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def lives(state: Path, name: str) -> list[str]:
    """The folders in `runs`, the first life first. One that ended before it wrote anything is left
    out."""
    found: list[tuple[float, bool, str]] = []
    for trace in (state / "runs").glob(f"*/{name}.trace.jsonl"):
        header = _header(trace)
        if header is not None and not trace.parent.is_symlink():
            found.append((header["started_unix_s"], "resumed" in header, trace.parent.name))
    run: list[str] = []
    for _, resumed, folder in sorted(found, reverse=True):
        run.insert(0, folder)
        if not resumed:
            break
    return run


def _header(trace: Path) -> dict[str, float] | None:
    with trace.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if '"kind":"header"' in line and line.endswith("\n"):
                found: dict[str, float] = json.loads(line)
                return found
    return None


if __name__ == "__main__":
    print(json.dumps(lives(Path(sys.argv[1]), sys.argv[2])))
