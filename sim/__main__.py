"""`python -m sim`: simulate a federation on given links."""

from __future__ import annotations

import sys


def main() -> None:
    """Ends the process with the command's exit code."""
    from sim.cli import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
