"""Whom a worker has greeted, and was welcomed by, in its present life: run by a release's own
Python on the server of that worker, as root.

    python -m mpls.deploy.heard /var/lib/mpls/0 w0
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def heard(state: Path, name: str) -> dict[str, Any]:
    """Since when its clock runs, and when each peer last welcomed it, in seconds since 1970. Both
    come from its trace, which it writes as it goes; empty if it has none."""
    trace = state / "runs" / "latest" / f"{name}.trace.jsonl"
    if not trace.is_file():
        return {}
    zero_s, welcomes = None, {}
    with trace.open("rb") as lines:
        for line in lines:
            if zero_s is None and b'"header"' in line:
                zero_s = json.loads(line)["started_unix_s"]
            elif b'"Welcome"' in line and line.endswith(b"\n") and zero_s is not None:
                record = json.loads(line)
                reply = record.get("event", {}).get("reply", {})
                if reply.get("is") == "Welcome":
                    welcomes[reply["name"]] = zero_s + record["t"]
    return {} if zero_s is None else {"began_s": zero_s, "welcomes": welcomes}


if __name__ == "__main__":
    print(json.dumps(heard(Path(sys.argv[1]), sys.argv[2])))
