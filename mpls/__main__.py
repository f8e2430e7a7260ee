"""The `mpls` command."""

from __future__ import annotations

import faulthandler
import gc
import sys


def main() -> None:
    """Ends the process with the command's exit code."""
    from mpls.cli import main as run

    if sys.stderr is not None:
        # A crash, or the SIGABRT of a watchdog, says where each thread was.
        faulthandler.enable()
    try:
        sys.exit(run())
    finally:
        # Python would go over every object of torch's several times, to free what ends with the
        # process: most of the time a worker took to go, and long where it gets little of a core.
        gc.freeze()


if __name__ == "__main__":
    main()
