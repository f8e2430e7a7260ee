"""`make twin-check` and `make twin-study`: live runs in network namespaces, held against the twin.

    python -m tests.twin check [--out FOLDER]     one setting, three repeats: some minutes
    python -m tests.twin study [--out FOLDER]     all settings of docs/twin.md: about 45 minutes
    python -m tests.twin study --only large       those whose name has this in it

Each model is calibrated with one run of its own, with another seed, bandwidth and strategy, which
is not judged. Exit 1 where a goal is missed. Needs root; without it says so and exits 0.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sim.cli import main as sim
from tests.live import netns
from tests.twin.rig import Setting, live_run

CALIBRATED = {
    "small": Setting("small", "8MB", "gossip", rounds=60),
    "medium": Setting("medium", "8MB", "gossip", rounds=30),
    "large": Setting("large", "8MB", "gossip", rounds=16),
}
CALIBRATION_SEED = 99
CHECK = [(Setting("medium"), 3)]
STUDY = [
    *((Setting("medium", strategy=name), 5) for name in ("mpls", "appg", "netmax", "gossip")),
    (Setting("small", rounds=60), 3),
    (Setting("large", rounds=10), 2),
    (Setting("medium", "5MB"), 2),
    (Setting("medium", "25MB"), 2),
    (Setting("medium", "5-25MB"), 2),
    (Setting("medium", halved_after_s=8.0), 2),
    (Setting("medium", workers=6), 2),
]
"""Settings and how often each is repeated."""


def main(args: Sequence[str] | None = None) -> int:
    """Runs what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("check", "study"))
    parser.add_argument(
        "--out", type=Path, default=Path(f"runs/twin-{time.strftime('%Y%m%d-%H%M%S')}")
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="settings named with this")
    options = parser.parse_args(args)
    if options.out.exists():
        parser.error(f"--out {options.out}: exists already; name a folder that does not")
    why = netns.missing()
    if why:
        print(f"SKIPPED: the twin is not held against live runs here: {why}")
        return 0
    known = CHECK if options.what == "check" else STUDY
    settings = [(setting, repeats) for setting, repeats in known if options.only in setting.name]
    if not settings:
        names = ", ".join(setting.name for setting, _ in known)
        parser.error(f"--only {options.only}: no such setting; there are {names}")
    calibrations = _calibrations(options.out, {setting.model for setting, _ in settings})
    exits = [
        _judge(setting, repeats, calibrations[setting.model], options.out)
        for setting, repeats in settings
    ]
    if settings == STUDY:
        _judge_ranking(options.out, calibrations["medium"])
    _table(options.out)
    return int(any(exits))


def _calibrations(out: Path, models: set[str]) -> dict[str, Path]:
    print(f"calibrating with a run of each model: {', '.join(sorted(models))}", flush=True)
    return {
        model: live_run(CALIBRATED[model], CALIBRATION_SEED, out / f"calibration-{model}")
        for model in sorted(models)
    }


def _judge(setting: Setting, repeats: int, calibration: Path, out: Path) -> int:
    runs = []
    for seed in range(1, repeats + 1):
        print(f"{setting.name}: live run {seed} of {repeats}", flush=True)
        runs.append(live_run(setting, seed, out / setting.name / str(seed)))
    return _compare(setting, runs, calibration, out / setting.name)


def _judge_ranking(out: Path, calibration: Path) -> int:
    """All strategies of the study together: metric 7."""
    of = [setting for setting, repeats in STUDY if repeats == 5]
    runs = [out / setting.name / str(seed) for setting in of for seed in range(1, 6)]
    return _compare(of[0], runs, calibration, out / "ranking")


def _compare(setting: Setting, runs: Sequence[Path], calibration: Path, out: Path) -> int:
    flags = ["--bw", setting.bw, "--calibration", str(calibration), "--out", str(out)]
    if setting.halved_after_s:
        flags += ["--vary", f"step:{setting.halved_after_s:g}=0.5"]
    return sim(["compare", *map(str, runs), *flags])


def _table(out: Path) -> None:
    """Every metric of every setting, as Markdown."""
    found: dict[str, list[dict[str, Any]]] = {
        file.parent.name: json.loads(file.read_text())
        for file in sorted(out.glob("*/compare.json"))
    }
    names = [f"{row['number']} {row['metric']}" for row in next(iter(found.values()))]
    lines = ["| setting | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for setting, rows in found.items():
        cells = ["-" if row["value"] is None else f"{row['value']:.3g}" for row in rows]
        marks = ["" if row["verdict"] != "missed" else " (missed)" for row in rows]
        lines.append(f"| {setting} | " + " | ".join(map("".join, zip(cells, marks))) + " |")
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{out}: table.md, and for each setting compare.json and report.html")


if __name__ == "__main__":
    sys.exit(main())
