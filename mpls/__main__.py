"""The `mpls` command."""

from __future__ import annotations

import faulthandler
import sys


def main() -> None:
    """Ends the process with the command's exit code."""
    from mpls.cli import main as run

    if sys.stderr is not None:
        # A crash, or the SIGABRT of a watchdog, says where each thread was.
        faulthandler.enable()
    sys.exit(run())


if __name__ == "__main__":
    main()
