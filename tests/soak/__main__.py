"""Three live workers for an hour, one of them killed every 20 s, and what that did to them.

    make soak MINUTES=60
    python -m tests.soak --minutes 3 --every-s 10 --seed 7

Each worker is a process of `mpls worker`, started again two seconds after it died, as a service
manager would. Every period one gets SIGKILL at a random moment; w0 is spared in the first half, w1
in the second, so that memory and files show over half an hour of life, too. At the end all are told
to drain. Exit 1 if a goal is missed, 130 after Ctrl-C (with the report so far).

Writes into its folder: soak.json, samples.jsonl, cluster.toml, each life's trace and output, and
the state folders.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mpls.errors import INTERRUPTED, MplsError
from mpls.runtime.folders import new_folder
from tests.soak.report import Lines, print_goals
from tests.soak.soak import Soak

LEAST_MINUTES = 0.5


def main(args: Sequence[str] | None = None) -> int:
    """The exit code."""
    options = _options(args)
    try:
        folder = options.out or new_folder("runs", "soak")
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            print(f"error: --out {folder}: is not empty; name a new folder", file=sys.stderr)
            return 2
        return _soak(options, folder)
    except (MplsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, MplsError) else 1


def _soak(options: argparse.Namespace, folder: Path) -> int:
    lines = Lines(quiet=options.json)
    soak = Soak(folder, options.minutes * 60, options.every_s, options.seed, lines)
    lines.say(
        f"{options.minutes:g} minutes, a kill every {options.every_s:g} s, seed {options.seed};"
        f" {folder}"
    )
    soak.run()
    summary = soak.summary()
    text = json.dumps(summary, allow_nan=False)
    (folder / "soak.json").write_text(text + "\n", encoding="utf-8")
    if options.json:
        print(text)
    else:
        print_goals(summary)
    if soak.interrupted:
        return INTERRUPTED
    return 0 if summary["missed"] == 0 else 1


def _options(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every-s", type=float, default=20.0, help="a kill in each such period")
    parser.add_argument("--seed", type=int, default=1, help="of whom is killed when")
    parser.add_argument("--out", type=Path, help="a new folder  [default: one below runs/]")
    parser.add_argument("--json", action="store_true", help="print only the report, as JSON")
    options = parser.parse_args(args)
    if not LEAST_MINUTES <= options.minutes < 1e6:
        parser.error(f"--minutes {options.minutes:g}: must be at least {LEAST_MINUTES:g}")
    if not 1.0 <= options.every_s < options.minutes * 60:
        parser.error(f"--every-s {options.every_s:g}: must be 1 to less than the whole soak")
    return options


if __name__ == "__main__":
    sys.exit(main())
