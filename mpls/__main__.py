"""The `mpls` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Ends the process with the command's exit code."""
    from mpls.cli import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
